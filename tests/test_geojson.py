import json
import math
from pathlib import Path
from typing import Any

import antimeridian
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geofences.fence import Area, Circle, Fence, FenceRejected, Refusal
from geofences.geojson import parse_fence, to_feature
from geofences.measure import covers, depth_m
from geofences.refusal import CODES, PROBLEMS_MAX
from tests.strategies import box_ring, circles, feature, near, star, stars, wrap

BOX = box_ring(10, 50, 11, 51)
BOWTIE = [[10, 50], [11, 51], [11, 50], [10, 51], [10, 50]]


def polygon_of(*rings: Any) -> dict[str, Any]:
    return feature({"type": "Polygon", "coordinates": list(rings)})


def multi_of(*polygons: Any) -> dict[str, Any]:
    return feature({"type": "MultiPolygon", "coordinates": list(polygons)})


def point_of(coordinates: Any, **properties: Any) -> dict[str, Any]:
    return feature({"type": "Point", "coordinates": coordinates}, **properties)


def line_of(*positions: Any, **properties: Any) -> dict[str, Any]:
    return feature({"type": "LineString", "coordinates": list(positions)}, **properties)


def changed(document: dict[str, Any], **members: Any) -> dict[str, Any]:
    return document | members


def refused(document: object) -> list[tuple[str, str]]:
    """The codes and paths of all that is wrong with a document; fails if nothing is."""
    with pytest.raises(FenceRejected) as caught:
        parse_fence(document)
    return [(problem.code, problem.path) for problem in caught.value.problems]


def read_or_refused(document: object) -> Fence | tuple[Refusal, ...]:
    try:
        return parse_fence(document)
    except FenceRejected as rejected:
        return rejected.problems


def geometry(fence: Fence) -> shapely.Polygon | shapely.MultiPolygon:
    assert isinstance(fence.shape, Area)
    return fence.shape.geometry


GOOD = point_of([13.4, 52.5], radius_m=50)
COORDINATES = "geometry.coordinates"
RADIUS = "properties.radius_m"
WIDTH = "properties.width_m"

