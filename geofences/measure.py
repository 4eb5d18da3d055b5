"""What is asked about one fence and one position: covered, how deep, met on the way.

Circles are true circles, by geodesic distance on WGS84, not polygons with many corners and not
circles on a sphere (which errs by 2.8 m in 500 m). Polygons are straight-edged in lon/lat.
"""

import math

import msgspec
import shapely

from geofences.boundary import survey
from geofences.fence import Area, BBox, Circle, Corridor, Fence, Ruler, Shell
from geofences.globe import (
    CURVATURE_RADIUS_MIN_M,
    Space,
    arc_m,
    ecef,
    geodesic_m,
    short_way,
)
from geofences.plane import Polygonal

_DOUBT_M = 1e-6
"""Rounding in space and pyproj's own 15 nm are far below a micrometre: beyond, no doubt is left."""

_BOXES_MAX = 8
_BOX_MARGIN_DEG = 1e-9


def covers(fence: Fence, lon: float, lat: float) -> bool:
    """Whether the fence covers the position. The boundary counts (OGC *covers*).

    Exact: circles agree with the WGS84 geodesic distance, polygons with the cut geometry. The
    spellings 180 and -180 are one meridian, and any longitude at +-90 is the pole.

    Returns:
        False for a position that is not finite or out of range.

    Cost: 0.6 us.
    """
    if not (-180.0 <= lon <= 180.0 and -90.0 <= lat <= 90.0):
        return False
    return fence.ruler.covers(lon, lat)


def depth_m(fence: Fence, lon: float, lat: float) -> float:
    """Signed metres to the fence's boundary: positive inside, 0 on it, negative outside.

    Holes are boundary; what the cut at the antimeridian added is not. Within 0.5 % + 0.1 m near
    the boundary; its sign never disagrees with `covers`.

    Raises:
        ValueError: the position is not finite or out of range.

    Cost: 1 us for a circle, 3 us for a polygon of a town's size, 0.1 ms for a country.
    """
    if not (-180.0 <= lon <= 180.0 and -90.0 <= lat <= 90.0):
        raise ValueError("a position must be finite, lon -180..180, lat -90..90")
    return fence.ruler.depth_m(lon, lat)


def is_farther(fence: Fence, lon: float, lat: float, place: Space, away_m: float) -> bool:
    """Whether a position lies outside a fence and more than so many metres from it.

    The same as `-depth_m(...) > away_m` for away_m >= 0, and cheaper where the shell tells.

    Args:
        lon, lat: finite and in range.
        place: the same position in space, as `globe.ecef` has it.
        away_m: metres, up to 10 km.
    """
    cx, cy, cz, near_m, far_m = fence.ruler.shell
    chord_m = math.dist(place, (cx, cy, cz))
    if chord_m - far_m > away_m:
        return True
    # An arc of 10 km is a millimetre longer than its chord.
    if near_m > 0.0 and chord_m - near_m < away_m - 0.01 and chord_m < 10_000.0:
        return False
    return -fence.ruler.depth_m(lon, lat) > away_m


