"""A resident's own places: private zones, where nothing is seen of them, and places by name.

A ping in a private zone, or whose error circle touches one, is dropped before it is matched or
kept, and no `pass` is told of a way that runs through one. A `place` changes nothing by itself:
grants of contact may name it as one where they do not hold.

Drawing a zone, or making one larger, is a "no" and needs no precondition. Whatever uncovers ground
is a widening, and rests on the version that the resident has seen.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import shapely

from geofences.fence import Circle, Fence, FenceRejected, Refusal
from geofences.geojson import parse_fence, to_feature
from geofences.measure import depth_m
from geofences.zones import SLACK, SLACK_M, Drawn

KINDS: Final[dict[str, str]] = {
    "private": "Nothing is seen of the resident here: pings are dropped.",
    "place": "Nothing by itself: grants of contact may name it as a place where they don't hold.",
}

ZONES_MAX: Final = 10
"""Most zones of one resident: each is looked at with every one of their pings."""
CORNERS_MAX: Final = 500
"""Most corners of one zone."""
RADIUS_MAX_M: Final = 10_000.0
EXTENT_MAX_DEG: Final = 1.0
"""Longest side of a polygon's box; who wants more of the world private withdraws consent."""


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """A place as its resident drew it."""

    name: str
    kind: str
    """One of `KINDS`."""
    geometry: dict[str, Any]
    """GeoJSON: a Point with `radius_m`, a Polygon or a MultiPolygon."""
    radius_m: float | None = None
    version: int = 0
    """Rises with every change of any zone of the resident, and never means two things."""


class VersionNeeded(Exception):
    """What uncovers ground did not say which version it rests on."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the zone's version is {current}")
        self.current = current


class VersionStale(VersionNeeded):
    """It rests on another version than the latest."""


class TooManyZones(Exception):
    """The resident has as many zones as they may have."""


def read_zone(document: object, name: str) -> Zone:
    """The zone that a GeoJSON Feature draws; `properties.kind` is `private` if left out.

    Raises:
        FenceRejected: it is none, or too large; nothing in it quotes a position.
    """
    fence = parse_fence(document, fence_id=name, brand="-")
    assert isinstance(document, dict)  # else it was refused
    kind = (document.get("properties") or {}).get("kind", "private")
    problems = []
    if kind not in KINDS:
        told = f"Must be one of {', '.join(KINDS)}."
        problems.append(Refusal("not_one_of", "properties.kind", told))
    if size := _size_refusal(fence):
        problems.append(size)
    if problems:
        raise FenceRejected(tuple(problems), fence_id=name)
    feature = to_feature(fence)
    radius_m = fence.shape.radius_m if isinstance(fence.shape, Circle) else None
    return Zone(name=name, kind=kind, geometry=feature["geometry"], radius_m=radius_m)


def _size_refusal(fence: Fence) -> Refusal | None:
    """Why a zone is too large or of the wrong kind, or None."""
    shape = fence.shape
    if isinstance(shape, Circle):
        if shape.radius_m <= RADIUS_MAX_M:
            return None
        told = f"Must be at most {RADIUS_MAX_M:.0f} m."
        return Refusal("too_large", "properties.radius_m", told)
    if type(shape).__name__ == "Corridor":
        told = "Must be a Point with properties.radius_m, a Polygon or a MultiPolygon."
        return Refusal("unsupported_geometry", "geometry.type", told)
    if shapely.get_num_coordinates(shape.geometry) > CORNERS_MAX:
        return Refusal("too_many_corners", "geometry", f"Must have at most {CORNERS_MAX} corners.")
    if any(max(b.east - b.west, b.north - b.south) > EXTENT_MAX_DEG for b in fence.boxes):
        return Refusal("too_large", "geometry", f"Must be within {EXTENT_MAX_DEG:.0f} degree.")
    return None


def to_document(zone: Zone) -> dict[str, Any]:
    """A zone as a GeoJSON Feature that `read_zone` reads as the same."""
    properties: dict[str, Any] = {"kind": zone.kind}
    if zone.radius_m is not None:
        properties["radius_m"] = zone.radius_m
    return {
        "type": "Feature",
        "id": zone.name,
        "geometry": zone.geometry,
        "properties": properties,
    }


def fence_of(zone: Zone) -> Fence:
    """A zone, ready to be asked about positions.

    Raises:
        FenceRejected: what was kept can't be read.
    """
    return parse_fence(to_document(zone), fence_id=zone.name, brand="-")


def put(
    zones: tuple[Zone, ...], zone: Zone, *, version: int, if_match: tuple[int, ...] | None
) -> tuple[Zone, ...]:
    """The zones with one that is new or changed, by name.

    Args:
        zones: as they are.
        zone: without its version.
        version: that the change gives the zone.
        if_match: versions of which one must be that of the zone, if the change uncovers ground;
            None: none was named.

    Raises:
        VersionNeeded, VersionStale: it uncovers ground.
        TooManyZones: there is no room for a new one.
    """
    old = of_name(zones, zone.name)
    if old is None:
        if len(zones) >= ZONES_MAX:
            raise TooManyZones
    elif uncovers(old, zone):
        _check(old, if_match)
    others = [one for one in zones if one.name != zone.name]
    others.append(msgspec.structs.replace(zone, version=version))
    return tuple(sorted(others, key=lambda one: one.name))


def drop(
    zones: tuple[Zone, ...], name: str, *, if_match: tuple[int, ...] | None
) -> tuple[Zone, ...]:
    """The zones without one; nothing happens if there is none of that name.

    Raises:
        VersionNeeded, VersionStale: removing one is a widening.
    """
    old = of_name(zones, name)
    if old is not None:
        _check(old, if_match)
    return tuple(one for one in zones if one.name != name)


def of_name(zones: Iterable[Zone], name: str) -> Zone | None:
    """The zone of a name."""
    return next((one for one in zones if one.name == name), None)


def _check(old: Zone, if_match: tuple[int, ...] | None) -> None:
    if if_match is None:
        raise VersionNeeded(old.version)
    if old.version not in if_match:
        raise VersionStale(old.version)


def uncovers(old: Zone, new: Zone) -> bool:
    """Whether ground that was private, or excepted by grants, may no longer be; in doubt it may."""
    if old.kind == "private" and new.kind != "private":
        return True
    return (old.geometry, old.radius_m) != (new.geometry, new.radius_m) and not _holds(
        fence_of(new), fence_of(old)
    )


def _holds(larger: Fence, smaller: Fence) -> bool:
    """Whether one shape surely covers all of another."""
    one, other = larger.shape, smaller.shape
    if isinstance(other, Circle):
        return depth_m(larger, other.lon, other.lat) >= other.radius_m * SLACK + SLACK_M or (
            isinstance(one, Circle)
            and (one.lon, one.lat) == (other.lon, other.lat)
            and one.radius_m >= other.radius_m
        )
    if isinstance(one, Circle):
        corners = shapely.get_coordinates(other.geometry).tolist()
        return all(depth_m(larger, lon, lat) >= SLACK_M for lon, lat in corners)
    return bool(one.geometry.covers(other.geometry))


def draw(zones: Iterable[Zone]) -> Drawn | None:
    """Get a resident's zones ready; None: there are none."""
    named = {}
    private = []
    for zone in zones:
        try:
            named[zone.name] = fence_of(zone)
        except FenceRejected:
            return Drawn((), {}, everywhere=True)
        if zone.kind != "place":
            private.append(named[zone.name])
    return Drawn(tuple(private), named) if named else None
