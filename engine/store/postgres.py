"""The store on PostgreSQL, through asyncpg.

Each write is one statement, and so one round trip and one transaction, except where the docstring
says more. A connection of its own listens for the feed; a pool serves everything else.

Whatever the server or the wire does comes out as StoreUnavailable with nothing but the kind of the
error in its text: PostgreSQL's own messages may quote ids.
"""

import secrets
from typing import Final

import msgspec

from engine.changes import Changes, ClaimRefused, OfferCount, ResidentState
from engine.consent.record import Record, record_id
from engine.offers.offer import Brand, Offer
from engine.residents import ResidentSettings
from engine.store import rows
from engine.store.columns import ALL_DAYS, columns
from engine.store.port import (
    AlreadyThere,
    BrandRow,
    Change,
    ClaimRecord,
    Committed,
    FeedLost,
    FenceRow,
    KeyRow,
    OfferRow,
    Redemption,
    RedemptionRefused,
    ResidentRow,
    Snapshot,
    VersionMoved,
    Written,
    first_open_day,
    recent_since_ms,
)
from engine.store.wire import LONG_S, SQL, Wire

_encode: Final = msgspec.json.Encoder().encode


class PostgresStore:
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
        self._committer = int.from_bytes(secrets.token_bytes(8), signed=True)

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

    # The feed.

    async def changes_after(self, number: int, *, limit: int = 10_000) -> list[Change]:
        """The feed's next lines. Asks for the reader's own line too, to see that it is there."""
        async with self._wire.connection() as connection:
            found = await connection.fetch(SQL["changes_from"], number, limit + 1)
        changes = [Change(row["number"], row["kind"], row["id"]) for row in found]
        if number == 0:
            changes.insert(0, Change(0, "brand", ""))
        if (
            not changes
            or changes[0].number != number
            or changes[-1].number != number + len(changes) - 1
        ):
            raise FeedLost(number)
        return changes[1 : limit + 1]

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait for a notification; one that came since the last wait counts."""
        await self._wire.wait_for_change(timeout_s)

    # What a process holds in memory.

    async def snapshot(self, *, now_ms: int) -> Snapshot:
        """Everything, in one read-only transaction, fetched 20,000 rows at a time."""
        since_ms, day = recent_since_ms(now_ms), first_open_day(now_ms)
        async with self._wire.reading(LONG_S) as (connection, fetch):
            return Snapshot(
                number=await connection.fetchval(SQL["newest_change"]),
                brands=tuple([rows.brand_row(row) async for row in fetch("all_brands")]),
                fences=tuple([rows.fence_row(row) async for row in fetch("all_fences")]),
                offers=tuple([rows.offer_row(row) async for row in fetch("all_offers")]),
                residents=tuple(
                    await rows.resident_rows(fetch("all_residents"), fetch("all_records"))
                ),
                keys=tuple([rows.key_row(row) async for row in fetch("all_keys")]),
                states=tuple(
                    await rows.states(
                        fetch("all_states"),
                        fetch("all_recent_claims", since_ms),
                        fetch("all_claims_by_offer", since_ms),
                    )
                ),
                counts=tuple([rows.count(row) async for row in fetch("all_counts", day)]),
            )

    async def read_brands(self, ids: list[str]) -> list[BrandRow]:
        """Those that exist, by id."""
        return [rows.brand_row(row) for row in await self._wire.fetch("read_brands", ids)]

    async def read_fences(self, ids: list[str]) -> list[FenceRow]:
        """Those that exist, by id."""
        return [rows.fence_row(row) for row in await self._wire.fetch("read_fences", ids)]

    async def read_offers(self, ids: list[str]) -> list[OfferRow]:
        """Those that exist, by id."""
        return [rows.offer_row(row) for row in await self._wire.fetch("read_offers", ids)]

    async def read_keys(self, ids: list[str]) -> list[KeyRow]:
        """Those that exist, by id."""
        return [rows.key_row(row) for row in await self._wire.fetch("read_keys", ids)]

    async def read_residents(self, ids: list[str]) -> list[ResidentRow]:
        """Those that exist, by id, in one transaction with their records."""
        async with self._wire.reading() as (_, fetch):
            return await rows.resident_rows(
                fetch("read_residents", ids), fetch("read_records", ids)
            )

    async def read_states(self, ids: list[str], *, now_ms: int) -> list[ResidentState]:
        """The residents named, in the order given.

        Waits first for a commit of ours that may still be running after its answer was lost.
        """
        since_ms = recent_since_ms(now_ms)
        await self._wire.fetch("wait_for_committer", self._committer)
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

        Waits first for a commit of ours that may still be running after its answer was lost.
        """
        await self._wire.fetch("wait_for_committer", self._committer)
        found = await self._wire.fetch("read_counts", first_open_day(now_ms), offers)
        return [rows.count(row) for row in found]

    # What merchants, residents and the operator write.

    async def put_brand(self, brand: Brand) -> Written:
        """Write a brand."""
        return rows.written(await self._wire.row("put_brand", brand.id, _encode(brand)))

    async def put_offer(self, offer: Offer) -> Written:
        """Write an offer."""
        return rows.written(await self._wire.row("put_offer", offer.id, _encode(offer)))

    async def put_fences(self, fences: list[FenceRow]) -> list[Written]:
        """Write fences together, in one statement."""
        found = await self._wire.fetch(
            "put_fences",
            [fence.id for fence in fences],
            [fence.brand for fence in fences],
            [fence.feature for fence in fences],
        )
        written = {row["fence"]: rows.written(row) for row in found}
        return [written[fence.id] for fence in fences]

    async def delete_fence(self, fence: str) -> int | None:
        """Delete a fence."""
        return await self._wire.number("delete_fence", fence)

    async def delete_offer(self, offer: str) -> int | None:
        """Delete an offer; its claims and counts stay."""
        return await self._wire.number("delete_offer", offer)

    async def put_key(self, key: KeyRow) -> int:
        """Write a key."""
        number = await self._wire.number("put_key", key.id, _encode(key))
        assert number is not None
        return number

    async def delete_key(self, key: str) -> int | None:
        """Delete a key."""
        return await self._wire.number("delete_key", key)

    async def create_residents(self, residents: dict[str, ResidentSettings]) -> int:
        """Make residents, all or none, in one transaction of a few round trips."""
        ids = sorted(residents)
        bodies = [_encode(residents[resident]) for resident in ids]
        async with self._wire.connection() as connection, connection.transaction():
            made = await connection.fetch(SQL["create_residents"], ids, bodies)
            if len(made) < len(ids):
                raise AlreadyThere(min(set(ids) - {row["id"] for row in made}))
            number: int = await connection.fetchval(SQL["append_changes"], "resident", ids)
            return number

    async def put_settings(self, resident: str, settings: ResidentSettings) -> int | None:
        """Replace a resident's settings."""
        return await self._wire.number("put_settings", resident, _encode(settings))

    async def append_records(
        self, resident: str, records: tuple[Record, ...], *, version_before: int
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
        )
        number: int | None = row["number"]
        if number is None and row["version_found"] is not None:
            raise VersionMoved(row["version_found"])
        return number

    # What pings make durable.

    async def commit(self, changes: Changes) -> Committed:
        """Commit a group: one statement, one round trip, one fsync."""
        row = await self._wire.row("commit_group", self._committer, *columns(changes))
        return Committed(
            refused=tuple(map(ClaimRefused, row["refused"], row["reasons"])),
            counts=tuple(
                OfferCount(offer, None if day == ALL_DAYS else day, claims)
                for offer, day, claims in zip(
                    row["offers"], row["days"], row["counts"], strict=True
                )
            ),
        )

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

    async def redemption(self, redemption: str) -> Redemption | None:
        """The redemption of that id that stands."""
        for row in await self._wire.fetch("redemption", redemption):
            return Redemption(**row)
        return None

    async def roll_back(self, redemption: str) -> bool:
        """Take a redemption back; False if there is none."""
        return bool(await self._wire.fetch("roll_back", redemption))
