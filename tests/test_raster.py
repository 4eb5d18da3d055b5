import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geofences.fence import Fence
from geofences.globe import ecef
from geofences.measure import covers, depth_m, is_farther
from geofences.raster import Raster
from tests.strategies import circle, circles, near, polygon, star, stars, wrap


@given(st.data(), stars() | circles())
@settings(max_examples=150, deadline=None)
def test_what_is_known_without_the_boundary_is_true(data: st.DataObject, fence: Fence) -> None:
    """The shell and the bounds of the depth, at positions where it is hard."""
    for _ in range(6):
        lon, lat = data.draw(near(fence))
        depth, place = depth_m(fence, lon, lat), ecef(lon, lat)
        shell = fence.ruler.shell
        chord_m = math.dist(place, shell[:3])
        least_m, most_m = fence.ruler.depth_bounds_m(lon, lat)

        assert least_m <= depth <= most_m
        if chord_m < shell.near_m or least_m > 0.0:
            assert covers(fence, lon, lat)
        if chord_m > shell.far_m or most_m < 0.0:
            assert not covers(fence, lon, lat)
        for away_m in (0.0, 28.0, abs(depth), math.nextafter(abs(depth), 0.0), 5_000.0):
            assert is_farther(fence, lon, lat, place, away_m) == (-depth > away_m)


def test_a_raster_settles_most_of_a_plane() -> None:
    """Bounds are as near to each other as a cell's diagonal, and hold everywhere."""
    drawn = shapely.Polygon(
        [(0, 0), (160, 0), (160, 160), (0, 160)], [[(60, 60), (60, 100), (100, 100), (100, 60)]]
    )
    outline = drawn.boundary
    raster = Raster(drawn, outline)
    rng = np.random.default_rng(4)
    settled = 0
    for x, y in rng.uniform(-40, 200, (4_000, 2)).tolist():
        point = shapely.Point(x, y)
        depth_m = outline.distance(point) * (1 if drawn.intersects(point) else -1)
        least_m, most_m = raster.bounds_m(x, y)
        settled += least_m > 0.0 or most_m < 0.0

        assert least_m <= depth_m <= most_m
        if 0 <= x < 160 and 0 <= y < 160:
            assert most_m - least_m == pytest.approx(math.hypot(10, 10), abs=0.01)
    assert settled > 3_000


def test_a_raster_ends_where_its_polygon_does() -> None:
    """On the last edge, beyond it by a little and by much; no cell beyond the last is asked for."""
    raster = Raster(drawn := shapely.box(0.0, 0.0, 16.0, 32.0), outline := drawn.boundary)
    for x, y in ((0.0, 0.0), (16.0, 32.0), (math.nextafter(16.0, 0), 5.0), (-1e-9, 5.0)):
        least_m, most_m = raster.bounds_m(x, y)
        assert least_m <= 0.0 <= most_m
    least_m, most_m = raster.bounds_m(8.0, 1_032.0)
    assert least_m == -math.inf
    assert -1_000.0 <= most_m < -999.0
    assert outline.distance(shapely.Point(8.0, 1_032.0)) == 1_000.0


def test_a_fence_across_the_seam_has_one_map() -> None:
    """Positions on both sides of it are bounded by the same raster."""
    fence = polygon(star(180.0, -17.0, [300.0] * 24))
    for east_m in (-250.0, -50.0, 0.0, 50.0, 250.0):
        lon = wrap(180.0 + east_m / 106_450.0)
        least_m, most_m = fence.ruler.depth_bounds_m(lon, -17.0)
        assert least_m <= depth_m(fence, lon, -17.0) <= most_m
        assert most_m - least_m < 60.0


def test_a_circle_is_settled_by_its_shell() -> None:
    """Nothing more is to be known without the geodesic."""
    fence = circle(13.4, 52.5, 100.0)
    assert fence.ruler.depth_bounds_m(13.4, 52.5) == (-math.inf, math.inf)
    assert fence.ruler.shell[3:] == pytest.approx((100.0, 100.0), abs=1e-5)
