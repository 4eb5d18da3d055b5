"""Read a fence from a GeoJSON Feature (RFC 7946), and write it as one.

Nothing is guessed: what cannot be understood is refused with a stable code, a path and a sentence
on what would be right; all problems of a document are told at once, up to a limit. Two things are
put right silently, because the meaning is plain: the winding of rings, and a polygon across the
antimeridian, which is cut there.
"""

import re
from typing import Any

import orjson
import shapely

from geofences.corridor import read_corridor, to_geometry, to_properties
from geofences.fence import Area, Circle, Corridor, Fence, FenceRejected
from geofences.measure import make_fence
from geofences.refusal import Problems, is_number, told
from geofences.rings import read_polygons, read_position

RADIUS_MAX_M = 1_000_000.0
NAME_LENGTH_MAX = 200
TAG_LENGTH_MAX = 64
TAGS_MAX = 32

KINDS = ("Point", "LineString", "MultiLineString", "Polygon", "MultiPolygon")
"""The types of geometry that make a fence."""

ID_PATTERN = re.compile(r"[A-Za-z0-9._:~-]{1,128}")
"""Ids of fences and brands: what may stand in a URL as it is."""


def parse_fence(
    document: object, *, fence_id: str | None = None, brand: str | None = None
) -> Fence:
    """Make a fence of a GeoJSON Feature.

    Args:
        document: a Feature as a JSON decoder gives it.
        fence_id: the fence's id where the caller knows it (from a URL, say); the Feature's own is
            then not looked at.
        brand: the fence's brand where the caller knows it; `properties.brand` is then not looked
            at.

    Raises:
        FenceRejected: something in the document is wrong; up to 20 things are told.

    Cost: 15 us for a circle, 0.2-0.4 ms for a shop's polygon, 0.1-0.6 s for a country's of 100,000
    vertices (2 s for a comb of long teeth): a worker thread's work.
    """
    reading = _Reading()
    problems = reading.problems
    if not isinstance(document, dict) or document.get("type") != "Feature":
        problems.refuse("not_a_feature", "", f"it is {told(document)}")
        raise FenceRejected(tuple(problems.found))
    reading.no_members(document, ("coordinates", "geometries", "features"), "")
    reading.bbox(document, "bbox")
    known_id = reading.id(document.get("id"), fence_id)
    properties = reading.properties(document.get("properties"))
    if properties is None:
        raise FenceRejected(tuple(problems.found), fence_id=known_id or None)
    known_brand = reading.brand(properties.get("brand"), brand)
    name = reading.name(properties.get("name"))
    tags = reading.tags(properties.get("tags"))
    shape = reading.shape(document.get("geometry"), properties)
    if problems or shape is None:
        raise FenceRejected(tuple(problems.found), fence_id=known_id or None)
    return make_fence(known_id, known_brand, name or known_id, tags, shape)


def to_feature(fence: Fence) -> dict[str, Any]:
    """Write a fence as a GeoJSON Feature that `parse_fence` reads as the same fence.

    A polygon is written as it was cut at the antimeridian (RFC 7946, 3.1.9), a corridor as its line
    together with the polygon that it stands for. Cost: 0.1 s for 100,000 vertices.
    """
    properties: dict[str, Any] = {
        "brand": fence.brand,
        "name": fence.name,
        "tags": list(fence.tags),
    }
    if isinstance(fence.shape, Circle):
        properties["radius_m"] = fence.shape.radius_m
        geometry = {"type": "Point", "coordinates": [fence.shape.lon, fence.shape.lat]}
    elif isinstance(fence.shape, Corridor):
        properties |= to_properties(fence.shape)
        geometry = to_geometry(fence.shape)
    else:
        geometry = orjson.loads(shapely.to_geojson(fence.shape.geometry))
    return {"type": "Feature", "id": fence.id, "geometry": geometry, "properties": properties}


