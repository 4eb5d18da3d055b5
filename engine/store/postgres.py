"""The store on PostgreSQL, through asyncpg.

Each write is one statement, and so one round trip and one transaction, except where the docstring
says more. A connection of its own listens for the feed; a pool serves everything else.

Whatever the server or the wire does comes out as StoreUnavailable with nothing but the kind of the
error in its text: PostgreSQL's own messages may quote ids.
"""

import secrets
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from engine.changes import Changes, ClaimRefused, OfferCount, ResidentState
from engine.consent.record import Record, record_id
from engine.consent.row import FOREVER_MS
from engine.offers.offer import Brand, Offer
from engine.residents import ResidentSettings
from engine.store import rows
from engine.store.audit import AuditEntry, AuditFilter, Author
from engine.store.columns import ALL_DAYS, columns, document, staged
from engine.store.kept import KEPT_MS, Kept, KeptAnswer
from engine.store.port import (
    AlreadyThere,
    BrandRow,
    ClaimRecord,
    Committed,
    Expected,
    FencePage,
    FenceRow,
    KeyRow,
    OfferRow,
    Redemption,
    RedemptionRefused,
    ResidentRow,
    ResidentsImported,
    Rows,
    Snapshot,
    Together,
    VersionMoved,
    Written,
)
from engine.store.postgres_guards import PostgresGuards, protection_row
from engine.store.postgres_nodes import PostgresNodes
from engine.store.postgres_pruning import PostgresPruning
from engine.store.postgres_rights import PostgresRights
from engine.store.recent import first_open_day, recent_since_ms
from engine.store.told import TakeResidents
from engine.store.wire import LONG_S, SQL, Wire

_encode: Final = msgspec.json.Encoder().encode


