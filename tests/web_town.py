"""A service with a town in it, for tests to call over real HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from engine.app import assemble, clock_ms
from engine.config import Config
from engine.consent.notices import NoticeText, hash_of
from engine.store.memory import MemoryStore
from engine.web.context import Context
from engine.web.server import serve

OPERATOR = "pb_operator_of_the_tests"
LON, LAT = 24.9414, 60.1699
SECRET_RESIDENT = "resident-of-the-tests"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def code(self) -> str:
        """Of the problem."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        assert self.body["status"] == self.status
        return str(self.body["code"])


@dataclass(slots=True)
class Town:
    """A running service and a way to call it."""

    ctx: Context
    port: int
    session: aiohttp.ClientSession

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = OPERATOR,
        data: Any = None,
        **headers: str,
    ) -> Reply:
        """One request; `body` goes as JSON, `data` as it is."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            told["Authorization"] = f"Bearer {key}"
        sent = msgspec.json.encode(body) if body is not None else data
        async with self.session.request(method, path, data=sent, headers=told) as response:
            raw = await response.read()
            kind = response.headers.get("Content-Type", "")
            is_json = "json" in kind and "ndjson" not in kind
            value = msgspec.json.decode(raw) if raw and is_json else raw.decode()
            return Reply(response.status, response.headers, value)

    async def must(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """A request that has to succeed; its answer's body."""
        reply = await self.call(method, path, body, **more)
        assert reply.status < 300, reply
        return reply.body

    async def key(self, role: str, **more: Any) -> str:
        """A new key."""
        made = await self.must("POST", "/v1/keys", {"role": role, "name": role, **more})
        return str(made["key"])

    async def brand(self, brand: str, *, categories: tuple[str, ...] = ("cafe",)) -> None:
        """A brand and its one fence, `<brand>-1`, 60 m around (LON, LAT)."""
        wanted = {"name": brand, "categories": categories, "timezone": "Europe/Helsinki"}
        await self.must("PUT", f"/v1/brands/{brand}", wanted)
        await self.must("PUT", f"/v1/fences/{brand}-1", fence(brand))

    async def notice(self, id_: str, version: str, locale: str) -> str:
        """The text of a notice; its hash."""
        digest = hash_of(f"{id_} {version} {locale}")
        await self.ctx.store.put_notice(
            NoticeText(id=id_, version=version, locale=locale, text_hash=digest, at_ms=0)
        )
        return digest

    async def resident(self, resident: str = SECRET_RESIDENT) -> str:
        """A resident, in a zone where it is daytime, who wants offers; their key."""
        zone = daytime_zone(self.ctx.clock_ms())
        made = await self.must("POST", "/v1/residents", {"resident": resident, "timezone": zone})
        marketing = f"/v1/residents/{resident}/preferences/marketing"
        await self.must("PUT", marketing, {"opted_in": True}, key=made["key"])
        return str(made["key"])

    def ping(self, resident: str = SECRET_RESIDENT, **more: Any) -> dict[str, Any]:
        """A ping inside the fences of the town, now."""
        now_ms = self.ctx.clock_ms()
        told = {"resident": resident, "at_ms": now_ms, "lon": LON, "lat": LAT, "accuracy_m": 5.0}
        return told | more


def fence(brand: str, *, lon: float = LON, lat: float = LAT, radius_m: float = 60) -> Any:
    """A circle as a Feature."""
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [lon, lat]},
        "properties": {"brand": brand, "name": brand, "radius_m": radius_m},
    }


def offer(brand: str, **more: Any) -> dict[str, Any]:
    """An offer at the brand's one fence."""
    told = {"brand": brand, "title": "A bun", "body": "With any coffee.", "trigger": "enter"}
    return told | {"fences": [f"{brand}-1"], "status": "live"} | more


def daytime_zone(now_ms: int) -> str:
    """A zone in which it is between 12:00 and 13:00 at the instant."""
    ahead_h = 12 - now_ms // 3_600_000 % 24
    return f"Etc/GMT{-ahead_h:+d}" if ahead_h else "Etc/GMT"


@contextlib.asynccontextmanager
async def town(
    data: Path,
    store: MemoryStore | None = None,
    *,
    clock_ms: Callable[[], int] = clock_ms,
    **settings: Any,
) -> AsyncIterator[Town]:
    """A service on a free port, its store in memory."""
    config = Config(data=data, operator_key=OPERATOR, **settings)
    async with contextlib.AsyncExitStack() as stack:
        store = store or MemoryStore()
        await store.open()
        stack.push_async_callback(store.close)
        ctx = await assemble(config, store, stack, _nothing, clock_ms=clock_ms)
        yield await stack.enter_async_context(serving(ctx))


@contextlib.asynccontextmanager
async def serving(ctx: Context) -> AsyncIterator[Town]:
    """A service around parts that run already."""
    async with (
        serve(ctx, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield Town(ctx, port, session)


def _nothing() -> None:
    """What is called when a part fails, which the tests see by themselves."""


async def raw(port: int, *parts: bytes) -> bytes:
    """Send bytes as they are and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer
