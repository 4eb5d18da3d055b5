"""What a resident's say comes to: their standing records, compiled to a row, and the rule.

The rule is default deny, any no wins, order is irrelevant (as in Cedar, where it is proved):

    a need is a set of lanes; a row is what a resident's standing records come to

    lease on the change feed run out                            -> stale
    no row                                                      -> no_record
    need & floor                                                -> law
    need & (denies for all, the brand, a category)              -> denied
    need & ~(grants for all, the brand, a category)             -> no_grant, or suspended
    contact: no such grant for the channel, place, hour         -> channel, place, quiet_hours
    else allowed

Channels, hours and places belong to the grant that names them: contact is allowed if one grant that
applies allows it on this channel, here, at this hour. So what a grant adds goes with it, and taking
a grant away never allows what was not allowed before.

A row is immutable and shared by all residents whose records come to the same.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar, cast

import msgspec

from engine.consent.lanes import (
    CHANNEL_BIT,
    CONTACT,
    MATCH_NEED,
    USE_LOCATION,
)
from engine.consent.record import Record, Scope, WeekWindow
from engine.consent.standing import Standing
from geofences.zones import Whereabouts

FOREVER_MS: Final = 1 << 62
SAME_MAX: Final = 10_000
"""Values that are looked among; of more kinds than that, some are held twice."""

QUIET_FROM_HOUR: Final = 21
QUIET_UNTIL_HOUR: Final = 8
WEEK_DEFAULT: Final = (
    WeekWindow(days=(1, 2, 3, 4, 5, 6, 7), from_hour=QUIET_UNTIL_HOUR, to_hour=QUIET_FROM_HOUR),
)
"""A resident may be reached outside the quiet hours, 21:00 to 08:00, until they say otherwise."""


def week_mask(windows: Iterable[WeekWindow]) -> int:
    """The hours of the week that lie in any of the windows, as 168 bits (bit 0: Monday 00:00)."""
    mask = 0
    for window in windows:
        hours = (window.to_hour - window.from_hour) % 24 or 24
        for day in window.days:
            start = (day - 1) * 24 + window.from_hour
            for hour in range(start, start + hours):
                mask |= 1 << hour % 168
    return mask


_WEEK_DEFAULT_MASK: Final = week_mask(WEEK_DEFAULT)


class Reach(NamedTuple):
    """How some lanes of contact may be used, as one grant has it."""

    lanes: int
    channels: int
    """Bits of the channels."""
    week: int
    """Hours of the week, as from `week_mask`."""
    places: tuple[str, ...] = ()
    """Names of the resident's zones in which it does not hold, sorted."""


Reaches = tuple[Reach, ...]


class Sparse(msgspec.Struct, frozen=True, gc=False):
    """What a row says of one category or one brand."""

    grants: int = 0
    denies: int = 0
    reaches: Reaches = ()
    """What the grants of contact say of channels and hours, sorted."""


_NOTHING: Final = Sparse()
_NOBODY: Final[Mapping[str, Sparse]] = {}


