"""What residents may ask of the store in memory."""

from typing import TYPE_CHECKING

from engine.store.rights import HeldClaim
from engine.store.shared import claim_row

if TYPE_CHECKING:
    from engine.store.shared import Claim, Shared


class MemoryRights:
    """The part of a store in memory that answers; see `rights.RightsStore`."""

    def _open_shared(self) -> "Shared":
        raise NotImplementedError

    async def claims_of(
        self, resident: str, *, before: tuple[int, str] | None = None, limit: int
    ) -> list[HeldClaim]:
        """Claims of a resident, newest first."""
        claims = self._open_shared().claims_of.get(resident, [])
        newest = sorted(claims, key=_age, reverse=True)
        return [_held(claim) for claim in newest if before is None or _age(claim) < before][:limit]


def _age(claim: "Claim") -> tuple[int, str]:
    return claim.made.made_ms, claim.made.made.claim


def _held(claim: "Claim") -> HeldClaim:
    redeemed = claim.redemption
    return HeldClaim(
        row=claim_row(claim.made),
        state="made" if claim.stands else "recalled",
        recall_reason=claim.recall_reason,
        redemption=None if redeemed is None else redeemed.id,
        redeemed_ms=None if redeemed is None else redeemed.at_ms,
        till=None if redeemed is None else redeemed.till,
    )
