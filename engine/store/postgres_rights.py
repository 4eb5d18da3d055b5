"""What residents may ask of the store on PostgreSQL."""

import asyncpg

from engine.store import rows
from engine.store.audit import Author
from engine.store.postgres_window import PostgresWindow
from engine.store.rights import ROWS_MAX, HeldClaim, Retained


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


def _held(row: asyncpg.Record) -> HeldClaim:
    return HeldClaim(
        row=rows.claim_row(row),
        state=row["state"],
        recall_reason=row["recall_reason"],
        redemption=row["redemption"],
        redeemed_ms=row["redeemed_ms"],
        till=row["till"],
    )
