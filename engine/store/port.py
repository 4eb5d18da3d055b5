"""The one interface between the service and what survives: PostgreSQL, or its twin in memory.

Every write that other processes must see draws a number of the change feed inside its own
transaction, under a lock, so that the order of commits is the order of numbers. Whoever writes
waits until its own process has followed the feed up to that number: there is one way by which
fences, offers and preferences come into memory.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec

from engine.changes import Changes, ClaimRefused, ClaimRow, OfferCount, ResidentState
from engine.consent.record import Record
from engine.offers.offer import Brand, Offer
from engine.residents import ResidentSettings
from engine.store.audit import AuditEntry, AuditFilter, Author
from engine.store.guards import GuardStore, ProtectionRow
from engine.store.kept import Kept, KeptAnswer
from engine.store.nodes import NodeStore
from engine.store.pruning import PruneStore
from engine.store.rights import RightsStore
from engine.store.told import TakeResidents
from engine.store.window import EventStore

Kind = Literal["brand", "fence", "offer", "resident", "key", "batch", "protection", "canary"]
"""Of things; `batch` is what an import wrote, by the id of the import; `canary` is by process."""

Expected = tuple[int, ...] | None
"""Versions of which one must be there when a write happens; see `audit.ABSENT` and `PRESENT`."""


class StoreUnavailable(Exception):
    """The store does not answer, or its answer to a commit was lost: nothing may be assumed."""


class VersionMoved(Exception):
    """A conditional write was refused: somebody wrote in between."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the version is now {current}")
        self.current = current


class ForeignBrand(Exception):
    """A write was refused: it would have replaced or deleted what the author's brands don't own."""


class AlreadyThere(Exception):
    """Something of that id exists."""


class FeedLost(Exception):
    """The feed can't be followed from a number on: begin again with a snapshot.

    Its lines after that number were pruned, or the database is an older one than was read before.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"the feed does not continue from number {number}")
        self.number = number


class FenceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A fence as the merchant's Feature (canonical GeoJSON bytes), and its version from 1."""

    id: str
    brand: str
    feature: bytes
    version: int = 0


class FencePage(msgspec.Struct, frozen=True, kw_only=True):
    """Which fences are asked for."""

    after: str = ""
    """Only those with a greater id."""
    ids: tuple[str, ...] | None = None
    brands: tuple[str, ...] | None = None
    limit: int
    bytes_max: int
    """No more fences follow one with which the page has as many bytes."""


class BrandRow(msgspec.Struct, frozen=True):
    """A brand and its version from 1."""

    brand: Brand
    version: int = 0


class OfferRow(msgspec.Struct, frozen=True):
    """An offer and its version from 1."""

    offer: Offer
    version: int = 0


class ResidentRow(msgspec.Struct, frozen=True, kw_only=True):
    """A resident's settings and all their consent records, in the order in which they were said.

    `version` is the version of the preferences: 0 until the first record.
    """

    id: str
    settings: ResidentSettings
    version: int = 0
    records: tuple[Record, ...] = ()
    merged_into: str | None = None
    """Whose settings hold for whoever this was."""


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key to the service; the key itself is not kept, only its SHA-256 in hex."""

    id: str
    hash: str
    role: str
    name: str
    created_ms: int
    brands: tuple[str, ...] = ()
    resident: str | None = None
    purchaser: str | None = None
    guardian: bool = False
    """A resident key of somebody who speaks for a minor."""


class Change(msgspec.Struct, frozen=True):
    """One line of the feed: something of this kind and id was written or deleted."""

    number: int
    kind: Kind
    id: str


class Written(msgspec.Struct, frozen=True):
    """What came of an administrative write."""

    number: int
    """Of the change feed; the write is live in a process that has followed the feed so far.
    0: what was written is as it was before."""
    version: int
    """From 1; it goes on rising when something is made anew under an id that was deleted."""
    created: bool


class Rows(msgspec.Struct, frozen=True):
    """Some rows of an import."""

    brands: tuple[Brand, ...] = ()
    fences: tuple[FenceRow, ...] = ()
    offers: tuple[Offer, ...] = ()


class Together(msgspec.Struct, frozen=True):
    """What came of an import."""

    number: int
    """Of the change feed; 0: nothing changed."""
    created: int
    updated: int
    unchanged: int


class ResidentsImported(msgspec.Struct, frozen=True):
    """What came of some residents of an import."""

    number: int
    made: frozenset[str]
    """Who was not there before."""
    written: frozenset[str]
    """Those, and those who were there and had never said anything."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process holds in memory but residents, at one instant: the feed's `number`."""

    number: int
    brands: tuple[BrandRow, ...]
    fences: tuple[FenceRow, ...]
    offers: tuple[OfferRow, ...]
    keys: tuple[KeyRow, ...]
    states: tuple[ResidentState, ...]
    """Only residents who have presence, or had claims."""
    counts: tuple[OfferCount, ...]
    """Totals, and those days that are not over everywhere."""
    protections: tuple[ProtectionRow, ...] = ()


