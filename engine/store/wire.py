"""The connections to PostgreSQL: a pool, one that listens, and what their errors become."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import asyncpg
import asyncpg.pool

from engine.store.migrate import load_migrations, migrate
from engine.store.port import ForeignBrand, StoreUnavailable
from engine.store.queries import load_queries

CHANNEL: Final = "passby_changes"
EVENTS_CHANNEL: Final = "passby_events"
NODES_CHANNEL: Final = "passby_nodes"
SQL: Final = load_queries()
AHEAD_MAX: Final = 3
"""Connections of the feed: one follows it, one says so, one looks how far others have followed."""
LONG_S: Final = 600.0
"""Longest time of a command while a process starts."""

_ROWS_AT_ONCE: Final = 2_000
_CLOSE_S: Final = 2.0

Fetch = Callable[..., AsyncIterator[asyncpg.Record]]


class StoreBroken(Exception):
    """PostgreSQL refused what we asked: a mistake in this code, never a state of the server."""


class Wire:
    """Connections to one database, and the named queries over them.

    Args: as of `PostgresStore`.
    """

    def __init__(
        self, url: str, *, pool_min: int, pool_max: int, connect_s: float, command_s: float
    ) -> None:
        self._url = url
        self._sizes = (pool_min, pool_max)
        self._connect_s = connect_s
        self._command_s = command_s
        self._pool: asyncpg.Pool | None = None
        self._ahead: asyncpg.Pool | None = None
        """For what must not stand in line with everything else: the feed."""
        self.listener: asyncpg.Connection | None = None
        self._grown = asyncio.Event()
        self.told = asyncio.Event()
        """Set when there may be new events."""
        self.when_applied: Callable[[], object] = _nobody
        """Called when a process may have applied more of the feed."""

    async def open(self) -> None:
        """Connect, migrate, and be ready.

        Raises:
            SchemaRefused: the database was made by another code than this one.
        """
        if self._pool is not None:
            raise RuntimeError("the store is open already")
        try:
            await self._migrate()
            self._pool = await self._connect(*self._sizes)
            self._ahead = await self._connect(1, AHEAD_MAX)
            await self._listen()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give back all connections; at most about 2 s."""
        listener, self.listener = self.listener, None
        pools = [pool for pool in (self._pool, self._ahead) if pool is not None]
        self._pool = self._ahead = None
        if listener is not None:
            await _close(listener)
        for pool in pools:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await pool.close()
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                pool.terminate()

    async def _connect(self, least: int, most: int) -> asyncpg.Pool:
        """A pool of connections."""
        with _told():
            return await asyncpg.create_pool(
                self._url,
                min_size=least,
                max_size=most,
                reset=_keep,
                timeout=self._connect_s,
                command_timeout=self._command_s,
                server_settings=self._server_settings(),
            )

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait for a notification; one that came since the last wait counts."""
        if self.listener is None or self.listener.is_closed():
            await self._listen()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._grown.wait()
        self._grown.clear()

    async def wait_for_events(self, timeout_s: float) -> None:
        """Wait for new events; some that came since the last wait count."""
        if self.listener is None or self.listener.is_closed():
            raise StoreUnavailable("nobody listens until the feed does so again")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.told.wait()
        self.told.clear()

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
                self._url, timeout=self._connect_s, command_timeout=LONG_S
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
                await listener.add_listener(EVENTS_CHANNEL, self._tell)
                await listener.add_listener(NODES_CHANNEL, self._tell_applied)
            except BaseException:
                listener.terminate()
                raise
        self.listener = listener
        self._grown.set()
        self.told.set()
        self.when_applied()

    def _wake(self, *_: object) -> None:
        """The feed may have grown, or the connection that would tell us is gone."""
        self._grown.set()

    def _tell(self, *_: object) -> None:
        """Another process may have given numbers to events."""
        self.told.set()

    def _tell_applied(self, *_: object) -> None:
        """A process may have applied more of the feed, or is gone."""
        self.when_applied()

    @contextlib.asynccontextmanager
    async def connection(
        self, *, ahead: bool = False
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        """A connection; `ahead` of all who stand in line for one."""
        pool = self._ahead if ahead else self._pool
        if pool is None:
            raise StoreUnavailable("the store is closed")
        with _told():
            async with pool.acquire(timeout=self._connect_s) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def reading(
        self, timeout_s: float = 0.0
    ) -> AsyncIterator[tuple[asyncpg.pool.PoolConnectionProxy, Fetch]]:
        """One consistent read-only transaction: its connection, and a way to stream a query.

        Args:
            timeout_s: longest time of one command, if more than `command_s`.
        """
        async with (
            self.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            longest_s = max(timeout_s, self._command_s)
            if longest_s > self._command_s:
                await connection.execute("set local statement_timeout = 0")

            ahead: set[asyncio.Future[list[asyncpg.Record]]] = set()

            async def fetch(name: str, *args: Any) -> AsyncIterator[asyncpg.Record]:
                cursor = await connection.cursor(SQL[name], *args, timeout=longest_s)
                rows = await cursor.fetch(_ROWS_AT_ONCE, timeout=longest_s)
                while rows:
                    # The database works on while those that are there are taken.
                    more = asyncio.ensure_future(cursor.fetch(_ROWS_AT_ONCE, timeout=longest_s))
                    ahead.add(more)
                    for row in rows:
                        yield row
                    rows = await more
                    ahead.discard(more)

            try:
                yield connection, fetch
            finally:
                # Where the reader gave up, else the transaction could not be ended.
                for more in ahead:
                    more.cancel()
                await asyncio.gather(*ahead, return_exceptions=True)

    async def fetch(self, name: str, *args: Any, ahead: bool = False) -> list[asyncpg.Record]:
        """All rows of a named query."""
        async with self.connection(ahead=ahead) as connection:
            rows: list[asyncpg.Record] = await connection.fetch(SQL[name], *args)
            return rows

    async def row(self, name: str, *args: Any) -> asyncpg.Record:
        """The only row of a named query."""
        (row,) = await self.fetch(name, *args)
        return row

    async def number(self, name: str, *args: Any) -> int | None:
        """The feed's number that a named write drew, or None if it found nothing to write."""
        for row in await self.fetch(name, *args):
            number: int = row["append_changes"]
            return number
        return None


