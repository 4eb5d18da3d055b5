"""What is remembered of each resident, in memory: the fixes still kept, stays and claims.

All of it is a cache of the store and of the last two minutes. A resident of whom nothing is
remembered is outside everywhere and has had no offers.
"""

import bisect
from typing import Final

import msgspec

from engine.changes import ClaimRow, PresenceRow, ResidentState, StayRow
from geofences.fence import Fence
from geofences.region import Region
from geofences.transitions import Fix, Stays
from geofences.zones import Drawn

LATE_MAX_MS: Final = 120_000
"""How late a fix may be and still correct the presence."""

CLAIMS_KEPT_MS: Final = 8 * 24 * 3_600_000
"""How long a claim counts for caps that go by time: seven days of any zone."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many offers a resident wants at most, over all brands; None: the city's default."""

    per_day: int | None = None
    per_week: int | None = None


class ResidentSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a resident set about themselves, besides consent."""

    timezone: str = "UTC"
    language: str = "en"
    limits: Limits = Limits()
    follows: tuple[str, ...] = ()
    """Brands whose offers come first."""


SETTINGS_DEFAULT: Final = ResidentSettings()

FixKey = tuple[int, str, float, float]


class KeptFix(Fix, frozen=True, gc=False):
    """A fix that a late one may still have to be folded in before."""

    id: str
    """The sender's own name for it; empty: none."""
    covering: tuple[Fence, ...]
    """Fences that cover it, of brands that may see it."""
    stays: Stays
    """The stays after it."""

    @property
    def key(self) -> FixKey:
        """Its place among the resident's fixes, as `ping.order_key` has it."""
        return (self.at_ms, self.id, self.lon, self.lat)


