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

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from engine.consent.lanes import (
    CATEGORIES,
    CHANNEL_BIT,
    MATCH_NEED,
    PURPOSES,
    USE_LOCATION,
    lanes,
)
from engine.consent.record import SUSPENSIONS, Record, Scope, WeekWindow
from geofences.zones import Whereabouts

FOREVER_MS: Final = 1 << 62

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
_CONTACT: Final = sum(lanes(purpose, ("contact",), CATEGORIES) for purpose in PURPOSES)


class Standing(msgspec.Struct, frozen=True):
    """A grant or a deny that holds, less the lanes that later records took from it."""

    record: Record
    lanes: int
    suspended: bool = False
    """A grant from before a restore, not confirmed since: it allows nothing."""


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


class Row(msgspec.Struct, frozen=True, weakref=True):
    """What a resident's standing records come to. Categories and brands are sparse."""

    floor: int = 0
    """Lanes that the law denies whatever the resident says."""
    grant_all: int = 0
    deny_all: int = 0
    suspended: int = 0
    """Lanes of grants that are suspended: they only tell why."""
    grant_category: dict[str, int] = {}
    deny_category: dict[str, int] = {}
    grant_brand: dict[str, int] = {}
    deny_brand: dict[str, int] = {}
    reach_all: Reaches = ()
    """What the grants of contact for all say of channels and hours, sorted."""
    reach_category: dict[str, Reaches] = {}
    reach_brand: dict[str, Reaches] = {}
    uses_location: bool = False
    """Whether anybody may use the precise location for anything: the first gate."""
    matches_all: bool = False
    """Whether the fences of every brand may see the position: spares asking brand by brand."""

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
        denies = self.floor | self.deny_all
        grants = self.grant_all
        if self.deny_brand:
            denies |= self.deny_brand.get(brand, 0)
        if self.grant_brand:
            grants |= self.grant_brand.get(brand, 0)
        for category in categories:
            denies |= self.deny_category.get(category, 0)
            grants |= self.grant_category.get(category, 0)
        for category in deny_categories:
            denies |= self.deny_category.get(category, 0)
        if need & denies:
            return "law" if need & self.floor else "denied"
        if missing := need & ~grants:
            return "suspended" if missing & self.suspended else "no_grant"
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
        bit = CHANNEL_BIT[channel]
        on_channel = here = in_hours = 0
        for reaches in self._reaches(brand, categories):
            for held, channels, week, places in reaches:
                if channels & bit:
                    on_channel |= held
                    if places and (at is None or at.may_be_in(places)):
                        continue
                    here |= held
                    if week >> hour_of_week & 1:
                        in_hours |= held
        need &= _CONTACT
        if not need & ~in_hours:
            return None
        if need & ~on_channel:
            return "channel"
        return "place" if need & ~here else "quiet_hours"

    def _reaches(self, brand: str, categories: Sequence[str]) -> Iterator[Reaches]:
        """Those that apply to a brand."""
        yield self.reach_all
        if self.reach_brand:
            yield self.reach_brand.get(brand, ())
        if self.reach_category:
            for category in categories:
                yield self.reach_category.get(category, ())


def standing_of(records: Iterable[Record]) -> list[Standing]:
    """Fold what a resident said, in the order in which it was said, into what holds.

    A grant or a deny replaces what was said before on the same lanes for the same scope. A
    withdrawal takes grants away: those of its scope, or with the scope `all` those of every scope.
    It never lifts a deny, so that withdrawing can only narrow. `suspend` and `confirm` are about
    every grant so far, and about no deny. Expiry is not looked at here.
    """
    held: list[Standing] = []
    for record in records:
        if record.effect in SUSPENSIONS:
            held = _suspended(held, record.effect == "suspend")
            continue
        said = lanes(record.purpose, record.actions, record.data)
        held = [left for old in held if (left := _less(old, record, said)).lanes]
        if record.effect != "withdraw":
            held.append(Standing(record, said))
    return held


def _suspended(held: list[Standing], now: bool) -> list[Standing]:
    """All grants suspended, or none; denies hold through everything."""
    return [Standing(s.record, s.lanes, now and s.record.effect == "grant") for s in held]


