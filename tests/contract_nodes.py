"""What every store must do with the processes that follow its feed."""

import asyncio

import pytest

from engine.store.nodes import Node, NotJoined
from engine.store.port import Change, FeedLost, Store
from tests.contract_store import BRAND, KEY


def node(id_: str, applied: int, renewed_ms: int) -> Node:
    return Node(id=id_, applied=applied, renewed_ms=renewed_ms, lease_ms=2_000)


class NodeContract:
    """Two stores on the same, empty state, as two processes: fixtures `store`, `other`."""

    async def test_nobody_follows_without_a_row(self, store: Store, other: Store) -> None:
        await store.put_brand(BRAND)
        with pytest.raises(NotJoined):
            await store.follow("a", 0, renewed_ms=1)
        await store.join("a", lease_ms=2_000)
        assert await other.read_nodes() == [node("a", -1, -1)]

        assert await store.follow("a", 0, renewed_ms=5) == [Change(1, "brand", "cafe")]
        assert await other.read_nodes() == [node("a", 0, 5)]
        assert await store.follow("a", 1, renewed_ms=6) == []
        assert await other.read_nodes() == [node("a", 1, 6)]
        await store.join("a", lease_ms=9_000)
        assert await other.read_nodes() == [node("a", 1, 6)]

        await store.leave("a")
        await store.leave("a")
        assert await other.read_nodes() == []
        with pytest.raises(NotJoined):
            await store.follow("a", 1, renewed_ms=7)

    async def test_following_reads_as_much_as_is_asked_for(self, store: Store) -> None:
        for _ in range(3):
            await store.put_key(KEY)
        await store.join("a", lease_ms=2_000)

        assert await store.newest_change() == 3
        assert len(await store.follow("a", 0, renewed_ms=1, limit=2)) == 2
        assert await store.follow("a", 2, renewed_ms=2, limit=2) == [Change(3, "key", "k1")]
        with pytest.raises(FeedLost):
            await store.follow("a", 7, renewed_ms=3)

    async def test_who_looked_again_is_not_buried(self, store: Store, other: Store) -> None:
        for name in ("a", "b", "c"):
            await store.join(name, lease_ms=2_000)
            await store.follow(name, 0, renewed_ms=5)
        seen = await other.read_nodes()
        await store.follow("b", 0, renewed_ms=6)

        await other.bury(seen[:2])

        assert await store.read_nodes() == [node("b", 0, 6), node("c", 0, 5)]
        with pytest.raises(NotJoined):
            await store.follow("a", 0, renewed_ms=7)
        await other.bury([])

    async def test_whoever_waits_is_told_of_others(self, store: Store, other: Store) -> None:
        """Of one who has applied more, and of one who is gone."""
        told = asyncio.Event()
        other.when_applied(told.set)

        async def heard() -> None:
            async with asyncio.timeout(5):
                await told.wait()
            told.clear()

        await store.join("a", lease_ms=2_000)
        await store.follow("a", 0, renewed_ms=1)
        await store.announce()
        await heard()
        await store.leave("a")
        await heard()
        await store.join("b", lease_ms=2_000)
        await other.bury(await other.read_nodes())
        await heard()
        assert await other.read_nodes() == []

    async def test_a_canary_speaks_only_for_a_process_that_is_there(
        self, store: Store, other: Store
    ) -> None:
        assert await store.put_canary("a", b"hello") is None
        await store.join("a", lease_ms=2_000)
        assert await store.read_canary("a") is None

        assert await store.put_canary("a", b"hello") == 1
        assert await other.put_canary("a", b"again") == 2

        assert await other.read_canary("a") == b"again"
        assert await store.follow("a", 0, renewed_ms=1) == [
            Change(1, "canary", "a"),
            Change(2, "canary", "a"),
        ]
        await store.leave("a")
        assert await other.read_canary("a") is None
