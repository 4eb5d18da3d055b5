"""Much of a city that comes in at once: together, and without keeping anybody's "no" waiting."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import orjson
import pytest

from engine.pipeline import Engine, EngineSettings
from engine.store.feed import Feed
from engine.store.follow import INLINE_MAX, Follower
from engine.store.memory import MemoryStore
from engine.store.port import FenceRow, Rows, StoreUnavailable
from tests.contract_store import BRAND, OFFER, SETTINGS, record

MANY = INLINE_MAX * 3


def fence(name: str, radius_m: float = 50, lon: float = 24.9) -> FenceRow:
    feature = {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [lon, 60.1]},
        "properties": {"brand": "cafe", "radius_m": radius_m},
    }
    return FenceRow(id=name, brand="cafe", feature=orjson.dumps(feature))


async def rows(count: int = MANY) -> AsyncIterator[Rows]:
    fences = tuple(fence(f"f{n}") for n in range(count))
    yield Rows(brands=(BRAND,), fences=fences)
    yield Rows(offers=(msgspec.structs.replace(OFFER, fences=("f1",)),))


class Slow(MemoryStore):
    """A store in memory whose batches are read when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.fault: Exception | None = None
        self.asked = 0

    async def read_batch(self, batch: str) -> dict[str, list[str]]:
        self.asked += 1
        await self.gate.wait()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return await super().read_batch(batch)


class City:
    """An engine that follows a store."""

    def __init__(self, store: Slow) -> None:
        self.store = store
        self.engine = Engine(secret=b"x" * 32, settings=EngineSettings())
        follower = Follower(store, self.engine, {}, clock_ms=lambda: 1, write=lambda _: None)
        self.sizes: list[tuple[int, int, int]] = []
        self.feed = Feed(store, follower.apply, start=0, poll_ms=10, mono_ms=lambda: 1)
        self.task = asyncio.create_task(self.feed.run())

    @property
    def size(self) -> tuple[int, int, int]:
        held = self.engine.counts()
        return held["brands"], held["fences"], held["offers"]


@pytest.fixture
async def city() -> AsyncIterator[City]:
    store = Slow()
    await store.open()
    city = City(store)
    yield city
    city.task.cancel()
    await asyncio.wait([city.task])
    await store.close()


async def test_an_import_goes_live_at_once(city: City) -> None:
    """At every turn of the loop all of it is there, or nothing."""
    seen = set()
    done = await city.store.put_together(rows())
    city.store.gate.set()
    settled = asyncio.create_task(city.feed.settled(done.number))
    while not settled.done():
        seen.add(city.size)
        await asyncio.sleep(0)
    await settled

    assert seen <= {(0, 0, 0), (1, MANY, 1)}
    assert city.size == (1, MANY, 1)
    assert len(city.engine.fences.covering(24.9, 60.1)) == MANY
    assert len(city.engine.fences) == MANY


async def test_what_residents_say_does_not_wait_for_an_import(city: City) -> None:
    done = await city.store.put_together(rows())
    await city.feed.reached(done.number)
    number = await city.store.create_residents({"ann": SETTINGS})
    await city.store.append_records("ann", (record("ann", 1),), version_before=0)
    await city.feed.reached(number + 1)

    assert city.size == (0, 0, 0)
    assert len(city.engine.preferences) == 1
    assert not city.feed.stale
    with pytest.raises(StoreUnavailable):
        await city.feed.settled(done.number, timeout_s=0.01)
    city.store.gate.set()
    await city.feed.settled(done.number)
    assert city.size == (1, MANY, 1)


async def test_what_is_written_after_an_import_comes_after_it(city: City) -> None:
    """Though it is small, and the import still being made ready."""
    await city.store.put_together(rows())
    (changed,) = await city.store.put_fences([fence("f1", radius_m=9)])
    number = await city.store.delete_fence("f2")
    assert number is not None
    again = await city.store.put_together(rows(2))
    await city.feed.reached(again.number)
    await city.store.delete_fence("f3")
    city.store.gate.set()
    await city.feed.settled(again.number + 1)

    assert changed.number < number < again.number
    assert len(city.engine.fences) == MANY - 2
    found = city.engine.fences.get("f1")
    assert found is not None
    assert found.inradius_m == pytest.approx(50, rel=0.01)
    assert city.engine.fences.get("f3") is None


async def test_a_small_import_changes_a_large_city(city: City) -> None:
    city.store.gate.set()
    await city.feed.settled((await city.store.put_together(rows())).number)
    rest = city.engine.fences
    more = await city.store.put_together(rows_of(fence("g1"), fence("f1", radius_m=9)))
    await city.feed.settled(more.number)

    assert city.engine.fences is rest
    assert len(rest) == MANY + 1
    found = rest.get("f1")
    assert found is not None
    assert found.inradius_m == pytest.approx(9, rel=0.01)


async def rows_of(*fences: FenceRow) -> AsyncIterator[Rows]:
    yield Rows(fences=fences)


async def test_a_store_that_is_away_is_asked_again(city: City) -> None:
    city.store.fault = StoreUnavailable("away")
    city.store.gate.set()
    done = await city.store.put_together(rows())
    await city.feed.settled(done.number)

    assert city.store.asked == 2
    assert city.size == (1, MANY, 1)


async def test_a_mistake_ends_the_following(city: City) -> None:
    """Nothing is known any more, so the process has to end."""
    city.store.fault = ValueError("a mistake")
    city.store.gate.set()
    await city.store.put_together(rows())
    await asyncio.wait([city.task], timeout=5)

    with pytest.raises(ValueError, match="mistake"):
        city.task.result()
