import itertools
import math
import random

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geofences.fence import Area, BBox, Circle, Fence
from geofences.globe import GEOD
from geofences.index import FenceIndex
from geofences.measure import covers, make_fence, meets
from geofences.tree import BoxTree
from tests.strategies import box_ring, circle, circles, near, polygon, star, stars, wrap

POINTS = 40_000


def seeded_fences() -> list[Fence]:
    """A dense town, a second one across the seam, both poles, and some of a country's size."""
    rng = random.Random(20_240_601)
    made: list[Fence] = []

    def place(lon: float, lat: float, radius_m: float) -> None:
        fence_id = f"f{rng.randrange(10**6):06}-{len(made)}"
        kind = rng.random()
        if kind < 0.5:
            made.append(circle(lon, lat, radius_m, fence_id))
            return
        rings = [star(lon, lat, [radius_m * rng.uniform(0.6, 1.0) for _ in range(24)])]
        if kind < 0.75:
            rings.append(star(lon, lat, [0.3 * radius_m] * 12))
        made.append(polygon(*rings, fence_id=fence_id))

    for lon, lat, spread, count in ((13.4, 52.5, 0.03, 160), (180.0, -17.0, 0.01, 50)):
        for _ in range(count):
            east, north = rng.uniform(-spread, spread), rng.uniform(-spread, spread)
            place(wrap(lon + east), lat + north, rng.uniform(30, 400))
    for lat in (90.0, -90.0):
        made.append(circle(0.0, lat, 50_000.0, f"pole-{lat}"))
        made += [
            circle(lon, lat * 0.9997, rng.uniform(1_000, 9_000), f"p{lat}-{lon}")
            for lon in (-180.0, -60.0, 77.0, 180.0)
        ]
        made += [
            polygon([[x, cap] for x in (-120.0, 0.0, 120.0, -120.0)], fence_id=f"cap{cap}")
            for cap in (lat * 0.99, lat * 0.9)
        ]
    for lon, lat, radius_m in ((13.0, 52.0, 1e6), (179.0, -17.0, 3e5), (-179.9, -16.0, 3e4)):
        made.append(circle(lon, lat, radius_m, f"wide-{lon}"))
        made.append(polygon(star(lon, lat, [radius_m] * 40), fence_id=f"land-{lon}"))
    made.append(polygon(box_ring(170, -20, 180, -10), fence_id="up-to-180"))
    made.append(polygon(box_ring(-180, -30, 180, -16.5), fence_id="band"))
    return made


def around(position: list[float]) -> list[tuple[float, float]]:
    """The position and its eight neighbours, one unit in the last place away each way."""
    lons, lats = ((x, math.nextafter(x, -math.inf), math.nextafter(x, math.inf)) for x in position)
    return list(itertools.product(lons, lats))


def seeded_points(fences: list[Fence]) -> npt.NDArray[np.float64]:
    """Where it is hard: corners, edges, rims, seam and poles; and anywhere."""
    rng = np.random.default_rng(7)
    hard: list[tuple[float, float]] = []
    for fence in fences:
        if isinstance(fence.shape, Area):
            corners = shapely.get_coordinates(fence.shape.geometry)
            for n in rng.integers(0, len(corners) - 1, 6):
                hard += around(corners[n].tolist())
                hard += around(((corners[n] + corners[n + 1]) / 2).tolist())
            continue
        for off_m in (0, 1e-9, -1e-9, 1e-8, -1e-8, 1e-6, -1e-6, 1e-4, -1e-4, 1, -1):
            for bearing in rng.uniform(0, 360, 9):
                radius_m = fence.shape.radius_m + off_m
                hard.append(GEOD.fwd(fence.shape.lon, fence.shape.lat, bearing, radius_m)[:2])
    for lat in rng.uniform(-17.02, -16.98, 400):
        hard += [(180.0, lat), (-180.0, lat), (math.nextafter(180, 0), lat)]
    for lon in (-180.0, -60.0, 0.0, 123.4, 180.0):
        hard += [(lon, lat) for lat in (90.0, -90.0, math.nextafter(90, 0), 89.97, -89.97)]
    there = [p for p in hard if -180 <= p[0] <= 180 and -90 <= p[1] <= 90]
    towns = [
        rng.uniform((13.36, 52.46), (13.44, 52.54), (8_000, 2)),
        rng.uniform((179.98, -17.02), (180, -16.98), (2_000, 2)),
        rng.uniform((-180, -17.02), (-179.98, -16.98), (2_000, 2)),
    ]
    points = np.concatenate((rng.permutation(there)[:26_000], *towns))
    anywhere = rng.uniform((-180, -90), (180, 90), (POINTS - len(points), 2))
    return rng.permutation(np.concatenate((points, anywhere)))


