"""The made-up resident who opts in and withdraws: what it sees, and that nobody sees it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from engine.app import assemble
from engine.config import Config
from engine.decision import Decision
from engine.delivery.answer import Answerer, Decided
from engine.store.follow import canary_id
from engine.store.memory import MemoryStore
from engine.store.port import Snapshot
from engine.web.context import Context
from tests.web_town import town


class Ungated(Answerer):
    """Hands over what was decided, whatever was said since."""

    def hand_over(self, decided: Decided) -> list[Decision]:
        return decided.decisions


class Mute(Answerer):
    """Hands over no offer."""

    def hand_over(self, decided: Decided) -> list[Decision]:
        return [Decision("", "", 0, "shed", (), None, None) for _ in decided.decisions]


Assembled = Callable[..., contextlib.AbstractAsyncContextManager[Context]]


@pytest.fixture
def assembled(tmp_path: Path) -> Assembled:
    """The parts of a service on a store in memory, whose canary is called by the test alone."""

    @contextlib.asynccontextmanager
    async def assembled(
        store: MemoryStore, answerer: type[Answerer] = Answerer
    ) -> AsyncIterator[Context]:
        config = Config(data=tmp_path, canary_s=3_600, operator_key="pb_operator_of_the_tests")
        async with contextlib.AsyncExitStack() as stack:
            await store.open()
            stack.push_async_callback(store.close)
            yield await assemble(config, store, stack, lambda: None, answerer=answerer)

    return assembled


async def test_a_withdrawal_is_silence_round_after_round(assembled: Assembled) -> None:
    async with assembled(MemoryStore()) as ctx:
        assert ctx.canary.trouble is None
        assert [await ctx.canary.round() for _ in range(3)] == ["silent"] * 3
        assert (ctx.canary.leaks, ctx.canary.trouble) == (0, None)


async def test_an_offer_after_a_withdrawal_is_seen(assembled: Assembled) -> None:
    """The one that waited for its commit while the withdrawal was acknowledged."""
    async with assembled(MemoryStore(), Ungated) as ctx:
        assert await ctx.canary.round() == "leaked"
        assert ctx.canary.leaks == 1
        assert "stop this process" in str(ctx.canary.trouble)


async def test_an_offer_that_does_not_come_is_seen(assembled: Assembled) -> None:
    async with assembled(MemoryStore(), Mute) as ctx:
        assert await ctx.canary.round() == "missed"


async def test_nothing_is_said_while_the_store_is_away(assembled: Assembled) -> None:
    """Nor of a process that was taken for dead, until it has joined again."""
    store = MemoryStore()
    async with assembled(store) as ctx:
        store.available = False
        assert await ctx.canary.round() == "unknown"
        store.available = True
        await store.leave(ctx.feed.node)
        assert await ctx.canary.round() == "unknown"
        async with asyncio.timeout(5):
            while not await store.read_nodes():  # noqa: ASYNC110 - not an event
                await asyncio.sleep(0.01)
        assert await ctx.canary.round() == "silent"


async def test_nobody_sees_the_canary(assembled: Assembled) -> None:
    """It is in no table, no event, no count; and another process does not even know it."""
    store = MemoryStore()
    async with assembled(store) as ctx, assembled(MemoryStore(store.shared)) as other:
        before, counts = await _known(store), ctx.engine.counts()
        assert await ctx.canary.round() == "silent"

        assert await _known(store) == before
        assert ctx.engine.counts() == counts
        assert ctx.engine.residents == {}
        name = canary_id(ctx.feed.node)
        assert ctx.engine.preferences.version(name) == 2
        assert other.engine.preferences.version(name) is None
        assert (await store.events_after(0)).events == ()


async def _known(store: MemoryStore) -> Snapshot:
    """All that is in the tables, but for where the feed is."""
    found = await store.snapshot(now_ms=1)
    return msgspec.structs.replace(found, number=0)


async def test_a_canary_in_trouble_is_told_of(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        assert (await here.call("GET", "/readyz")).body["checks"]["canary"]["ok"]
        here.ctx.canary.leaks = 1

        ready = await here.call("GET", "/readyz")
        told = await here.call("GET", "/metrics")

    assert ready.status == 503
    assert [name for name, check in ready.body["checks"].items() if not check["ok"]] == ["canary"]
    for line in ("passby_canary_leaks 1.0", "passby_canary_ok 0.0", "passby_canary_misses 0.0"):
        assert line in told.body.splitlines()


async def test_no_client_can_take_its_name(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        name = canary_id(here.ctx.feed.node)
        told = await here.call("POST", "/v1/residents", {"resident": name})
        assert (told.status, told.code) == (422, "invalid_body")
