"""From the coordinates of a document to a valid geometry, cut at the antimeridian.

A ring is first *unrolled*: every edge goes the short way, so a ring across the antimeridian runs on
past 180 instead of jumping to -180, and its crossings can be judged in the plane. Then it is cut
into the worlds that it reaches, and these are laid over each other. A ring that goes round a pole
does not come back to where it began; it encloses the pole that is nearer to it.

The antimeridian package cuts the same regions, and the tests compare with it; but it rounds
crossings to a centimetre, can lose a hole, and recurses once for every crossing.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import numpy as np
import shapely

from geofences.plane import Polygonal
from geofences.refusal import Problems, told

VERTICES_MAX = 100_000

Ring: TypeAlias = list[tuple[float, float]]

_SNAP_DEG = 1e-11
_THINNEST_DEG = 1e-14
_LOCATION = re.compile(r"\[(\S+) (\S+)\]")


def read_position(problems: Problems, given: object, path: str) -> tuple[float, float] | None:
    """Read a position; an altitude and anything after it must be numbers and is ignored."""
    if not isinstance(given, list):
        problems.refuse("coordinates_malformed", path, f"there is {told(given)}")
        return None
    if any(isinstance(number, list) for number in given):
        problems.refuse("coordinates_malformed", path, "a position holds an array")
        return None
    if len(given) < 2:
        code = "position_too_short" if given else "coordinates_empty"
        problems.refuse(code, path, f"there is {told(given)}")
        return None
    numbers = [problems.number(number, f"{path}[{n}]") for n, number in enumerate(given)]
    for n, limit in enumerate((180.0, 90.0)):
        number = numbers[n]
        if number is not None and not -limit <= number <= limit:
            problems.refuse("out_of_range", f"{path}[{n}]", f"there is the number {number}")
            return None
    lon, lat = numbers[:2]
    return None if lon is None or lat is None or None in numbers else (lon, lat)


def read_polygons(problems: Problems, polygons: list[object], paths: list[str]) -> Polygonal | None:
    """Read the polygons of a Polygon (one) or a MultiPolygon into one geometry, valid and cut.

    Returns:
        None where something is wrong; it is then among the problems.
    """
    if _count(polygons) > VERTICES_MAX:
        problems.refuse("too_many_vertices", "geometry.coordinates", "there are more")
        return None
    cut: list[Polygonal] = []
    for given, path in zip(polygons, paths, strict=True):
        polygon = _read_polygon(problems, given, path)
        if polygon is not None:
            cut.append(polygon)
        if problems.full:
            break
    if problems:
        return None
    geometry = cut[0] if len(cut) == 1 else shapely.MultiPolygon(_parts(cut))
    if len(cut) > 1 and not geometry.is_valid:
        problems.refuse("parts_overlap", "geometry.coordinates", f"they do {_where(geometry)}")
        return None
    return geometry


def _count(polygons: list[object]) -> int:
    """How many positions there are, as far as the nesting is right."""
    rings = [ring for polygon in polygons if isinstance(polygon, list) for ring in polygon]
    return sum(len(ring) for ring in rings if isinstance(ring, list))


def _read_polygon(problems: Problems, given: object, path: str) -> Polygonal | None:
    if not isinstance(given, list) or not given:
        code = "coordinates_empty" if given == [] else "coordinates_malformed"
        problems.refuse(code, path, f"there is {told(given)}")
        return None
    rings = []
    for n, ring in enumerate(given):
        read = _read_ring(problems, ring, f"{path}[{n}]")
        if read is not None:
            rings.append(read)
        if problems.full:
            return None
    if len(rings) < len(given):
        return None
    return _assemble(problems, [_unroll(ring) for ring in rings], path)


def _read_ring(problems: Problems, given: object, path: str) -> Ring | None:
    if not isinstance(given, list) or not given:
        code = "coordinates_empty" if given == [] else "coordinates_malformed"
        problems.refuse(code, path, f"there is {told(given)}")
        return None
    ring: Ring = []
    for n, position in enumerate(given):
        # The common case first: a pair of floats in range costs a tenth of a microsecond.
        if type(position) is list and len(position) == 2:
            lon, lat = position
            floats = type(lon) is float and type(lat) is float
            if floats and -180.0 <= lon <= 180.0 and -90.0 <= lat <= 90.0:
                ring.append((lon, lat))
                continue
        read = read_position(problems, position, f"{path}[{n}]")
        if read is not None:
            ring.append(read)
        if problems.full:
            return None
    if len(ring) < len(given):
        return None
    if len(ring) < 4:
        problems.refuse("too_few_points", path, f"there are {len(ring)}")
        return None
    # The altitude counts here: RFC 7946 wants identical values.
    if given[0] != given[-1]:
        problems.refuse("ring_not_closed", path, f"it begins {ring[0]} and ends {ring[-1]}")
        return None
    return ring


def _unroll(ring: Ring) -> Ring:
    """Let every edge go the short way, so that longitudes may run past 180.

    A ring that goes round a pole is led from the antimeridian, where it has to be cut anyway: cut
    anywhere else, its two ends would fit but for rounding, and a hole there would not. Where it
    crosses the antimeridian several times, it is led from the one that is nearest to the pole.
    """
    unrolled = _run_on(ring)
    if unrolled[-1][0] == unrolled[0][0]:
        return unrolled
    pole = _pole(unrolled)
    side, lat, end = max(_crossings(ring), key=lambda crossing: crossing[1] * pole)
    return _run_on([(-side, lat), *ring[end:-1], *ring[:end], (side, lat)])


def _crossings(ring: Ring) -> Iterator[tuple[float, float, int]]:
    """Where a ring crosses the antimeridian: the side it comes from, the latitude, the next end."""
    for n, ((lon0, lat0), (lon1, lat1)) in enumerate(itertools.pairwise(ring)):
        if abs(lon1 - lon0) > 180.0:
            side = math.copysign(180.0, lon0)
            before, after = abs(side - lon0), abs(lon1 + side)
            share = before / (before + after) if before + after else 0.0
            yield side, lat0 + (lat1 - lat0) * share, n + 1


def _pole(unrolled: Ring) -> float:
    """The pole, 90 or -90, that a ring that goes round the world encloses: the nearer one.

    Its winding would say which, if windings could be trusted: a cap wound the wrong way would be
    all the world but the cap.
    """
    steps = itertools.pairwise(unrolled)
    area = sum((lon1 - lon0) * (lat0 + lat1) / 2 for (lon0, lat0), (lon1, lat1) in steps)
    return math.copysign(90.0, area / (unrolled[-1][0] - unrolled[0][0]))


def _run_on(ring: Ring) -> Ring:
    """Add whole turns to longitudes, so that no edge jumps.

    An edge of exactly 360 degrees at one latitude goes round the world, as in a band or a cap that
    was cut before; at two latitudes it is two spellings of one meridian.
    """
    turn = 0.0
    unrolled = [ring[0]]
    for (lon0, lat0), (lon1, lat1) in itertools.pairwise(ring):
        step = lon1 - lon0
        if abs(step) > 180.0 and not (abs(step) == 360.0 and lat0 == lat1):
            turn -= math.copysign(360.0, step)
        unrolled.append((lon1 + turn, lat1))
    return unrolled


def _assemble(problems: Problems, rings: list[Ring], path: str) -> Polygonal | None:
    """Make a valid polygon of unrolled rings, wound as RFC 7946 wants it, and cut it."""
    faces = [_close(ring) for ring in rings]
    for n, face in enumerate(faces):
        if not _is_sound(problems, shapely.Polygon(face), f"{path}[{n}]"):
            return None
    if any(_is_round_the_world(face) for face in faces):
        return _assemble_round_the_world(problems, faces, path)
    shell, holes = faces[0], [_beside(hole, faces[0]) for hole in faces[1:]]
    polygon = shapely.orient_polygons(shapely.Polygon(shell, holes))
    if not polygon.is_valid:
        reason = shapely.is_valid_reason(polygon)
        outside = "outside" in reason or "Self-intersection" in reason
        code = "hole_outside_shell" if outside else "rings_overlap"
        problems.refuse(code, path, f"one does not {_where(polygon)}")
        return None
    return cut_at_antimeridian(problems, polygon, path)


def _is_round_the_world(face: Ring) -> bool:
    lons = [lon for lon, _ in face]
    return max(lons) - min(lons) >= 360.0


def _assemble_round_the_world(problems: Problems, faces: list[Ring], path: str) -> Polygonal | None:
    """Make a polygon of rings of which one goes round the world: a cap, a band, a polar hole.

    Where such a ring begins is nothing that a hole would have to keep clear of, so the rings are
    cut one by one and the holes taken away after.
    """
    cut: list[Polygonal] = []
    for n, face in enumerate(faces):
        region = cut_at_antimeridian(problems, shapely.Polygon(face), f"{path}[{n}]")
        if region is None:
            return None
        if n and not cut[0].covers(region):
            problems.refuse("hole_outside_shell", f"{path}[{n}]", "it does not")
            return None
        cut.append(region)
    holes = shapely.union_all(cut[1:])
    if holes.area < sum(hole.area for hole in cut[1:]) * (1 - 1e-9):
        problems.refuse("rings_overlap", path, "two holes overlap")
        return None
    # With no edge over 180 degrees it can be written and read again without a doubt of its way.
    short_edged = shapely.segmentize(shapely.difference(cut[0], holes), 120.0)
    return cast("Polygonal", shapely.orient_polygons(short_edged))


def _is_sound(problems: Problems, face: shapely.Polygon, path: str) -> bool:
    """Whether a ring by itself encloses an area and does not cross itself."""
    # A bow-tie's halves cancel out; what its hull encloses does not.
    least = face.length * _THINNEST_DEG
    if face.area <= least and face.convex_hull.area <= least:
        problems.refuse("zero_area", path, "it encloses none")
        return False
    if not face.is_valid:
        problems.refuse("self_crossing", path, f"it does {_where(face)}")
        return False
    return True


def _close(ring: Ring) -> Ring:
    """Lead a ring that goes round the world over its pole, and back to where it began."""
    if ring[-1][0] == ring[0][0]:
        return ring
    pole = _pole(ring)
    return [*ring, (ring[-1][0], pole), (ring[0][0], pole), ring[0]]


def _beside(hole: Ring, shell: Ring) -> Ring:
    """Move an unrolled hole by whole turns to where the unrolled shell is."""
    west = min(lon for lon, _ in shell)
    turn = 360.0 * math.ceil((west - min(lon for lon, _ in hole)) / 360.0 - 1e-12)
    return [(lon + turn, lat) for lon, lat in hole] if turn else hole


def cut_at_antimeridian(
    problems: Problems, polygon: shapely.Polygon, path: str
) -> Polygonal | None:
    """Cut an unrolled polygon into the worlds that it reaches, and bring these together.

    A polygon that lies in -180..180 is returned as it is, to the bit.
    """
    west, south, east, north = polygon.bounds
    if west >= -180.0 and east <= 180.0:
        return polygon
    cut: list[Any] = []
    for world in range(math.floor((west + 180.0) / 360.0), math.ceil((east + 180.0) / 360.0)):
        turn = 360.0 * world
        window = shapely.box(turn - 180.0, south - 1.0, turn + 180.0, north + 1.0)
        piece = shapely.intersection(polygon, window)
        cut += [_moved(part, turn) for part in shapely.get_parts(piece) if part.area > 0]
    geometry: Any = shapely.union_all(cut)
    if geometry.area < sum(part.area for part in cut) * (1 - 1e-9):
        problems.refuse("self_crossing", path, "it overlaps itself on its way round the world")
        return None
    return cast("Polygonal", shapely.orient_polygons(geometry))


def _moved(part: shapely.Polygon, turn: float) -> shapely.Polygon:
    """Move by whole turns, and put back on the seam what a rounding took off it."""

    def move(lon_lat: Any) -> Any:
        lon_lat[:, 0] -= turn
        on_seam = np.abs(np.abs(lon_lat[:, 0]) - 180.0) < _SNAP_DEG
        lon_lat[on_seam, 0] = np.copysign(180.0, lon_lat[on_seam, 0])
        return lon_lat

    return shapely.transform(part, move)


def _parts(cut: list[Polygonal]) -> list[shapely.Polygon]:
    return [part for geometry in cut for part in shapely.get_parts(geometry)]


def _where(geometry: Polygonal) -> str:
    """Say where a geometry is not valid, and why."""
    reason = shapely.is_valid_reason(geometry)
    found = _LOCATION.search(reason)
    if not found:
        return f"({reason})"
    lon, lat = float(found[1]), float(found[2])
    lon = (lon + 180.0) % 360.0 - 180.0 if abs(lon) > 180.0 else lon
    return f"at lon {lon:.7f}, lat {lat:.7f} ({reason[: found.start()].lower()})"
