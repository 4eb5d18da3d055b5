"""How far is it to the boundary of a polygon, in metres: one ruler for towns, one for countries.

`Plan` serves whatever is small enough for one flat map: the polygon is drawn on it once, and a
question costs a few microseconds. `Coast` serves the rest: edges in packs, each inside a known
ball, so that a question looks at a few packs only, in space, where there is no seam and no pole.
Both take the sign from the polygon in lon/lat, so that depth and cover never disagree.
"""

import heapq
import itertools
import math
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import shapely

from geofences.fence import UNSETTLED, Shell
from geofences.globe import (
    CURVATURE_RADIUS_MAX_M,
    MEAN_RADIUS_M,
    arc_m,
    ecef,
    ecef_many,
    metres_per_degree,
    short_way,
)
from geofences.plane import Polygonal, covers_lon_lat, meets_lon_lat, point_of

Floats: TypeAlias = npt.NDArray[np.float64]

HALF_WORLD_M = 20_003_931.0
"""The depth of anything in a fence without a boundary, the whole world: half a meridian."""

_PACK = 48
_FLAT_ERROR_MAX = 0.004
_INRADIUS_ERROR = 0.03
_PROBE_WORK = 300
_WORK_MAX = 500_000
"""In edges looked at, of which the fixed cost of a probe is worth some: 0.2 s, rarely 1 s."""


