"""Places that somebody keeps to themselves: whether a fix, a way or a fence comes near them."""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from geofences.fence import BBox, Fence
from geofences.measure import covers, depth_m, meets

SLACK: Final = 1.02
SLACK_M: Final = 1.0
"""How far a depth may be off, and more: in doubt a zone is touched."""

_DEGREE_MIN_M: Final = 110_000.0
"""Less than any degree of latitude is long."""
_UP_MAX_DEG: Final = 0.1
_PLAIN_LON_MAX: Final = 178.0
_PLAIN_LAT_MAX: Final = 85.0
"""Beyond these a box of degrees says little, and the zone itself is asked."""
_BEND_DEG: Final = 0.02
"""More than a way of less than a degree bends."""


class Drawn(msgspec.Struct, frozen=True, eq=False):
    """A resident's zones, ready to be asked; where one can't be read, all the world is private."""

    private: tuple[Fence, ...]
    named: dict[str, Fence]
    """Every zone by name, private or not."""
    everywhere: bool = False

    def hides(self, lon: float, lat: float, accuracy_m: float) -> bool:
        """Whether a fix is private: inside a private zone, or its error circle touches one.

        A zone that is far away costs a comparison of boxes.
        """
        return self.everywhere or any(touches(z, lon, lat, accuracy_m) for z in self.private)

    def crossed(self, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
        """Whether the straight way between two fixes runs through a private zone."""
        return self.everywhere or any(
            _is_on_the_way(z, lon0, lat0, lon1, lat1) and meets(z, lon0, lat0, lon1, lat1)
            for z in self.private
        )

    def near(self, fence: Fence) -> bool:
        """Whether a fence may have ground in common with a private zone."""
        return self.everywhere or any(_boxes_meet(z.boxes, fence.boxes) for z in self.private)

    def at(self, names: Iterable[str], lon: float, lat: float, accuracy_m: float) -> bool:
        """Whether a fix is, or may be, in one of the places named; one that is gone counts."""
        return any(
            name not in self.named or touches(self.named[name], lon, lat, accuracy_m)
            for name in names
        )


class Whereabouts(NamedTuple):
    """Where somebody is, as far as a fix tells, and the zones that they drew."""

    zones: Drawn | None
    lon: float
    lat: float
    accuracy_m: float

    def may_be_in(self, names: Iterable[str]) -> bool:
        """Whether they are, or may be, in one of the zones named; one that is gone counts."""
        return self.zones is None or self.zones.at(names, self.lon, self.lat, self.accuracy_m)


def touches(zone: Fence, lon: float, lat: float, accuracy_m: float) -> bool:
    """Whether the error circle of a fix has a position in common with a zone, or may have."""
    reach_m = accuracy_m * SLACK + SLACK_M
    if not _is_within(zone, lon, lat, reach_m):
        return False
    return covers(zone, lon, lat) or depth_m(zone, lon, lat) >= -reach_m


def _is_within(zone: Fence, lon: float, lat: float, reach_m: float) -> bool:
    """Whether a zone may be so near; sure where not. Near the seam and the poles it always may."""
    up = reach_m / _DEGREE_MIN_M
    if up > _UP_MAX_DEG or abs(lon) > _PLAIN_LON_MAX or abs(lat) > _PLAIN_LAT_MAX:
        return True
    wide = up / math.cos(math.radians(abs(lat) + up))
    return any(
        box.west - wide <= lon <= box.east + wide and box.south - up <= lat <= box.north + up
        for box in zone.boxes
    )


def _is_on_the_way(zone: Fence, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
    """Whether a zone may meet a way; sure where not."""
    west, east = (lon0, lon1) if lon0 < lon1 else (lon1, lon0)
    south, north = (lat0, lat1) if lat0 < lat1 else (lat1, lat0)
    if (
        east - west > 1.0
        or max(-west, east) > _PLAIN_LON_MAX
        or max(-south, north) > _PLAIN_LAT_MAX
    ):
        return True
    return any(
        box.west - _BEND_DEG <= east
        and west <= box.east + _BEND_DEG
        and box.south - _BEND_DEG <= north
        and south <= box.north + _BEND_DEG
        for box in zone.boxes
    )


def _boxes_meet(one: tuple[BBox, ...], other: tuple[BBox, ...]) -> bool:
    return any(
        a.west <= b.east and b.west <= a.east and a.south <= b.north and b.south <= a.north
        for a in one
        for b in other
    )
