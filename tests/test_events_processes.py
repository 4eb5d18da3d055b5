"""Streams of events from processes of their own, on one database: killed, joined, and followed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.store.postgres import PostgresStore
from tests.running import OPERATOR, Service, launch, remove, serving
from tests.sse import Told, following
from tests.web_town import LAT, LON, fence, offer

QUIET: Any = {"event_heartbeat_ms": 100}


@asynccontextmanager
async def data_folder(tmp_path: Path) -> AsyncIterator[Path]:
    """A data folder that is gone in the end, with its database."""
    data = tmp_path / "data"
    try:
        yield data
    finally:
        remove(data)


async def open_shop(service: Service) -> None:
    """A brand, its fence and its offer."""
    brand = {"name": "Aino", "categories": ["cafe"], "timezone": "Europe/Helsinki"}
    await service.must("PUT", "/v1/brands/cafe", brand)
    await service.must("PUT", "/v1/fences/cafe-1", fence("cafe"))
    await service.must("PUT", "/v1/offers/bun", offer("cafe"))


async def enter(service: Service, names: list[str], at_ms: int) -> list[str]:
    """Residents who want offers come in; the fence and kind told by each answer, if any."""
    decisions = []
    for name in names:
        await service.must("POST", "/v1/residents", {"resident": name})
        marketing = f"/v1/residents/{name}/preferences/marketing"
        await service.must("PUT", marketing, {"opted_in": True})
        ping = {"resident": name, "at_ms": at_ms, "lon": LON, "lat": LAT, "accuracy_m": 5}
        decisions.append(await service.must("POST", "/v1/pings", ping))
    return [event["kind"] for decision in decisions for event in decision["events"]]


def visits(told: list[Told]) -> list[Told]:
    """The transitions among events."""
    return [one for one in told if one.name == "transition"]


async def test_a_stream_goes_on_after_kill_9(tmp_path: Path) -> None:
    """What was answered before the kill is told after it, once; ids go on."""
    async with data_folder(tmp_path) as data:
        service = await launch(data, **QUIET)
        try:
            await service.ready()
            await open_shop(service)
            async with (
                aiohttp.ClientSession(service.url) as session,
                following(session, OPERATOR) as events,
            ):
                began = events.last_id
                answered = await enter(service, ["r1", "r2"], now_ms())
                first = (await events.next(),)
                answered += await enter(service, ["r3", "r4"], now_ms())
                await service.kill()
        finally:
            await service.end()
        async with serving(data, **QUIET) as again, aiohttp.ClientSession(again.url) as session:
            answered += await enter(again, ["r5"], now_ms())
            async with following(session, OPERATOR, after=first[-1].id) as events:
                rest = await events.until_quiet()
                while len(visits([*first, *rest])) < len(answered):
                    rest += await events.until_quiet()
            async with following(session, OPERATOR, after=began) as events:
                whole = await events.take(len(first) + len(rest))
                assert await events.until_quiet() == []
    assert [*first, *rest] == whole
    assert len(visits(whole)) == len(answered) == 5
    ids = [one.id for one in whole]
    assert ids == sorted(set(ids))


async def test_two_processes_tell_the_same(tmp_path: Path) -> None:
    """Both tell all that either decided, in one order; reconnecting loses and repeats nothing."""
    async with data_folder(tmp_path) as data, serving(data, **QUIET) as one:
        joined = serving(tmp_path / "other", database_url=one.database_url, **QUIET)
        async with (
            joined as two,
            aiohttp.ClientSession(one.url) as here,
            aiohttp.ClientSession(two.url) as there,
            following(here, OPERATOR) as of_one,
            following(there, OPERATOR) as of_two,
        ):
            await open_shop(one)
            began = min(of_one.last_id, of_two.last_id)
            walks = [[f"{service}-{n}" for n in range(10)] for service in ("a", "b")]
            await asyncio.gather(enter(one, walks[0], now_ms()), enter(two, walks[1], now_ms()))
            told: list[Told] = []
            while len(visits(told)) < 20:
                told.append(await of_one.next())
            # By day the last visit is followed by its offer.
            told += await of_one.until_quiet()
            assert await of_two.take(len(told)) == told
            again: list[Told] = []
            for session in (there, here) * ((len(told) + 5) // 6):
                after = again[-1].id if again else began
                async with following(session, OPERATOR, after=after) as events:
                    again += await events.take(min(3, len(told) - len(again)))
            assert again == told


async def test_a_stream_outlives_its_database(tmp_path: Path) -> None:
    """While the server is away the stream stays open, and then goes on."""
    async with data_folder(tmp_path) as data, serving(data, **QUIET) as service:
        await open_shop(service)
        async with (
            aiohttp.ClientSession(service.url) as session,
            following(session, OPERATOR) as events,
        ):
            await enter(service, ["r1"], now_ms())
            assert (await events.next()).name == "transition"
            async with service.database() as connection:
                with pytest.raises(Exception, match=r"terminat|connection"):
                    await connection.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where backend_type = 'client backend' order by pid = pg_backend_pid()"
                    )
            store = PostgresStore(service.database_url)
            await store.open()
            await store.close()
            while not visits(await events.until_quiet()):
                reply = await service.call("POST", "/v1/residents", {})
                if reply.status == 201:
                    name = reply.body["resident"]
                    marketing = f"/v1/residents/{name}/preferences/marketing"
                    await service.call("PUT", marketing, {"opted_in": True})
                    ping = {"resident": name, "at_ms": now_ms(), "lon": LON, "lat": LAT}
                    await service.call("POST", "/v1/pings", {**ping, "accuracy_m": 5})


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000