class Row(msgspec.Struct, frozen=True, weakref=True):
    """What a resident's standing records come to. Categories and brands are sparse.

    Nothing in it changes, and what rows have in common they share: see decision 0010.
    """

    floor: int = 0
    """Lanes that the law denies whatever the resident says."""
    grant_all: int = 0
    deny_all: int = 0
    suspended: int = 0
    """Lanes of grants that are suspended: they only tell why."""
    reach_all: Reaches = ()
    """What the grants of contact for all say of channels and hours, sorted."""
    categories: Mapping[str, Sparse] = _NOBODY
    brands: Mapping[str, Sparse] = _NOBODY
    uses_location: bool = False
    """Whether anybody may use the precise location for anything: the first gate."""
    matches_all: bool = False
    """Whether the fences of every brand may see the position: spares asking brand by brand."""
    excepts_places: bool = False
    """Whether a grant of contact names places where it does not hold."""
    standing: tuple["Held", ...] = ()
    """What it was compiled of, where the index made it; in the order of their numbers."""

    def granted_and_denied(
        self,
        brand: str,
        categories: Sequence[str] = (),
        deny_categories: Sequence[str] = (),
    ) -> tuple[int, int]:
        """The lanes granted to a brand and those denied it; the latter go before.

        Args: as for `refusal`.
        """
        grants, denies = self.grant_all, self.floor | self.deny_all
        if self.brands and (said := self.brands.get(brand)):
            grants |= said.grants
            denies |= said.denies
        if self.categories:
            for category in categories:
                if said := self.categories.get(category):
                    grants |= said.grants
                    denies |= said.denies
            for category in deny_categories:
                if said := self.categories.get(category):
                    denies |= said.denies
        return grants, denies

    def refusal(
        self,
        need: int,
        brand: str,
        categories: Sequence[str] = (),
        deny_categories: Sequence[str] = (),
    ) -> str | None:
        """Why the lanes needed are not allowed to a brand, or None.

        Args:
            need: lanes, all of which must be granted and none denied.
            brand: who asks.
            categories: what the thing asked for belongs to; a grant for any of them counts.
            deny_categories: further categories of which a deny counts, but no grant.
        """
        if self.categories or brand in self.brands:
            grants, denies = self.granted_and_denied(brand, categories, deny_categories)
        else:
            grants, denies = self.grant_all, self.floor | self.deny_all
        if need & denies:
            return "law" if need & self.floor else "denied"
        if need & grants != need:
            return "suspended" if need & ~grants & self.suspended else "no_grant"
        return None

    def contact_refusal(
        self,
        need: int,
        brand: str,
        categories: Sequence[str],
        channel: str,
        hour_of_week: int,
        at: Whereabouts | None = None,
    ) -> str | None:
        """Why a brand may not reach the resident this way, here, at this hour, or None.

        Args:
            need: lanes, of which those of contact are looked at; `refusal` has let them pass.
            brand: who wants to reach them.
            categories: as for `refusal`.
            channel: one of `lanes.CHANNELS`.
            hour_of_week: in the resident's zone; 0 is Monday 00:00 to 00:59.
            at: where the resident is; None: nobody can tell, so that a grant that excepts places
                holds nowhere.
        """
        need &= CONTACT
        if not need:
            return None
        bit = CHANNEL_BIT[channel]
        reaches = self.reach_all
        if self.categories or brand in self.brands:
            reaches = self._reaches(brand, categories)
        on_channel = here = now = 0
        for held, channels, week, places in reaches:
            if channels & bit:
                on_channel |= held
                if not (places and (at is None or at.may_be_in(places))):
                    here |= held
                    if week >> hour_of_week & 1:
                        now |= held
                        if now & need == need:
                            return None
        if need & on_channel != need:
            return "channel"
        return "quiet_hours" if need & here == need else "place"

    def _reaches(self, brand: str, categories: Sequence[str]) -> Reaches:
        """Those that apply to a brand."""
        reaches = self.reach_all
        if said := self.brands.get(brand):
            reaches += said.reaches
        if self.categories:
            for category in categories:
                if said := self.categories.get(category):
                    reaches += said.reaches
        return reaches


class Held(msgspec.Struct, frozen=True, weakref=True, eq=False):
    """What stands, as many residents have it: without who said it, when, and until when."""

    number: int
    """That no other has."""
    standing: Standing
    part: "Part"


def compile_row(standing: Sequence[Standing], now_ms: int, floor: int = 0) -> tuple[Row, int]:
    """What standing records come to at an instant, and until when (a grant expires).

    Args:
        standing: of one resident, in any order.
        now_ms: the instant.
        floor: lanes that the law denies; those that a browser's signal denies are added.
    """
    parts, next_change = [], FOREVER_MS
    for held in standing:
        end_ms = held.record.expires_ms
        if end_ms is not None:
            if end_ms <= now_ms:
                continue
            next_change = min(next_change, end_ms)
        parts.append(part_of(held))
    return row_of(parts, floor), next_change


