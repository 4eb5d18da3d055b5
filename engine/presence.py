"""Where residents are: fixes matched against fences and folded into stays, in order or late.

The tracker owns every resident's fixes and stays. What of them must survive it collects, for the
journal to write.
"""

from typing import Final

import msgspec

from engine.changes import Changes, ResidentState, TransitionTold
from engine.consent.lanes import MATCH_NEED
from engine.consent.row import Row
from engine.consent.visits import shared_visits
from engine.decision import Event
from engine.offers.book import OfferBook
from engine.ping import Ping, order_key
from engine.residents import (
    LATE_MAX_MS,
    KeptFix,
    Resident,
    restored,
    same_stays,
)
from geofences.fence import Fence
from geofences.index import FenceIndex
from geofences.transitions import (
    Stay,
    Stays,
    Transition,
    accuracy_or_default,
    assumed_exit_ms,
    step,
)
from geofences.zones import Drawn, Whereabouts

TOUCH_SOFT_MS: Final = 300_000
"""A resident who stays inside is written as seen after this long, and no answer waits for it."""
TOUCH_HARD_MS: Final = 600_000
"""After this long the answer does wait, so that after a crash `seen_ms` is never further behind."""


STAND_DEG: Final = 0.0002
"""Fixes that are no farther apart, 22 m or less, are those of somebody who all but stands."""
FIXES_LIFE_MS: Final = 2 * 3_600_000
"""Fixes of a resident not heard of for this long are forgotten: far beyond what can be late."""
PRESENCE_LIFE_MS: Final = 7 * 24 * 3_600_000
"""Stays of a resident not heard of for this long end in silence."""


