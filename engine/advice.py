"""When and where a phone's next fix would matter, so that it need not take one before.

    a fence that may see the position and has an offer   -> the way to its boundary
    such a fence that covers the fix, not entered yet    -> none: the next fix may enter
    a stay                                               -> the way to where its exit begins
    a stay whose exit has begun                          -> none: the next fix may end it
    a stay that an offer waits for to last               -> the time until it has

Nothing is missed by a phone that follows it: until it has moved so far, every fix that it leaves
out would have entered and left nothing. What it does not see are offers and fences that are new
since, so no advice is for more than 15 minutes; and the way between two fixes is then straight from
one that was sent to the next, by which a `pass` is told.

A phone that can tell how far it has moved goes by the way and the latest time, another by the time
that the way takes at least: at twice the speed at which the phone moves, as it says or as its last
two fixes show, and never less than that of a run.
"""

import math
from typing import Final, NamedTuple

from engine.consent.lanes import MATCH_NEED
from engine.consent.row import FOREVER_MS, Row
from engine.decision import NextFix
from engine.offers.book import OfferBook
from engine.offers.offer import TRIGGERS
from engine.ping import Ping
from engine.residents import KeptFix, Resident
from geofences.fence import Fence
from geofences.globe import ecef
from geofences.index import FenceIndex
from geofences.measure import depth_m
from geofences.transitions import Stays, exit_margin_m

AFTER_MAX_S: Final = 900
RADIUS_MAX_M: Final = 10_000.0
SPEED_MIN_MPS: Final = 3.0
SPEED_MAX_MPS: Final = 70.0
SPEED_UNKNOWN_MPS: Final = 15.0
"""Of a phone's first fix, which does not say how fast: a car in a city."""
SPEED_FACTOR: Final = 2.0
"""By how much faster somebody may become than they are now."""

_USEFUL_M: Final = 25.0
"""A shorter way is walked between two fixes: it is not worked out anew at each of them."""
_LOOK_AGAIN_M: Final = 60.0


class Free(NamedTuple):
    """Around a place, how far one can move before anything could happen, and what that rests on."""

    x: float
    y: float
    z: float
    radius_m: float
    row: Row
    stays: Stays
    generation: int


class Adviser:
    """Works out the advice, and remembers with each resident what it found.

    Args:
        fences: those that matter are looked for in it.
        book: tells at which of them somebody waits.
    """

    def __init__(self, fences: FenceIndex, book: OfferBook) -> None:
        self._fences = fences
        self._book = book
        self._generation = 0
        self._offers_until_ms: dict[str, int] = {}

    def forget(self) -> None:
        """Fences, offers or brands have changed: whatever was found may be wrong."""
        self._generation += 1
        self._offers_until_ms.clear()

    def advise(self, resident: Resident, ping: Ping, row: Row) -> NextFix:
        """The advice after a resident's newest fix has been followed. About 1 us, 30 us if new."""
        newest = resident.newest
        if newest is None:
            return NextFix(0, 0, 0)
        radius_m = self._free_m(resident, newest, row, ping.received_ms)
        latest_s = AFTER_MAX_S
        for stay in newest.stays:
            stayed_s = (ping.at_ms - stay.entered_ms) / 1_000
            for dwell_s in self._book.dwells_s(stay.fence):
                if dwell_s > stay.dwelled_s:
                    latest_s = min(latest_s, max(0, math.ceil(dwell_s - stayed_s)))
                    break
        after_s = 0
        if radius_m >= SPEED_MIN_MPS:
            after_s = min(latest_s, int(radius_m / _speed_mps(resident, ping)))
        return NextFix(after_s, int(radius_m), latest_s)

    def _free_m(self, resident: Resident, newest: KeptFix, row: Row, now_ms: int) -> float:
        """How far the resident can move, from what was found before if that still says enough."""
        x, y, z = ecef(newest.lon, newest.lat)
        free = resident.free
        if (
            isinstance(free, Free)
            and free.row is row
            and free.stays is newest.stays
            and free.generation == self._generation
        ):
            moved_m = math.dist((x, y, z), free[:3])
            left_m = free.radius_m - moved_m
            if left_m >= free.radius_m / 2:
                return left_m
            if free.radius_m < _USEFUL_M and moved_m < _LOOK_AGAIN_M:
                return max(0.0, left_m)
        radius_m = self._look(newest, row, now_ms)
        resident.free = Free(x, y, z, radius_m, row, newest.stays, self._generation)
        return radius_m

    def _look(self, newest: KeptFix, row: Row, now_ms: int) -> float:
        """How far the resident can move before anything could happen."""
        stays = newest.stays
        inside = {stay.fence.id for stay in stays}

        def counts(fence: Fence) -> bool:
            return fence.id not in inside and self._matters(fence, row, now_ms)

        if any(map(counts, newest.covering)):
            return 0.0
        most_m = RADIUS_MAX_M
        for stay in stays:
            if stay.clear_fixes or self._fences.get(stay.fence.id) is not stay.fence:
                return 0.0
            margin_m = exit_margin_m(stay.fence)
            if margin_m < most_m or stay.fence not in newest.covering:
                depth = depth_m(stay.fence, newest.lon, newest.lat)
                depth = 0.97 * depth if depth > 0.0 else 1.03 * depth - 0.5
                most_m = min(most_m, margin_m + depth)
        if most_m <= 0.0:
            return 0.0
        return self._fences.clearance_m(newest.lon, newest.lat, counts, most_m=most_m)

    def _matters(self, fence: Fence, row: Row, now_ms: int) -> bool:
        """Whether the fence's brand may see the position and has an offer there that has not ended.

        One that has not begun counts: it may while the phone follows the advice.
        """
        until_ms = self._offers_until_ms.get(fence.id)
        if until_ms is None:
            until_ms = self._offers_until_ms[fence.id] = self._until_ms(fence)
        if now_ms >= until_ms:
            return False
        if row.matches_all:
            return True
        return row.refusal(MATCH_NEED, fence.brand, self._book.categories(fence.brand)) is None

    def _until_ms(self, fence: Fence) -> int:
        """When the last offer that is live at a fence ends; 0: there is none."""
        return max(
            (
                FOREVER_MS if offer.ends_ms is None else offer.ends_ms
                for trigger in TRIGGERS
                for offer in self._book.waiting(fence, trigger)
                if offer.status == "live"
            ),
            default=0,
        )


def _speed_mps(resident: Resident, ping: Ping) -> float:
    """How fast the phone may move until its next fix."""
    told_mps = ping.speed_mps
    if told_mps is None or not 0.0 <= told_mps < math.inf:
        told_mps = None
    shown_mps = _shown_mps(resident)
    if told_mps is None and shown_mps is None:
        return SPEED_UNKNOWN_MPS
    faster_mps = SPEED_FACTOR * max(told_mps or 0.0, shown_mps or 0.0)
    return min(SPEED_MAX_MPS, max(SPEED_MIN_MPS, faster_mps))


def _shown_mps(resident: Resident) -> float | None:
    """The speed between the last two fixes, if there are two and time between."""
    kept = resident.kept
    if not kept:
        return None
    before = kept[-2] if len(kept) > 1 else resident.base
    if before is None or (before is resident.base and resident.base_is_restored):
        return None
    one, other = before, kept[-1]
    if other.at_ms <= one.at_ms:
        return None
    way_m = math.dist(ecef(one.lon, one.lat), ecef(other.lon, other.lat))
    return 1_000.0 * way_m / (other.at_ms - one.at_ms)
