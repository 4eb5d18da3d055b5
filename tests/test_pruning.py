"""The job that keeps tables bounded: what only PostgreSQL can show of it, and a whole service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from engine.app import assemble, clock_ms
from engine.config import CHANGE_AGE_MIN_S, Config, SettingRefused
from engine.store.memory import MemoryStore
from engine.store.port import FeedLost
from engine.store.postgres import PostgresStore
from engine.store.pruner import Lives, Pruner
from engine.store.pruning import ROWS_MAX, Pruned
from tests.contract_store import BRAND, KEY, NOW_MS
from tests.web_town import OPERATOR, serving

FORGET_ALL = Lives(events_ms=-1_000, events_max=0, changes_ms=-1_000, audit_ms=-1_000)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_one_process_forgets_at_a_time(database_url: str) -> None:
    """While another is at it, nothing is done, and nobody waits."""
    async with opened(database_url) as store:
        for _ in range(3):
            await store.put_key(KEY)
        other = await asyncpg.connect(database_url)
        pruner = Pruner(store, FORGET_ALL, clock_ms=lambda: NOW_MS)
        try:
            async with other.transaction():
                row = await other.fetchrow("select * from prune(0, 0, 0, 1)")
                assert row is not None
                assert not row["busy"]
                assert await store.prune(now_ms=NOW_MS, changes_ms=-1_000, audit_ms=0) is None
                await pruner.prune()
                assert pruner.pruned.total() == 0
        finally:
            await other.close()
        await pruner.prune()

        assert +pruner.pruned == {"changes": 1}


async def test_the_audit_log_can_only_be_shortened_by_age(database_url: str) -> None:
    async with opened(database_url):
        connection = await asyncpg.connect(database_url)
        try:
            await connection.fetch("select * from prune(0, 0, 0, 1)")
            for statement in ("delete from audit", "update audit set id = ''", "truncate audit"):
                with pytest.raises(asyncpg.RaiseError, match="append-only"):
                    await connection.execute(statement)
        finally:
            await connection.close()


async def test_much_is_forgotten_in_short_transactions(
    database_url: str, measured: list[str]
) -> None:
    """As after a week without; each one is short, and whoever writes does not wait for them."""
    lines = 8 * ROWS_MAX
    async with opened(database_url) as store:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute(
                "insert into changes (number, kind, id, at) select n, 'key', 'k', "
                "now() - interval '8 days' from generate_series(1, $1::integer) as n",
                lines,
            )
        finally:
            await connection.close()
        loop = asyncio.get_running_loop()
        took_s: list[float] = []
        while True:
            began_s = loop.time()
            done = await store.prune(now_ms=NOW_MS, changes_ms=7 * 86_400_000, audit_ms=None)
            took_s.append(loop.time() - began_s)
            if done == Pruned():
                break
        assert await store.put_key(KEY) == lines + 1
        assert len(await store.changes_after(lines)) == 1
    measured.append(
        f"pruning: {lines:,} lines of the feed in {sum(took_s):.2f} s, {max(took_s) * 1_000:.0f} "
        f"ms at once at most; {took_s[-1] * 1_000:.1f} ms where there is nothing"
    )
    assert len(took_s) == 9


async def test_a_process_that_was_away_for_longer_ends_and_starts_anew(tmp_path: Path) -> None:
    """It misses nothing: it refuses, its part ends it, and the next start holds all there is."""
    config = Config(data=tmp_path, operator_key=OPERATOR, poll_ms=10)
    store = MemoryStore()
    ended = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        await store.open()
        ctx = await assemble(config, store, stack, ended.set)
        writer = MemoryStore(store.shared)
        await writer.open()
        store.available = False
        await writer.put_brand(BRAND)
        await writer.put_key(KEY)
        await Pruner(writer, FORGET_ALL, clock_ms=clock_ms).prune()
        store.available = True
        await asyncio.wait_for(ended.wait(), 10)

        assert ctx.engine.book.brands == {}
        with pytest.raises(FeedLost):
            await store.changes_after(ctx.feed.number)
        assert ctx.feed.lease_until_mono_ms <= ctx.mono_ms() + config.lease_ms
    async with contextlib.AsyncExitStack() as stack:
        again = MemoryStore(store.shared)
        await again.open()
        ctx = await assemble(config, again, stack, ended.set)
        assert list(ctx.engine.book.brands) == [BRAND.id]


async def test_what_was_forgotten_is_counted(tmp_path: Path) -> None:
    """By a running service, in its metrics."""
    config = Config(data=tmp_path, operator_key=OPERATOR)
    async with contextlib.AsyncExitStack() as stack:
        store = MemoryStore()
        await store.open()
        ctx = await assemble(config, store, stack, lambda: None)
        for _ in range(5):
            await store.put_key(KEY)
        await Pruner(store, FORGET_ALL, clock_ms=clock_ms).prune()
        ctx.pruner.pruned["changes"] += 5
        here = await stack.enter_async_context(serving(ctx))
        lines = (await here.must("GET", "/metrics", key=None)).splitlines()

    assert "passby_pruned_changes 5.0" in lines
    assert "passby_pruned_calls 0.0" in lines


def test_a_feed_is_kept_for_a_minute_at_least() -> None:
    with pytest.raises(SettingRefused, match="change_age_max_s must be 60 or more"):
        Config(change_age_max_s=CHANGE_AGE_MIN_S - 1)
