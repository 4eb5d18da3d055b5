"""The in-memory preference index: every resident's row, ready for the hot path.

A million residents must fit, so a resident's records are not kept as such. What they say is held
once for all who said the same (`Held`), and so is the row that it comes to. A resident's own are
the ends of their grants and the ids of their records, packed. See decision 0010.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import count
from struct import Struct
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from engine.consent.lanes import OFFER_NEEDS, offer_need
from engine.consent.record import Record, Scope
from engine.consent.row import FOREVER_MS, Held, Row, part_of, row_of
from engine.consent.saying import KEPT, Sayings, nobodys, sayings_of
from engine.consent.standing import Standing, lanes_of, standing_of
from engine.localtime import LocalClock, clock_of
from geofences.zones import Whereabouts

SAYINGS_MAX: Final = 20_000
"""Sayings whose meaning is remembered. Brands have theirs, so there are some of each brand."""
LISTS_MAX: Final = 5_000
"""Lists of sayings whose meaning is remembered: it is cheap to find it out again."""
LIST_BYTES_MAX: Final = 4_096
"""The longest of them: who says more than that says what nobody else does."""
_DAY_MS: Final = 86_400_000
_DAYS_MAX: Final = 10_000


class Entry(msgspec.Struct, gc=False, eq=False):
    """One resident in the index."""

    version: int
    clock: LocalClock
    row: Row
    next_change_at_ms: int
    """Before this instant nothing of the row ends; see `_next_look_ms`."""
    reached_ms: int
    """Expiry is held against no earlier instant: a clock that is set back revives no grant."""
    kept: bytes
    """Ends and ids of the records of `row.standing`, in its order, as `KEPT` packs them."""

    @property
    def standing(self) -> list[tuple[Standing, str]]:
        """What stands, each with the id of its record; the record it holds is nobody's."""
        own = zip(self.row.standing, KEPT.iter_unpack(self.kept), strict=True)
        return [(held.standing, record.hex()) for held, (_, record) in own]


class _Known(NamedTuple):
    """A saying that was met before."""

    content: bytes
    record: Record
    """That says the same, of nobody."""
    scope: Scope
    lanes: int
    whole: Held | None
    """What stands if nothing later takes from it; None: it says that something stands no more."""


class _Meaning(NamedTuple):
    """What a list of sayings comes to, while nothing has ended."""

    standing: tuple[Held, ...]
    places: tuple[slice, ...] | None
    """Where the ends and ids of these are among all that were said; None: just as they were said.
    """
    ends_ms: Callable[[bytes], tuple[int, ...]]
    """Reads when these end from their ends and ids."""


