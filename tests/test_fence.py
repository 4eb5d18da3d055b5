import pytest
import shapely

from geofences.fence import Area, BBox, FenceRejected, GeofenceError, Refusal
from geofences.measure import make_fence
from tests.strategies import box_ring, circle, polygon


def test_an_edited_fence_is_another_fence() -> None:
    """Equality is identity, so that what was replaced is never mistaken for what replaced it."""
    first, second = circle(13.4, 52.5, 50.0), circle(13.4, 52.5, 50.0)

    assert first != second
    assert first == first  # noqa: PLR0124
    assert len({first, second}) == 2
    assert first.shape == second.shape


def test_a_fence_cannot_be_changed() -> None:
    """It is shared between all that hold it."""
    fence = circle(13.4, 52.5, 50.0)

    with pytest.raises(AttributeError):
        fence.id = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        fence.shape.radius_m = 60.0  # type: ignore[union-attr,misc]


def test_a_fence_can_be_made_from_a_shape_that_is_known_to_be_good() -> None:
    """Without a document; the geometry is prepared then."""
    made = make_fence("cafe", "beans", "Cafe", ("x",), Area(shapely.box(13.4, 52.5, 13.41, 52.51)))

    assert (made.id, made.brand, made.name, made.tags) == ("cafe", "beans", "Cafe", ("x",))
    assert made.boxes == (BBox(13.4, 52.5, 13.41, 52.51),)
    assert isinstance(made.shape, Area)
    assert shapely.is_prepared(made.shape.geometry)


def test_a_box_ends_at_the_seam_and_is_there_for_both_spellings() -> None:
    """West is never east of east; a circle's boxes are a little larger than it is."""
    circles = circle(179.99, 0.0, 5_000.0).boxes
    touching = polygon(box_ring(170, 1, 180, 2)).boxes

    assert [(box.west, box.east) for box in circles] == [
        (pytest.approx(179.945, abs=1e-3), 180.0),
        (-180.0, pytest.approx(-179.965, abs=1e-3)),
    ]
    assert touching == (BBox(170, 1, 180, 2), BBox(-180, 1, -180, 2))


def test_a_circle_over_a_pole_is_boxed_all_around() -> None:
    """Every longitude is near it."""
    (box,) = circle(10.0, 89.99, 5_000.0).boxes

    assert (box.west, box.east, box.north) == (-180.0, 180.0, 90.0)
    assert box.south == pytest.approx(89.945, abs=1e-3)


def test_many_parts_share_boxes() -> None:
    """An archipelago does not fill the tree: one box for each half of the world."""
    parts = [shapely.box(x, 0, x + 1, 1) for x in range(-20, 20, 2)]
    fence = make_fence("islands", "b", "Islands", (), Area(shapely.MultiPolygon(parts)))

    assert fence.boxes == (BBox(-20, 0, -1, 1), BBox(0, 0, 19, 1))


def test_a_rejection_is_an_error_about_a_fence_that_says_everything() -> None:
    """Code, path and detail of each problem, and which fence."""
    problems = (Refusal("id_missing", "id", "A fence has an id."), Refusal("x", "", "Y."))

    rejected = FenceRejected(problems)

    assert isinstance(rejected, GeofenceError)
    assert rejected.problems == problems
    assert rejected.fence_id is None
    assert str(rejected) == (
        "fence (no id): id_missing at id: A fence has an id.; x at the document: Y."
    )