class Tracker:
    """Follows every resident through the fences.

    Args:
        fences: matched against.
        book: tells the dwells that somebody waits for, and the categories of brands.
        kept_fixes_max: most fixes remembered of a resident; beyond it the oldest settle early.
    """

    def __init__(self, fences: FenceIndex, book: OfferBook, *, kept_fixes_max: int) -> None:
        self.residents: dict[str, Resident] = {}
        self.zones: dict[str, Drawn] = {}
        """Of the residents who have drawn any."""
        self._fences = fences
        self._book = book
        self._kept_fixes_max = kept_fixes_max
        self.changes = Changes()
        """What must become durable; whoever takes it puts a new one in its place."""

    def follow(
        self, resident: Resident, newest: KeptFix | None, ping: Ping, row: Row
    ) -> tuple[Transition, ...]:
        """Take the fix that follows on a resident's newest one and say what it showed."""
        fences, before = self._fences, () if newest is None else newest.stays
        over_ms = None if newest is None else _over_ms(resident, newest, ping.at_ms)
        came_from = None
        if newest is not None and over_ms is None and _is_way_told(resident, newest, ping):
            came_from = newest
        covering, met = self._match(resident, came_from, ping, row)
        if newest is not None and covering == newest.covering:
            # One tuple for all fixes in the same fences: less to hold, and to let go of later.
            covering = newest.covering
        kept = _kept(ping, covering, before)
        stays, told = step(
            before,
            came_from,
            kept,
            covering,
            met,
            over_ms=over_ms,
            current=_unchanged if resident.edition is fences.edition else fences.current,
            dwells=self._book.dwells,
        )
        if stays is not before:
            kept = msgspec.structs.replace(kept, stays=stays)
        resident.edition = fences.edition
        resident.hidden = False
        resident.keep(kept, self._kept_fixes_max)
        if stays or before:
            self._note(resident, before, stays, ping.at_ms)
        return told

    def _match(
        self, resident: Resident, before: KeptFix | None, ping: Ping, row: Row
    ) -> tuple[tuple[Fence, ...], tuple[Fence, ...]]:
        """The fences that cover a fix and those met on the way, of brands that may see it."""
        fences, region, lon, lat = self._fences, resident.region, ping.lon, ping.lat
        if before is None:
            resident.region = None
            return self._covering(ping, row), ()
        # What covered the fix before is left, not passed.
        way = (before.lon, before.lat, lon, lat, before.covering)
        if (
            region is not None
            and resident.edition is fences.edition
            and region.west < lon < region.east
            and region.south < lat < region.north
        ):
            covering, met = region.along(*way)
        else:
            covering, met = fences.along(*way)
            resident.region = fences.region(lon, lat) if _stands(before, ping) else None
        if row.matches_all:
            return covering, met
        return self._seen_by(row, covering), self._seen_by(row, met)

    def _covering(self, ping: Ping, row: Row) -> tuple[Fence, ...]:
        """The fences that cover a fix, of brands that may see it."""
        return self._seen_by(row, self._fences.covering(ping.lon, ping.lat))

    def tell(
        self,
        resident_id: str,
        row: Row,
        told: tuple[Transition, ...],
        events: tuple[Event, ...],
    ) -> None:
        """Have the journal write transitions for those who follow them.

        Args:
            told: what happened, and `events` the same as clients see it.
        """
        for transition, event in zip(told, events, strict=True):
            brand = transition.fence.brand
            shared = bool(shared_visits(row, brand, self._book.categories(brand)))
            self.changes.told.append(TransitionTold(resident_id, brand, event, shared))

    def correct(self, resident: Resident, ping: Ping, row: Row) -> None:
        """Put a late fix in its place and compute the stays again from there on, in silence.

        One that is over 120 s late, or older than what has settled, changes nothing.
        """
        newest, base, key = resident.newest, resident.base, order_key(ping)
        if (
            newest is None
            or not resident.kept
            or ping.at_ms < newest.at_ms - LATE_MAX_MS
            or (base is not None and key < base.key)
        ):
            return
        before = resident.stays
        place = resident.place_of(key)
        resident.kept.insert(place, _kept(ping, self._covering(ping, row), ()))
        earlier = resident.before(place)
        for at in range(place, len(resident.kept)):
            kept = resident.kept[at]
            stays, _ = step(
                () if earlier is None else earlier.stays,
                None,
                kept,
                kept.covering,
                (),
                over_ms=None if earlier is None else _over_ms(resident, earlier, kept.at_ms),
                current=self._fences.current,
                dwells=self._book.dwells,
            )
            earlier = resident.kept[at] = msgspec.structs.replace(kept, stays=stays)
        newest = resident.kept.pop()
        resident.keep(newest, self._kept_fixes_max)
        self._note(resident, before, newest.stays, newest.at_ms)

    def _seen_by(self, row: Row, fences: tuple[Fence, ...]) -> tuple[Fence, ...]:
        """Those of the fences whose brand may see the position."""
        if row.matches_all or not fences:
            return fences
        return tuple(f for f in fences if self._may_see(row, f.brand))

    def _may_see(self, row: Row, brand: str) -> bool:
        return row.refusal(MATCH_NEED, brand, self._book.categories(brand)) is None

    def _note(self, resident: Resident, before: Stays, stays: Stays, seen_ms: int) -> None:
        """Have the journal write what changed of the stays, or that the resident was seen."""
        unseen_ms = seen_ms - resident.durable_seen_ms
        if not same_stays(before, stays) or (stays and unseen_ms > TOUCH_HARD_MS):
            self.changes.presences[resident.id] = resident.presence_row(seen_ms)
        elif stays and unseen_ms > TOUCH_SOFT_MS:
            self.changes.touches[resident.id] = seen_ms
        else:
            return
        resident.durable_seen_ms = max(resident.durable_seen_ms, seen_ms)

    def refilter(self, resident: Resident, row: Row) -> None:
        """The resident's say changed: stays of brands that may see nothing now end in silence."""
        before = resident.stays
        left = (
            before
            if row.matches_all
            else tuple(stay for stay in before if self._may_see(row, stay.fence.brand))
        )
        newest = resident.newest
        resident.forget_fixes(left)
        resident.row = row
        if newest is not None and len(left) < len(before):
            self.changes.presences[resident.id] = resident.presence_row(newest.at_ms)

    def draw(self, resident_id: str, zones: Drawn | None) -> None:
        """A resident's own zones changed: what was kept of where they were is forgotten.

        Stays in fences that may have ground in common with a private zone end in silence.
        """
        if zones is None:
            self.zones.pop(resident_id, None)
        else:
            self.zones[resident_id] = zones
        resident = self.residents.get(resident_id)
        if resident is None:
            return
        resident.zones = zones
        if zones is None or resident.doubtful:
            return
        before = resident.stays
        newest = resident.newest
        left = tuple(stay for stay in before if not zones.near(stay.fence))
        resident.forget_places(left)
        if newest is not None and len(left) < len(before):
            self.changes.presences[resident_id] = resident.presence_row(newest.at_ms)

    def whereabouts(self, resident_id: str) -> Whereabouts | None:
        """Where a resident was last heard of; None: nobody can tell."""
        resident = self.residents.get(resident_id)
        newest = None if resident is None else resident.newest
        if resident is None or newest is None or _is_restored(resident, newest):
            return None
        return Whereabouts(resident.zones, newest.lon, newest.lat, newest.accuracy_m)

    def hide(self, resident: Resident) -> None:
        """A ping was private: all that is left of it is that no way is told that may run by it."""
        resident.hidden = True
        if resident.newest is None and not resident.claims_count:
            self.residents.pop(resident.id, None)

    def forget(self, resident_id: str) -> None:
        """Without consent to use the location, nothing of where a resident was is kept."""
        resident = self.residents.get(resident_id)
        if resident is None or resident.doubtful:
            return
        had_stays = bool(resident.stays)
        resident.forget_presence()
        if had_stays:
            self.changes.presences[resident_id] = resident.presence_row(0)
        if not resident.claims_count:
            # Claims count against caps, whatever the resident says later; else nothing is left.
            self.residents.pop(resident_id, None)

    def forget_rows(self) -> None:
        """What brands may see is to be asked anew at everybody's next ping."""
        for resident in self.residents.values():
            resident.row = None

    def sweep(self, resident_id: str, now_ms: int) -> None:
        """Forget what can't matter any more of a resident who has been silent for long.

        After two hours their fixes, after seven days their stays, in silence; without stays and
        claims, all of it. Claims count for caps for ever.
        """
        resident = self.residents.get(resident_id)
        if resident is None or resident.doubtful:
            return
        newest = resident.newest
        if newest is not None:
            seen_ms = newest.at_ms if resident.base_is_restored else resident.heard_ms
            if now_ms - max(seen_ms, resident.heard_ms) < FIXES_LIFE_MS:
                return
            if resident.stays and now_ms - seen_ms < PRESENCE_LIFE_MS:
                resident.forget_fixes(resident.stays)
                return
            self.forget(resident_id)
        if not resident.claims_count:
            self.residents.pop(resident_id, None)

    def restore(self, state: ResidentState) -> None:
        """Take over what the store knows of a resident; stays in fences that are gone end."""
        stays = []
        for row in state.stays:
            fence = self._fences.get(row.fence)
            if fence is not None:
                stays.append(Stay(fence, row.entered_ms, row.dwelled_s, 0))
        stays.sort(key=lambda stay: stay.fence.id)
        resident = self.residents[state.resident] = restored(state, tuple(stays))
        resident.zones = self.zones.get(state.resident)


