"""When a write is in force everywhere: who is waited for, how long, and who is not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.store.everywhere import MARGIN_MS, Everywhere
from engine.store.feed import Feed
from engine.store.memory import MemoryStore
from engine.store.port import Change, StoreUnavailable
from engine.store.shared import Shared
from tests.contract_store import KEY

LEASE_MS = 2_000
PATIENCE_MS = LEASE_MS + MARGIN_MS


class Clock:
    """A monotonic clock to turn."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Process:
    """One that follows the feed, with a clock that has nothing to do with the others'."""

    def __init__(self, shared: Shared, now_ms: int) -> None:
        self.store = MemoryStore(shared)
        self.clock = Clock(now_ms)
        self.applies = asyncio.Event()
        self.applies.set()
        self.feed = Feed(
            self.store, self._apply, start=0, poll_ms=5, lease_ms=LEASE_MS, mono_ms=self.clock
        )
        self.everywhere = Everywhere(self.store, self.feed, mono_ms=self.clock)
        self._tasks: list[asyncio.Task[None]] = []

    async def _apply(self, _: list[Change]) -> None:
        await self.applies.wait()

    async def start(self) -> "Process":
        await self.store.open()
        self._tasks = [
            asyncio.create_task(work)
            for work in (self.feed.run(), self.everywhere.run(), self.everywhere.announce())
        ]
        await self.feed.looked()
        return self

    async def freeze(self) -> None:
        """Do nothing any more, as if it had been stopped or killed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def withdraw(self) -> asyncio.Task[None]:
        """Write something, and wait until it is in force."""

        async def write() -> None:
            await self.everywhere.reached(await self.store.put_key(KEY))

        return asyncio.create_task(write())


@pytest.fixture
async def two() -> AsyncIterator[tuple[Process, Process]]:
    shared = Shared()
    one, other = Process(shared, 1_000), Process(shared, 5_000_000)
    await one.start()
    await other.start()
    yield one, other
    for process in (one, other):
        await process.freeze()
        await process.store.close()


async def is_pending(task: asyncio.Task[None], looks: int = 3) -> bool:
    """Whether a task still waits after a few turns of everything."""
    await asyncio.wait([task], timeout=0.03 * looks)
    return not task.done()


async def joined(process: Process, count: int) -> None:
    """Wait until the store knows so many processes."""
    async with asyncio.timeout(5):
        while len(await process.store.read_nodes()) != count:  # noqa: ASYNC110 - not an event
            await asyncio.sleep(0.005)


async def done(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(5):
        await task


async def test_a_process_alone_waits_for_nobody() -> None:
    alone = await Process(Shared(), 1).start()
    await done(alone.withdraw())
    assert alone.feed.number == 1
    await alone.freeze()


async def test_whoever_is_behind_is_waited_for(two: tuple[Process, Process]) -> None:
    one, other = two
    other.applies.clear()
    writing = one.withdraw()
    assert await is_pending(writing)
    assert (one.feed.number, other.feed.number) == (1, 0)

    other.applies.set()
    await done(writing)

    assert other.feed.number == 1


async def test_our_own_process_is_waited_for(two: tuple[Process, Process]) -> None:
    one, other = two
    one.applies.clear()
    writing = one.withdraw()
    assert await is_pending(writing)
    one.clock.now_ms += 10 * PATIENCE_MS
    assert await is_pending(writing)
    assert other.feed.number == 1

    one.applies.set()
    await done(writing)


async def test_a_dead_process_is_waited_for_once(two: tuple[Process, Process]) -> None:
    """Until its lease and the margin have passed by our clock, not a moment less."""
    one, other = two
    await other.freeze()
    writing, another = one.withdraw(), one.withdraw()
    assert await is_pending(writing)
    one.clock.now_ms += PATIENCE_MS - 1
    assert await is_pending(writing)

    one.clock.now_ms += 1
    await done(writing)
    await done(another)

    await joined(one, 1)
    await done(one.withdraw())
    assert one.everywhere.buried == 1


async def test_a_frozen_process_holds_no_lease_by_its_own_clock(
    two: tuple[Process, Process],
) -> None:
    """What was acknowledged without it was acknowledged after its lease had run out."""
    one, other = two
    await other.freeze()
    left_ms = other.feed.lease_until_mono_ms - other.clock.now_ms
    writing = one.withdraw()
    assert await is_pending(writing)
    one.clock.now_ms += PATIENCE_MS
    await done(writing)

    assert left_ms <= LEASE_MS < PATIENCE_MS
    other.clock.now_ms += PATIENCE_MS
    assert other.feed.stale


async def test_a_process_taken_for_dead_reads_all_before_it_acts_again(
    two: tuple[Process, Process],
) -> None:
    one, other = two
    await other.freeze()
    writing = one.withdraw()
    assert await is_pending(writing)
    one.clock.now_ms += PATIENCE_MS
    await done(writing)
    await joined(one, 1)
    other.clock.now_ms += PATIENCE_MS
    other.applies.clear()

    running = asyncio.create_task(other.feed.run())
    await joined(one, 2)
    again = one.withdraw()
    assert await is_pending(again)
    assert other.feed.stale
    other.applies.set()
    await done(again)

    assert other.feed.number == 2
    running.cancel()
    await asyncio.wait([running])


async def test_who_is_slow_but_looks_is_not_taken_for_dead(two: tuple[Process, Process]) -> None:
    one, other = two
    for _ in range(5):
        one.clock.now_ms += PATIENCE_MS
        other.clock.now_ms += 1
        await done(one.withdraw())

    assert one.everywhere.buried == 0
    assert len(await one.store.read_nodes()) == 2


async def test_whoever_leaves_is_not_waited_for(two: tuple[Process, Process]) -> None:
    one, other = two
    await other.freeze()
    writing = one.withdraw()
    assert await is_pending(writing)
    assert not other.feed.stale

    await other.feed.leave()
    await done(writing)

    assert other.feed.stale


async def test_a_process_that_starts_meanwhile_is_not_waited_for_in_vain(
    two: tuple[Process, Process],
) -> None:
    """It looks only after the write, and so knows it before it may act."""
    one, other = two
    other.applies.clear()
    writing = one.withdraw()
    assert await is_pending(writing)
    third = await Process(one.store.shared, 77).start()
    assert third.feed.number == 1
    other.applies.set()
    await done(writing)
    await third.freeze()


async def test_without_the_store_nothing_is_acknowledged(two: tuple[Process, Process]) -> None:
    one, other = two
    await other.freeze()
    number = await one.store.put_key(KEY)
    await one.feed.reached(number)
    one.store.available = False
    one.clock.now_ms += 10 * PATIENCE_MS

    with pytest.raises(StoreUnavailable, match="may not have followed"):
        await one.everywhere.reached(number, timeout_s=0.2)

    one.store.available = True
    one.clock.now_ms += PATIENCE_MS
    waiting = asyncio.create_task(one.everywhere.reached(number))
    assert await is_pending(waiting)
    one.clock.now_ms += PATIENCE_MS
    await done(waiting)
