"""The in-memory preference index: every resident's row, ready for the hot path."""

from collections.abc import Callable, Iterable, Sequence
from weakref import WeakValueDictionary

import msgspec

from engine.consent.lanes import offer_need
from engine.consent.record import Record, record_id
from engine.consent.row import FOREVER_MS, Row, Standing, compile_row, standing_of
from engine.localtime import LocalClock, clock_of
from geofences.zones import Whereabouts


class Entry:
    """One resident in the index."""

    __slots__ = ("clock", "floor", "next_change_at_ms", "reached_ms", "row", "standing", "version")

    def __init__(
        self,
        version: int,
        standing: tuple[Standing, ...],
        clock: LocalClock,
        reached_ms: int,
        floor: int,
    ) -> None:
        self.version = version
        self.floor = floor
        self.standing = standing
        self.clock = clock
        self.row = Row()
        self.reached_ms = reached_ms
        """Expiry is held against no earlier instant: a clock that is set back revives no grant."""
        self.next_change_at_ms = 0


class PreferenceIndex:
    """Every resident's row, the lease under which they may be believed, and the rule."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._rows: WeakValueDictionary[bytes, Row] = WeakValueDictionary()
        self.lease_until_mono_ms: Callable[[], int] = lambda: FOREVER_MS
        """Asks whoever follows the change feed; on the monotonic clock."""
        self.suspended = 0
        """Residents of whom a grant is suspended since a restore."""
        self.whereabouts: Callable[[str], Whereabouts | None] = lambda _: None
        """Asks whoever follows the residents where one is; None: nobody can tell."""

    def __len__(self) -> int:
        return len(self._entries)

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
        before = self._entries.get(resident)
        reached_ms = now_ms if before is None else before.reached_ms
        entry = Entry(version, tuple(standing_of(records)), clock_of(timezone), reached_ms, floor)
        self._compile(entry, now_ms)
        self.drop(resident)
        self._entries[resident] = entry
        return entry

    def put_floor(self, resident: str, floor: int) -> Entry | None:
        """Other lanes than before are denied to a resident by the law; None: unknown."""
        entry = self._entries.get(resident)
        if entry is not None and entry.floor != floor:
            entry.floor = floor
            self._compile(entry, entry.reached_ms)
        return entry

    def drop(self, resident: str) -> None:
        """Forget a resident, which means no."""
        gone = self._entries.pop(resident, None)
        self.suspended -= gone is not None and bool(gone.row.suspended)

    def version(self, resident: str) -> int | None:
        """Version of a resident's preferences, None for an unknown resident."""
        entry = self._entries.get(resident)
        return None if entry is None else entry.version

    def entry(self, resident: str, now_ms: int) -> Entry | None:
        """A resident's entry with its row as of now, None for an unknown resident."""
        entry = self._entries.get(resident)
        if entry is not None and now_ms >= entry.next_change_at_ms:
            self._compile(entry, now_ms)
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
        if self.is_stale(mono_ms):
            return "stale"
        entry = self.entry(resident, now_ms)
        if entry is None:
            return "no_record"
        need = offer_need(purpose)
        return entry.row.refusal(
            need, brand, categories, deny_categories
        ) or entry.row.contact_refusal(
            need,
            brand,
            categories,
            channel,
            entry.clock.at(now_ms).hour_of_week,
            self.whereabouts(resident),
        )

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
            record_id(held.record)
            for held in entry.standing
            if held.record.effect == "grant"
            and not held.suspended
            and held.lanes & need
            and (held.record.expires_ms is None or now_ms < held.record.expires_ms)
            and (
                held.record.scope.all
                or held.record.scope.brand == brand
                or held.record.scope.category in categories
            )
        )

    def _compile(self, entry: Entry, now_ms: int) -> None:
        """Bring an entry's row up to now; rows of equal content are one object."""
        entry.reached_ms = max(entry.reached_ms, now_ms)
        before = entry.row.suspended
        row, entry.next_change_at_ms = compile_row(
            entry.standing, entry.reached_ms, entry.floor
        )
        entry.row = self._rows.setdefault(msgspec.msgpack.encode(_key(row)), row)
        self.suspended += bool(row.suspended) - bool(before)


def _key(row: Row) -> list[object]:
    """A row's content as plain values in one order; ints beyond 64 bits as text."""
    return [_plain(getattr(row, name)) for name in row.__struct_fields__]


def _plain(held: object) -> object:
    if isinstance(held, dict):
        return sorted((name, _plain(inner)) for name, inner in held.items())
    if isinstance(held, tuple):
        return [_plain(inner) for inner in held]
    return hex(held) if isinstance(held, int) else held