class Plan(msgspec.Struct, frozen=True, eq=False):
    """A polygon on a flat map of its own: metres east and north of its middle.

    The map is linear in lon and lat, so edges stay straight and it errs only in scale: by at most
    `_FLAT_ERROR_MAX` at the top and bottom of the fence, and not at all in the sign.
    """

    geometry: Polygonal
    outline: shapely.LineString | shapely.MultiLineString
    lon: float
    lat: float
    east_m: float
    north_m: float
    shell: Shell

    def covers(self, lon: float, lat: float) -> bool:
        """Whether the position lies in the polygon or on its boundary. About 0.5 us."""
        return covers_lon_lat(self.geometry, lon, lat)

    def depth_m(self, lon: float, lat: float) -> float:
        """Signed metres to the boundary, positive inside. About 3 us."""
        point = point_of(short_way(lon - self.lon) * self.east_m, (lat - self.lat) * self.north_m)
        away_m = float(self.outline.distance(point))
        return away_m if self.covers(lon, lat) else -away_m

    def meets(self, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
        """Whether the straight short-way segment has a position in common with the polygon."""
        return meets_lon_lat(self.geometry, lon0, lat0, lon1, lat1)


class Coast(msgspec.Struct, frozen=True, eq=False):
    """A boundary too wide for one map, as packs of consecutive edges, each inside a ball.

    Attributes:
        edges: float64 (n, 4), lon and lat of both ends, degrees; never across the seam.
        starts: int64 (packs + 1,), where each pack begins in `edges`.
        centres: float64 (packs, 3), metres from the earth's centre.
        radii_m: float64 (packs,), so that every position of the pack's edges is within.
    """

    geometry: Polygonal
    edges: Floats
    starts: npt.NDArray[np.int64]
    centres: Floats
    radii_m: Floats

    @property
    def shell(self) -> Shell:
        """Nothing is settled: a country is larger than what one ball tells of it."""
        return UNSETTLED

    def covers(self, lon: float, lat: float) -> bool:
        """Whether the position lies in the polygon or on its boundary."""
        return covers_lon_lat(self.geometry, lon, lat)

    def depth_m(self, lon: float, lat: float) -> float:
        """Signed metres to the boundary, positive inside. About 100 us, whatever the size."""
        return self.depth_and_work(lon, lat)[0]

    def meets(self, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
        """Whether the straight short-way segment has a position in common with the polygon."""
        return meets_lon_lat(self.geometry, lon0, lat0, lon1, lat1)

    def depth_and_work(self, lon: float, lat: float) -> tuple[float, int]:
        """As `depth_m`, and how many edges had to be looked at."""
        if not len(self.edges):
            return HALF_WORLD_M, 0
        here = np.array(ecef(lon, lat))
        offset = self.centres - here
        middle_m = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        first = int((middle_m + self.radii_m).argmin())
        chord_m = self._chord_m([first], lon, lat, here, math.inf)
        least_m = middle_m - self.radii_m
        least_m[first] = math.inf
        # Far inland a whole coast is nearly equally far: what could only gain 0.2 % is left out.
        rest = np.flatnonzero(least_m < chord_m * 0.998)
        if len(rest):
            chord_m = self._chord_m(rest.tolist(), lon, lat, here, chord_m)
        looked_at = int((self.starts[rest + 1] - self.starts[rest]).sum()) + _PACK
        away_m = arc_m(chord_m)
        return (away_m if self.covers(lon, lat) else -away_m), looked_at

    def _chord_m(
        self, packs: list[int], lon: float, lat: float, here: Floats, best: float
    ) -> float:
        """Straight metres through space to the nearest edge of these packs, or `best` if less."""
        edges = np.concatenate([self.edges[self.starts[p] : self.starts[p + 1]] for p in packs])
        along = _nearest_fractions(edges, lon, lat)
        lon_a, lat_a, lon_b, lat_b = edges.T[:, :, None]
        there = ecef_many(lon_a + along * (lon_b - lon_a), lat_a + along * (lat_b - lat_a))
        square = ((there - here) ** 2).sum(-1)
        edge, sample = divmod(int(square.argmin()), along.shape[1])
        return min(
            best,
            math.sqrt(square[edge, sample]),
            _slide(edges[edge].tolist(), float(along[edge, sample]), here.tolist()),
        )


def _nearest_fractions(edges: Floats, lon: float, lat: float) -> Floats:
    """Guess where along each edge it comes nearest, as fractions: float64 (n, guesses).

    Two flat maps are asked, one true at the position's latitude and one half-way to where the
    first map pointed; long edges are sampled evenly too, since no flat map is true along them.
    """
    rise = edges[:, 3] - edges[:, 1]
    run = edges[:, 2] - edges[:, 0]
    east = (edges[:, 0] - lon + 180.0) % 360.0 - 180.0
    north = edges[:, 1] - lat
    guesses = []
    shrink: Any = math.cos(math.radians(lat))
    for _ in range(2):
        dx, dy = run * shrink, rise
        square = dx * dx + dy * dy
        dot = -(east * shrink * dx + north * dy)
        guess = np.clip(np.divide(dot, square, out=np.zeros_like(dot), where=square > 0), 0, 1)
        guesses.append(guess)
        shrink = np.cos(np.radians((lat + edges[:, 1] + guess * rise) / 2))
    if (np.abs(run) + np.abs(rise)).max() > 5.0:
        guesses += [np.full(len(edges), k / 16) for k in range(17)]
    return np.stack(guesses, axis=1)


def _slide(edge: list[float], at: float, here: list[float]) -> float:
    """Slide along the edge to where it comes nearest, in space, by Newton's method on its tangent.

    Returns straight metres; never more than at the start.
    """
    lon_a, lat_a, lon_b, lat_b = edge
    run, rise = lon_b - lon_a, lat_b - lat_a
    x, y, z = here
    best = math.inf
    for _ in range(4):
        qx, qy, qz = ecef(lon_a + at * run, lat_a + at * rise)
        gx, gy, gz = x - qx, y - qy, z - qz
        best = min(best, math.sqrt(gx * gx + gy * gy + gz * gz))
        step = 1e-6 if at < 0.5 else -1e-6
        tx, ty, tz = ecef(lon_a + (at + step) * run, lat_a + (at + step) * rise)
        tx, ty, tz = (tx - qx) / step, (ty - qy) / step, (tz - qz) / step
        square = tx * tx + ty * ty + tz * tz
        if square == 0.0:
            break
        at = min(1.0, max(0.0, at + (gx * tx + gy * ty + gz * tz) / square))
    return best


def survey(geometry: Polygonal, *, inradius_m: float | None = None) -> tuple[Plan | Coast, float]:
    """Precompute a ruler for the cut geometry, and its inradius in metres unless it is known."""
    drawn = _draw(geometry)
    if drawn is not None:
        plan, on_map = drawn
        return plan, inradius_m or _flat_inradius_m(on_map)
    coast = _pack(geometry)
    return coast, inradius_m or _wide_inradius_m(coast)


def _draw(geometry: Polygonal) -> tuple[Plan, Polygonal] | None:
    """Plan the geometry and draw it on a flat map; None where no such map would be true enough."""
    west, south, east, north = geometry.bounds
    if east - west > 180.0:
        lons = shapely.get_coordinates(geometry)[:, 0] % 360.0
        west, east = float(lons.min()), float(lons.max())
    steepness = math.tan(math.radians(min(89.999, max(abs(south), abs(north)))))
    lon, lat = (west + east) / 2, (south + north) / 2
    east_m, north_m = metres_per_degree(lat)
    too_high = math.radians(north - south) / 2 * max(steepness, 0.2) > _FLAT_ERROR_MAX
    too_wide = (east - west) / 2 * east_m * max(steepness, 1.0) > 0.3 * MEAN_RADIUS_M
    if too_high or too_wide:
        return None

    crosses = geometry.bounds[2] - geometry.bounds[0] > 180.0

    def on_map(lon_lat: Floats) -> Floats:
        lons = lon_lat[:, 0]
        eastward = np.where(lons < 0, lons + 360.0, lons) if crosses else lons
        return np.column_stack(((eastward - lon) * east_m, (lon_lat[:, 1] - lat) * north_m))

    drawn: Any = shapely.transform(geometry, on_map)
    if crosses:
        # The two sides of the seam lie edge to edge here, and the seam is no boundary.
        try:
            drawn = shapely.union_all(shapely.get_parts(drawn))
        except shapely.GEOSException:
            # So thin, so near to a pole, that on a map its sides cross by rounding.
            return None
    outline = drawn.boundary
    shapely.prepare(outline)
    inside = bool(shapely.intersects_xy(drawn, 0.0, 0.0))
    shell = Shell(*ecef(lon, lat), *_flat_shell_m(outline, inside=inside))
    return Plan(geometry, outline, lon, lat, east_m, north_m, shell), drawn


def _flat_shell_m(
    outline: shapely.LineString | shapely.MultiLineString, *, inside: bool
) -> tuple[float, float]:
    """How far from its middle a flat map is surely covered, and how far it surely ends, metres.

    The margins are several times what the map errs by, and what an arc is longer than its chord.
    """
    depth_m = outline.distance(shapely.Point(0.0, 0.0)) if inside else 0.0
    corner_m = float(np.hypot(*shapely.get_coordinates(outline).T).max())
    return max(0.0, 0.97 * depth_m - 0.5), 1.03 * corner_m + 0.5


def _flat_inradius_m(drawn: Polygonal) -> float:
    """Radius of the largest circle inside, on a flat map, to `_INRADIUS_ERROR`."""
    # A shape's inradius is at least its area over its perimeter, so this is relative to it.
    tolerance_m = _INRADIUS_ERROR * drawn.area / drawn.length
    return float(shapely.maximum_inscribed_circle(drawn, tolerance=tolerance_m).length)


def _pack(geometry: Polygonal) -> Coast:
    edges = _boundary_edges(geometry)
    starts = _pack_starts(edges)
    if not len(edges):
        return Coast(geometry, edges, starts, np.empty((0, 3)), np.empty(0))
    low = np.minimum.reduceat(np.minimum(edges[:, :2], edges[:, 2:]), starts[:-1])
    high = np.maximum.reduceat(np.maximum(edges[:, :2], edges[:, 2:]), starts[:-1])
    middle = (low + high) / 2
    # No step in lon and lat is longer than on the sphere of the largest radius of curvature, and
    # no parallel of a box longer than the one that is nearest to the equator.
    tilt = np.where(low * high < 0, 0.0, np.minimum(abs(low), abs(high)))[:, 1]
    reach = np.radians(high - low) / 2
    radii_m = CURVATURE_RADIUS_MAX_M * np.hypot(reach[:, 1], reach[:, 0] * np.cos(np.radians(tilt)))
    return Coast(geometry, edges, starts, ecef_many(middle[:, 0], middle[:, 1]), radii_m)


def _pack_starts(edges: Floats) -> npt.NDArray[np.int64]:
    """Where to begin a pack: every so many edges, and where a new ring begins."""
    breaks = np.flatnonzero((edges[1:, :2] != edges[:-1, 2:]).any(1)) + 1
    runs = itertools.pairwise([0, *breaks.tolist(), len(edges)])
    starts = [start for begin, end in runs for start in range(begin, end, _PACK)]
    return np.array([*starts, len(edges)], dtype=np.int64)


def _boundary_edges(geometry: Polygonal) -> Floats:
    """All edges that are boundary on the globe: float64 (n, 4).

    What the cut added at the antimeridian is no boundary where both sides have it, and an edge
    along a pole is a single position.
    """
    coords, ring = shapely.get_coordinates(
        shapely.get_rings(shapely.get_parts(geometry)), return_index=True
    )
    edges = np.hstack((coords[:-1], coords[1:]))[ring[:-1] == ring[1:]]
    polar = (abs(edges[:, 1]) == 90.0) & (edges[:, 1] == edges[:, 3])
    seam = (abs(edges[:, 0]) == 180.0) & (edges[:, 0] == edges[:, 2])
    west, east = [
        shapely.union_all([shapely.LineString(((0, a), (0, b))) for _, a, _, b in side.tolist()])
        for side in (edges[seam & (edges[:, 0] < 0)], edges[seam & (edges[:, 0] > 0)])
    ]
    kept = [
        (180.0, line.coords[0][1], 180.0, line.coords[-1][1])
        for line in shapely.get_parts(shapely.symmetric_difference(west, east))
        if not line.is_empty
    ]
    return np.concatenate((edges[~(polar | seam)], np.array(kept).reshape(-1, 4)))


def _wide_inradius_m(coast: Coast) -> float:
    """Radius of the largest circle inside, on the globe, to `_INRADIUS_ERROR`.

    Search by halving boxes, the most promising first: no position of a box can be deeper than its
    middle is, plus the way from the middle to a corner. Where that takes too long, in a comb of
    long thin teeth, the deepest found so far has to do.
    Source: Mapbox, "A new algorithm for finding a visual center of a polygon" (2016).
    """
    boxes: list[tuple[float, float, float, float, float]] = []
    best_m = 0.0
    work = 0

    def probe(lon: float, lat: float, half_lon: float, half_lat: float) -> None:
        nonlocal best_m, work
        depth_m, looked_at = coast.depth_and_work(lon, lat)
        work += looked_at + _PROBE_WORK
        best_m = max(best_m, depth_m)
        tilt = max(0.0, abs(lat) - half_lat)
        reach_m = CURVATURE_RADIUS_MAX_M * math.hypot(
            math.radians(half_lat), math.radians(half_lon) * math.cos(math.radians(tilt))
        )
        heapq.heappush(boxes, (-(depth_m + reach_m), lon, lat, half_lon, half_lat))

    parts = shapely.get_parts(coast.geometry)
    largest = parts[np.argsort(-shapely.area(parts), kind="stable")[:8]]
    for west, south, east, north in shapely.bounds(largest).tolist():
        probe((west + east) / 2, (south + north) / 2, (east - west) / 2, (north - south) / 2)
    while work < _WORK_MAX:
        least, lon, lat, half_lon, half_lat = heapq.heappop(boxes)
        if -least <= best_m * (1 + _INRADIUS_ERROR):
            break
        if half_lon * math.cos(math.radians(lat)) > half_lat:
            half_lon /= 2
            for middle in (lon - half_lon, lon + half_lon):
                probe(middle, lat, half_lon, half_lat)
        else:
            half_lat /= 2
            for middle in (lat - half_lat, lat + half_lat):
                probe(lon, middle, half_lon, half_lat)
    return best_m
