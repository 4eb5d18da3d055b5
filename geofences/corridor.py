"""From a line and a width to the polygon of a corridor: a street, a river bank, a tram line.

A corridor is all that lies within half its width of the line, whose edges are straight in lon/lat
as a polygon's are. It is drawn in pieces of at most some kilometres, each on a flat map of its own:
the plane that touches the earth at the middle of the piece, seen from straight above. There is no
pole and no seam on such a map, and at 60 km from its middle it is short by 1 in 20,000. The pieces
are laid over each other in lon/lat, once each has been cut at the antimeridian.

The polygon is made once, when the fence is written: what draws round joins and unions is a
library, and another version of it may place a corner elsewhere. So the polygon goes with the fence
wherever that goes, together with the *mark* of what it was made of. Where the mark still fits, the
polygon is taken as it is; where somebody has edited the line or the width, it is drawn anew.
"""

import hashlib
import itertools
import math
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import shapely

from geofences.fence import Corridor, Line
from geofences.globe import (
    ECCENTRICITY_2,
    EQUATOR_RADIUS_M,
    ecef,
    ecef_many,
    short_way,
)
from geofences.plane import Polygonal
from geofences.refusal import Problems, told
from geofences.rings import VERTICES_MAX, read_polygons, read_position

Floats: TypeAlias = npt.NDArray[np.float64]

WIDTH_MIN_M: Final = 0.1
WIDTH_MAX_M: Final = 20_000.0

_PIECE_M: Final = 50_000.0
"""Longest way of one piece along the line."""
_BEND: Final = 0.001
"""How far an edge may bend away from straight on the map, in half widths."""
_POLAR_LAT: Final = 80.0
"""From here on the sides of a corridor bend in lon/lat even where its line does not."""
_QUARTER: Final = 16
"""Corners to a quarter of a round join: the circle is cut short by 0.12 % of its radius."""
_NEXT_TO_NOTHING: Final = 0.0005
"""Corners that make no more difference than this, in half widths, are left out."""


def read_corridor(
    problems: Problems, coordinates: object, kind: str, properties: dict[str, object], path: str
) -> Corridor | None:
    """Read a LineString or a MultiLineString and its width.

    Returns:
        None where something is wrong; it is then among the problems.
    """
    lines = _read_lines(problems, coordinates, kind, path)
    width_m = _read_width(problems, properties.get("width_m"))
    if problems or width_m is None:
        return None
    known = properties.get("corridor")
    geometry = None
    if isinstance(known, dict) and known.get("of") == mark(lines, width_m):
        geometry = _read_polygon(known)
    geometry = geometry or draw(problems, lines, width_m)
    if geometry is None:
        return None
    return Corridor(geometry, lines, width_m, kind == "MultiLineString")


def to_properties(corridor: Corridor) -> dict[str, Any]:
    """Write the width, and the polygon as a GeoJSON geometry with the mark of its origin."""
    whole = shapely.MultiPolygon(shapely.get_parts(corridor.geometry))
    drawn = orjson.loads(shapely.to_geojson(whole))
    drawn["of"] = mark(corridor.lines, corridor.width_m)
    return {"width_m": corridor.width_m, "corridor": drawn}


def to_geometry(corridor: Corridor) -> dict[str, Any]:
    """Write the line or lines, as they came."""
    lines = [[list(position) for position in line] for line in corridor.lines]
    if corridor.several:
        return {"type": "MultiLineString", "coordinates": lines}
    return {"type": "LineString", "coordinates": lines[0]}


def mark(lines: tuple[Line, ...], width_m: float) -> str:
    """Name what a polygon was made of: 16 hexadecimal digits of a hash."""
    return hashlib.sha256(orjson.dumps((lines, width_m))).hexdigest()[:16]


def _read_lines(problems: Problems, coordinates: object, kind: str, path: str) -> tuple[Line, ...]:
    """The lines, each of two different positions at least; whatever is wrong is noted."""
    if kind == "LineString":
        given, paths = [coordinates], [path]
    elif isinstance(coordinates, list):
        given, paths = coordinates, [f"{path}[{n}]" for n in range(len(coordinates))]
    else:
        problems.refuse("coordinates_malformed", path, f"there is {told(coordinates)}")
        return ()
    if sum(len(line) for line in given if isinstance(line, list)) > VERTICES_MAX:
        problems.refuse("too_many_vertices", path, "there are more")
        return ()
    lines = []
    for positions, at in zip(given, paths, strict=True):
        if not isinstance(positions, list) or not positions:
            code = "coordinates_empty" if positions == [] else "coordinates_malformed"
            problems.refuse(code, at, f"there is {told(positions)}")
            continue
        read = [read_position(problems, one, f"{at}[{n}]") for n, one in enumerate(positions)]
        line = tuple(position for position in read if position is not None)
        if len(line) == len(read) and len(set(map(_place, line))) < 2:
            problems.refuse("line_too_short", at, f"there are {len(line)}, all of one place")
        lines.append(line)
        if problems.full:
            break
    return tuple(lines)