def _stands(before: KeptFix, ping: Ping) -> bool:
    """Whether a resident all but stands, and so may be about here for a while."""
    return abs(ping.lat - before.lat) < STAND_DEG and abs(ping.lon - before.lon) < STAND_DEG


def _is_way_told(resident: Resident, before: KeptFix, ping: Ping) -> bool:
    """Whether the way from the newest fix is known, and surely in no private zone."""
    if _is_restored(resident, before):
        return False
    zones = resident.zones
    return zones is None or not (
        resident.hidden or zones.crossed(before.lon, before.lat, ping.lon, ping.lat)
    )


def _is_restored(resident: Resident, fix: KeptFix) -> bool:
    """Whether a fix is not one that was heard, but what the store knew."""
    return resident.base_is_restored and fix is resident.base


def _over_ms(resident: Resident, earlier: KeptFix, at_ms: int) -> int | None:
    """When a silence that a fix ends ended the stays before it, None if it was none.

    What the store knew may be behind the truth, until the first fix that is heard.
    """
    slack_ms = TOUCH_HARD_MS if _is_restored(resident, earlier) else 0
    return assumed_exit_ms(earlier.at_ms, at_ms, slack_ms=slack_ms)


def _unchanged(fence: Fence) -> Fence:
    """A fence as it is now, when no fence has changed."""
    return fence


def _kept(ping: Ping, covering: tuple[Fence, ...], stays: Stays) -> KeptFix:
    """A ping as it is kept."""
    accuracy_m = accuracy_or_default(ping.accuracy_m)
    return KeptFix(ping.at_ms, ping.lon, ping.lat, accuracy_m, ping.id or "", covering, stays)
