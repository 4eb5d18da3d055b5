"""What residents may ask of the store: all that it holds on them, and that it forgets it."""

import secrets
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from engine.changes import ClaimRow
from engine.consent.protection import Protection
from engine.consent.record import Record
from engine.residents import ResidentSettings
from engine.store.audit import Author

if TYPE_CHECKING:
    from engine.store.port import ResidentRow

ROWS_MAX: Final = 2_000
"""Most rows of a kind that are forgotten in one transaction."""
PAIRINGS_MAX: Final = 5
"""Most codes of a resident that can be used at a time; a new one takes the oldest one's place."""
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


class Merge(msgspec.Struct, frozen=True, kw_only=True):
    """Two residents who become one, and on which versions of theirs it rests."""

    stays: str
    goes: str
    version_stays: int
    """Of the preferences."""
    version_goes: int
    records: tuple[Record, ...]
    """What the one who stays says by it."""
    goes_records: tuple[Record, ...]
    """Likewise of the one who goes: all grants are withdrawn."""
    settings: ResidentSettings
    protection: Protection | None
    """Of the one who stays; None: neither has any."""
    guard_stays: int
    """Version of what protects them, 0 for nothing."""
    guard_goes: int


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

    async def put_pairing(
        self, code_hash: str, resident: str, *, until_ms: int, now_ms: int
    ) -> bool:
        """Keep a code for a resident, at most `PAIRINGS_MAX` of them; False: there is none."""

    async def take_pairing(self, code_hash: str, *, now_ms: int) -> str | None:
        """The resident of a code that can still be used; afterwards it can't, whoever asks."""

    async def merge_residents(self, merge: Merge, *, by: Author | None = None) -> int | None:
        """Make one resident of two, in one transaction.

        The one who goes stays as a row whose `merged_into` names the other, with all records. Their
        keys, claims and those who were merged into them become the other's; where they were is
        forgotten.

        Returns:
            The feed's number, or None if one of them is not there, or was merged before.

        Raises:
            VersionMoved: one of the versions is another one by now.
        """

    async def read_merged(self, resident: str) -> "list[ResidentRow]":
        """Those who were merged into a resident, by id."""


def new_erasure() -> str:
    """A name for an erasure, that tells nothing."""
    return ERASED + secrets.token_hex(16)