class Resident:
    """One resident's memory."""

    __slots__ = (
        "base",
        "base_is_restored",
        "by_offer",
        "claims",
        "claims_count",
        "doubtful",
        "durable_seen_ms",
        "edition",
        "free",
        "heard_ms",
        "hidden",
        "id",
        "kept",
        "older_ms",
        "region",
        "row",
        "zones",
    )

    def __init__(self, resident_id: str) -> None:
        self.id = resident_id
        self.kept: list[KeptFix] = []
        """By key; the newest last."""
        self.base: KeptFix | None = None
        """The last fix that is no longer kept: the fold starts from its stays."""
        self.base_is_restored = False
        """The base is what the store knew: no position, and only about when they were heard of."""
        self.durable_seen_ms = 0
        self.edition: object = None
        """Of the index: the stays are in fences as they were in it."""
        self.heard_ms = 0
        """When the last ping came in, by our clock."""
        self.free: object = None
        """Around where nothing could happen, as `advice` found; it holds a position."""
        self.region: Region | None = None
        """Around the newest fix, as of `edition`, of one who stays about there."""
        self.row: object = None
        """The consent row that the stays were filtered by."""
        self.zones: Drawn | None = None
        """Their own zones; None for nearly everybody."""
        self.hidden = False
        """Whether a ping was private since the newest fix: nothing is told of the way between."""
        self.claims: list[ClaimRow] = []
        """That stand, of the last 8 days, oldest first."""
        self.by_offer: dict[str, int] = {}
        self.older_ms: dict[str, int] = {}
        """Offer -> when the newest of its claims was made that are no longer among `claims`."""
        self.claims_count = 0
        self.doubtful = False
        """What was committed is not known: decide nothing until it has been read again."""

    @property
    def stays(self) -> Stays:
        """The stays as of the newest fix."""
        newest = self.newest
        return () if newest is None else newest.stays

    @property
    def newest(self) -> KeptFix | None:
        """The fix that the next one follows on; None: nothing is remembered."""
        return self.kept[-1] if self.kept else self.base

    def place_of(self, key: FixKey) -> int:
        """Where a fix belongs among the kept ones."""
        return bisect.bisect_left(self.kept, key, key=_key)

    def has_kept(self, key: FixKey) -> bool:
        """Whether an equal fix is remembered."""
        place = self.place_of(key)
        if place < len(self.kept) and self.kept[place].key == key:
            return True
        return self.base is not None and self.base.key == key

    def before(self, place: int) -> KeptFix | None:
        """The fix before a place among the kept ones, which may be the base."""
        return self.kept[place - 1] if place else self.base

    def keep(self, kept: KeptFix, kept_max: int) -> None:
        """Append the newest fix and let go of those that none can be late against any more."""
        fixes = self.kept
        fixes.append(kept)
        oldest_ms = kept.at_ms - LATE_MAX_MS
        gone = 0
        while fixes[gone].at_ms < oldest_ms or len(fixes) - gone > kept_max:
            gone += 1
        if gone:
            self.base, self.base_is_restored = fixes[gone - 1], False
            del fixes[:gone]

    def forget_fixes(self, stays: Stays) -> None:
        """Keep only the newest fix, with these stays: nothing before it may matter again."""
        last = self.newest
        self.base_is_restored = self.base_is_restored and not self.kept
        self.kept = []
        self.base = (
            None if last is None else msgspec.structs.replace(last, covering=(), stays=stays)
        )
        self.free = self.region = None

    def forget_places(self, stays: Stays) -> None:
        """Keep these stays, and of all fixes only when the newest was: no position."""
        last = self.newest
        self.forget_presence()
        if last is not None:
            self.base, self.base_is_restored = _heard_of(last.at_ms, stays), True

    def forget_presence(self) -> None:
        """Know nothing of where the resident is or was."""
        self.kept, self.base, self.base_is_restored = [], None, False
        self.free = self.region = None

    def claim_of(self, decision: str, now_ms: int) -> ClaimRow | None:
        """The claim that a decision made, if it still is of use."""
        for claim in reversed(self.claims):
            if claim.decision == decision and claim.made.expires_at_ms > now_ms:
                return claim
        return None

    def add_claim(self, claim: ClaimRow) -> None:
        """Count a claim, and let go of those too old to matter."""
        oldest_ms = claim.made_ms - CLAIMS_KEPT_MS
        for old in self.claims:
            if old.made_ms < oldest_ms:
                before_ms = self.older_ms.get(old.made.offer, old.made_ms)
                self.older_ms[old.made.offer] = max(before_ms, old.made_ms)
        self.claims = [c for c in self.claims if c.made_ms >= oldest_ms]
        self.claims.append(claim)
        offer = claim.made.offer
        self.by_offer[offer] = self.by_offer.get(offer, 0) + 1
        self.claims_count += 1

    def drop_claim(self, claim_id: str, *, accepted: bool) -> bool:
        """Take a claim back; one that the store never accepted does not count at all.

        Returns:
            Whether it was there.
        """
        for place, claim in enumerate(self.claims):
            if claim.made.claim == claim_id:
                del self.claims[place]
                self.by_offer[claim.made.offer] -= 1
                self.claims_count -= not accepted
                return True
        return False

    def presence_row(self, seen_ms: int) -> PresenceRow:
        """What of the presence must survive."""
        return PresenceRow(self.id, stay_rows(self.stays), seen_ms)


def _key(kept: KeptFix) -> FixKey:
    return kept.key


def stay_rows(stays: Stays) -> tuple[StayRow, ...]:
    """The part of stays that survives a restart."""
    return tuple(StayRow(s.fence.id, s.entered_ms, s.dwelled_s) for s in stays)


def same_stays(one: Stays, other: Stays) -> bool:
    """Whether two stays are the same as far as they survive a restart."""
    if one is other:
        return True
    return len(one) == len(other) and all(
        a.fence.id == b.fence.id and a.entered_ms == b.entered_ms and a.dwelled_s == b.dwelled_s
        for a, b in zip(one, other, strict=True)
    )


def restored(state: ResidentState, stays: Stays) -> Resident:
    """A resident as the store knows them; `stays` are the state's, in fences that still exist."""
    resident = Resident(state.resident)
    if state.seen_ms is not None and stays:
        resident.base = _heard_of(state.seen_ms, stays)
        resident.base_is_restored = True
        resident.durable_seen_ms = state.seen_ms
    resident.claims = list(state.claims)
    resident.by_offer = dict(state.claims_by_offer)
    resident.older_ms = dict(state.older_ms_by_offer)
    resident.claims_count = state.claims_count
    return resident


def _heard_of(seen_ms: int, stays: Stays) -> KeptFix:
    """That a resident was heard of, and these stays: no position."""
    return KeptFix(seen_ms, 0.0, 0.0, 0.0, "", (), stays)
