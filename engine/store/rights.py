"""What residents may ask of the store: all that it holds on them, and that it forgets it."""

import secrets
from typing import Final, Protocol

import msgspec

from engine.changes import ClaimRow
from engine.store.audit import Author

ROWS_MAX: Final = 2_000
"""Most rows of a kind that are forgotten in one transaction."""
ERASED: Final = "erased-"
"""How the names begin that stand in the place of an erased resident's."""


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


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows were forgotten because they were too old."""

    presences: int = 0
    """Of where residents were."""
    claims: int = 0
    """They became nobody's."""


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

    async def erase_resident(
        self, resident: str, erasure: str, *, by: Author | None = None
    ) -> int | None:
        """Erase all that is held on a resident, whose keys stop working.

        Records lose their bodies and salts; the hashes of those that had a salt stay. Claims become
        nobody's, each for itself. The audit log keeps its entries, with `erasure` for a name, and
        so does the entry of this. For an hour `retain` looks again for what was committed after it.

        Args:
            resident: whom.
            erasure: a new name from `new_erasure`.
            by: for the audit log.

        Returns:
            The feed's number, or None if there is no such resident.
        """

    async def retain(
        self, *, presence_before_ms: int, claims_before_ms: int, rows_max: int = ROWS_MAX
    ) -> Retained | None:
        """Look again for traces of the erased; forget where residents were, and whose claims are,
        before an instant each.

        Args:
            rows_max: most rows of each kind; there may be more to forget if one reaches it.

        Returns:
            None: another process is at it.
        """


def new_erasure() -> str:
    """A name for an erasure, that tells nothing."""
    return ERASED + secrets.token_hex(16)