class Committed(msgspec.Struct, frozen=True):
    """What a group commit made durable; all of the group but the refused claims."""

    refused: tuple[ClaimRefused, ...] = ()
    counts: tuple[OfferCount, ...] = ()
    """The counts of every offer that the group touched, as they stand after it."""


class ClaimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A claim with all that is known of it."""

    row: ClaimRow
    state: str
    """`made` or `recalled`."""
    recall_reason: str | None
    redemption: str | None
    """Id of the redemption that stands, if any."""
    why: bytes


class Redemption(msgspec.Struct, frozen=True, kw_only=True):
    """A code that was used at a till."""

    id: str
    claim: str
    offer: str
    brand: str
    at_ms: int
    till: str | None = None


class RedemptionRefused(Exception):
    """A code can't be redeemed: `recalled`, `already_redeemed`, `expired`, whichever comes first.

    `unknown_claim` where the caller made the claim's id up.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Store(EventStore, PruneStore, GuardStore, NodeStore, RightsStore, Protocol):
    """What survives. Every method raises StoreUnavailable when the store does not answer."""

    async def open(self) -> None:
        """Connect, apply the migrations that are missing, and be ready; a second call is an error.

        Several processes may do so at once: one migrates, the others wait.
        """

    async def close(self) -> None:
        """Give back all connections; quick, and safe after a failure."""

    async def secret(self, name: str) -> bytes:
        """The store's own 32 random bytes of that name, made at the first call by anybody."""

    async def snapshot(self, *, now_ms: int, take: TakeResidents | None = None) -> Snapshot:
        """Everything, read in one consistent transaction.

        `take` is given all residents, by id, some hundred at a time; None: they are not read.
        """

    async def read_brands(self, ids: list[str]) -> list[BrandRow]:
        """Those of the brands that exist, by id."""

    async def read_fences(self, ids: list[str]) -> list[FenceRow]:
        """Those of the fences that exist, by id."""

    async def page_fences(self, asked: FencePage) -> tuple[list[FenceRow], bool]:
        """Some fences by id, at least one if there are any, and whether more follow."""

    async def page_fence_ids(
        self, *, after: str, brands: tuple[str, ...] | None, limit: int
    ) -> list[str]:
        """The ids of fences after one, of some brands or all: `limit` of them, if there are."""

    async def read_offers(self, ids: list[str]) -> list[OfferRow]:
        """Those of the offers that exist, by id."""

    async def read_residents(self, ids: list[str], *, ahead: bool = False) -> list[ResidentRow]:
        """Those of the residents that exist, with their records, by id.

        `ahead` of whoever else waits for the store: a resident's "no" waits for it.
        """

    async def read_keys(self, ids: list[str]) -> list[KeyRow]:
        """Those of the keys that exist, by id."""

    async def read_states(self, ids: list[str], *, now_ms: int) -> list[ResidentState]:
        """Presence and claims of every resident named, in that order; empty where unknown.

        After a commit whose answer was lost, this and `read_counts` wait until that commit has
        ended either way, so that what is read cannot be overtaken by it.
        """

    async def read_counts(self, offers: list[str], *, now_ms: int) -> list[OfferCount]:
        """Totals, and those days that are not over everywhere, of the offers named.

        By offer, the total first, then by day.
        """

    # Every write of an operator, a merchant or a sender names its author, and an entry of the audit
    # log is written with it; without one (`by` is None) there is no entry. An unchanged thing draws
    # no number, keeps its version and makes no entry. An author who has brands can't replace or
    # delete what another brand has, whoever was first: that raises ForeignBrand, and nothing is
    # written.

    async def put_brand(
        self, brand: Brand, *, expected: Expected = None, by: Author | None = None
    ) -> Written:
        """Write a brand, new or not. Raises VersionMoved."""

    async def put_fences(
        self, fences: list[FenceRow], *, expected: Expected = None, by: Author | None = None
    ) -> list[Written]:
        """Write fences in one transaction, so that they become live together; ids are distinct.

        An unchanged fence (equal bytes) draws no number and keeps its version: its `Written` has
        number 0. The `version` of the rows given is ignored.

        Raises:
            VersionMoved: one of them is not as expected; none is written.
        """

    async def put_together(
        self, parts: AsyncIterator[Rows], *, dry_run: bool = False, by: Author | None = None
    ) -> Together:
        """Write an import in one transaction and one line of the feed: a change of kind `batch`.

        Ids are distinct over all parts. A part is let go of before the next is asked for.

        Args:
            dry_run: only count.
        """

    async def read_batch(self, batch: str) -> dict[str, list[str]]:
        """What an import wrote: kind -> ids."""

    async def delete_fence(
        self, fence: str, *, expected: Expected = None, by: Author | None = None
    ) -> int | None:
        """Delete; the feed's number, or None if there was none. Raises VersionMoved."""

    async def put_offer(
        self, offer: Offer, *, expected: Expected = None, by: Author | None = None
    ) -> Written:
        """Write an offer, new or not. Raises VersionMoved."""

    async def delete_offer(
        self, offer: str, *, expected: Expected = None, by: Author | None = None
    ) -> int | None:
        """Delete; its claims and counts stay. The feed's number, or None if there was none.

        Raises VersionMoved.
        """

    async def create_residents(
        self, residents: dict[str, ResidentSettings], *, by: Author | None = None
    ) -> int:
        """Make residents without any preferences, all or none; the feed's number.

        Raises:
            AlreadyThere: one of them exists; the first of those ids is the argument.
        """

    async def import_residents(
        self, rows: list[ResidentRow], *, by: Author | None = None
    ) -> ResidentsImported:
        """Make residents who are not there, with their records, and append the records of those who
        are there and have none; whoever ever said anything stays as they are. Ids are distinct.
        """

    async def put_settings(
        self, resident: str, settings: ResidentSettings, *, by: Author | None = None
    ) -> int | None:
        """Replace a resident's settings; the feed's number, or None if there is none."""

    async def append_records(
        self,
        resident: str,
        records: tuple[Record, ...],
        *,
        version_before: int,
        by: Author | None = None,
    ) -> int | None:
        """Append what a resident said; their version becomes that of the last record.

        Returns:
            The feed's number, or None if there is no such resident.

        Raises:
            VersionMoved: the resident's version is not `version_before`.
            ValueError: there are no records.
        """

    async def put_key(self, key: KeyRow, *, by: Author | None = None) -> int:
        """Add a key, or replace that of the same id; the feed's number."""

    async def delete_key(self, key: str, *, by: Author | None = None) -> int | None:
        """Delete a key; the feed's number, or None if there was none."""

    async def audit(self, wanted: AuditFilter, *, limit: int) -> list[AuditEntry]:
        """Entries of the audit log, newest first."""

    async def keep_call(
        self, key: str, name: str, fingerprint: bytes, *, now_ms: int
    ) -> Kept | None:
        """Take the Idempotency-Key `name` of a key, so that nobody else does what it stands for.

        None: it was free, or its time (`kept.KEPT_MS`) was over, and the call is the caller's to
        do. Else what is known of the call that has it.
        """

    async def end_call(self, key: str, name: str, at_ms: int, answer: KeptAnswer | None) -> None:
        """Keep the answer of the call taken at `at_ms`; None: nobody knows whether it was done."""

    async def free_call(self, key: str, name: str, at_ms: int) -> None:
        """Give the key free again: the call did nothing."""

    async def commit(self, changes: Changes) -> Committed:
        """Make a group durable in one transaction, fsync included, before it returns.

        Rows are locked in the order of their ids. A claim is refused, alone, when its resident's
        number of claims is no longer `claims_before` (those of the same group counted), with
        `conflict`; when its offer's count has reached `budget_total` or `budget_day`; or, with
        `conflict`, when its id, code or (resident, decision) is there already. After a refused
        claim the same resident's later ones in the group are refused too, with `conflict`, since
        they were decided on top of it. A recall of a claim that is not `made` changes nothing; the
        budget that it frees is free for the claims of the same group, and a claim made in the
        group itself is recalled after it was made. A touch only ever raises `seen_ms`, and only of
        a presence that is there; it may come with the presence in one group.

        Raises:
            StoreUnavailable: it may or may not have become durable; read the states again.
        """

    async def claim_by_code(self, code: str) -> ClaimRecord | None:
        """The claim whose code this is."""

    async def claim_by_id(self, claim_or_decision: str) -> ClaimRecord | None:
        """The claim of that id, or the one that a decision of that id made."""

    async def redeem(self, redemption: Redemption) -> None:
        """Use a claim's code, once under any concurrency.

        Raises:
            RedemptionRefused: it was used, recalled, or its time (`at_ms`) is over.
        """

    async def redemption(self, redemption: str) -> Redemption | None:
        """The redemption of that id that stands."""

    async def roll_back(self, redemption: str, *, by: Author | None = None) -> bool:
        """Take a redemption back, so that its code can be used again; False if there is none."""
