"""The fences around somebody who stays about where they are: settled once, but for few.

Most phones lie on a table. Around such a one a box of some 20 m is drawn, and every fence whose
boundary does not run through it is settled for all of the box: it covers each position there, or
none. Only the others are asked at each fix.

Such a box is known as a safe region: H. Hu, J. Xu, D. L. Lee, "A generic framework for monitoring
continuous spatial queries over moving objects" (SIGMOD 2005).
"""

import math
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from geofences.cells import Candidate
from geofences.fence import Fence
from geofences.globe import ecef, metres_per_degree

CLEAR_MIN_M: Final = 15.0
"""So far around the position all is in the box; phones that lie still report less."""
CLEAR_MAX_M: Final = 40.0
"""A cell knows the fences up to 36 m outside of it: its corners are farther from a box's middle."""
DOUBTFUL_MAX: Final = 8
"""With more fences to be asked, to look through a cell costs no more."""
_WITHIN: Final = 0.7
"""Of a circle's radius, half the side of the square inside; less, for what a degree's length
changes on the way."""
_RIM_M: Final = 1.0
"""Two shells no farther apart leave nothing to ask how deep a position lies."""

_by_id = attrgetter("id")


class Region(msgspec.Struct, frozen=True, gc=False):
    """A box of degrees, away from the seam and the poles, and the fences in it.

    All other fences neither cover a position of it nor are met on a way within.
    """

    west: float
    south: float
    east: float
    north: float
    covering: tuple[Fence, ...]
    """Those that cover all of it, by id."""
    doubtful: tuple[Fence, ...]
    """Those whose boundary may run through it, by id."""

    def along(
        self, lon0: float, lat0: float, lon1: float, lat1: float, left: Collection[Fence]
    ) -> tuple[tuple[Fence, ...], tuple[Fence, ...]]:
        """What `FenceIndex.along` says of a way of which both ends are in the box."""
        if not self.doubtful:
            return self.covering, ()
        covering, met = list(self.covering), []
        for fence in self.doubtful:
            if fence.ruler.covers(lon1, lat1):
                covering.append(fence)
            elif fence not in left and fence.ruler.meets(lon0, lat0, lon1, lat1):
                met.append(fence)
        covering.sort(key=_by_id)
        return tuple(covering), tuple(met)


def region_around(
    lon: float, lat: float, candidates: Iterable[Candidate], fences: Sequence[Fence]
) -> Region | None:
    """The region around a position, None where too many boundaries run through it.

    Args:
        lon, lat: within 85 degrees of the equator, and not at the seam.
        candidates: all fences within `CLEAR_MAX_M` of it, and any others, by id.
        fences: by slot.

    Cost: 2 us, and the depth in each polygon that no shell tells enough of.
    """
    here, clear_m = ecef(lon, lat), CLEAR_MAX_M
    covering: list[Fence] = []
    doubtful: list[Fence] = []
    for x, y, z, near_m, far_m, slot in candidates:
        chord_m = math.dist(here, (x, y, z))
        inside, away_m = chord_m < near_m, max(near_m - chord_m, chord_m - far_m)
        if away_m < CLEAR_MIN_M and far_m - near_m > _RIM_M:
            depth_m = fences[slot].ruler.depth_m(lon, lat)
            # By what a depth may err, with room to spare.
            inside, away_m = depth_m > 0.0, 0.97 * abs(depth_m) - 0.5
        if away_m < CLEAR_MIN_M:
            doubtful.append(fences[slot])
            if len(doubtful) > DOUBTFUL_MAX:
                return None
            continue
        clear_m = min(clear_m, away_m)
        if inside:
            covering.append(fences[slot])
    east_m, north_m = metres_per_degree(lat)
    wide, high = _WITHIN * clear_m / east_m, _WITHIN * clear_m / north_m
    return Region(lon - wide, lat - high, lon + wide, lat + high, tuple(covering), tuple(doubtful))