REFUSED: list[tuple[object, str, str]] = [
    (None, "not_a_feature", ""),
    ([], "not_a_feature", ""),
    ("Feature", "not_a_feature", ""),
    ({}, "not_a_feature", ""),
    ({"type": {}}, "not_a_feature", ""),
    ({"type": "FeatureCollection", "features": []}, "not_a_feature", ""),
    ({"type": "Polygon", "coordinates": [BOX]}, "not_a_feature", ""),
    (changed(GOOD, features=[]), "semantics_changed", ""),
    (
        changed(GOOD, geometry=GOOD["geometry"] | {"properties": {}}),
        "semantics_changed",
        "geometry",
    ),
    (changed(GOOD, bbox=[1, 2, 3]), "bbox_malformed", "bbox"),
    (changed(GOOD, bbox=[1, 2, 3, True]), "bbox_malformed", "bbox"),
    (changed(GOOD, geometry=GOOD["geometry"] | {"bbox": "x"}), "bbox_malformed", "geometry.bbox"),
    (changed(polygon_of(BOX), properties=3), "properties_malformed", "properties"),
    ({k: v for k, v in GOOD.items() if k != "id"}, "id_missing", "id"),
    (changed(GOOD, id=None), "id_missing", "id"),
    (changed(GOOD, id=""), "id_malformed", "id"),
    (changed(GOOD, id="a b"), "id_malformed", "id"),
    (changed(GOOD, id="café"), "id_malformed", "id"),
    (changed(GOOD, id="x\n"), "id_malformed", "id"),
    (changed(GOOD, id="x" * 129), "id_malformed", "id"),
    (changed(GOOD, id=True), "id_malformed", "id"),
    (changed(GOOD, id={}), "id_malformed", "id"),
    (changed(GOOD, id=math.nan), "id_malformed", "id"),
    (changed(GOOD, id=10**5_000), "id_malformed", "id"),
    (changed(GOOD, properties={"radius_m": 5}), "brand_missing", "properties.brand"),
    (point_of([1, 2], radius_m=5, brand="a b"), "brand_malformed", "properties.brand"),
    (point_of([1, 2], radius_m=5, brand=7), "brand_malformed", "properties.brand"),
    (point_of([1, 2], radius_m=5, name=7), "name_malformed", "properties.name"),
    (point_of([1, 2], radius_m=5, name="x" * 201), "name_malformed", "properties.name"),
    (point_of([1, 2], radius_m=5, tags="coffee"), "tags_malformed", "properties.tags"),
    (point_of([1, 2], radius_m=5, tags=["a", 5]), "tags_malformed", "properties.tags[1]"),
    (point_of([1, 2], radius_m=5, tags=[""]), "tags_malformed", "properties.tags[0]"),
    (point_of([1, 2], radius_m=5, tags=["a"] * 33), "tags_malformed", "properties.tags"),
    (changed(GOOD, geometry=None), "geometry_missing", "geometry"),
    ({k: v for k, v in GOOD.items() if k != "geometry"}, "geometry_missing", "geometry"),
    (changed(GOOD, geometry=[]), "geometry_malformed", "geometry"),
    (changed(GOOD, geometry={"type": 5}), "geometry_malformed", "geometry"),
    (
        feature({"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}),
        "type_not_supported",
        "geometry.type",
    ),
    (line_of([1, 2], [3, 4]), "width_missing", WIDTH),
    (line_of([1, 2], [3, 4], width_m="5"), "not_a_number", WIDTH),
    (line_of([1, 2], [3, 4], width_m=math.inf), "not_finite", WIDTH),
    (line_of([1, 2], [3, 4], width_m=0.09), "width_out_of_range", WIDTH),
    (line_of([1, 2], [3, 4], width_m=20_001), "width_out_of_range", WIDTH),
    (line_of([1, 2], width_m=5), "line_too_short", COORDINATES),
    (line_of([1, 2], [1, 2], [1, 2], width_m=5), "line_too_short", COORDINATES),
    (line_of([180, 2], [-180, 2], width_m=5), "line_too_short", COORDINATES),
    (line_of([17, 90], [-18, 90], width_m=5), "line_too_short", COORDINATES),
    (line_of([1, 2], [181, 4], width_m=5), "out_of_range", COORDINATES + "[1][0]"),
    (line_of([1, 2], [], width_m=5), "coordinates_empty", COORDINATES + "[1]"),
    (line_of([1, 2], 7, width_m=5), "coordinates_malformed", COORDINATES + "[1]"),
    (line_of([[1, 2], [3, 4]], width_m=5), "coordinates_malformed", COORDINATES + "[0]"),
    (line_of(*[[1, 2], [3, 4]] * 50_001, width_m=5), "too_many_vertices", COORDINATES),
    (line_of([0, 60], [120, 61], width_m=0.1), "too_many_vertices", COORDINATES),
    (
        feature({"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]], []]}, width_m=5),
        "coordinates_empty",
        COORDINATES + "[1]",
    ),
    (
        feature({"type": "MultiLineString", "coordinates": {}}, width_m=5),
        "coordinates_malformed",
        COORDINATES,
    ),
    (feature({"type": "polygon", "coordinates": [BOX]}), "type_not_supported", "geometry.type"),
    (feature({"type": "Point"}, radius_m=5), "coordinates_empty", COORDINATES),
    (point_of([], radius_m=5), "coordinates_empty", COORDINATES),
    (polygon_of(), "coordinates_empty", COORDINATES),
    (polygon_of([]), "coordinates_empty", COORDINATES + "[0]"),
    (polygon_of(BOX, []), "coordinates_empty", COORDINATES + "[1]"),
    (multi_of([]), "coordinates_empty", COORDINATES + "[0]"),
    (
        multi_of([BOX], [[[], [1, 2], [2, 2], [1, 2]]]),
        "coordinates_empty",
        COORDINATES + "[1][0][0]",
    ),
    (point_of("here", radius_m=5), "coordinates_malformed", COORDINATES),
    (point_of([[1, 2]], radius_m=5), "coordinates_malformed", COORDINATES),
    (polygon_of(5), "coordinates_malformed", COORDINATES + "[0]"),
    (polygon_of([*BOX[:2], 5, *BOX[3:]]), "coordinates_malformed", COORDINATES + "[0][2]"),
    (polygon_of([BOX]), "coordinates_malformed", COORDINATES + "[0][0]"),
    (multi_of(5), "coordinates_malformed", COORDINATES + "[0]"),
    (feature({"type": "MultiPolygon", "coordinates": 5}), "coordinates_malformed", COORDINATES),
    (feature({"type": "Polygon", "coordinates": {}}), "coordinates_malformed", COORDINATES),
    (point_of([5], radius_m=5), "position_too_short", COORDINATES),
    (point_of(["1", 2], radius_m=5), "not_a_number", COORDINATES + "[0]"),
    (point_of([1, True], radius_m=5), "not_a_number", COORDINATES + "[1]"),
    (point_of([1, None], radius_m=5), "not_a_number", COORDINATES + "[1]"),
    (point_of([1, 2, "high"], radius_m=5), "not_a_number", COORDINATES + "[2]"),
    (point_of([1, 2], radius_m=True), "not_a_number", RADIUS),
    (point_of([1, 2], radius_m="5"), "not_a_number", RADIUS),
    (point_of([math.nan, 2], radius_m=5), "not_finite", COORDINATES + "[0]"),
    (point_of([1, math.inf], radius_m=5), "not_finite", COORDINATES + "[1]"),
    (point_of([10**400, 2], radius_m=5), "not_finite", COORDINATES + "[0]"),
    (point_of([1, 2], radius_m=math.inf), "not_finite", RADIUS),
    (point_of([180.0000001, 2], radius_m=5), "out_of_range", COORDINATES + "[0]"),
    (point_of([52, 91], radius_m=5), "out_of_range", COORDINATES + "[1]"),
    (polygon_of([*BOX[:2], [11, -90.1], *BOX[2:]]), "out_of_range", COORDINATES + "[0][2][1]"),
    (polygon_of([[1, 2]] * 100_001), "too_many_vertices", COORDINATES),
    (polygon_of([[1, 2], [3, 4], [1, 2]]), "too_few_points", COORDINATES + "[0]"),
    (polygon_of(BOX[:-1]), "ring_not_closed", COORDINATES + "[0]"),
    (polygon_of([*BOX[:-1], [10, 50, 7]]), "ring_not_closed", COORDINATES + "[0]"),
    (polygon_of([[1, 2]] * 4), "zero_area", COORDINATES + "[0]"),
    (
        polygon_of([[1.1, 2.1], [1.2, 2.2], [1.3, 2.3], [1.1, 2.1]]),
        "zero_area",
        COORDINATES + "[0]",
    ),
    (polygon_of(BOX, [[10.5, 50.5]] * 4), "zero_area", COORDINATES + "[1]"),
    (polygon_of(BOWTIE), "self_crossing", COORDINATES + "[0]"),
    (polygon_of(BOX, box_ring(20, 50, 21, 51)), "hole_outside_shell", COORDINATES),
    (polygon_of(BOX, box_ring(10.5, 50.2, 11.5, 50.4)), "hole_outside_shell", COORDINATES),
    (
        polygon_of(box_ring(-180, 40, 180, 60), box_ring(175, 30, -175, 50)),
        "hole_outside_shell",
        COORDINATES + "[1]",
    ),
    (
        polygon_of(BOX, box_ring(10.2, 50.2, 10.8, 50.8), box_ring(10.4, 50.4, 10.5, 50.5)),
        "rings_overlap",
        COORDINATES,
    ),
    (
        polygon_of(
            box_ring(-180, 40, 180, 60), box_ring(175, 45, -175, 55), box_ring(178, 46, -178, 48)
        ),
        "rings_overlap",
        COORDINATES,
    ),
    (multi_of([BOX], [box_ring(10.5, 50.5, 12, 52)]), "parts_overlap", COORDINATES),
    (multi_of([BOX], [box_ring(11, 50, 12, 51)]), "parts_overlap", COORDINATES),
    (point_of([1, 2]), "radius_missing", RADIUS),
    (point_of([1, 2], radius_m=0), "radius_out_of_range", RADIUS),
    (point_of([1, 2], radius_m=-5), "radius_out_of_range", RADIUS),
    (point_of([1, 2], radius_m=1_000_000.5), "radius_out_of_range", RADIUS),
]


@pytest.mark.parametrize(("document", "code", "path"), REFUSED)
def test_what_is_wrong_is_refused_by_its_code_where_it_is(
    document: object, code: str, path: str
) -> None:
    """One thing wrong, one problem told."""
    assert refused(document) == [(code, path)]


def test_every_code_has_a_document_that_is_refused_for_it() -> None:
    """The table of codes is complete, and nothing in it is idle."""
    assert {code for _, code, _ in REFUSED} == set(CODES)


def test_every_code_is_published() -> None:
    """The reference lists the codes, with the sentences that the answers use."""
    page = (Path(__file__).parents[1] / "docs/reference/fences.md").read_text()

    for code, rule in CODES.items():
        assert f"| `{code}` | {rule} |" in page


def test_a_refusal_says_what_there_was_and_what_would_be_right() -> None:
    """Code, path and detail; the exception's text has them all, and the fence's id."""
    with pytest.raises(FenceRejected, match="cafe: self_crossing at geometry") as caught:
        parse_fence(polygon_of(BOWTIE))

    (problem,) = caught.value.problems
    assert caught.value.fence_id == "cafe"
    assert "lon 10.5000000, lat 50.5000000" in problem.detail
    assert CODES["self_crossing"] in problem.detail


def test_a_crossing_beyond_the_antimeridian_is_told_where_it_is_in_the_world() -> None:
    """Longitudes in answers are within -180..180."""
    crossed = [[179, 0], [-177, 2], [-177, 0], [179, 2], [179, 0]]

    with pytest.raises(FenceRejected) as caught:
        parse_fence(polygon_of(crossed))

    assert "lon -179.0000000, lat 1.0000000" in caught.value.problems[0].detail


def test_all_problems_are_told_at_once() -> None:
    """A merchant corrects a document once."""
    document = {
        "type": "Feature",
        "id": "a b",
        "geometry": {"type": "Polygon", "coordinates": [[[200, 0], ["x", 1], [1, 95], [200, 0]]]},
        "properties": {"name": 5, "tags": {}},
    }

    assert [code for code, _ in refused(document)] == [
        "id_malformed",
        "brand_missing",
        "name_malformed",
        "tags_malformed",
        "out_of_range",
        "not_a_number",
        "out_of_range",
        "out_of_range",
    ]


def test_the_number_of_problems_told_is_limited() -> None:
    """A hundred thousand bad positions make no answer of megabytes."""
    assert len(refused(polygon_of([["x", "y"]] * 99_999))) == PROBLEMS_MAX


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(
                st.sampled_from(["type", "id", "geometry", "properties", "coordinates", "bbox"])
                | st.text(max_size=3),
                inner | st.sampled_from(["Feature", "Polygon", "MultiPolygon", "Point"]),
                max_size=5,
            )
        ),
        max_leaves=30,
    )
)
@settings(max_examples=300)
def test_any_json_is_a_fence_or_refused_for_a_reason(document: object) -> None:
    """No other exception, whatever comes; asked with and without a good frame around it."""
    for wrapped in (document, changed(GOOD, geometry=document), polygon_of(document)):
        read = read_or_refused(wrapped)

        assert isinstance(read, Fence) or read
        assert isinstance(read, Fence) or all(problem.code in CODES for problem in read)


def test_a_circle_is_read_whole() -> None:
    """All that a Feature says of a fence is in it; what we do not know of is ignored."""
    document = changed(
        point_of([13, 52.5, 34.0], radius_m=80, name="Cafe", tags=["b", "a", "b"], colour="red"),
        foreign={"x": 1},
        bbox=[13, 52, 14, 53],
    )

    fence = parse_fence(document)

    assert fence.shape == Circle(13.0, 52.5, 80.0)
    assert (fence.id, fence.brand, fence.name, fence.tags) == ("cafe", "beans", "Cafe", ("b", "a"))
    assert fence.inradius_m == 80.0


@pytest.mark.parametrize(
    ("given_id", "text"), [(7, "7"), (-1, "-1"), (1.5, "1.5"), ("a~:_.-9", "a~:_.-9")]
)
def test_an_id_is_text_or_a_number_taken_as_its_text(given_id: object, text: str) -> None:
    """As RFC 7946 allows both."""
    assert parse_fence(changed(GOOD, id=given_id)).id == text
    assert parse_fence(changed(GOOD, id=given_id)).name == text


def test_the_callers_id_and_brand_go_before_the_documents() -> None:
    """A URL and a key say more than a body; what the body says is then not looked at."""
    fence = parse_fence(changed(GOOD, id={}, properties={"radius_m": 5}), fence_id="x", brand="y")

    assert (fence.id, fence.brand) == ("x", "y")
    with pytest.raises(FenceRejected):
        parse_fence(GOOD, fence_id="x y")


@pytest.mark.parametrize("turned", [False, True])
def test_winding_is_put_right_and_nothing_else_is_touched(turned: bool) -> None:
    """Either way round, holes too; every coordinate stays to the bit."""
    rings = [star(13.4, 52.5, [100.0] * 9), star(13.4, 52.5, [50.0] * 7)]
    fence = parse_fence(polygon_of(*(ring[::-1] if turned else ring for ring in rings)))

    shape = geometry(fence)
    assert isinstance(shape, shapely.Polygon)
    assert shape.exterior.is_ccw
    assert not shape.interiors[0].is_ccw
    assert {tuple(p) for ring in rings for p in ring} == set(
        map(tuple, shapely.get_coordinates(shape).tolist())
    )


def test_a_box_across_the_antimeridian_is_cut_there() -> None:
    """It goes the short way: 20 degrees wide."""
    fence = parse_fence(polygon_of(box_ring(170, 40, -170, 50)))

    expected = shapely.union(shapely.box(170, 40, 180, 50), shapely.box(-180, 40, -170, 50))
    assert geometry(fence).equals(expected)


@given(
    st.floats(175, 185).map(wrap),
    st.floats(-70, 70),
    st.lists(st.floats(0.5, 1.0), min_size=5, max_size=24),
    st.floats(1_000.0, 600_000.0),
    st.booleans(),
)
@settings(deadline=None)
def test_the_cut_is_that_of_the_antimeridian_package(
    lon: float, lat: float, rays: list[float], size_m: float, turned: bool
) -> None:
    """Which rounds crossings to 7 decimals, and positions not at all."""
    ring = star(lon, lat, [size_m * ray for ray in rays])
    ring = ring[::-1] if turned else ring
    ours = geometry(parse_fence(polygon_of(ring)))

    theirs = antimeridian.fix_polygon(shapely.Polygon(ring), fix_winding=True, great_circle=False)

    assert ours.symmetric_difference(theirs).area <= 1e-7 * ours.length


def test_a_hole_across_the_antimeridian_is_kept() -> None:
    """In a box, a band and a cap alike."""
    hole = box_ring(175, 45, -175, 55)
    for shell in (
        box_ring(160, 40, -160, 60),
        box_ring(-180, 40, 180, 60),
        [[x, 40] for x in (-120, 0, 120, -120)],
    ):
        fence = parse_fence(polygon_of(shell, hole))
        for lon in (180.0, -180.0, 176.0, -176.0):
            assert not covers(fence, lon, 50.0)
            assert covers(fence, lon, 44.0)


def test_a_ring_round_a_pole_encloses_the_pole_on_its_side() -> None:
    """Whichever way it is wound, and wherever it begins; a polar hole is a hole."""
    for turned in (1, -1):
        for first in range(3):
            lons = ([-120, 0, 120][first:] + [-120, 0, 120][:first])[::turned]
            shell, hole = ([[x, -lat] for x in (*lons, lons[0])] for lat in (60, 80))
            cap = parse_fence(polygon_of(shell))
            girdle = parse_fence(polygon_of(shell, hole))

            assert covers(cap, 33.0, -90.0)
            assert not covers(cap, 33.0, 90.0)
            assert not covers(girdle, 33.0, -85.0)
            assert covers(girdle, 180.0, -70.0)
            assert geometry(cap).area == pytest.approx(360 * 30)
            assert geometry(girdle).area == pytest.approx(360 * 20)


def test_the_parts_of_a_multipolygon_may_touch_at_a_position() -> None:
    """Corner to corner is no overlap."""
    fence = parse_fence(multi_of([BOX], [box_ring(11, 51, 12, 52)]))

    assert covers(fence, 11.0, 51.0)
    assert covers(fence, 11.5, 51.5)
    assert not covers(fence, 11.5, 50.5)


def test_a_written_circle_is_a_point_with_a_radius() -> None:
    """And plain JSON."""
    written = to_feature(parse_fence(point_of([13.4, 52.5], radius_m=80, tags=["x"])))

    assert written == {
        "type": "Feature",
        "id": "cafe",
        "geometry": {"type": "Point", "coordinates": [13.4, 52.5]},
        "properties": {"brand": "beans", "name": "cafe", "tags": ["x"], "radius_m": 80.0},
    }


@given(st.data(), circles() | stars(largest_m=2_000_000.0))
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_as_the_same_fence(data: st.DataObject, fence: Fence) -> None:
    """Through JSON text, with the same answers; and writing that again writes the same."""
    written = to_feature(fence)
    again = parse_fence(json.loads(json.dumps(written)))

    assert to_feature(again) == written
    if isinstance(fence.shape, Area):
        corners = [
            set(map(tuple, shapely.get_coordinates(geometry(one)).tolist()))
            for one in (fence, again)
        ]
        assert corners[0] == corners[1]
    assert again.boxes == fence.boxes
    lon, lat = data.draw(near(fence))
    assert covers(again, lon, lat) == covers(fence, lon, lat)
    assert depth_m(again, lon, lat) == depth_m(fence, lon, lat)


@pytest.mark.parametrize(
    "rings",
    [
        [box_ring(-180, 40, 180, 60), box_ring(175, 45, -175, 55)],
        [[[x, 60] for x in (-120, 0, 120, -120)], [[x, 80] for x in (45, 170, -70, 45)]],
        [[[x, 60] for x in (-120, 0, 120, -120)]],
        [box_ring(-180, -90, 180, 90)],
    ],
)
def test_what_goes_round_the_world_is_written_and_read_too(rings: list[Any]) -> None:
    """Bands, caps, and holes in them."""
    fence = parse_fence(polygon_of(*rings))
    again = parse_fence(to_feature(fence))

    assert geometry(again).equals(geometry(fence))


@given(st.data(), st.sampled_from([1.0, -1.0]), st.floats(-180, 180))
@settings(max_examples=15, deadline=None)
def test_a_cap_keeps_its_holes_wherever_its_ring_begins(
    data: st.DataObject, side: float, first: float
) -> None:
    """A hole right where the outer ring begins, and one that goes round the pole itself."""
    rounds = st.lists(st.floats(-0.5, 0.5), min_size=5, max_size=20)

    def ring(lat: float) -> list[list[float]]:
        wobbles = data.draw(rounds)
        step = 360.0 / len(wobbles)
        made = [[wrap(first + n * step), side * (lat + w)] for n, w in enumerate(wobbles)]
        return [*made, made[0]]

    cap, rim = ring(80.0), ring(87.0)
    west, east = wrap(first - 1.0), wrap(first + 1.0)
    hole = box_ring(west, side * 82.0, east, side * 83.0)

    fence = parse_fence(polygon_of(cap, hole, rim))

    assert not covers(fence, wrap(first), side * 82.5)
    assert not covers(fence, 0.0, side * 90.0)
    assert covers(fence, wrap(first), side * 85.0)
    assert covers(fence, wrap(first + 180.0), side * 82.5)