def _nobody() -> None:
    """Nobody wants to know."""


async def _keep(_: asyncpg.Connection) -> None:
    """Give a connection back as it is: we leave no state on it, and a reset is a round trip."""


async def _close(connection: asyncpg.Connection) -> None:
    """Close a connection politely if that goes at once, else just drop it."""
    try:
        await connection.close(timeout=_CLOSE_S)
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()


_FOREIGN: Final = "PB001"
"""SQLSTATE that our trigger `keep_foreign` raises."""

# SQLSTATE classes that tell of the server's or the connection's state: connection exceptions,
# invalid authorization (rotated passwords), transactions in a state or a server that is read-only,
# serialization and deadlock, missing database, resources, operator intervention, system and
# internal errors. All else is about what we asked.
_STATES: Final = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX")


_DISK_FULL: Final = "53100"


@contextlib.contextmanager
def _told() -> Any:
    """Turn what asyncpg raises into our errors, whose texts hold no value of any row."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or "XX000"
        if state == _FOREIGN:
            raise ForeignBrand from None
        if state == _DISK_FULL:
            raise StoreUnavailable("the database's disk is full: make room there") from None
        if state.startswith(_STATES):
            raise StoreUnavailable(f"{type(error).__name__} ({state})") from None
        raise StoreBroken(f"{type(error).__name__} ({state})") from None
    except asyncpg.DataError as error:
        raise StoreBroken(type(error).__name__) from None
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError) as error:
        raise StoreUnavailable(type(error).__name__) from None
