"""What residents may ask of the store on PostgreSQL."""

import asyncpg

from engine.store import rows
from engine.store.postgres_window import PostgresWindow
from engine.store.rights import HeldClaim


class PostgresRights(PostgresWindow):
    """The part of the store on PostgreSQL that answers; see `rights.RightsStore`."""

    async def claims_of(
        self, resident: str, *, before: tuple[int, str] | None = None, limit: int
    ) -> list[HeldClaim]:
        """Claims of a resident, newest first."""
        at_ms, claim = before or (None, None)
        found = await self._wire.fetch("claims_of", resident, at_ms, claim, limit)
        return [_held(row) for row in found]


def _held(row: asyncpg.Record) -> HeldClaim:
    return HeldClaim(
        row=rows.claim_row(row),
        state=row["state"],
        recall_reason=row["recall_reason"],
        redemption=row["redemption"],
        redeemed_ms=row["redeemed_ms"],
        till=row["till"],
    )
