"""What residents may ask of the store on PostgreSQL."""

from typing import Final

import asyncpg
import msgspec

from engine.consent.record import Record, record_id
from engine.store import rows
from engine.store.audit import Author
from engine.store.port import ResidentRow, VersionMoved
from engine.store.postgres_window import PostgresWindow
from engine.store.rights import ROWS_MAX, HeldClaim, Merge, Retained

_encode: Final = msgspec.json.Encoder().encode


class PostgresRights(PostgresWindow):
    """The part of the store on PostgreSQL that answers; see `rights.RightsStore`."""

    async def claims_of(
        self, resident: str, *, before: tuple[int, str] | None = None, limit: int
    ) -> list[HeldClaim]:
        """Claims of a resident, newest first."""
        at_ms, claim = before or (None, None)
        found = await self._wire.fetch("claims_of", resident, at_ms, claim, limit)
        return [_held(row) for row in found]

    async def erase_resident(
        self, resident: str, erasure: str, *, by: Author | None = None
    ) -> int | None:
        """Erase all that is held on a resident, in one transaction."""
        return await self._wire.number("erase_resident", resident, erasure, rows.who(by))

    async def retain(
        self, *, presence_before_ms: int, claims_before_ms: int, rows_max: int = ROWS_MAX
    ) -> Retained | None:
        """Forget some of what is too old, in one transaction."""
        row = await self._wire.row("retain", presence_before_ms, claims_before_ms, rows_max)
        if row["busy"]:
            return None
        return Retained(presences=row["presences"], claims=row["claims"])

    async def put_pairing(
        self, code_hash: str, resident: str, *, until_ms: int, now_ms: int
    ) -> bool:
        """Keep a code for a resident."""
        row = await self._wire.row("put_pairing", code_hash, resident, until_ms, now_ms)
        put: bool = row["put"]
        return put

    async def take_pairing(self, code_hash: str, *, now_ms: int) -> str | None:
        """The resident of a code that can still be used."""
        for row in await self._wire.fetch("take_pairing", code_hash):
            if row["expires_ms"] > now_ms:
                resident: str = row["resident"]
                return resident
        return None

    async def merge_residents(self, merge: Merge, *, by: Author | None = None) -> int | None:
        """Make one resident of two, in one transaction."""
        row = await self._wire.row(
            "merge_residents",
            merge.stays,
            merge.goes,
            merge.version_stays,
            merge.version_goes,
            *_columns(merge.records),
            *_columns(merge.goes_records),
            _encode(merge.settings),
            None if merge.protection is None else _encode(merge.protection),
            merge.guard_stays,
            merge.guard_goes,
            rows.who(by),
        )
        if row["moved"]:
            raise VersionMoved(merge.version_stays)
        number: int | None = row["number"]
        return number

    async def read_merged(self, resident: str) -> list[ResidentRow]:
        """Those who were merged into a resident, by id."""
        return [rows.resident_row(row) for row in await self._wire.fetch("read_merged", resident)]


def _columns(records: tuple[Record, ...]) -> tuple[list[int], list[str], list[bytes]]:
    """Versions, ids and bodies of records."""
    return (
        [record.version for record in records],
        [record_id(record) for record in records],
        [_encode(record) for record in records],
    )


def _held(row: asyncpg.Record) -> HeldClaim:
    return HeldClaim(
        row=rows.claim_row(row),
        state=row["state"],
        recall_reason=row["recall_reason"],
        redemption=row["redemption"],
        redeemed_ms=row["redeemed_ms"],
        till=row["till"],
    )
