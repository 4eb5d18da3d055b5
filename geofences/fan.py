"""A polygon seen from its middle: its boundary lies in wedges, like a fan.

To ask GEOS whether a position is covered costs little, but to get there, by way of numpy and a new
point, costs ten times that. So it is counted: a straight way from the middle, of which it is known
whether it is covered, crosses the boundary an even or an odd number of times, and only edges in
the position's own wedge can be crossed.

Source: the crossing number, in O'Rourke, "Computational Geometry in C" (2nd ed.), 7.4. Where
rounding could matter to the count, a micrometre from an edge, there is no answer.
"""

import itertools
import math
import struct
from array import array
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec
import shapely

from geofences.globe import short_way
from geofences.plane import Polygonal

Edge: TypeAlias = tuple[float, float, float, float]
"""From x0, y0 to x1, y1, metres on the map."""

_DOUBT_M: Final = 1e-6
"""Drawing moves a position by nanometres; nearer to an edge than this only lon/lat can tell."""
_MIDDLE_CLEAR_M: Final = 0.01
"""The middle must lie farther from the boundary."""
_OVERLAP: Final = 1e-3
"""Radians by which a wedge reaches into its neighbours, so that no rounding hides an edge.

What is a micrometre beside a ray, 1 cm from the middle, is 1e-4 beside it.
"""
_EDGES_MAX: Final = 512
_WEDGE_EDGES_MAX: Final = 32
"""With more in one wedge, GEOS, which has a tree of them, is as fast."""
_RECORDS_MAX: Final = 2_048

_RECORD: Final = struct.Struct("=4d")
_START: Final = struct.Struct("=H")
_SPAN: Final = struct.Struct("=2H")
_TURN: Final = 2 * math.pi