def said_by_oracles(
    fences: list[Fence], points: npt.NDArray[np.float64]
) -> list[tuple[Fence, ...]]:
    """Every fence against every point: shapely covers, and pyproj's geodesic distance."""
    found: list[list[Fence]] = [[] for _ in points]
    lon, lat = points[:, 0], points[:, 1]
    places = shapely.points(points)
    mirrored = shapely.points(np.where(np.abs(lon) == 180, -lon, lon), lat)
    for fence in sorted(fences, key=lambda f: f.id):
        if isinstance(fence.shape, Circle):
            # Nowhere is a degree of latitude shorter, so all others are farther away than that.
            near = np.abs(lat - fence.shape.lat) * 110_000 <= fence.shape.radius_m
            here = np.broadcast_to((fence.shape.lon, fence.shape.lat), points[near].shape)
            away_m = GEOD.inv(here[:, 0], here[:, 1], lon[near], lat[near])[2]
            hit = np.zeros(len(points), dtype=bool)
            hit[near] = away_m <= fence.shape.radius_m
        else:
            geometry = fence.shape.geometry
            hit = np.asarray(shapely.covers(geometry, places) | shapely.covers(geometry, mirrored))
            for pole, reached in ((-90, geometry.bounds[1]), (90, geometry.bounds[3])):
                hit |= (lat == pole) & (reached == pole)
        for n in np.flatnonzero(hit).tolist():
            found[n].append(fence)
    return [tuple(fences) for fences in found]


@pytest.fixture(scope="module")
def town() -> list[Fence]:
    return seeded_fences()


@pytest.fixture(scope="module")
def points(town: list[Fence]) -> npt.NDArray[np.float64]:
    return seeded_points(town)


@pytest.fixture(scope="module")
def truth(town: list[Fence], points: npt.NDArray[np.float64]) -> list[tuple[Fence, ...]]:
    return said_by_oracles(town, points)


def test_the_index_agrees_with_the_oracles_on_every_hard_point(
    town: list[Fence], points: npt.NDArray[np.float64], truth: list[tuple[Fence, ...]]
) -> None:
    """One at a time, in a batch, and as the end of a segment: zero differences."""
    assert len(points) == POINTS
    assert sum(map(len, truth)) > POINTS
    for index in (FenceIndex.load(town), FenceIndex()):
        if not len(index):
            for fence in town:
                index.add(fence)
        assert [index.covering(*p) for p in points.tolist()] == truth
        assert index.covering_many(points) == truth
        assert [index.along(*p, *p)[0] for p in points.tolist()] == truth


def test_what_is_met_on_the_way_is_what_every_fence_says_for_itself(
    town: list[Fence], points: npt.NDArray[np.float64], truth: list[tuple[Fence, ...]]
) -> None:
    """Segments of metres to kilometres, across the seam and along it."""
    rng = random.Random(3)
    index = FenceIndex.load(town)
    by_id = sorted(town, key=lambda f: f.id)
    met_count = 0
    for n in range(3_000):
        lon, lat = points[n].tolist()
        reach = rng.choice((0.0, 1e-4, 1e-3, 1e-2))
        lon0 = wrap(lon + rng.uniform(-reach, reach))
        lat0 = max(-90.0, min(90.0, lat + rng.uniform(-reach, reach)))

        covering, met = index.along(lon0, lat0, lon, lat)

        assert covering == truth[n]
        said = [f for f in by_id if f not in covering and meets(f, lon0, lat0, lon, lat)]
        assert list(met) == said
        met_count += len(met)
    assert met_count > 500


@given(st.data(), st.lists(st.integers(0, 2**32), max_size=40))
@settings(max_examples=60, deadline=None)
def test_whatever_is_added_replaced_and_removed_the_index_holds_what_a_dict_would(
    data: st.DataObject, seeds: list[int]
) -> None:
    """Random sequences against a dict, asked after every step."""
    index, held = FenceIndex(), dict[str, Fence]()
    for seed in seeds:
        rng = random.Random(seed)
        fence_id = rng.choice("abcdef")
        lon, lat = wrap(180 + rng.uniform(-0.01, 0.01)), rng.uniform(-0.01, 0.01)
        made = circle(lon, lat, rng.uniform(1, 2_000), fence_id)
        match rng.randrange(5):
            case 0 if fence_id in held:
                with pytest.raises(ValueError, match="there already"):
                    index.add(made)
            case 0:
                index.add(made)
                held[fence_id] = made
            case 1:
                index.replace(made)
                held[fence_id] = made
            case 2:
                assert index.remove(fence_id) == (held.pop(fence_id, None) is not None)
            case 3:
                index.put_many([made])
                held[fence_id] = made
            case _:
                index.put_many([])
        lon, lat = wrap(180 + rng.uniform(-0.02, 0.02)), rng.uniform(-0.02, 0.02)
        here = tuple(held[key] for key in sorted(held) if covers(held[key], lon, lat))
        assert index.covering(lon, lat) == here
        assert index.covering_many(np.array([(lon, lat)])) == [here]
        assert list(index) == [held[key] for key in sorted(held)]
        assert len(index) == len(held)
        assert index.get(fence_id) is held.get(fence_id)


