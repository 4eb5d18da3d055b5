import gzip
import itertools
import math
import os
from pathlib import Path

import numpy as np
import orjson
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geofences.fence import Area, Circle, Fence
from geofences.globe import GEOD, ecef, geodesic_m
from geofences.measure import covers, depth_m, is_farther, make_fence, meets
from tests.strategies import (
    box_ring,
    circle,
    circles,
    corridor,
    lats,
    lons,
    near,
    polygon,
    star,
    stars,
    wrap,
)

SHARED = Path(os.environ.get("PASSBY_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))


def geometry(fence: Fence) -> shapely.Geometry:
    assert isinstance(fence.shape, Area)
    return fence.shape.geometry


def boundary_distance_m(ring: list[list[float]], lon: float, lat: float) -> float:
    """Oracle: the geodesic distance to the nearest position of a ring's edges, by closing in."""
    nearest_m = math.inf
    for start, end in itertools.pairwise(np.array(ring)):
        steps = np.linspace(0, 1, 200)
        for _ in range(8):
            along = start + steps[:, None] * (end - start)
            here = np.broadcast_to((lon, lat), along.shape)
            away_m = GEOD.inv(here[:, 0], here[:, 1], along[:, 0], along[:, 1])[2]
            k = int(away_m.argmin())
            nearest_m = min(nearest_m, float(away_m[k]))
            steps = np.linspace(steps[max(0, k - 1)], steps[min(len(steps) - 1, k + 1)], 20)
    return nearest_m


@given(st.data(), circles())
@settings(max_examples=300)
def test_a_circle_covers_exactly_what_is_within_its_radius_by_geodesic(
    data: st.DataObject, fence: Fence
) -> None:
    """Whatever the radius, seam and poles included, pyproj says the same."""
    assert isinstance(fence.shape, Circle)
    lon, lat = data.draw(near(fence) | st.tuples(lons, lats))
    distance_m = geodesic_m(fence.shape.lon, fence.shape.lat, lon, lat)

    assert covers(fence, lon, lat) == (distance_m <= fence.shape.radius_m)


@given(
    lons,
    lats,
    st.floats(0.01, 1_000_000.0),
    st.floats(0, 360),
    st.sampled_from([0.0, 1e-9, -1e-9, 1e-8, -1e-8, 1e-6, -1e-6, 1e-5, -1e-5, 1e-3, -1e-3]),
)
@settings(max_examples=500)
def test_a_circle_is_exact_within_nanometres_of_its_rim(
    lon: float, lat: float, radius_m: float, bearing: float, off_m: float
) -> None:
    """Where the fast formula doubts, the geodesic decides."""
    fence = circle(lon, lat, radius_m)
    to_lon, to_lat, _ = GEOD.fwd(lon, lat, bearing, max(0.0, radius_m + off_m))
    distance_m = geodesic_m(lon, lat, to_lon, to_lat)

    assert covers(fence, to_lon, to_lat) == (distance_m <= radius_m)


@given(st.data(), stars())
def test_a_polygon_covers_what_shapely_says_its_cut_geometry_covers(
    data: st.DataObject, fence: Fence
) -> None:
    """Away from the seam's two spellings, cover is planar cover of the cut geometry."""
    lon, lat = data.draw(near(fence))
    spellings = {lon, -lon} if abs(lon) == 180.0 else {lon}

    said = any(shapely.covers(geometry(fence), shapely.Point(x, lat)) for x in spellings)

    assert covers(fence, lon, lat) == said


@pytest.mark.parametrize("side", [180.0, -180.0])
def test_a_polygon_up_to_the_seam_covers_both_spellings_of_it(side: float) -> None:
    """Longitudes 180 and -180 are one meridian."""
    west, east = min(side, side * 0.99), max(side, side * 0.99)
    fence = polygon(box_ring(west, -1, east, 1))

    assert covers(fence, 180.0, 0.5)
    assert covers(fence, -180.0, 0.5)
    assert not covers(fence, 180.0, 1.5)
    assert not covers(fence, -side * 0.999, 0.5)


@pytest.mark.parametrize("lon", [-180.0, -77.7, 0.0, 15.0, 180.0])
def test_a_polygon_that_touches_a_pole_covers_it_at_every_longitude(lon: float) -> None:
    """All longitudes at latitude 90 are one place."""
    wedge = polygon([[10, 80], [20, 80], [15, 90], [10, 80]])
    cap = polygon([[-120, 80], [0, 80], [120, 80], [-120, 80]])

    assert covers(wedge, lon, 90.0)
    assert covers(cap, lon, 90.0)
    assert not covers(wedge, lon, -90.0)


@given(lons)
def test_a_circle_around_a_pole_is_the_same_at_every_longitude(lon: float) -> None:
    """A centre at the pole has no longitude."""
    fence = circle(lon, -90.0, 1_000.0)

    assert covers(fence, 77.0, -89.9915)
    assert not covers(fence, 77.0, -89.9905)
    assert depth_m(fence, 12.0, -90.0) == pytest.approx(1_000.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 180.001, -1e300])
def test_a_position_that_is_none_is_not_covered_and_has_no_depth(bad: float) -> None:
    """Not finite or out of range: no, and for depth an error."""
    for fence in (circle(0, 0, 1_000_000.0), polygon(box_ring(-1, -1, 1, 1))):
        assert not covers(fence, bad, 0.0)
        assert not covers(fence, 0.0, bad)
        assert not meets(fence, bad, 0.0, 0.0, 0.0)
        assert not meets(fence, 0.0, 0.0, 0.0, bad)
        with pytest.raises(ValueError, match="finite"):
            depth_m(fence, bad, 0.0)


@given(st.data(), circles() | stars(largest_m=2_000_000.0))
@settings(max_examples=200)
def test_depth_is_positive_inside_and_negative_outside(data: st.DataObject, fence: Fence) -> None:
    """Its sign never disagrees with cover."""
    lon, lat = data.draw(near(fence) | st.tuples(lons, lats))
    depth = depth_m(fence, lon, lat)

    assert depth >= 0 if covers(fence, lon, lat) else depth <= 0


@given(st.data(), circles())
def test_a_circles_depth_is_its_radius_less_the_geodesic(data: st.DataObject, fence: Fence) -> None:
    """Within 0.5 % + 0.1 m near the rim."""
    assert isinstance(fence.shape, Circle)
    lon, lat = data.draw(near(fence))
    true_m = fence.shape.radius_m - geodesic_m(fence.shape.lon, fence.shape.lat, lon, lat)

    assert depth_m(fence, lon, lat) == pytest.approx(true_m, rel=0.005, abs=0.1)


@given(
    lons,
    st.floats(-75, 75),
    st.floats(20.0, 1_500_000.0) | st.floats(20.0, 60_000.0),
    st.lists(st.floats(0.6, 1.0), min_size=6, max_size=12),
    st.floats(0, 360),
    st.floats(0.0, 1.3),
)
@settings(max_examples=150, deadline=None)
def test_a_polygons_depth_is_the_geodesic_to_its_nearest_edge(
    lon: float, lat: float, size_m: float, rays: list[float], bearing: float, far: float
) -> None:
    """From a shop to a country, in temperate latitudes and beyond: 0.5 % + 0.1 m."""
    size_m = min(size_m, 0.6 * 111_000 * (90 - abs(lat)))
    ring = star(lon, lat, [size_m * ray for ray in rays])
    unrolled = [[lon + (x - lon + 180) % 360 - 180, y] for x, y in ring]
    fence = polygon(ring)
    x, y, _ = GEOD.fwd(lon, lat, bearing, size_m * far)
    true_m = boundary_distance_m(unrolled, x, y)

    assert abs(abs(depth_m(fence, x, y)) - true_m) <= 0.1 + 0.005 * true_m


def test_the_cut_at_the_antimeridian_is_no_boundary() -> None:
    """In the middle of a box across the seam the nearest boundary is its top, not the seam."""
    for half in (0.01, 3.0):
        fence = polygon(box_ring(180 - half, -half, half - 180, half))
        true_m = geodesic_m(180, 0, 180, half)

        for lon in (180.0, -180.0, 180 - half / 100, half / 100 - 180):
            assert depth_m(fence, lon, 0.0) == pytest.approx(true_m, rel=0.011)
        assert fence.inradius_m == pytest.approx(true_m, rel=0.04)


def test_a_boundary_that_lies_on_the_seam_is_one() -> None:
    """A fence that ends at 180 ends there, whichever way one looks at it."""
    for size in (0.01, 5.0):
        fence = polygon(box_ring(180 - size, 0, 180, size))
        inside, outside = 180 - size / 100, size / 100 - 180
        true_m = geodesic_m(180, size / 2, inside, size / 2)

        assert depth_m(fence, inside, size / 2) == pytest.approx(true_m, rel=0.005)
        assert depth_m(fence, outside, size / 2) == pytest.approx(-true_m, rel=0.005)
        assert depth_m(fence, -180.0, size / 2) == pytest.approx(0.0, abs=1e-3)


def test_a_pole_inside_a_fence_is_no_boundary() -> None:
    """Nor is the seam that leads to it."""
    cap = polygon([[-120, 60], [0, 60], [120, 60], [-120, 60]])
    true_m = geodesic_m(0, 90, 0, 60)

    assert depth_m(cap, 0.0, 90.0) == pytest.approx(true_m, rel=0.005)
    assert depth_m(cap, 180.0, 85.0) == pytest.approx(geodesic_m(0, 85, 0, 60), rel=0.005)
    assert cap.inradius_m == pytest.approx(true_m, rel=0.04)


def test_a_hole_is_boundary() -> None:
    """In a ring-shaped fence the depth is to the nearer of the two rings."""
    fence = polygon(star(13.4, 52.5, [100.0] * 64), star(13.4, 52.5, [60.0] * 64))

    for away_m, depth in ((0, -60), (50, -10), (70, 10), (90, 10), (130, -30)):
        lon, lat, _ = GEOD.fwd(13.4, 52.5, 11.25, away_m)
        assert depth_m(fence, lon, lat) == pytest.approx(depth, abs=0.5)
    assert fence.inradius_m == pytest.approx(20, rel=0.04)


def test_the_whole_world_has_no_boundary_and_still_a_depth() -> None:
    """A fence may cover everything."""
    world = polygon(box_ring(-180, -90, 180, 90))

    assert covers(world, 180.0, -90.0)
    assert depth_m(world, 1.0, 2.0) == world.inradius_m == 20_003_931.0


@given(st.data(), stars(largest_m=2_000_000.0))
@settings(max_examples=50, deadline=None)
def test_no_position_is_deeper_than_the_inradius(data: st.DataObject, fence: Fence) -> None:
    """The inradius is the greatest depth, to a few percent."""
    lon, lat = data.draw(near(fence))

    assert depth_m(fence, lon, lat) <= fence.inradius_m * 1.05


@given(st.data(), stars(), st.floats(-0.02, 0.02), st.floats(-0.02, 0.02))
def test_a_segment_meets_a_polygon_where_the_planar_short_way_does(
    data: st.DataObject, fence: Fence, east: float, north: float
) -> None:
    """The oracle moves everything to where there is no seam."""
    lon, lat = data.draw(near(fence))
    lat1 = max(-90.0, min(90.0, lat + north))
    unrolled = [
        shapely.transform(part, lambda c: np.column_stack(((c[:, 0] + 360) % 360, c[:, 1])))
        for part in shapely.get_parts(geometry(fence))
        if abs(lon) > 90.0
    ] or [geometry(fence)]
    start = (lon + 360) % 360 if abs(lon) > 90.0 else lon
    line = shapely.LineString([(start, lat), (start + east, lat1)])
    gap = min(shapely.distance(part, line) for part in unrolled)
    deep = any(shapely.intersects(shapely.buffer(part, -1e-9), line) for part in unrolled)
    # To unroll rounds: within a billionth of a degree the oracle does not know.
    if gap > 1e-9 or deep:
        assert meets(fence, lon, lat, wrap(start + east), lat1) == deep


@given(lons, st.floats(-80, 80), st.floats(5, 200_000), st.data())
@settings(max_examples=200)
def test_a_segment_meets_a_circle_where_it_comes_near_enough(
    lon: float, lat: float, radius_m: float, data: st.DataObject
) -> None:
    """The oracle asks the geodesic at many positions of the segment."""
    fence = circle(lon, lat, radius_m)
    bearings, ways = st.floats(0, 360), st.floats(0.7, 1.3)
    x0, y0, _ = GEOD.fwd(lon, lat, data.draw(bearings), radius_m * data.draw(ways))
    length_m = data.draw(st.floats(0, 5_000))
    x1, y1, _ = GEOD.fwd(x0, y0, data.draw(bearings), length_m)
    steps = np.linspace(0, 1, 2_001)
    turn = (x1 - x0 + 180) % 360 - 180
    along = np.column_stack((x0 + steps * turn, y0 + steps * (y1 - y0)))
    here = np.broadcast_to((lon, lat), along.shape)
    nearest_m = GEOD.inv(here[:, 0], here[:, 1], along[:, 0], along[:, 1])[2].min()
    if abs(nearest_m - radius_m) < 0.01 + (length_m / 2_000) ** 2 / radius_m:
        return

    assert meets(fence, x0, y0, x1, y1) == (nearest_m <= radius_m)


@given(st.data(), circles() | stars())
def test_a_segment_meets_what_covers_either_end(data: st.DataObject, fence: Fence) -> None:
    """To be covered is to be met."""
    lon0, lat0 = data.draw(near(fence))
    lon1, lat1 = data.draw(near(fence))

    if covers(fence, lon0, lat0) or covers(fence, lon1, lat1):
        assert meets(fence, lon0, lat0, lon1, lat1)


def test_a_segment_along_the_seam_meets_fences_on_both_sides() -> None:
    """The meridian belongs to both halves of the world."""
    for fence in (polygon(box_ring(179, 0, 180, 1)), polygon(box_ring(-180, 0, -179, 1))):
        for side0, side1 in ((180.0, 180.0), (-180.0, -180.0), (180.0, -180.0)):
            assert meets(fence, side0, -1.0, side1, 2.0)
            assert not meets(fence, side0, -2.0, side1, -1.0)
        assert meets(fence, 179.5, 0.5, -179.5, 0.5)


@given(st.data(), circles() | stars(largest_m=2_000_000.0))
def test_what_a_fence_covers_lies_in_its_boxes(data: st.DataObject, fence: Fence) -> None:
    """The boxes hold every spelling, lie in the world, and never cross the antimeridian."""
    lon, lat = data.draw(near(fence) | st.tuples(lons, lats))

    for box in fence.boxes:
        assert -180 <= box.west <= box.east <= 180
        assert -90 <= box.south <= box.north <= 90
    if covers(fence, lon, lat):
        assert any(b.west <= lon <= b.east and b.south <= lat <= b.north for b in fence.boxes)


def test_a_country_of_tens_of_thousands_of_vertices_has_a_depth() -> None:
    """Canada, repaired: the depth agrees with the geodesic to its nearest vertices."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    with gzip.open(SHARED / "fences_complex_world.geojson.gz") as file:
        features = orjson.loads(file.read())["features"]
    given_one = next(f for f in features if f["properties"]["name"] == "Canada")
    canada = shapely.buffer(shapely.from_geojson(orjson.dumps(given_one["geometry"])), 0)
    assert isinstance(canada, shapely.MultiPolygon)
    fence = make_fence("canada", "b", "Canada", (), Area(canada))
    corners = shapely.get_coordinates(canada)

    for lon, lat in ((-95.2, 60.1), (-79.4, 43.66), (-63.57, 44.65), (-123.1, 49.2), (-75.0, 83.0)):
        here = np.broadcast_to((lon, lat), corners.shape)
        corner_m = GEOD.inv(here[:, 0], here[:, 1], corners[:, 0], corners[:, 1])[2].min()
        assert 0 <= abs(depth_m(fence, lon, lat)) <= corner_m * 1.0001
        assert (depth_m(fence, lon, lat) > 0) == covers(fence, lon, lat)


def test_a_thread_across_the_seam_at_a_pole_is_measured_without_a_map() -> None:
    """On a flat map its two sides cross by rounding; in space they do not."""
    line = ((179.998, -89.99999690481617), (-130.00099999999998, -90.0))
    fence = corridor(line, 0.1)

    assert covers(fence, 0.0, -90.0)
    assert 0.0 <= depth_m(fence, 0.0, -90.0) < 1.0
    assert not covers(fence, 0.0, -89.999)
    assert depth_m(fence, 0.0, -89.999) < -100.0


@given(st.data(), stars() | circles())
@settings(max_examples=150, deadline=None)
def test_what_is_known_without_the_boundary_is_true(data: st.DataObject, fence: Fence) -> None:
    """The shell, and who is farther than something, at positions where it is hard."""
    for _ in range(6):
        lon, lat = data.draw(near(fence))
        depth, place = depth_m(fence, lon, lat), ecef(lon, lat)
        shell = fence.ruler.shell
        chord_m = math.dist(place, shell[:3])

        if chord_m < shell.near_m:
            assert covers(fence, lon, lat)
        if chord_m > shell.far_m:
            assert not covers(fence, lon, lat)
        for away_m in (0.0, 28.0, abs(depth), math.nextafter(abs(depth), 0.0), 5_000.0):
            assert is_farther(fence, lon, lat, place, away_m) == (-depth > away_m)