class PreferenceIndex:
    """Every resident's row, the lease under which they may be believed, and the rule."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._floors: dict[str, int] = {}
        """Lanes that the law denies residents, apart from what they said; where there are any."""
        self._rows: WeakValueDictionary[tuple[Held, ...] | tuple[int, tuple[Held, ...]], Row]
        self._rows = WeakValueDictionary()
        self._held: WeakValueDictionary[tuple[bytes, int, bool], Held] = WeakValueDictionary()
        self._numbers = count()
        self._sayings: dict[bytes, _Known] = {}
        self._meanings: dict[bytes, _Meaning] = {}
        self.lease_until_mono_ms: Callable[[], int] = lambda: FOREVER_MS
        """Asks whoever follows the change feed; on the monotonic clock."""
        self.whereabouts: Callable[[str], Whereabouts | None] = lambda _: None
        """Asks whoever follows the residents where one is; None: nobody can tell."""
        self.suspended = 0
        """Residents of whom a grant is suspended since a restore."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def rows(self) -> int:
        """How many different rows there are."""
        return len(self._rows)

    def put(
        self,
        resident: str,
        version: int,
        records: Iterable[Record],
        timezone: str,
        *,
        now_ms: int,
        floor: int = 0,
    ) -> Entry:
        """Take over all that a resident said; replaces what was known.

        `floor` are the lanes that the law denies for the resident.
        """
        said = sayings_of(records)
        return self.take(resident, version, said, timezone, now_ms=now_ms, floor=floor)

    def take(
        self,
        resident: str,
        version: int,
        said: Sayings,
        timezone: str,
        *,
        now_ms: int,
        floor: int = 0,
    ) -> Entry:
        """Take over all that a resident said, as `put` does."""
        before = self._entries.get(resident)
        reached_ms = now_ms if before is None else max(now_ms, before.reached_ms)
        contents, kept = said
        standing, places, ends_ms = self._meanings.get(contents) or self._mean(contents)
        if places is not None:
            kept = b"".join([kept[place] for place in places])
        end_ms = min(ends_ms(kept)) if kept else FOREVER_MS
        until_ms = _next_look_ms(end_ms, reached_ms)
        row = self._row(standing, floor)
        entry = Entry(version, clock_of(timezone), row, until_ms, reached_ms, kept)
        if end_ms <= reached_ms:
            self._let_end(entry, standing, floor)
        if before is not None:
            self.drop(resident)
        self._entries[resident] = entry
        if floor:
            self._floors[resident] = floor
        self.suspended += bool(entry.row.suspended)
        return entry

    def put_floor(self, resident: str, floor: int) -> Entry | None:
        """Other lanes than before are denied to a resident by the law; None: unknown."""
        entry = self._entries.get(resident)
        if entry is not None and self._floors.get(resident, 0) != floor:
            self._floors[resident] = floor
            entry.row = self._row(entry.row.standing, floor)
        return entry

    def drop(self, resident: str) -> None:
        """Forget a resident, which means no."""
        gone = self._entries.pop(resident, None)
        self._floors.pop(resident, None)
        self.suspended -= gone is not None and bool(gone.row.suspended)

    def version(self, resident: str) -> int | None:
        """Version of a resident's preferences, None for an unknown resident."""
        entry = self._entries.get(resident)
        return None if entry is None else entry.version

    def entry(self, resident: str, now_ms: int) -> Entry | None:
        """A resident's entry with its row as of now, None for an unknown resident."""
        entry = self._entries.get(resident)
        if entry is not None and now_ms >= entry.next_change_at_ms:
            self._compile(resident, entry, now_ms)
        return entry

    def is_stale(self, mono_ms: int) -> bool:
        """Whether the lease on the change feed has run out, so that everything is denied."""
        return mono_ms >= self.lease_until_mono_ms()

    def offer_refusal(
        self,
        resident: str,
        brand: str,
        categories: Sequence[str],
        deny_categories: Sequence[str],
        purpose: str,
        channel: str,
        *,
        now_ms: int,
        mono_ms: int,
    ) -> str | None:
        """The whole rule for an offer: why it may not reach the resident now, or None."""
        # `is_stale`, `entry` and the clock's `at` without the calls: a decision takes less than a
        # microsecond.
        if mono_ms >= self.lease_until_mono_ms():
            return "stale"
        entry = self._entries.get(resident)
        if entry is None:
            return "no_record"
        if now_ms >= entry.next_change_at_ms:
            self._compile(resident, entry, now_ms)
        row, need = entry.row, OFFER_NEEDS[purpose]
        why = row.refusal(need, brand, categories, deny_categories)
        if why is not None:
            return why
        clock = entry.clock
        if clock.from_ms <= now_ms < clock.until_ms:
            hour = clock.hour_of_week
        else:
            hour = clock.at(now_ms).hour_of_week
        at = self.whereabouts(resident) if row.excepts_places else None
        return row.contact_refusal(need, brand, categories, channel, hour, at)

    def redeemable(
        self,
        resident: str,
        brand: str,
        categories: Sequence[str],
        now_ms: int,
        mono_ms: int,
        *,
        deny_categories: Sequence[str] = (),
        purpose: str = "offers",
    ) -> str | None:
        """Why a code may not be redeemed any more, or None: the third gate.

        The hour and the channel do not matter here: the resident comes to the till themselves.
        `categories` and `deny_categories` are as for `Row.refusal`, `purpose` is the offer's.
        """
        if self.is_stale(mono_ms):
            return "stale"
        entry = self.entry(resident, now_ms)
        if entry is None:
            return "no_record"
        return entry.row.refusal(offer_need(purpose), brand, categories, deny_categories)

    def allowing(
        self, resident: str, need: int, brand: str, categories: Sequence[str], *, now_ms: int
    ) -> list[str]:
        """Ids of the records by which a brand holds the lanes needed at an instant, sorted."""
        entry = self._entries.get(resident)
        if entry is None:
            return []
        return sorted(
            record.hex()
            for (end_ms, record), held in zip(
                KEPT.iter_unpack(entry.kept), entry.row.standing, strict=True
            )
            if now_ms < end_ms and _speaks(held.standing, "grant", need, brand, categories)
        )

    def denying(self, resident: str, need: int, brand: str, categories: Sequence[str]) -> list[str]:
        """Ids of the records by which a brand is denied one of the lanes, sorted."""
        entry = self._entries.get(resident)
        if entry is None:
            return []
        return sorted(
            record.hex()
            for (_, record), held in zip(
                KEPT.iter_unpack(entry.kept), entry.row.standing, strict=True
            )
            if _speaks(held.standing, "deny", need, brand, categories)
        )

    def _compile(self, resident: str, entry: Entry, now_ms: int) -> None:
        """Bring an entry's row up to now."""
        entry.reached_ms = max(entry.reached_ms, now_ms)
        before = entry.row.suspended
        self._let_end(entry, entry.row.standing, self._floors.get(resident, 0))
        self.suspended += bool(entry.row.suspended) - bool(before)

    def _let_end(self, entry: Entry, standing: tuple[Held, ...], floor: int) -> None:
        """Keep of what an entry's records come to only what has not ended."""
        own = [
            (end_ms, record, held)
            for (end_ms, record), held in zip(KEPT.iter_unpack(entry.kept), standing, strict=True)
            if entry.reached_ms < end_ms
        ]
        entry.kept = b"".join([KEPT.pack(end_ms, record) for end_ms, record, _ in own])
        end_ms = min((end_ms for end_ms, _, _ in own), default=FOREVER_MS)
        entry.next_change_at_ms = _next_look_ms(end_ms, entry.reached_ms)
        entry.row = self._row(tuple(held for _, _, held in own), floor)

    def _row(self, standing: tuple[Held, ...], floor: int) -> Row:
        """What stands, compiled; the one row of all of whom the same stands."""
        if not standing and not floor:
            return _EMPTY
        key = (floor, standing) if floor else standing
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = row_of([held.part for held in standing], floor, standing)
        return row

    def _mean(self, contents: bytes) -> _Meaning:
        """What sayings come to, in the order in which they were said."""
        known = []
        for content in contents.splitlines():
            met = self._sayings.get(content)
            if met is None:
                if len(self._sayings) >= SAYINGS_MAX:
                    self._sayings.clear()
                met = self._sayings[content] = self._meet(content)
            known.append(met)
        meaning = self._fold(known)
        if len(contents) <= LIST_BYTES_MAX:
            if len(self._meanings) >= LISTS_MAX:
                self._meanings.clear()
            self._meanings[contents] = meaning
        return meaning

    def _meet(self, content: bytes) -> _Known:
        """A saying that was not met before, or is forgotten."""
        record = nobodys(content)
        said = lanes_of(record)
        whole = None
        if said and record.effect in _STANDING:
            whole = self._hold(content, record, Standing(record, said))
        return _Known(content, record, record.scope, said, whole)

    def _fold(self, known: list[_Known]) -> _Meaning:
        """What stands of some sayings: mostly all, as none takes from another."""
        of_scope: dict[Scope, int] = {}
        found: list[tuple[int, int, Held]] = []
        for place, (_, _, scope, said, whole) in enumerate(known):
            before = of_scope.get(scope, 0)
            if whole is None or before & said:
                break
            of_scope[scope] = before | said
            found.append((whole.number, place, whole))
        else:
            return _meaning(found, len(known))
        # The version tells apart those that say the same.
        records = [
            msgspec.structs.replace(met.record, version=place) for place, met in enumerate(known)
        ]
        found = [
            (held.number, place, held)
            for one in standing_of(records)
            for place in (one.record.version,)
            for held in (self._hold(known[place].content, known[place].record, one),)
        ]
        return _meaning(found, len(known))

    def _hold(self, content: bytes, record: Record, standing: Standing) -> Held:
        """The one object for all of whom the same stands of the same: of nobody's record."""
        key = (content, standing.lanes, standing.suspended)
        held = self._held.get(key)
        if held is None:
            alike = Standing(record, standing.lanes, standing.suspended)
            held = self._held[key] = Held(next(self._numbers), alike, part_of(alike))
        return held