class _Reading:
    """One document being read: each method reads one member and notes what is wrong with it."""

    def __init__(self) -> None:
        self.problems = Problems()
        self.refuse = self.problems.refuse

    def no_members(self, given: dict[str, object], names: tuple[str, ...], path: str) -> None:
        """Refuse members that RFC 7946 forbids, since they would change what the object is."""
        for name in names:
            if name in given:
                self.refuse("semantics_changed", path, f"there is a member `{name}`")

    def bbox(self, given: dict[str, object], path: str) -> None:
        """Check the form of a bbox, if there is one."""
        box = given.get("bbox", [0, 0, 0, 0])
        if not (isinstance(box, list) and len(box) in (4, 6) and all(map(is_number, box))):
            self.refuse("bbox_malformed", path, f"it is {told(box)}")

    def id(self, given: object, known: str | None) -> str:
        """The caller's id, or else the Feature's."""
        if known is None and given is None:
            self.refuse("id_missing", "id", "there is none")
            return ""
        text = given if known is None else known
        if isinstance(text, int | float) and is_number(text) and abs(text) < 2**63:
            text = str(text)
        if isinstance(text, str) and ID_PATTERN.fullmatch(text):
            return text
        self.refuse("id_malformed", "id", f"it is {told(text)}")
        return ""

    def properties(self, given: object) -> dict[str, object] | None:
        """The properties: none where they are null or absent, None where they are no object."""
        if given is None:
            return {}
        if isinstance(given, dict):
            return given
        self.refuse("properties_malformed", "properties", f"it is {told(given)}")
        return None

    def brand(self, given: object, known: str | None) -> str:
        """The caller's brand, or else the Feature's."""
        text = given if known is None else known
        if text is None:
            self.refuse("brand_missing", "properties.brand", "there is none")
        elif isinstance(text, str) and ID_PATTERN.fullmatch(text):
            return text
        else:
            self.refuse("brand_malformed", "properties.brand", f"it is {told(text)}")
        return ""

    def name(self, given: object) -> str:
        """The name, or nothing."""
        if given is None:
            return ""
        if isinstance(given, str) and len(given) <= NAME_LENGTH_MAX:
            return given
        self.refuse("name_malformed", "properties.name", f"it is {told(given)}")
        return ""

    def tags(self, given: object) -> tuple[str, ...]:
        """The tags in their order, each once."""
        if given is None:
            return ()
        if not isinstance(given, list) or len(given) > TAGS_MAX:
            self.refuse("tags_malformed", "properties.tags", f"it is {told(given)}")
            return ()
        for n, tag in enumerate(given):
            if not isinstance(tag, str) or not 0 < len(tag) <= TAG_LENGTH_MAX:
                self.refuse("tags_malformed", f"properties.tags[{n}]", f"it is {told(tag)}")
                return ()
        return tuple(dict.fromkeys(given))

    def shape(self, geometry: object, properties: dict[str, object]) -> Circle | Area | None:
        """The shape, or None where something is wrong with it."""
        if geometry is None:
            self.refuse("geometry_missing", "geometry", "there is none")
            return None
        if not isinstance(geometry, dict) or not isinstance(geometry.get("type"), str):
            self.refuse("geometry_malformed", "geometry", f"it is {told(geometry)}")
            return None
        self.no_members(geometry, ("geometry", "properties", "features"), "geometry")
        self.bbox(geometry, "geometry.bbox")
        kind, path = geometry["type"], "geometry.coordinates"
        if kind not in KINDS:
            self.refuse("type_not_supported", "geometry.type", f"it is {told(kind)}")
            return None
        coordinates = geometry.get("coordinates")
        if coordinates is None or coordinates == []:
            self.refuse("coordinates_empty", path, "there are none")
            return None
        if kind == "Point":
            return self.circle(coordinates, properties)
        if kind in ("LineString", "MultiLineString"):
            return read_corridor(self.problems, coordinates, kind, properties, path)
        return self.area(coordinates, kind, path)

    def area(self, coordinates: object, kind: str, path: str) -> Area | None:
        """A Polygon or a MultiPolygon."""
        if kind == "Polygon":
            polygons, paths = [coordinates], [path]
        elif isinstance(coordinates, list):
            polygons, paths = coordinates, [f"{path}[{n}]" for n in range(len(coordinates))]
        else:
            self.refuse("coordinates_malformed", path, f"there is {told(coordinates)}")
            return None
        geometry = read_polygons(self.problems, polygons, paths)
        return None if geometry is None else Area(geometry)

    def circle(self, position: object, properties: dict[str, object]) -> Circle | None:
        """A Point and its radius."""
        centre = read_position(self.problems, position, "geometry.coordinates")
        path = "properties.radius_m"
        if properties.get("radius_m") is None:
            self.refuse("radius_missing", path, "there is none")
            return None
        radius_m = self.problems.number(properties["radius_m"], path)
        if radius_m is None:
            return None
        if not 0 < radius_m <= RADIUS_MAX_M:
            self.refuse("radius_out_of_range", path, f"there is the number {radius_m}")
            return None
        return Circle(*centre, radius_m) if centre else None