def _place(position: tuple[float, float]) -> tuple[float, float]:
    """A position in the one of its spellings by which places are compared."""
    lon, lat = position
    if abs(lat) == 90.0:
        return 0.0, lat
    return (180.0 if lon == -180.0 else lon), lat


def _read_width(problems: Problems, given: object) -> float | None:
    path = "properties.width_m"
    if given is None:
        problems.refuse("width_missing", path, "there is none")
        return None
    width_m = problems.number(given, path)
    if width_m is not None and not WIDTH_MIN_M <= width_m <= WIDTH_MAX_M:
        problems.refuse("width_out_of_range", path, f"there is the number {width_m}")
        return None
    return width_m


def _read_polygon(known: dict[str, object]) -> Polygonal | None:
    """A polygon that was drawn and cut before, to the bit; None if it is none, or is not whole."""
    geometry: Any = shapely.from_geojson(orjson.dumps(known), on_invalid="ignore")
    if not isinstance(geometry, shapely.MultiPolygon) or geometry.is_empty or geometry.has_z:
        return None
    west, south, east, north = geometry.bounds
    in_range = min(west, -east) >= -180.0 and min(south, -north) >= -90.0
    if not in_range or shapely.get_num_coordinates(geometry) > VERTICES_MAX:
        return None
    if not geometry.is_valid:
        return None
    return geometry.geoms[0] if len(geometry.geoms) == 1 else geometry


def draw(problems: Problems, lines: tuple[Line, ...], width_m: float) -> Polygonal | None:
    """Draw the polygon of a corridor; None, and a problem, where that cannot be done."""
    half_m = width_m / 2
    cut: list[Any] = []
    corners = 0
    for piece in itertools.chain.from_iterable(_pieces(line, half_m) for line in lines):
        rings = _outline(piece, half_m) if len(piece) <= VERTICES_MAX else []
        corners += sum(map(len, rings)) if rings else VERTICES_MAX + 1
        if corners > VERTICES_MAX:
            problems.refuse("too_many_vertices", "geometry.coordinates", "its polygon would")
            return None
        geometry = read_polygons(problems, [rings], ["geometry.coordinates"])
        if geometry is None:
            return None
        cut += shapely.get_parts(geometry).tolist()
    whole: Any = shapely.union_all(cut)
    if whole.bounds[2] - whole.bounds[0] > 180.0:
        # With no edge over 180 degrees it can be written and read again without a doubt of its way.
        whole = shapely.segmentize(whole, 120.0)
    oriented: Polygonal = shapely.orient_polygons(whole)
    return oriented


def _pieces(line: Line, half_m: float) -> list[list[tuple[float, float]]]:
    """Cut a line into pieces that are short enough for one map, with edges that hardly bend there.

    A piece begins with the last position of the one before.
    """
    pieces: list[list[tuple[float, float]]] = [[line[0]]]
    way_m = 0.0
    for (lon0, lat0), (lon1, lat1) in itertools.pairwise(line):
        run, rise = short_way(lon1 - lon0), lat1 - lat0
        length_m, bend_m = _length_and_bend_m(run, lat0, lat1)
        steps = math.ceil(max(1.0, length_m / _PIECE_M, math.sqrt(bend_m / (_BEND * half_m))))
        if steps > VERTICES_MAX:
            return [[line[0]] * (VERTICES_MAX + 1)]
        for step in range(1, steps + 1):
            if way_m > _PIECE_M:
                pieces.append([pieces[-1][-1]])
                way_m = 0.0
            share = step / steps
            here = (lon1, lat1) if step == steps else (lon0 + share * run, lat0 + share * rise)
            pieces[-1].append((short_way(here[0]), here[1]))
            way_m += length_m / steps
    return pieces