class Fan(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The edges of a polygon on a flat map, metres east and north of its middle, in wedges.

    What a question needs lies in one piece, since in a city of 100,000 fences nothing that is
    asked for is in the processor's cache, and each thing that lies elsewhere costs as much as
    ten additions.

    Attributes:
        wedges: how many, counted from west by south.
        inside: whether the middle is covered.
        packed: the middle's lon and lat, and metres a degree east and north; then for each wedge
            where it begins, and the last one's end, in records; then the wedges. Each is a record
            of the least and the greatest distance of its edges from the middle, metres, and the
            edges, x0, y0, x1, y1. An edge is in each wedge that it comes near.
    """

    wedges: int
    inside: bool
    packed: bytes

    def covers(self, lon: float, lat: float) -> bool | None:
        """Whether the polygon covers a position; None where rounding leaves a doubt.

        Args:
            lon, lat: not on the seam, nor at a pole.
        """
        # What `_on_map` and `_records` do; here, where most questions come, a call each is saved.
        packed, wedges = self.packed, self.wedges
        lon_0, lat_0, east_m, north_m = _RECORD.unpack_from(packed)
        x, y = short_way(lon - lon_0) * east_m, (lat - lat_0) * north_m
        wedge = int((math.atan2(y, x) + math.pi) * wedges / _TURN) % wedges
        start, end = _SPAN.unpack_from(packed, _RECORD.size + _START.size * wedge)
        records = _RECORD.iter_unpack(packed[start * _RECORD.size : end * _RECORD.size])
        near_m, far_m, _, _ = next(records)
        from_middle_2 = x * x + y * y
        inside = self.inside
        if from_middle_2 < near_m * near_m:
            return inside
        if from_middle_2 > far_m * far_m:
            return False
        beside = _DOUBT_M * math.sqrt(from_middle_2)
        for x0, y0, x1, y1 in records:
            side = x * y0 - y * x0
            if -beside <= side <= beside:
                return None
            # The same rounding as `side` has of the next edge, which begins where this one ends.
            if (side > 0.0) is not (x * y1 - y * x1 > 0.0):
                dx, dy = x1 - x0, y1 - y0
                here = dx * (y - y0) - dy * (x - x0)
                if abs(here) <= _DOUBT_M * (abs(dx) + abs(dy)):
                    return None
                if (here > 0.0) is not (dy * x0 - dx * y0 > 0.0):
                    inside = not inside
        return inside

    def reaches(self, lon: float, lat: float, away_m: float) -> bool | None:
        """Whether an edge comes within so many metres of a position; None where in doubt."""
        x, y, wedge = self._on_map(lon, lat)
        sure_2 = (away_m - _DOUBT_M) * abs(away_m - _DOUBT_M)
        away_m += _DOUBT_M
        doubtful = False
        from_middle_m = math.hypot(x, y)
        # Under this angle a disc around the position is seen from the middle.
        angle = math.asin(away_m / from_middle_m) if from_middle_m > away_m else math.pi
        aside = min(int(angle * self.wedges / _TURN) + 1, self.wedges // 2)
        for place in range(wedge - aside, wedge + aside + 1):
            records = self._records(place % self.wedges)
            near_m, far_m, _, _ = next(records)
            if not near_m - away_m <= from_middle_m <= far_m + away_m:
                continue
            for x0, y0, x1, y1 in records:
                dx, dy, px, py = x1 - x0, y1 - y0, x - x0, y - y0
                along = (px * dx + py * dy) / (dx * dx + dy * dy)
                if along >= 1.0:
                    px, py = x - x1, y - y1
                elif along > 0.0:
                    px, py = px - along * dx, py - along * dy
                away_2 = px * px + py * py
                if away_2 < sure_2:
                    return True
                if away_2 <= away_m * away_m:
                    doubtful = True
        return None if doubtful else False

    def passes_by(self, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
        """Whether a straight way surely crosses no edge; no says nothing.

        Args:
            lon0, lat0, lon1, lat1: not on the seam, nor at a pole, and not across it.
        """
        x0, y0, first = self._on_map(lon0, lat0)
        x1, y1, last = self._on_map(lon1, lat1)
        wedges = self.wedges
        turned = (last - first) % wedges
        if 2 * turned == wedges:
            # Through the middle, or nearly.
            return False
        if 2 * turned > wedges:
            first, turned = last, wedges - turned
        along_x, along_y = x1 - x0, y1 - y0
        beside_way = _DOUBT_M * (abs(along_x) + abs(along_y))
        for aside in range(turned + 1):
            records = self._records((first + aside) % wedges)
            next(records)
            for ax, ay, bx, by in records:
                a = along_x * (ay - y0) - along_y * (ax - x0)
                b = along_x * (by - y0) - along_y * (bx - x0)
                if (a > beside_way and b > beside_way) or (a < -beside_way and b < -beside_way):
                    continue
                dx, dy = bx - ax, by - ay
                beside = _DOUBT_M * (abs(dx) + abs(dy))
                a = dx * (y0 - ay) - dy * (x0 - ax)
                b = dx * (y1 - ay) - dy * (x1 - ax)
                if not ((a > beside and b > beside) or (a < -beside and b < -beside)):
                    return False
        return True

    def _on_map(self, lon: float, lat: float) -> tuple[float, float, int]:
        """A position on the map, metres east and north of the middle, and the wedge it is in."""
        lon_0, lat_0, east_m, north_m = _RECORD.unpack_from(self.packed)
        x, y = short_way(lon - lon_0) * east_m, (lat - lat_0) * north_m
        return x, y, int((math.atan2(y, x) + math.pi) * self.wedges / _TURN) % self.wedges

    def _records(self, wedge: int) -> Iterator[tuple[float, float, float, float]]:
        """What is packed of a wedge."""
        start, end = _SPAN.unpack_from(self.packed, _RECORD.size + _START.size * wedge)
        return _RECORD.iter_unpack(self.packed[start * _RECORD.size : end * _RECORD.size])


def fan_of(
    drawn: Polygonal,
    at: tuple[float, float],
    per_degree_m: tuple[float, float],
    *,
    inside: bool,
) -> Fan | None:
    """Part a polygon into wedges, or say None where its edges lie too close together for it.

    Args:
        drawn: on a map, metres east and north of its middle.
        at: lon and lat of the middle.
        per_degree_m: metres on the map of a degree east and of a degree north.
        inside: whether the middle is covered.

    Cost: 2 us an edge.
    """
    edges = _edges(drawn)
    if len(edges) > _EDGES_MAX:
        return None
    wedges = 1 << max(3, (len(edges) - 1).bit_length() - 2)
    corners: list[list[float]] = [[] for _ in range(wedges)]
    near_m, far_m = [math.inf] * wedges, [0.0] * wedges
    for edge in edges:
        least_m, most_m = _reach_m(*edge)
        if least_m < _MIDDLE_CLEAR_M:
            return None
        for number in _seen_in(*edge, wedges):
            wedge = number % wedges
            corners[wedge] += edge
            near_m[wedge], far_m[wedge] = min(near_m[wedge], least_m), max(far_m[wedge], most_m)
    if max(map(len, corners)) > 4 * _WEDGE_EDGES_MAX or sum(map(len, corners)) > 4 * _RECORDS_MAX:
        return None
    room = -(-_START.size * (wedges + 1) // _RECORD.size)
    starts = array("H", itertools.accumulate((1 + len(c) // 4 for c in corners), initial=1 + room))
    starts.extend([0] * (room * _RECORD.size // _START.size - len(starts)))
    records: list[float] = []
    for wedge in range(wedges):
        records += (near_m[wedge] - _DOUBT_M, far_m[wedge] + _DOUBT_M, 0.0, 0.0)
        records += corners[wedge]
    head = _RECORD.pack(*at, *per_degree_m)
    return Fan(wedges, inside, head + starts.tobytes() + array("d", records).tobytes())


def _edges(drawn: Polygonal) -> list[Edge]:
    """All edges of a polygon that have a length, metres."""
    parts = shapely.get_parts(drawn) if isinstance(drawn, shapely.MultiPolygon) else drawn
    coords, ring = shapely.get_coordinates(shapely.get_rings(parts), return_index=True)
    corners, rings = coords.tolist(), ring.tolist()
    return [
        (x0, y0, x1, y1)
        for (x0, y0), (x1, y1), of, of_next in zip(
            corners, corners[1:], rings, rings[1:], strict=False
        )
        if of == of_next and (x0 != x1 or y0 != y1)
    ]


def _reach_m(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float]:
    """The least and the greatest distance of an edge from the middle, metres."""
    dx, dy = x1 - x0, y1 - y0
    most_m = max(math.hypot(x0, y0), math.hypot(x1, y1))
    along = -(x0 * dx + y0 * dy) / (dx * dx + dy * dy)
    if along <= 0.0:
        return math.hypot(x0, y0), most_m
    if along >= 1.0:
        return math.hypot(x1, y1), most_m
    return math.hypot(x0 + along * dx, y0 + along * dy), most_m


def _seen_in(x0: float, y0: float, x1: float, y1: float, wedges: int) -> range:
    """The wedges that an edge comes near, each once, modulo their number."""
    began = math.atan2(y0, x0) + math.pi
    # An edge is seen from the middle under less than half a turn.
    ended = began + math.remainder(math.atan2(y1, x1) + math.pi - began, _TURN)
    low, high = (began, ended) if began < ended else (ended, began)
    per_radian = wedges / _TURN
    first = math.floor((low - _OVERLAP) * per_radian)
    last = math.floor((high + _OVERLAP) * per_radian)
    return range(first, min(last + 1, first + wedges))
