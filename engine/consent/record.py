"""One thing that a resident said, as it is kept for ever: append-only, chained by hash.

A withdrawal is a record like any other and never a deletion, so that merging an old copy can't
bring a grant back. Fields after ISO/IEC TS 27560 (consent record information structure).
"""

import hashlib
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

EFFECTS: Final = ("grant", "deny", "withdraw")
SUSPENSIONS: Final = ("suspend", "confirm")
"""Further effects, which only the operator writes: see `suspension`."""
ACTORS: Final = ("self", "guardian", "agent", "signal", "operator")


class Scope(msgspec.Struct, frozen=True, omit_defaults=True):
    """To whom a record applies: all, the brands of one category, or one brand."""

    all: bool = False
    category: str | None = None
    brand: str | None = None


ALL: Final = Scope(all=True)


class WeekWindow(msgspec.Struct, frozen=True):
    """Hours of some weekdays in the resident's own zone; `to_hour` <= `from_hour` runs overnight.

    An overnight window belongs to the day on which it begins.
    """

    days: tuple[int, ...]
    """ISO weekdays, Monday 1 to Sunday 7."""
    from_hour: int
    """0 to 23, included."""
    to_hour: int
    """0 to 24, excluded."""


class Notice(msgspec.Struct, frozen=True):
    """The text that the resident was shown."""

    id: str
    version: str
    locale: str
    text_hash: str = ""
    """SHA-256 of the text, hex."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One grant, deny or withdrawal of one resident.

    Its JSON is what `record_id` hashes, so a field that is added has the default UNSET, which is
    left out: the records that were written without it keep their ids.
    """

    subject: str
    actor: str
    effect: str
    purpose: str
    actions: tuple[str, ...]
    data: tuple[str, ...]
    scope: Scope
    version: int
    """The resident's version that this record is part of; records of one call share it."""
    server_ms: int
    """When we received it; the only time that the rule goes by."""
    client_ms: int | None = None
    """When the device says that it was said; kept as a claim, never used."""
    expires_ms: int | None = None
    """A grant ends here; None only for denies and withdrawals, which do not end."""
    channels: tuple[str, ...] | None = None
    """A grant of `contact` holds for these channels only; None: all."""
    week: tuple[WeekWindow, ...] | None = None
    """A grant of `contact` holds in these hours only; None: outside the quiet hours."""
    places: tuple[str, ...] = ()
    """Names of places where a grant of `contact` never holds."""
    notice: Notice | None = None
    device: str | None = None
    proof: str | None = None
    """Where the city keeps the evidence of an opt-in that it brought along."""
    supersedes: str = ""
    """`record_id` of the subject's record before this one; empty for the first."""
    call_records: int | UnsetType = UNSET
    """How many records its call made, this one among them; so the last of them can't go unseen."""
    salt: str | UnsetType = UNSET
    """128 random bits, hex. Once the record is erased, nobody can find out by trying what the hash
    that stays was of."""


def record_hash(record: Record) -> str:
    """SHA-256 of the record's canonical JSON (RFC 8785: sorted names, no spaces), hex."""
    return hashlib.sha256(msgspec.json.encode(record, order="sorted")).hexdigest()


def record_id(record: Record) -> str:
    """The first 32 hex digits of the hash: the record's name and its seal."""
    return record_hash(record)[:32]