def _length_and_bend_m(run: float, lat0: float, lat1: float) -> tuple[float, float]:
    """How long an edge is, and how far it bends away from straight: upper bounds, metres.

    On a flat map an edge leads to x = R lon cos(lat), whose second derivative along the edge is at
    most R sin(lat) run (run cos(lat) + 2 rise); what is so curved bends by an eighth of that. On
    our plane what is straight on the earth bends too, by length^2 / 8R times the share of R at
    which it lies from the middle.
    """
    rise = math.radians(abs(lat1 - lat0))
    run = math.radians(abs(run))
    low, high = sorted((math.radians(abs(lat0)), math.radians(abs(lat1))))
    wide = run * (1.0 if lat0 * lat1 < 0 else math.cos(low))
    length_m = EQUATOR_RADIUS_M * math.hypot(rise, wide)
    bend_m = EQUATOR_RADIUS_M * run * math.sin(high) * (wide + 2 * rise) / 8
    return length_m, bend_m + length_m * length_m * _PIECE_M / (8 * EQUATOR_RADIUS_M**2)


def _outline(piece: list[tuple[float, float]], half_m: float) -> list[list[Any]]:
    """The rings around all that lies within reach of a piece, as a document has them in lon/lat.

    None of them where they would have more corners than a fence may have.
    """
    lon_lat = np.array(piece)
    there = ecef_many(lon_lat[:, 0], lon_lat[:, 1])
    plane = _Plane((there.min(0) + there.max(0)) / 2)
    line: Any = shapely.LineString(plane.draw(there))
    drawn = _around(line, half_m)
    if np.abs(lon_lat[:, 1]).max() > _POLAR_LAT:
        pole = plane.draw(np.array([ecef(0.0, math.copysign(90.0, lon_lat[0, 1]))]))
        away_m = max(drawn.boundary.distance(shapely.Point(pole[0])), half_m / 20)
        step_m = math.sqrt(8 * _BEND * half_m * away_m)
        if drawn.length / step_m > VERTICES_MAX:
            return []
        drawn = shapely.segmentize(drawn, step_m)
    rings: list[list[Any]] = []
    for ring in (drawn.exterior, *drawn.interiors):
        there_and_back = plane.lift(shapely.get_coordinates(ring)).tolist()
        there_and_back[-1] = there_and_back[0]
        rings.append(there_and_back)
    return rings


def _around(line: Any, half_m: float) -> Any:
    """All that lies within reach of a line on a map: what lies within reach of any of its edges.

    GEOS' buffer of a whole line leaves out bends of up to 1 % of the distance, and where a line
    winds in less than that it leaves slivers of holes, cusps, or several parts.
    """
    corners = shapely.get_coordinates(line)
    edges = shapely.linestrings(np.stack((corners[:-1], corners[1:]), axis=1))
    whole = shapely.union_all(shapely.buffer(edges, half_m, quad_segs=_QUARTER))
    return shapely.simplify(whole, _NEXT_TO_NOTHING * half_m)


class _Plane:
    """The plane that touches the earth below a place in space, seen from straight above.

    Args:
        near: float64 (3,), metres from the earth's centre.
    """

    def __init__(self, near: Floats) -> None:
        x, y, z = near.tolist()
        lon = math.degrees(math.atan2(y, x))
        lat = math.degrees(math.atan2(z, math.hypot(x, y) * (1 - ECCENTRICITY_2)))
        self._here = np.array(ecef(lon, lat))
        lon, lat = math.radians(lon), math.radians(lat)
        self._east = np.array((-math.sin(lon), math.cos(lon), 0.0))
        self._up = np.array(
            (math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat))
        )
        self._north = np.cross(self._up, self._east)

    def draw(self, there: Floats) -> Floats:
        """Positions in space, (n, 3), as metres east and north, (n, 2)."""
        away = there - self._here
        return np.column_stack((away @ self._east, away @ self._north))

    def lift(self, east_north: Floats) -> Floats:
        """Metres east and north, (n, 2), as lon and lat of the ground below: (n, 2) degrees.

        Straight down from the map the ellipsoid is met where a quadratic equation says.
        """
        flat = self._here + np.outer(east_north[:, 0], self._east)
        flat += np.outer(east_north[:, 1], self._north)
        weight = np.array((1.0, 1.0, 1 / (1 - ECCENTRICITY_2)))
        a = float(weight @ (self._up * self._up))
        b = flat @ (weight * self._up)
        c = (flat * flat) @ weight - EQUATOR_RADIUS_M**2
        # The nearer of both roots, in the form that does not cancel.
        down = -c / (b + np.sqrt(b * b - a * c))
        x, y, z = (flat + np.outer(down, self._up)).T
        lat = np.arctan2(z, np.hypot(x, y) * (1 - ECCENTRICITY_2))
        lon_lat: Floats = np.degrees(np.column_stack((np.arctan2(y, x), lat)))
        return lon_lat
