"""The exact answers about a polygon in planar lon/lat, as GEOS gives them, in every spelling.

A polygon is cut at the antimeridian, and what lies on the seam or at a pole can be written in
several ways; all of them count. These are the answers that every faster way must agree with.
"""

import math
from collections.abc import Callable
from typing import TypeAlias, cast

import numpy as np
import shapely
from shapely import lib

Polygonal: TypeAlias = shapely.Polygon | shapely.MultiPolygon

# `shapely.intersects_xy` takes ten times as long: it is made for arrays. The stubs don't know this.
_intersects_xy: Callable[[Polygonal, float, float], bool] = lib.intersects_xy_scalar  # type: ignore[attr-defined]

_NAN_ALLOWED = 0
"""What `lib` is told about coordinates that are no numbers: to look for them would cost time."""


def covers_lon_lat(geometry: Polygonal, lon: float, lat: float) -> bool:
    """Whether the cut geometry covers the position, in either spelling of the seam or a pole.

    The boundary counts: intersects is covers for a point, in the OGC sense.
    """
    if _intersects_xy(geometry, lon, lat):
        return True
    return has_spellings(lon, lat) and _covers_otherwise(geometry, lon, lat)


def _covers_otherwise(geometry: Polygonal, lon: float, lat: float) -> bool:
    """Whether the cut geometry covers what is on the seam or at a pole, written otherwise."""
    if abs(lon) == 180.0 and _intersects_xy(geometry, -lon, lat):
        return True
    if lat == 90.0:
        return bool(geometry.bounds[3] == 90.0)
    return bool(lat == -90.0 and geometry.bounds[1] == -90.0)


def has_spellings(lon: float, lat: float) -> bool:
    """Whether the same place can be written otherwise: on the seam, or at a pole."""
    return abs(lon) == 180.0 or abs(lat) == 90.0


def meets_lon_lat(geometry: Polygonal, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
    """Whether the straight short-way segment has a position in common with the cut geometry."""
    if any(geometry.intersects(line) for line in _short_lines(lon0, lat0, lon1, lat1)):
        return True
    # Only the seam and the poles have spellings that a line in the plane does not know of.
    return any(
        has_spellings(lon, lat) and covers_lon_lat(geometry, lon, lat)
        for lon, lat in ((lon0, lat0), (lon1, lat1))
    )


def _short_lines(
    lon0: float, lat0: float, lon1: float, lat1: float
) -> tuple[shapely.LineString, ...]:
    """Draw the short way between two positions in the plane: two lines where it crosses the seam.

    A way along the seam itself is drawn on both of its sides.
    """
    if abs(lon0) == 180.0 and abs(lon1) == 180.0:
        return tuple(_line(side, lat0, side, lat1) for side in (180.0, -180.0))
    if abs(lon1 - lon0) <= 180.0:
        return (_line(lon0, lat0, lon1, lat1),)
    side = math.copysign(180.0, lon0)
    before, after = abs(side - lon0), abs(lon1 + side)
    lat = lat0 + (lat1 - lat0) * before / (before + after)
    return _line(lon0, lat0, side, lat), _line(-side, lat, lon1, lat1)


def point_of(x: float, y: float) -> shapely.Point:
    """Make a point, by the call that shapely's own `points` ends in, at half its cost."""
    return cast("shapely.Point", lib.points(np.array((x, y)), _NAN_ALLOWED))


def _line(lon0: float, lat0: float, lon1: float, lat1: float) -> shapely.LineString:
    line = lib.linestrings(np.array(((lon0, lat0), (lon1, lat1))), _NAN_ALLOWED)
    return cast("shapely.LineString", line)