class PostgresStore(PostgresNodes, PostgresPruning, PostgresGuards, PostgresRights):
    """Store on a PostgreSQL server, version 14 or newer; see `port.Store` for the methods.

    Args:
        url: ``postgresql://user:password@host:port/database``. A pooler between us and the server
            must keep sessions, because we listen and prepare statements.
        pool_min, pool_max: connections, besides the one that listens.
        connect_s: longest time for a connection to be made, or to become free.
        command_s: longest time of one command. The server is told the same limit, so that a
            command whose answer we gave up does not run on for long.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_min: int = 2,
        pool_max: int = 8,
        connect_s: float = 2.0,
        command_s: float = 5.0,
    ) -> None:
        self._wire = Wire(
            url, pool_min=pool_min, pool_max=pool_max, connect_s=connect_s, command_s=command_s
        )
        self._committer = _new_committer()
        self._lost: set[int] = set()
        """Committers whose last answer was lost, so that it may still become durable."""

    async def open(self) -> None:
        """Connect, migrate, and be ready.

        Raises:
            SchemaRefused: the database was made by another code than this one.
        """
        await self._wire.open()

    async def close(self) -> None:
        """Give back all connections; at most about 2 s."""
        await self._wire.close()

    async def secret(self, name: str) -> bytes:
        """32 random bytes, the same for everybody who asks for this name."""
        async with self._wire.connection() as connection:
            value: bytes = await connection.fetchval(SQL["secret"], name, secrets.token_bytes(32))
            return value

    # What a process holds in memory.

    async def snapshot(self, *, now_ms: int, take: TakeResidents | None = None) -> Snapshot:
        """Everything, in one read-only transaction, fetched 2,000 rows at a time."""
        since_ms, day = recent_since_ms(now_ms), first_open_day(now_ms)
        async with self._wire.reading(LONG_S) as (connection, fetch):
            if take is not None:
                with rows.uncollected():
                    await rows.take_residents(fetch("all_said", FOREVER_MS), take)
            return Snapshot(
                number=await connection.fetchval(SQL["newest_change"]),
                brands=tuple([rows.brand_row(row) async for row in fetch("all_brands")]),
                fences=tuple([rows.fence_row(row) async for row in fetch("all_fences")]),
                offers=tuple([rows.offer_row(row) async for row in fetch("all_offers")]),
                keys=tuple([rows.key_row(row) async for row in fetch("all_keys")]),
                states=tuple(
                    await rows.states(
                        fetch("all_states"),
                        fetch("all_recent_claims", since_ms),
                        fetch("all_claims_by_offer", since_ms),
                    )
                ),
                counts=tuple([rows.count(row) async for row in fetch("all_counts", day)]),
                protections=tuple([protection_row(r) async for r in fetch("all_protections")]),
            )

    async def read_brands(self, ids: list[str]) -> list[BrandRow]:
        """Those that exist, by id."""
        return [rows.brand_row(row) for row in await self._wire.fetch("read_brands", ids)]

    async def read_fences(self, ids: list[str]) -> list[FenceRow]:
        """Those that exist, by id."""
        return [rows.fence_row(row) for row in await self._wire.fetch("read_fences", ids)]

    async def page_fences(self, asked: FencePage) -> tuple[list[FenceRow], bool]:
        """Some fences by id, and whether more follow."""
        given = (asked.after, asked.brands, asked.limit, asked.bytes_max)
        if asked.ids is None:
            found = await self._wire.fetch("page_fences", *given)
        else:
            found = await self._wire.fetch("page_fences_named", *given, asked.ids)
        return [rows.fence_row(row) for row in found], bool(found) and found[0]["more"]

    async def page_fence_ids(
        self, *, after: str, brands: tuple[str, ...] | None, limit: int
    ) -> list[str]:
        """Some ids of fences."""
        found = await self._wire.fetch("page_fence_ids", after, brands, limit)
        return [row["id"] for row in found]

    async def read_offers(self, ids: list[str]) -> list[OfferRow]:
        """Those that exist, by id."""
        return [rows.offer_row(row) for row in await self._wire.fetch("read_offers", ids)]

    async def read_keys(self, ids: list[str]) -> list[KeyRow]:
        """Those that exist, by id."""
        return [rows.key_row(row) for row in await self._wire.fetch("read_keys", ids)]

    async def read_residents(self, ids: list[str], *, ahead: bool = False) -> list[ResidentRow]:
        """Those that exist, by id. In one statement, because a resident's "no" waits for it."""
        found = await self._wire.fetch("read_residents", ids, ahead=ahead)
        return [rows.resident_row(row) for row in found]

    async def read_states(self, ids: list[str], *, now_ms: int) -> list[ResidentState]:
        """The residents named, in the order given.

        Sees first to it that no commit of ours whose answer was lost becomes durable any more.
        """
        since_ms = recent_since_ms(now_ms)
        await self._settle_commits()
        async with self._wire.reading() as (_, fetch):
            states = await rows.states(
                fetch("read_states", ids),
                fetch("read_recent_claims", since_ms, ids),
                fetch("read_claims_by_offer", since_ms, ids),
            )
        found = {state.resident: state for state in states}
        return [found.get(resident) or ResidentState(resident=resident) for resident in ids]

    async def read_counts(self, offers: list[str], *, now_ms: int) -> list[OfferCount]:
        """Totals and open days, by offer and day; a total comes first.

        Sees first to it that no commit of ours whose answer was lost becomes durable any more.
        """
        await self._settle_commits()
        found = await self._wire.fetch("read_counts", first_open_day(now_ms), offers)
        return [rows.count(row) for row in found]

    # What merchants, residents and the operator write.

    async def put_brand(
        self, brand: Brand, *, expected: Expected = None, by: Author | None = None
    ) -> Written:
        """Write a brand."""
        row = await self._wire.row("put_brand", brand.id, document(brand), expected, rows.who(by))
        return rows.written(row)

    async def put_offer(
        self, offer: Offer, *, expected: Expected = None, by: Author | None = None
    ) -> Written:
        """Write an offer."""
        row = await self._wire.row(
            "put_offer", offer.id, offer.brand, document(offer), expected, rows.who(by)
        )
        return rows.written(row)

    async def put_fences(
        self, fences: list[FenceRow], *, expected: Expected = None, by: Author | None = None
    ) -> list[Written]:
        """Write fences together, in one statement."""
        found = await self._wire.fetch(
            "put_fences",
            [fence.id for fence in fences],
            [fence.brand for fence in fences],
            [fence.feature for fence in fences],
            expected,
            rows.who(by),
        )
        written = {row["fence"]: rows.written(row) for row in found}
        return [written[fence.id] for fence in fences]

    async def delete_fence(
        self, fence: str, *, expected: Expected = None, by: Author | None = None
    ) -> int | None:
        """Delete a fence."""
        return rows.deleted(await self._wire.row("delete_fence", fence, expected, rows.who(by)))

    async def delete_offer(
        self, offer: str, *, expected: Expected = None, by: Author | None = None
    ) -> int | None:
        """Delete an offer; its claims and counts stay."""
        return rows.deleted(await self._wire.row("delete_offer", offer, expected, rows.who(by)))

    async def put_together(
        self, parts: AsyncIterator[Rows], *, dry_run: bool = False, by: Author | None = None
    ) -> Together:
        """Write an import: rows are staged part by part, then written in one statement.

        The lock of the feed is taken only when all rows are written, for one line.
        """
        async with self._wire.connection() as connection, connection.transaction():
            await connection.execute(SQL["make_staging"])
            async for part in parts:
                await connection.execute(SQL["stage_rows"], *staged(part))
            await connection.execute("set local statement_timeout = 0")
            if dry_run:
                row = await connection.fetchrow(SQL["compare_staged"], timeout=LONG_S)
            else:
                batch = secrets.token_hex(12)
                row = await connection.fetchrow(
                    SQL["put_staged"], batch, rows.who(by), timeout=LONG_S
                )
            assert row is not None
            return Together(**row)

    async def read_batch(self, batch: str) -> dict[str, list[str]]:
        """What an import wrote."""
        ids: dict[str, list[str]] = {}
        for part in await self._wire.fetch("read_batch", batch):
            ids.setdefault(part["kind"], []).extend(part["ids"])
        return ids

    async def put_key(self, key: KeyRow, *, by: Author | None = None) -> int:
        """Write a key."""
        number = await self._wire.number("put_key", key.id, _encode(key), rows.who(by))
        assert number is not None
        return number

    async def delete_key(self, key: str, *, by: Author | None = None) -> int | None:
        """Delete a key."""
        return await self._wire.number("delete_key", key, rows.who(by))

    async def audit(self, wanted: AuditFilter, *, limit: int) -> list[AuditEntry]:
        """Entries of the audit log, newest first."""
        found = await self._wire.fetch(
            "audit",
            wanted.before,
            wanted.kind,
            wanted.id,
            wanted.since_ms,
            wanted.brands,
            limit,
        )
        return [rows.audit_entry(row) for row in found]

    async def keep_call(
        self, key: str, name: str, fingerprint: bytes, *, now_ms: int
    ) -> Kept | None:
        """Take an Idempotency-Key, or see what has it; one that was just given free is taken."""
        while True:
            if await self._wire.fetch(
                "keep_call", key, name, fingerprint, now_ms, now_ms - KEPT_MS
            ):
                return None
            for row in await self._wire.fetch("kept_call", key, name):
                return rows.kept(row)

    async def end_call(self, key: str, name: str, at_ms: int, answer: KeptAnswer | None) -> None:
        """Keep the answer of a call."""
        body = None if answer is None else msgspec.msgpack.encode(answer)
        state = "lost" if answer is None else "done"
        await self._wire.fetch("end_call", key, name, at_ms, state, body)

    async def free_call(self, key: str, name: str, at_ms: int) -> None:
        """Give an Idempotency-Key free again."""
        await self._wire.fetch("free_call", key, name, at_ms)

    async def create_residents(
        self, residents: dict[str, ResidentSettings], *, by: Author | None = None
    ) -> int:
        """Make residents, all or none, in one transaction of a few round trips."""
        ids = sorted(residents)
        bodies = [_encode(residents[resident]) for resident in ids]
        async with self._wire.connection() as connection, connection.transaction():
            made = await connection.fetch(SQL["create_residents"], ids, bodies)
            if len(made) < len(ids):
                raise AlreadyThere(min(set(ids) - {row["id"] for row in made}))
            count = len(ids)
            await connection.execute(
                SQL["note"],
                rows.who(by),
                "resident",
                ids,
                [None] * count,
                [0] * count,
                ["created"] * count,
            )
            number: int = await connection.fetchval(SQL["append_changes"], "resident", ids)
            return number

    async def import_residents(
        self, rows_: list[ResidentRow], *, by: Author | None = None
    ) -> ResidentsImported:
        """Make residents with what they said, in one statement."""
        said = [(row.id, record) for row in rows_ for record in row.records]
        done = await self._wire.row(
            "import_residents",
            [row.id for row in rows_],
            [_encode(row.settings) for row in rows_],
            [owner for owner, _ in said],
            [record.version for _, record in said],
            [record_id(record) for _, record in said],
            [_encode(record) for _, record in said],
            rows.who(by),
        )
        return ResidentsImported(done["number"], frozenset(done["made"]), frozenset(done["said"]))

    async def put_settings(
        self, resident: str, settings: ResidentSettings, *, by: Author | None = None
    ) -> int | None:
        """Replace a resident's settings."""
        return await self._wire.number("put_settings", resident, _encode(settings), rows.who(by))

    async def append_records(
        self,
        resident: str,
        records: tuple[Record, ...],
        *,
        version_before: int,
        by: Author | None = None,
    ) -> int | None:
        """Append what a resident said."""
        if not records:
            raise ValueError("records must not be empty")
        row = await self._wire.row(
            "append_records",
            resident,
            version_before,
            [record.version for record in records],
            [record_id(record) for record in records],
            [_encode(record) for record in records],
            rows.who(by),
        )
        number: int | None = row["number"]
        if number is None and row["version_found"] is not None:
            raise VersionMoved(row["version_found"])
        return number

    # What pings make durable.

    async def commit(self, changes: Changes) -> Committed:
        """Commit a group: one statement, one round trip, one fsync."""
        committer = self._committer
        try:
            row = await self._wire.row("commit_group", committer, *columns(changes))
        except BaseException:
            self._lost.add(committer)
            self._committer = _new_committer()
            raise
        if changes.tells:
            self._wire.told.set()
        return Committed(
            refused=tuple(map(ClaimRefused, row["refused"], row["reasons"])),
            counts=tuple(
                OfferCount(offer, None if day == ALL_DAYS else day, claims)
                for offer, day, claims in zip(
                    row["offers"], row["days"], row["counts"], strict=True
                )
            ),
        )

    async def _settle_commits(self) -> None:
        """Wait for a commit under way, and fence off lost ones that a server may yet do."""
        for committer in tuple(self._lost):
            await self._wire.fetch("revoke_committer", committer)
            self._lost.discard(committer)  # another reader may have been faster
        await self._wire.fetch("wait_for_committer", self._committer)

    async def claim_by_code(self, code: str) -> ClaimRecord | None:
        """The claim whose code this is."""
        return rows.claim_record(await self._wire.fetch("claim_by_code", code))

    async def claim_by_id(self, claim_or_decision: str) -> ClaimRecord | None:
        """The claim of that id, or the one that a decision of that id made."""
        return rows.claim_record(await self._wire.fetch("claim_by_id", claim_or_decision))

    async def redeem(self, redemption: Redemption) -> None:
        """Use a claim's code, once under any concurrency."""
        row = await self._wire.row(
            "redeem", redemption.claim, redemption.id, redemption.at_ms, redemption.till
        )
        if row["redeem"] is not None:
            raise RedemptionRefused(row["redeem"])
        self._wire.told.set()

    async def redemption(self, redemption: str) -> Redemption | None:
        """The redemption of that id that stands."""
        for row in await self._wire.fetch("redemption", redemption):
            return Redemption(**row)
        return None

    async def roll_back(self, redemption: str, *, by: Author | None = None) -> bool:
        """Take a redemption back; False if there is none."""
        gone = await self._wire.fetch("roll_back", redemption, rows.who(by))
        self._wire.told.set()
        return bool(gone)


def _new_committer() -> int:
    """Whose commits these are; only a lost answer makes it matter."""
    return int.from_bytes(secrets.token_bytes(8), signed=True)