def test_an_import_of_many_goes_live_whole(town: list[Fence]) -> None:
    """What was there stays, what comes again is replaced, the last of one id counts."""
    index = FenceIndex.load(town[:100])
    again = circle(0.0, 0.0, 5.0, town[0].id)

    index.put_many([*town[50:], circle(1.0, 1.0, 5.0, town[0].id), again])

    assert len(index) == len(town)
    assert index.get(town[0].id) is again
    assert index.covering(0.0, 0.0) == (again,)
    assert again not in index.covering(1.0, 1.0)


def test_a_small_import_into_a_large_index_is_live_too(town: list[Fence]) -> None:
    """Below a quarter of the index nothing is rebuilt."""
    index = FenceIndex.load(town)
    moved = circle(0.0, 40.0, 5.0, town[0].id)

    index.put_many([moved, circle(0.0, 40.0, 5.0, "brand-new")])

    assert [f.id for f in index.covering(0.0, 40.0)] == sorted([town[0].id, "brand-new"])
    assert len(index) == len(town) + 1


def test_two_fences_of_one_id_cannot_be_loaded(town: list[Fence]) -> None:
    """A bulk load says which id came twice."""
    with pytest.raises(ValueError, match=town[0].id):
        FenceIndex.load([*town, town[0]])


def test_more_answers_than_the_buffer_holds_are_all_given() -> None:
    """A thousand fences on one spot."""
    fences = [circle(13.4, 52.5, 10.0 + n, f"f{n:04}") for n in range(1_000)]
    index = FenceIndex.load(fences)

    assert index.covering(13.4, 52.5) == tuple(fences)
    assert index.along(13.39, 52.5, 13.4, 52.5) == (tuple(fences), ())
    assert index.covering_many(np.array([(13.4, 52.5)] * 3)) == [tuple(fences)] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 181.0, -1e300])
def test_nothing_covers_a_position_that_is_none(town: list[Fence], bad: float) -> None:
    """Not finite or out of range: empty, and never everything."""
    index = FenceIndex.load(town)
    there = (13.4, 52.5)

    assert index.covering(bad, 52.5) == index.covering(13.4, bad) == ()
    assert index.along(*there, bad, 52.5) == index.along(*there, 13.4, bad) == ((), ())
    assert index.along(bad, 52.5, *there) == (index.covering(*there), ())
    assert index.covering_many(np.array([(bad, 52.5), there])) == [(), index.covering(*there)]
    assert index.within_box(BBox(bad, 0, bad, 0)) == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_tree_takes_no_box_that_is_none(bad: float) -> None:
    """It would match everything, or nothing."""
    tree = BoxTree()

    with pytest.raises(ValueError, match="finite"):
        tree.insert(1, BBox(bad, 0, 1, 1))
    with pytest.raises(ValueError, match="finite"):
        BoxTree([1], [BBox(0, 0, 1, bad)])
    assert tree.meeting(-180, -90, 180, 90) == []


def test_an_empty_index_answers_everything_with_nothing() -> None:
    """No fence, no answer, no error; and an empty batch is one."""
    index = FenceIndex()

    assert index.covering(0, 0) == ()
    assert index.along(0, 0, 1, 1) == ((), ())
    assert index.covering_many(np.array([(0.0, 0.0)])) == [()]
    assert index.covering_many(np.empty((0, 2))) == []
    assert list(index) == []
    assert not index.remove("cafe")


def test_a_listing_by_box_finds_fences_with_several_boxes_once(town: list[Fence]) -> None:
    """A fence across the seam is one fence."""
    index = FenceIndex.load(town)

    found = index.within_box(BBox(179.9, -18.0, 180.0, -16.0))

    assert len(set(found)) == len(found)
    assert [f.id for f in found] == sorted(f.id for f in found)
    assert index.get("up-to-180") in found
    assert index.get("land-13.0") not in found


@given(st.data(), st.lists(circles() | stars(), max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_segment_answers_as_its_parts_do(data: st.DataObject, fences: list[Fence]) -> None:
    """The end as `covers` has it, the way as `meets` has it, anywhere on the globe."""
    for n, fence in enumerate(fences):
        made = [*fences]
        made[n] = type(fence)(f"f{n}", *[getattr(fence, x) for x in fence.__struct_fields__[1:]])
        fences = made
    index = FenceIndex.load(fences)
    for fence in fences:
        lon0, lat0 = data.draw(near(fence))
        lon1, lat1 = data.draw(near(fence))
        covering, met = index.along(lon0, lat0, lon1, lat1)

        assert list(covering) == [f for f in fences if covers(f, lon1, lat1)]
        assert set(met) >= {f for f in fences if covers(f, lon0, lat0)} - set(covering)
        assert all(meets(f, lon0, lat0, lon1, lat1) for f in met)


def test_more_hits_than_ever_before_are_all_found() -> None:
    """The answer's buffer grows also when a smaller query came before."""
    fences = [
        make_fence(f"f{n:03}", "b", "n", (), Circle(10.0, 50.0, 100.0 + n)) for n in range(700)
    ]
    index = FenceIndex.load(fences)

    assert index.covering(11.0, 50.0) == ()
    assert len(index.covering(10.0, 50.0)) == 700
    covering, met = index.along(9.99, 50.0, 10.0, 50.0)
    assert (len(covering), met) == (700, ())