class Part(NamedTuple):
    """What one standing record adds to a row."""

    kind: str
    """Of its scope: all, category or brand."""
    name: str
    said: Sparse
    suspended: int = 0
    floor: int = 0


def part_of(held: Standing) -> Part:
    """What a standing record adds, while it has not ended."""
    record, said = held.record, held.lanes
    kind, name = _kind_and_name(record.scope)
    if held.suspended:
        return Part(kind, name, _NOTHING, suspended=said)
    if record.effect == "deny":
        if record.actor == "signal" and record.scope.all:
            return Part(kind, name, _NOTHING, floor=said)
        return Part(kind, name, _same(Sparse(denies=said)))
    contact = said & CONTACT
    return Part(kind, name, _same(Sparse(said, 0, (_reach(record, contact),) if contact else ())))


def _kind_and_name(scope: Scope) -> tuple[str, str]:
    """A scope as a key: `all` has no name. One that names nobody is a brand that nobody has."""
    if scope.all:
        return "all", ""
    if scope.category is not None:
        return "category", scope.category
    return "brand", scope.brand or ""


def _reach(record: Record, contact: int) -> Reach:
    """What a grant of contact says of channels and hours."""
    return Reach(contact, *reach_of(record.channels, record.week, record.places))


def reach_of(
    channels: tuple[str, ...] | None,
    week: tuple[WeekWindow, ...] | None,
    places: tuple[str, ...],
) -> tuple[int, int, tuple[str, ...]]:
    """Bits of the channels, hours of the week, and places, sorted, of a grant of contact."""
    names = CHANNEL_BIT if channels is None else set(channels)
    hours = _WEEK_DEFAULT_MASK if week is None else week_mask(week)
    return sum(CHANNEL_BIT[name] for name in names), hours, tuple(sorted(set(places)))


def row_of(parts: Iterable[Part], floor: int, standing: tuple["Held", ...] = ()) -> Row:
    """Put parts together, with the two shortcuts that the hot path takes.

    Args:
        parts: in any order.
        floor: lanes that the law denies; those that the parts add are added.
        standing: what the parts are of, for the row to keep.
    """
    for_all, suspended = _NOTHING, 0
    categories: dict[str, Sparse] = {}
    brands: dict[str, Sparse] = {}
    for kind, name, said, more_suspended, more_floor in parts:
        suspended |= more_suspended
        floor |= more_floor
        if said is _NOTHING:
            continue
        if kind == "all":
            for_all = said if for_all is _NOTHING else _both(for_all, said)
        else:
            some = brands if kind == "brand" else categories
            before = some.get(name)
            some[name] = said if before is None else _both(before, said)
    grants, denied_somewhere, reaches = for_all.grants, for_all.denies | floor, for_all.reaches
    for some in (categories, brands):
        for said in some.values():
            grants |= said.grants
            denied_somewhere |= said.denies
            reaches += said.reaches
    return Row(
        floor=_same(floor),
        grant_all=for_all.grants,
        deny_all=for_all.denies,
        suspended=_same(suspended),
        reach_all=for_all.reaches,
        categories=categories or _NOBODY,
        brands=brands or _NOBODY,
        uses_location=bool(grants & USE_LOCATION & ~(for_all.denies | floor)),
        matches_all=not MATCH_NEED & (denied_somewhere | ~for_all.grants),
        excepts_places=any(reach.places for reach in reaches),
        standing=standing,
    )


Value = TypeVar("Value", bound=Hashable)


@lru_cache(maxsize=SAME_MAX, typed=True)
def _known(value: Hashable) -> Hashable:
    return value


def _same(value: Value) -> Value:
    """The one object of its kind for equal immutable values, so that rows share it."""
    return cast("Value", _known(value))


@lru_cache(maxsize=SAME_MAX)
def _both(one: Sparse, other: Sparse) -> Sparse:
    """What two say together."""
    reaches = tuple(sorted({*one.reaches, *other.reaches}))
    return _same(Sparse(one.grants | other.grants, one.denies | other.denies, reaches))
