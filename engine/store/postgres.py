"""The store on PostgreSQL, through asyncpg.

Each write is one statement, and so one round trip and one transaction, except where the docstring
says more. A connection of its own listens for the feed; a pool serves everything else.

Whatever the server or the wire does comes out as StoreUnavailable with nothing but the kind of the
error in its text: PostgreSQL's own messages may quote ids.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import asyncpg
import asyncpg.pool
import msgspec

from engine.changes import (
    Changes,
    ClaimRefused,
    ClaimRow,
    OfferCount,
    ResidentState,
)
from engine.consent.record import Record, record_id
from engine.offers.offer import Brand, Offer
from engine.residents import ResidentSettings
from engine.store.columns import ALL_DAYS, columns, read_made, read_stays
from engine.store.migrate import load_migrations, migrate
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
    StoreUnavailable,
    VersionMoved,
    Written,
    first_open_day,
    recent_since_ms,
)
from engine.store.queries import load_queries

CHANNEL: Final = "passby_changes"

_ROWS_AT_ONCE: Final = 20_000
_LONG_S: Final = 600.0
_CLOSE_S: Final = 2.0

_SQL: Final = load_queries()
_encode: Final = msgspec.json.Encoder().encode
_brand: Final = msgspec.json.Decoder(Brand)
_offer: Final = msgspec.json.Decoder(Offer)
_settings: Final = msgspec.json.Decoder(ResidentSettings)
_record: Final = msgspec.json.Decoder(Record)
_key: Final = msgspec.json.Decoder(KeyRow)

Fetch = Callable[..., AsyncIterator[asyncpg.Record]]


class StoreBroken(Exception):
    """PostgreSQL refused what we asked: a mistake in this code, never a state of the server."""


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
        connect_s: float = 5.0,
        command_s: float = 10.0,
    ) -> None:
        self._url = url
        self._sizes = (pool_min, pool_max)
        self._connect_s = connect_s
        self._command_s = command_s
        self._pool: asyncpg.Pool | None = None
        self._listener: asyncpg.Connection | None = None
        self._grown = asyncio.Event()
        self._committer = int.from_bytes(secrets.token_bytes(8), signed=True)

    async def open(self) -> None:
        """Connect, migrate, and be ready.

        Raises:
            SchemaRefused: the database was made by another code than this one.
        """
        if self._pool is not None:
            raise RuntimeError("the store is open already")
        try:
            await self._migrate()
            with _told():
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=self._sizes[0],
                    max_size=self._sizes[1],
                    reset=_keep,
                    timeout=self._connect_s,
                    command_timeout=self._command_s,
                    server_settings=self._server_settings(),
                )
            await self._listen()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give back all connections; at most about 2 s."""
        listener, self._listener = self._listener, None
        pool, self._pool = self._pool, None
        if listener is not None:
            await _close(listener)
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await pool.close()
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                pool.terminate()

    async def secret(self, name: str) -> bytes:
        """32 random bytes, the same for everybody who asks for this name."""
        async with self._connection() as connection:
            value: bytes = await connection.fetchval(_SQL["secret"], name, secrets.token_bytes(32))
            return value

    # The feed.

    async def changes_after(self, number: int, *, limit: int = 10_000) -> list[Change]:
        """The feed's next lines. Asks for the reader's own line too, to see that it is there."""
        async with self._connection() as connection:
            rows = await connection.fetch(_SQL["changes_from"], number, limit + 1)
            changes = [Change(row["number"], row["kind"], row["id"]) for row in rows]
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
        if self._listener is None or self._listener.is_closed():
            await self._listen()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._grown.wait()
        self._grown.clear()

    # What a process holds in memory.

    async def snapshot(self, *, now_ms: int) -> Snapshot:
        """Everything, in one read-only transaction, fetched 20,000 rows at a time."""
        since_ms, day = recent_since_ms(now_ms), first_open_day(now_ms)
        async with self._reading(_LONG_S) as (connection, fetch):
            return Snapshot(
                number=await connection.fetchval(_SQL["newest_change"]),
                brands=tuple([_brand_row(row) async for row in fetch("all_brands")]),
                fences=tuple([_fence_row(row) async for row in fetch("all_fences")]),
                offers=tuple([_offer_row(row) async for row in fetch("all_offers")]),
                residents=tuple(await _residents(fetch("all_residents"), fetch("all_records"))),
                keys=tuple([_key.decode(row["document"]) async for row in fetch("all_keys")]),
                states=tuple(
                    await _states(
                        fetch("all_states"),
                        fetch("all_recent_claims", since_ms),
                        fetch("all_claims_by_offer"),
                    )
                ),
                counts=tuple([_count(row) async for row in fetch("all_counts", day)]),
            )

    async def read_brands(self, ids: list[str]) -> list[BrandRow]:
        """Those that exist, by id."""
        return [_brand_row(row) for row in await self._fetch("read_brands", ids)]

    async def read_fences(self, ids: list[str]) -> list[FenceRow]:
        """Those that exist, by id."""
        return [_fence_row(row) for row in await self._fetch("read_fences", ids)]

    async def read_offers(self, ids: list[str]) -> list[OfferRow]:
        """Those that exist, by id."""
        return [_offer_row(row) for row in await self._fetch("read_offers", ids)]

    async def read_keys(self, ids: list[str]) -> list[KeyRow]:
        """Those that exist, by id."""
        return [_key.decode(row["document"]) for row in await self._fetch("read_keys", ids)]

    async def read_residents(self, ids: list[str]) -> list[ResidentRow]:
        """Those that exist, by id, in one transaction with their records."""
        async with self._reading(self._command_s) as (_, fetch):
            return await _residents(fetch("read_residents", ids), fetch("read_records", ids))

    async def read_states(self, ids: list[str], *, now_ms: int) -> list[ResidentState]:
        """The residents named, in the order given.

        Waits first for a commit of ours that may still be running after its answer was lost.
        """
        since_ms = recent_since_ms(now_ms)
        await self._fetch("wait_for_committer", self._committer)
        async with self._reading(self._command_s) as (_, fetch):
            states = await _states(
                fetch("read_states", ids),
                fetch("read_recent_claims", since_ms, ids),
                fetch("read_claims_by_offer", ids),
            )
        found = {state.resident: state for state in states}
        return [found.get(resident) or ResidentState(resident=resident) for resident in ids]

    async def read_counts(self, offers: list[str], *, now_ms: int) -> list[OfferCount]:
        """Totals and open days, by offer and day; a total comes first.

        Waits first for a commit of ours that may still be running after its answer was lost.
        """
        await self._fetch("wait_for_committer", self._committer)
        rows = await self._fetch("read_counts", first_open_day(now_ms), offers)
        return [_count(row) for row in rows]

    # What merchants, residents and the operator write.

    async def put_brand(self, brand: Brand) -> Written:
        """Write a brand."""
        return _written(await self._row("put_brand", brand.id, _encode(brand)))

    async def put_offer(self, offer: Offer) -> Written:
        """Write an offer."""
        return _written(await self._row("put_offer", offer.id, _encode(offer)))

    async def put_fences(self, fences: list[FenceRow]) -> list[Written]:
        """Write fences together, in one statement."""
        rows = await self._fetch(
            "put_fences",
            [fence.id for fence in fences],
            [fence.brand for fence in fences],
            [fence.feature for fence in fences],
        )
        written = {row["fence"]: _written(row) for row in rows}
        return [written[fence.id] for fence in fences]

    async def delete_fence(self, fence: str) -> int | None:
        """Delete a fence."""
        return await self._number("delete_fence", fence)

    async def delete_offer(self, offer: str) -> int | None:
        """Delete an offer; its claims and counts stay."""
        return await self._number("delete_offer", offer)

    async def put_key(self, key: KeyRow) -> int:
        """Write a key."""
        number = await self._number("put_key", key.id, _encode(key))
        assert number is not None
        return number

    async def delete_key(self, key: str) -> int | None:
        """Delete a key."""
        return await self._number("delete_key", key)

    async def create_residents(self, residents: dict[str, ResidentSettings]) -> int:
        """Make residents, all or none, in one transaction of a few round trips."""
        ids = sorted(residents)
        bodies = [_encode(residents[resident]) for resident in ids]
        async with self._connection() as connection, connection.transaction():
            rows = await connection.fetch(_SQL["create_residents"], ids, bodies)
            if len(rows) < len(ids):
                raise AlreadyThere(min(set(ids) - {row["id"] for row in rows}))
            number: int = await connection.fetchval(_SQL["append_changes"], "resident", ids)
            return number

    async def put_settings(self, resident: str, settings: ResidentSettings) -> int | None:
        """Replace a resident's settings."""
        return await self._number("put_settings", resident, _encode(settings))

    async def append_records(
        self, resident: str, records: tuple[Record, ...], *, version_before: int
    ) -> int | None:
        """Append what a resident said."""
        if not records:
            raise ValueError("records must not be empty")
        row = await self._row(
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
        row = await self._row("commit_group", self._committer, *columns(changes))
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
        return _claim_record(await self._fetch("claim_by_code", code))

    async def claim_by_id(self, claim_or_decision: str) -> ClaimRecord | None:
        """The claim of that id, or the one that a decision of that id made."""
        return _claim_record(await self._fetch("claim_by_id", claim_or_decision))

    async def redeem(self, redemption: Redemption) -> None:
        """Use a claim's code, once under any concurrency."""
        row = await self._row(
            "redeem", redemption.claim, redemption.id, redemption.at_ms, redemption.till
        )
        if row["redeem"] is not None:
            raise RedemptionRefused(row["redeem"])

    async def redemption(self, redemption: str) -> Redemption | None:
        """The redemption of that id that stands."""
        for row in await self._fetch("redemption", redemption):
            return Redemption(**row)
        return None

    async def roll_back(self, redemption: str) -> bool:
        """Take a redemption back; False if there is none."""
        return bool(await self._fetch("roll_back", redemption))

    # The wire.

    def _server_settings(self) -> dict[str, str]:
        """What each of our sessions asks of the server."""
        return {
            "application_name": "passby",
            "jit": "off",
            "synchronous_commit": "on",
            "statement_timeout": str(int(self._command_s * 1_000)),
        }

    async def _migrate(self) -> None:
        """Apply migrations on a connection of its own, which may wait long for another process."""
        with _told():
            connection = await asyncpg.connect(
                self._url, timeout=self._connect_s, command_timeout=_LONG_S
            )
            try:
                await migrate(connection, load_migrations())
            finally:
                await _close(connection)

    async def _listen(self) -> None:
        """Listen for the feed on a connection of its own; wakes once, for what was missed."""
        if self._pool is None:
            raise StoreUnavailable("the store is closed")
        with _told():
            listener = await asyncpg.connect(
                self._url, timeout=self._connect_s, command_timeout=self._command_s
            )
            try:
                listener.add_termination_listener(self._wake)
                await listener.add_listener(CHANNEL, self._wake)
            except BaseException:
                listener.terminate()
                raise
        self._listener = listener
        self._grown.set()

    def _wake(self, *_: object) -> None:
        """The feed may have grown, or the connection that would tell us is gone."""
        self._grown.set()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """A connection of the pool."""
        if self._pool is None:
            raise StoreUnavailable("the store is closed")
        with _told():
            async with self._pool.acquire(timeout=self._connect_s) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def _reading(
        self, timeout_s: float
    ) -> AsyncIterator[tuple[asyncpg.pool.PoolConnectionProxy, Fetch]]:
        """One consistent read-only transaction: its connection, and a way to stream a query."""
        async with (
            self._connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            if timeout_s > self._command_s:
                await connection.execute("set local statement_timeout = 0")

            async def fetch(name: str, *args: Any) -> AsyncIterator[asyncpg.Record]:
                cursor = await connection.cursor(_SQL[name], *args, timeout=timeout_s)
                while rows := await cursor.fetch(_ROWS_AT_ONCE, timeout=timeout_s):
                    for row in rows:
                        yield row

            yield connection, fetch

    async def _fetch(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of a named query."""
        async with self._connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(_SQL[name], *args)
            return rows

    async def _row(self, name: str, *args: Any) -> asyncpg.Record:
        """The only row of a named query."""
        (row,) = await self._fetch(name, *args)
        return row

    async def _number(self, name: str, *args: Any) -> int | None:
        """The feed's number that a named write drew, or None if it found nothing to write."""
        for row in await self._fetch(name, *args):
            number: int = row["append_changes"]
            return number
        return None


async def _keep(_: asyncpg.Connection) -> None:
    """Give a connection back as it is: we leave no state on it, and a reset is a round trip."""


async def _close(connection: asyncpg.Connection) -> None:
    """Close a connection politely if that goes at once, else just drop it."""
    try:
        await connection.close(timeout=_CLOSE_S)
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()


# SQLSTATE classes that tell of the server's or the connection's state: connection exceptions,
# invalid authorization (rotated passwords), transactions in a state or a server that is read-only,
# serialization and deadlock, missing database, resources, operator intervention, system and
# internal errors. All else is about what we asked.
_STATES: Final = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX")


@contextlib.contextmanager
def _told() -> Any:
    """Turn what asyncpg raises into our errors, whose texts hold no value of any row."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or "XX000"
        if state.startswith(_STATES):
            raise StoreUnavailable(f"{type(error).__name__} ({state})") from None
        raise StoreBroken(f"{type(error).__name__} ({state})") from None
    except asyncpg.DataError as error:
        raise StoreBroken(type(error).__name__) from None
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError) as error:
        raise StoreUnavailable(type(error).__name__) from None


def _written(row: asyncpg.Record) -> Written:
    return Written(row["number"], row["version"], created=row["version"] == 1 and row["number"] > 0)


def _brand_row(row: asyncpg.Record) -> BrandRow:
    return BrandRow(_brand.decode(row["document"]), row["version"])


def _offer_row(row: asyncpg.Record) -> OfferRow:
    return OfferRow(_offer.decode(row["document"]), row["version"])


def _fence_row(row: asyncpg.Record) -> FenceRow:
    return FenceRow(
        id=row["id"], brand=row["brand"], feature=row["feature"], version=row["version"]
    )


def _count(row: asyncpg.Record) -> OfferCount:
    return OfferCount(row["offer"], None if row["day"] == ALL_DAYS else row["day"], row["claims"])


def _claim_row(row: asyncpg.Record) -> ClaimRow:
    return ClaimRow(
        resident=row["resident"],
        decision=row["decision"],
        made=read_made(row["made"]),
        made_ms=row["made_ms"],
    )


def _claim_record(rows: Iterable[asyncpg.Record]) -> ClaimRecord | None:
    for row in rows:
        return ClaimRecord(
            row=_claim_row(row),
            state=row["state"],
            recall_reason=row["recall_reason"],
            redemption=row["redemption"],
            why=row["why"],
        )
    return None


async def _residents(
    residents: AsyncIterator[asyncpg.Record], records: AsyncIterator[asyncpg.Record]
) -> list[ResidentRow]:
    """Residents with their records."""
    said: dict[str, list[Record]] = {}
    async for row in records:
        said.setdefault(row["resident"], []).append(_record.decode(row["body"]))
    return [
        ResidentRow(
            id=row["id"],
            settings=_settings.decode(row["settings"]),
            version=row["version"],
            records=tuple(said.pop(row["id"], ())),
        )
        async for row in residents
    ]


async def _states(
    states: AsyncIterator[asyncpg.Record],
    claims: AsyncIterator[asyncpg.Record],
    by_offer: AsyncIterator[asyncpg.Record],
) -> list[ResidentState]:
    """Residents' states from their presences, recent claims, and counts of claims."""
    recent: dict[str, list[ClaimRow]] = {}
    async for row in claims:
        recent.setdefault(row["resident"], []).append(_claim_row(row))
    standing: dict[str, dict[str, int]] = {}
    async for row in by_offer:
        standing.setdefault(row["resident"], {})[row["offer"]] = row["claims"]
    return [
        ResidentState(
            resident=row["resident"],
            stays=read_stays(row["stays"]),
            seen_ms=None if row["stays"] is None else row["seen_ms"],
            claims=tuple(recent.pop(row["resident"], ())),
            claims_by_offer=standing.pop(row["resident"], {}),
            claims_count=row["claims"],
        )
        async for row in states
    ]