def _meaning(found: list[tuple[int, int, Held]], said: int) -> _Meaning:
    """What stands of so many sayings, by number: the same in whatever order it was said."""
    found.sort()
    places = [place for _, place, _ in found]
    return _Meaning(
        tuple([held for *_, held in found]),
        None if places == list(range(said)) else tuple([_place(place) for place in places]),
        _ends_ms(len(found)),
    )


@lru_cache
def _place(number: int) -> slice:
    """Where the end and the id of a saying are among all."""
    return slice(number * KEPT.size, (number + 1) * KEPT.size)


@lru_cache
def _ends_ms(number: int) -> Callable[[bytes], tuple[int, ...]]:
    """Reads the ends from so many ends and ids."""
    return Struct(">" + "q16x" * number).unpack


_STANDING: Final = frozenset({"grant", "deny"})
"""Effects of records that stand themselves."""
_EMPTY: Final = Row()


def _next_look_ms(end_ms: int, reached_ms: int) -> int:
    """Until when a row surely holds of which something ends at an instant.

    Only on the day of the end is that the instant itself; before, it is the beginning of the day.
    So residents share the number, of which each would else have their own: it would not be in the
    processor's caches when their next ping asks for it.
    """
    day_ms = _same_day_ms(end_ms // _DAY_MS)
    return day_ms if reached_ms < day_ms else end_ms


@lru_cache(maxsize=_DAYS_MAX)
def _same_day_ms(day: int) -> int:
    """The one object for the beginning of a day since 1970, UTC."""
    return day * _DAY_MS


def _speaks(
    standing: Standing, effect: str, need: int, brand: str, categories: Sequence[str]
) -> bool:
    """Whether this grants, or denies, a brand any of the lanes."""
    record, scope = standing.record, standing.record.scope
    return (
        record.effect == effect
        and not standing.suspended
        and bool(standing.lanes & need)
        and (scope.all or scope.brand == brand or scope.category in categories)
    )
