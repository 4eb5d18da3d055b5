"""How deep it surely is at least, and at most, in a small polygon: a raster of depths.

The distance to a boundary changes by no more than one walks. So one distance for each cell of a
raster bounds it for all positions of the cell, and settles most questions about a position without
the boundary: what is left to ask it lies within half a cell's diagonal of the line. In graphics
such a raster is a signed distance field.
"""

import math
from typing import Final, TypeAlias

import numpy as np
import shapely

Bounds: TypeAlias = tuple[float, float]
"""Least and most metres inside of a boundary; negative outside."""

_SIDE: Final = 16
"""Cells a side: 256 distances take 0.1 to 0.3 ms to make and 1 KiB to keep."""
_ROUNDING: Final = 1.0001
"""More than what single precision and drawing lose, together with a millimetre."""


class Raster:
    """Depths at the middles of cells that lie over a polygon, made when first asked for.

    Args:
        drawn: the polygon on a flat map, metres; prepared.
        outline: its boundary; prepared.
    """

    __slots__ = ("_depths_m", "_drawn", "_half_m", "_outline", "_per_x", "_per_y", "_x", "_y")

    def __init__(
        self,
        drawn: shapely.Polygon | shapely.MultiPolygon,
        outline: shapely.LineString | shapely.MultiLineString,
    ) -> None:
        self._drawn, self._outline = drawn, outline
        self._x, self._y, east, north = drawn.bounds
        wide, high = (east - self._x) / _SIDE, (north - self._y) / _SIDE
        self._per_x, self._per_y = 1.0 / wide, 1.0 / high
        self._half_m = 0.5 * math.hypot(wide, high) * _ROUNDING + 1e-3
        self._depths_m: memoryview | None = None

    def bounds_m(self, x: float, y: float) -> Bounds:
        """Between what the depth lies at a position of the map, metres; outside it is negative."""
        column, row = (x - self._x) * self._per_x, (y - self._y) * self._per_y
        if not (0.0 <= column < _SIDE and 0.0 <= row < _SIDE):
            return -math.inf, self._beyond_m(column, row)
        depths_m = self._depths_m
        if depths_m is None:
            depths_m = self._depths_m = self._made()
        depth_m = depths_m[int(row) * _SIDE + int(column)]
        return depth_m - self._half_m, depth_m + self._half_m

    def _beyond_m(self, column: float, row: float) -> float:
        """The most that the depth may be beside the raster: 0 less the way to it."""
        aside = max(-column, column - _SIDE, 0.0) / self._per_x
        above = max(-row, row - _SIDE, 0.0) / self._per_y
        return 1e-3 - max(aside, above) / _ROUNDING

    def _made(self) -> memoryview:
        middles = np.arange(_SIDE) + 0.5
        x = np.tile(self._x + middles / self._per_x, _SIDE)
        y = np.repeat(self._y + middles / self._per_y, _SIDE)
        away_m = shapely.distance(self._outline, shapely.points(x, y))
        inside = shapely.intersects_xy(self._drawn, x, y)
        return np.where(inside, away_m, -away_m).astype(np.float32).data
