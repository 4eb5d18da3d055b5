"""Following the change feed: order, freshness, and what happens when it can't be followed."""

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.store.feed import Feed
from engine.store.memory import MemoryStore
from engine.store.port import Change, FeedLost, Store, StoreUnavailable
from engine.store.postgres import PostgresStore
from tests.contract_store import BRAND, KEY, SETTINGS, fence


class Follower:
    """A feed with a clock to turn, and what it was given to apply."""

    def __init__(self, store: Store, start: int = 0) -> None:
        self.now_ms = 1_000
        self.applied: list[list[Change]] = []
        self.stumble: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.feed = Feed(store, self.apply, start=start, poll_ms=20, mono_ms=lambda: self.now_ms)
        self.task = asyncio.create_task(self.feed.run())

    async def apply(self, changes: list[Change]) -> None:
        await self.gate.wait()
        if self.stumble is not None:
            raise self.stumble
        self.applied.append(changes)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def looked(self) -> None:
        """Return after a look at the feed that began after this call."""
        self.now_ms += 1
        async with asyncio.timeout(5):
            while self.feed.lease_until_mono_ms < self.now_ms + 2_000:  # noqa: ASYNC110 - not an event
                await asyncio.sleep(0.001)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def follower(store: MemoryStore) -> AsyncIterator[Follower]:
    follower = Follower(store)
    yield follower
    await follower.stop()


async def test_a_write_is_live_when_its_number_is_reached(
    store: MemoryStore, follower: Follower
) -> None:
    written = await store.put_brand(BRAND)
    await follower.feed.reached(written.number)

    assert follower.applied == [[Change(1, "brand", "cafe")]]
    assert follower.feed.number == 1
    await follower.feed.reached(1)
    await follower.feed.reached(0)


async def test_each_id_is_applied_once_with_its_newest_number(
    store: MemoryStore, follower: Follower
) -> None:
    await store.put_brand(BRAND)
    await store.put_fences([fence("door")])
    await store.put_brand(msgspec.structs.replace(BRAND, name="New"))
    await follower.feed.reached(3)

    assert follower.applied == [[Change(2, "fence", "door"), Change(3, "brand", "cafe")]]
    assert follower.feed.changes_applied == 3


async def test_following_begins_after_the_snapshot(store: MemoryStore) -> None:
    await store.put_brand(BRAND)
    follower = Follower(store, start=1)
    await store.put_fences([fence("door")])
    await follower.feed.reached(2)
    await follower.stop()

    assert follower.applied == [[Change(2, "fence", "door")]]


async def test_the_lease_counts_from_before_the_read(store: MemoryStore) -> None:
    follower = Follower(store)
    assert follower.feed.stale
    assert follower.feed.lag_ms == -1

    await follower.looked()
    assert follower.feed.lease_until_mono_ms == 1_001 + 2_000
    follower.now_ms += 1_999
    assert not follower.feed.stale
    assert follower.feed.lag_ms == 1_999
    follower.now_ms += 1
    assert follower.feed.stale
    await follower.stop()


async def test_no_lease_before_the_end_of_the_feed_is_in_memory(
    store: MemoryStore, follower: Follower
) -> None:
    await follower.looked()
    lease_ms = follower.feed.lease_until_mono_ms
    follower.gate.clear()
    follower.now_ms += 1_000
    await store.put_brand(BRAND)
    for _ in range(20):
        await asyncio.sleep(0)

    assert follower.feed.number == 0
    assert follower.feed.lease_until_mono_ms == lease_ms
    follower.now_ms = lease_ms
    assert follower.feed.stale
    follower.gate.set()
    await follower.looked()
    assert follower.feed.number == 1
    assert not follower.feed.stale


async def test_an_outage_lets_the_lease_run_out_and_is_followed_up(
    store: MemoryStore, follower: Follower
) -> None:
    await follower.looked()
    store.available = False
    async with asyncio.timeout(5):
        while follower.feed.failures < 2:  # noqa: ASYNC110 - not an event
            await asyncio.sleep(0.001)
    lease_ms, follower.now_ms = follower.feed.lease_until_mono_ms, follower.now_ms + 2_000
    assert follower.feed.stale
    with pytest.raises(StoreUnavailable):
        await follower.feed.reached(1, timeout_s=0.01)

    store.available = True
    written = await store.put_brand(BRAND)
    await follower.feed.reached(written.number)
    await follower.looked()
    assert follower.feed.lease_until_mono_ms > lease_ms


async def test_an_outage_while_applying_applies_again(
    store: MemoryStore, follower: Follower
) -> None:
    follower.stumble = StoreUnavailable("no rows now")
    await store.put_brand(BRAND)
    async with asyncio.timeout(5):
        while follower.feed.failures < 1:  # noqa: ASYNC110 - not an event
            await asyncio.sleep(0.001)
    follower.stumble = None
    await follower.feed.reached(1)

    assert follower.applied == [[Change(1, "brand", "cafe")]]


async def test_a_mistake_while_applying_surfaces(
    store: MemoryStore, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    await follower.looked()
    lease_ms = follower.feed.lease_until_mono_ms
    follower.stumble = KeyError("ann")
    await store.put_brand(BRAND)
    with caplog.at_level(logging.ERROR):
        with pytest.raises(StoreUnavailable, match="not followed"):
            await follower.feed.reached(1)
        with pytest.raises(KeyError):
            await follower.task

    assert "the change feed can't be followed: KeyError" in caplog.text
    assert "ann" not in caplog.text
    assert follower.feed.lease_until_mono_ms == lease_ms
    with pytest.raises(StoreUnavailable):
        await follower.feed.reached(1)


async def test_a_lost_feed_surfaces(store: MemoryStore) -> None:
    for _ in range(3):
        await store.put_brand(BRAND)
    del store.shared.feed[:2]
    follower = Follower(store, start=1)

    with pytest.raises(FeedLost):
        await follower.task
    assert follower.feed.stale


async def test_another_process_is_live_within_a_second(
    database_url: str, measured: list[str]
) -> None:
    """Two processes on PostgreSQL: what one writes is in the other's memory at once."""
    stores = [PostgresStore(database_url) for _ in range(2)]
    for store in stores:
        await store.open()
    follower = Follower(stores[1])
    loop = asyncio.get_running_loop()
    took_s: list[float] = []
    for n in range(50):
        began_s = loop.time()
        number = await stores[0].create_residents({f"r{n}": SETTINGS})
        await follower.feed.reached(number, timeout_s=1)
        took_s.append(loop.time() - began_s)
    await follower.stop()
    for store in stores:
        await store.close()

    assert [c.id for changes in follower.applied for c in changes] == [f"r{n}" for n in range(50)]
    measured.append(
        f"feed: written and live elsewhere after {sorted(took_s)[25] * 1_000:.1f} ms (median)"
    )


async def test_the_lease_goes_on_while_others_write_without_a_pause(store: MemoryStore) -> None:
    """Each look finds something new, and so never the end; but what it began with is in memory."""
    follower = Follower(store)
    await follower.looked()
    began_ms = follower.now_ms

    stale: list[bool] = []

    async def write_more(changes: list[Change]) -> None:
        await apply(changes)
        follower.now_ms += 100
        stale.append(follower.feed.stale)
        if follower.now_ms < began_ms + 5_000:
            await store.put_key(KEY)

    apply, follower.feed._apply = follower.feed._apply, write_more
    await follower.feed.reached(await store.put_key(KEY))
    await follower.looked()

    assert stale == [False] * 50
    await follower.stop()