def _less(old: Standing, record: Record, said: int) -> Standing:
    """What is left of an older record's lanes after a newer one."""
    if not old.lanes & said:
        return old
    if record.effect == "withdraw":
        touched = old.record.effect == "grant" and (
            record.scope.all or record.scope == old.record.scope
        )
    else:
        touched = record.scope == old.record.scope
    return Standing(old.record, old.lanes & ~said, old.suspended) if touched else old


def compile_row(standing: Sequence[Standing], now_ms: int, floor: int = 0) -> tuple[Row, int]:
    """What standing records come to at an instant, and until when (a grant expires).

    Args:
        standing: of one resident, in any order.
        now_ms: the instant.
        floor: lanes that the law denies; those that a browser's signal denies are added.
    """
    by_scope: dict[tuple[str, str], dict[str, int]] = {}
    reach: dict[tuple[str, str], set[Reach]] = {}
    next_change, suspended = FOREVER_MS, 0
    for held in standing:
        record = held.record
        if record.expires_ms is not None:
            if record.expires_ms <= now_ms:
                continue
            next_change = min(next_change, record.expires_ms)
        said = held.lanes
        if held.suspended:
            suspended |= said
            continue
        kind, name = _kind_and_name(record.scope)
        if record.effect == "grant" and said & _CONTACT:
            reach.setdefault((kind, name), set()).add(_reach(record, said & _CONTACT))
        if record.actor == "signal" and record.effect == "deny" and record.scope.all:
            floor |= said
            continue
        sparse = by_scope.setdefault((record.effect, kind), {})
        sparse[name] = sparse.get(name, 0) | said
    reaches = {scope: tuple(sorted(held)) for scope, held in reach.items()}
    return _row(by_scope, reaches, suspended, floor), next_change


def _kind_and_name(scope: Scope) -> tuple[str, str]:
    """A scope as a key: `all` has no name. One that names nobody is a brand that nobody has."""
    if scope.all:
        return "all", ""
    if scope.category is not None:
        return "category", scope.category
    return "brand", scope.brand or ""


def _reach(record: Record, contact: int) -> Reach:
    """What a grant of contact says of channels and hours."""
    names = CHANNEL_BIT if record.channels is None else set(record.channels)
    hours = _WEEK_DEFAULT_MASK if record.week is None else week_mask(record.week)
    places = tuple(sorted(set(record.places)))
    return Reach(contact, sum(CHANNEL_BIT[name] for name in names), hours, places)


def _row(
    by_scope: dict[tuple[str, str], dict[str, int]],
    reach: dict[tuple[str, str], Reaches],
    suspended: int,
    floor: int,
) -> Row:
    """Put the parts together, with the two shortcuts that the hot path takes."""
    grant_all = by_scope.get(("grant", "all"), {}).get("", 0)
    deny_all = by_scope.get(("deny", "all"), {}).get("", 0)
    deny_category = by_scope.get(("deny", "category"), {})
    deny_brand = by_scope.get(("deny", "brand"), {})
    grants = grant_all
    for sparse in (by_scope.get(("grant", "category"), {}), by_scope.get(("grant", "brand"), {})):
        for granted in sparse.values():
            grants |= granted
    denied_somewhere = floor | deny_all
    for sparse in (deny_category, deny_brand):
        for denied in sparse.values():
            denied_somewhere |= denied
    return Row(
        floor=floor,
        grant_all=grant_all,
        deny_all=deny_all,
        suspended=suspended,
        grant_category=by_scope.get(("grant", "category"), {}),
        deny_category=deny_category,
        grant_brand=by_scope.get(("grant", "brand"), {}),
        deny_brand=deny_brand,
        reach_all=reach.get(("all", ""), ()),
        reach_category={name: held for (kind, name), held in reach.items() if kind == "category"},
        reach_brand={name: held for (kind, name), held in reach.items() if kind == "brand"},
        uses_location=bool(grants & USE_LOCATION & ~(floor | deny_all)),
        matches_all=not MATCH_NEED & (denied_somewhere | ~grant_all),
    )
