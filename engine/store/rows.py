"""Rows of the queries as the values that the port speaks of."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import lru_cache
from typing import Final

import asyncpg
import msgspec

from engine.changes import ClaimRow, OfferCount, ResidentState
from engine.consent.record import Record
from engine.consent.saying import NOTHING_SAID, Sayings
from engine.offers.offer import Brand, Offer
from engine.residents import ResidentSettings
from engine.store.audit import AuditEntry, Author
from engine.store.columns import ALL_DAYS, read_made, read_stays
from engine.store.kept import Kept, KeptAnswer
from engine.store.port import (
    BrandRow,
    ClaimRecord,
    FenceRow,
    KeyRow,
    OfferRow,
    ResidentRow,
    VersionMoved,
    Written,
)
from engine.store.told import ResidentTold, TakeResidents

_brand: Final = msgspec.json.Decoder(Brand)
_offer: Final = msgspec.json.Decoder(Offer)
_settings: Final = msgspec.json.Decoder(ResidentSettings)
_record: Final = msgspec.json.Decoder(Record)
_key: Final = msgspec.json.Decoder(KeyRow)
_answer: Final = msgspec.msgpack.Decoder(KeptAnswer)

SLICE: Final = 250
"""Residents taken into memory at a time: some milliseconds."""


def key_row(row: asyncpg.Record) -> KeyRow:
    """A key."""
    return _key.decode(row["document"])


def written(row: asyncpg.Record) -> Written:
    """What came of a write. Raises VersionMoved."""
    check_moved(row)
    return Written(row["number"], row["version"], created=row["created"])


def deleted(row: asyncpg.Record) -> int | None:
    """The feed's number of a deletion, None if there was nothing. Raises VersionMoved."""
    check_moved(row)
    number: int | None = row["number"]
    return number


def check_moved(row: asyncpg.Record) -> None:
    """Raise VersionMoved if a write did not find the version that it expected."""
    if row["moved"] is not None:
        raise VersionMoved(row["moved"])


def who(by: Author | None) -> list[str] | None:
    """An author as the argument that SQL's `guard` and `note` take."""
    if by is None:
        return None
    told = [str(by.at_ms), by.key, by.name, by.role, by.action, by.request]
    if by.brands is not None:
        told.append("".join(f",{brand}" for brand in by.brands) or ",")
    return told


def audit_entry(row: asyncpg.Record) -> AuditEntry:
    """An entry of the audit log."""
    of_author = {name: row[name] for name in Author.__struct_fields__ if name != "brands"}
    own = {name: row[name] for name in AuditEntry.__struct_fields__ if name != "author"}
    return AuditEntry(author=Author(**of_author), **own)


def kept(row: asyncpg.Record) -> Kept:
    """What is known of an earlier call."""
    answer = row["answer"]
    return Kept(
        fingerprint=row["fingerprint"],
        at_ms=row["at_ms"],
        state=row["state"],
        answer=None if answer is None else _answer.decode(answer),
    )


def brand_row(row: asyncpg.Record) -> BrandRow:
    """A brand."""
    return BrandRow(_brand.decode(row["document"]), row["version"])


def offer_row(row: asyncpg.Record) -> OfferRow:
    """An offer."""
    return OfferRow(_offer.decode(row["document"]), row["version"])


def fence_row(row: asyncpg.Record) -> FenceRow:
    """A fence."""
    return FenceRow(
        id=row["id"], brand=row["brand"], feature=row["feature"], version=row["version"]
    )


def count(row: asyncpg.Record) -> OfferCount:
    """An offer's count."""
    return OfferCount(row["offer"], None if row["day"] == ALL_DAYS else row["day"], row["claims"])


def claim_row(row: asyncpg.Record) -> ClaimRow:
    """A claim that stands."""
    return ClaimRow(
        resident=row["resident"],
        decision=row["decision"],
        made=read_made(row["made"]),
        made_ms=row["made_ms"],
    )


def claim_record(rows: Iterable[asyncpg.Record]) -> ClaimRecord | None:
    """The claim of the first row, or None if there is no row."""
    for row in rows:
        return ClaimRecord(
            row=claim_row(row),
            state=row["state"],
            recall_reason=row["recall_reason"],
            redemption=row["redemption"],
            why=row["why"],
        )
    return None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No cycles are looked for meanwhile: all that is loaded would be gone through each time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


async def take_residents(rows: AsyncIterator[asyncpg.Record], take: TakeResidents) -> None:
    """Give all residents to `take`, a slice at a time; between slices the loop has its turn.

    Args:
        rows: one a resident, with what they said in order; None: they said nothing.
        take: as of `port.Store.snapshot`.
    """
    slice_: list[ResidentTold] = []
    async for resident, settings, version, contents, kept in rows:
        said = NOTHING_SAID if contents is None else Sayings(contents, kept)
        slice_.append(ResidentTold(resident, _same_settings(settings), version, said))
        if len(slice_) == SLICE:
            take(slice_)
            slice_ = []
            await asyncio.sleep(0)
    take(slice_)


@lru_cache(maxsize=10_000)
def _same_settings(document: bytes) -> ResidentSettings:
    """Settings, shared by those who have the same."""
    return _settings.decode(document)


def resident_row(row: asyncpg.Record) -> ResidentRow:
    """A resident whose row holds their records."""
    return ResidentRow(
        id=row["id"],
        settings=_settings.decode(row["settings"]),
        version=row["version"],
        records=tuple(map(_record.decode, row["records"])),
        merged_into=row["merged_into"],
    )


async def states(
    presences: AsyncIterator[asyncpg.Record],
    claims: AsyncIterator[asyncpg.Record],
    by_offer: AsyncIterator[asyncpg.Record],
) -> list[ResidentState]:
    """Residents' states from their presences, recent claims, and counts of claims."""
    recent: dict[str, list[ClaimRow]] = {}
    async for row in claims:
        recent.setdefault(row["resident"], []).append(claim_row(row))
    standing: dict[str, dict[str, int]] = {}
    older: dict[str, dict[str, int]] = {}
    async for row in by_offer:
        standing.setdefault(row["resident"], {})[row["offer"]] = row["claims"]
        if row["older_ms"] is not None:
            older.setdefault(row["resident"], {})[row["offer"]] = row["older_ms"]
    return [
        ResidentState(
            resident=row["resident"],
            stays=read_stays(row["stays"]),
            seen_ms=None if row["stays"] is None else row["seen_ms"],
            claims=tuple(recent.pop(row["resident"], ())),
            claims_by_offer=standing.pop(row["resident"], {}),
            older_ms_by_offer=older.pop(row["resident"], {}),
            claims_count=row["claims"],
        )
        async for row in presences
    ]