def meets(fence: Fence, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
    """Whether the straight short-way segment between two fixes meets the fence, touching included.

    For fixes that are metres to some kilometres apart. Straight is meant in lon/lat, as polygons
    have it. Where either end is covered it is met.

    Returns:
        False where either end is not finite or out of range.
    """
    if not (-180.0 <= lon0 <= 180.0 and -90.0 <= lat0 <= 90.0):
        return False
    if not (-180.0 <= lon1 <= 180.0 and -90.0 <= lat1 <= 90.0):
        return False
    return fence.ruler.meets(lon0, lat0, lon1, lat1)


def make_fence(
    id: str,  # noqa: A002 (the field's own name)
    brand: str,
    name: str,
    tags: tuple[str, ...],
    shape: Circle | Area,
) -> Fence:
    """Make a fence of a shape that is known to be good, with all that is precomputed.

    Cost: 5 us for a circle, 0.1-0.3 ms for a shop's polygon, 0.1-0.5 s for 100,000 vertices: a
    worker thread's work.
    """
    if isinstance(shape, Circle):
        ruler: Ruler = Rim.of(shape)
        return Fence(id, brand, name, tags, shape, _circle_boxes(shape), shape.radius_m, ruler)
    shapely.prepare(shape.geometry)
    known_m = shape.width_m / 2 if isinstance(shape, Corridor) else None
    ruler, inradius_m = survey(shape.geometry, inradius_m=known_m)
    return Fence(id, brand, name, tags, shape, _area_boxes(shape.geometry), inradius_m, ruler)


class Rim(msgspec.Struct, frozen=True):
    """The ruler of a circle: its centre in space, and the chords between which there is doubt.

    Nearer than the shell's `near_m` is inside and farther than its `far_m` is outside, whatever
    the geodesic; between, pyproj decides. See `globe` for why. The ring between is 2 um wide for a
    shop and 1 m wide at 100 km.
    """

    shell: Shell
    circle: Circle

    @classmethod
    def of(cls, circle: Circle) -> "Rim":
        """Precompute the ruler of a circle."""
        twice_m = 2 * CURVATURE_RADIUS_MIN_M
        near_m = max(0.0, twice_m * math.sin(circle.radius_m / twice_m) - _DOUBT_M)
        far_m = circle.radius_m + _DOUBT_M
        return cls(Shell(*ecef(circle.lon, circle.lat), near_m, far_m), circle)

    def covers(self, lon: float, lat: float) -> bool:
        """Whether the geodesic distance from the centre is at most the radius."""
        chord_m = self._chord_m(lon, lat)
        if chord_m < self.shell.near_m:
            return True
        if chord_m > self.shell.far_m:
            return False
        return self._distance_m(lon, lat) <= self.circle.radius_m

    def depth_m(self, lon: float, lat: float) -> float:
        """The radius less the distance from the centre."""
        chord_m = self._chord_m(lon, lat)
        if self.shell.near_m <= chord_m <= self.shell.far_m:
            return self.circle.radius_m - self._distance_m(lon, lat)
        return self.circle.radius_m - arc_m(chord_m)

    def _chord_m(self, lon: float, lat: float) -> float:
        """Straight metres through the earth to the centre."""
        x, y, z = ecef(lon, lat)
        cx, cy, cz, _, _ = self.shell
        dx, dy, dz = x - cx, y - cy, z - cz
        return math.sqrt(dx * dx + dy * dy + dz * dz)

    def meets(self, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
        """Whether the segment's nearest position to the centre is covered, or one of its ends."""
        x0, y0, z0 = ecef(lon0, lat0)
        x1, y1, z1 = ecef(lon1, lat1)
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        here = self.shell
        cx, cy, cz = here.x - x0, here.y - y0, here.z - z0
        length_2 = dx * dx + dy * dy + dz * dz
        along = (cx * dx + cy * dy + cz * dz) / length_2 if length_2 else 0.0
        along = min(1.0, max(0.0, along))
        gx, gy, gz = cx - along * dx, cy - along * dy, cz - along * dz
        reach_m = self.circle.radius_m + bend_m(math.sqrt(length_2))
        if gx * gx + gy * gy + gz * gz > reach_m * reach_m:
            return False
        lon = short_way(lon0 + along * short_way(lon1 - lon0))
        lat = lat0 + along * (lat1 - lat0)
        return self.covers(lon, lat) or self.covers(lon0, lat0) or self.covers(lon1, lat1)

    def _distance_m(self, lon: float, lat: float) -> float:
        return geodesic_m(self.circle.lon, self.circle.lat, lon, lat)


def bend_m(length_m: float) -> float:
    """How far a segment may bend away from its chord through the earth, metres; an upper bound.

    A parallel bends by length^2 tan(lat) / 8R, and goes below the surface by length^2 / 8R: all of
    it less than this for segments below 10 km up to 88 degrees, and of any length up to 60.
    """
    return length_m * (0.01 + length_m / 1.5e7) + _DOUBT_M


def _circle_boxes(circle: Circle) -> tuple[BBox, ...]:
    """Boxes that hold the circle, seam and poles included.

    On the sphere of the smallest radius of curvature every step in lon and lat is shorter than on
    WGS84, so the circle lies inside the cap of the same radius there; the cap's extent is exact.
    """
    reach = circle.radius_m / CURVATURE_RADIUS_MIN_M
    reach_deg = math.degrees(reach) + _BOX_MARGIN_DEG
    south, north = circle.lat - reach_deg, circle.lat + reach_deg
    if south <= -90.0 or north >= 90.0:
        return (BBox(-180.0, max(south, -90.0), 180.0, min(north, 90.0)),)
    bulge = math.sin(reach) / math.cos(math.radians(circle.lat))
    wide_deg = math.degrees(math.asin(min(1.0, bulge))) + _BOX_MARGIN_DEG
    # Near a pole the margin is worth more in longitude than in latitude.
    wide_deg *= 1 + 1e-9
    return split_box(circle.lon - wide_deg, south, circle.lon + wide_deg, north)


def split_box(west: float, south: float, east: float, north: float) -> tuple[BBox, ...]:
    """Cut a box at the antimeridian, where it reaches or crosses it."""
    if west <= -180.0:
        return (BBox(-180.0, south, east, north), BBox(west + 360.0, south, 180.0, north))
    if east >= 180.0:
        return (BBox(west, south, 180.0, north), BBox(-180.0, south, east - 360.0, north))
    return (BBox(west, south, east, north),)


def _area_boxes(geometry: Polygonal) -> tuple[BBox, ...]:
    """One box for each part, or for each half of the world where parts are many, and the spellings.

    What touches the seam or a pole is boxed at the other spelling too.
    """
    bounds = shapely.bounds(shapely.get_parts(geometry))
    if len(bounds) > _BOXES_MAX:
        halves = (bounds[bounds[:, 0] < 0], bounds[bounds[:, 0] >= 0])
        boxes = [
            BBox(*half[:, :2].min(0).tolist(), *half[:, 2:].max(0).tolist())
            for half in halves
            if len(half)
        ]
    else:
        boxes = [BBox(*row) for row in bounds.tolist()]
    spellings = [
        BBox(-side, box.south, -side, box.north)
        for box in boxes
        for side, at in ((180.0, box.east), (-180.0, box.west))
        if at == side and not (box.west == -180.0 and box.east == 180.0)
    ]
    south, north = min(b.south for b in boxes), max(b.north for b in boxes)
    poles = [BBox(-180.0, lat, 180.0, lat) for lat in (-90.0, 90.0) if lat in (south, north)]
    return tuple(dict.fromkeys((*boxes, *spellings, *poles)))
