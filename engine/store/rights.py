"""What residents may ask of the store: all that it holds on them, and that it forgets it."""

from typing import Protocol

import msgspec

from engine.changes import ClaimRow


class HeldClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of a resident and what became of it."""

    row: ClaimRow
    state: str
    """`made` or `recalled`."""
    recall_reason: str | None = None
    redemption: str | None = None
    """Id of the redemption that stands, if any, when it was made and at which till."""
    redeemed_ms: int | None = None
    till: str | None = None


class RightsStore(Protocol):
    """The part of the store that answers."""

    async def claims_of(
        self, resident: str, *, before: tuple[int, str] | None = None, limit: int
    ) -> list[HeldClaim]:
        """Claims of a resident, newest first.

        Args:
            resident: whose.
            before: `made_ms` and id of the claim after which to go on.
            limit: most of them.
        """
