"""Places that somebody keeps to themselves: whether a fix, a way or a fence comes near them."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from geofences.fence import BBox, Fence
from geofences.measure import covers, depth_m, meets

SLACK: Final = 1.02
SLACK_M: Final = 1.0
"""How far a depth may be off, and more: in doubt a zone is touched."""


class Drawn(msgspec.Struct, frozen=True, eq=False):
    """A resident's zones, ready to be asked; where one can't be read, all the world is private."""

    private: tuple[Fence, ...]
    named: dict[str, Fence]
    """Every zone by name, private or not."""
    everywhere: bool = False

    def hides(self, lon: float, lat: float, accuracy_m: float) -> bool:
        """Whether a fix is private: inside a private zone, or its error circle touches one."""
        return self.everywhere or any(touches(z, lon, lat, accuracy_m) for z in self.private)

    def crossed(self, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
        """Whether the straight way between two fixes runs through a private zone."""
        return self.everywhere or any(meets(z, lon0, lat0, lon1, lat1) for z in self.private)

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
    if covers(zone, lon, lat):
        return True
    return depth_m(zone, lon, lat) >= -(accuracy_m * SLACK + SLACK_M)


def _boxes_meet(one: tuple[BBox, ...], other: tuple[BBox, ...]) -> bool:
    return any(
        a.west <= b.east and b.west <= a.east and a.south <= b.north and b.south <= a.north
        for a in one
        for b in other
    )
