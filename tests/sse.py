"""A reader of Server-Sent Events as browsers read them (WHATWG HTML, 9.2), for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Told:
    """One event."""

    name: str
    id: int
    data: Any


@dataclass(slots=True)
class Events:
    """An open stream."""

    response: aiohttp.ClientResponse
    last_id: int = 0
    retry_ms: int = 0
    comments: list[str] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)

    async def block(self) -> Told | None:
        """The next block: an event, or None for one that dispatches none.

        Raises:
            EOFError: the stream has ended.
        """
        name, data = "message", ""
        while True:
            line = await asyncio.wait_for(self.response.content.readline(), WITHIN_S)
            if not line:
                raise EOFError
            self.raw += line
            text = line.decode().removesuffix("\n")
            if not text:
                break
            what, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if what == "":
                self.comments.append(value)
            elif what == "id":
                self.last_id = int(value)
            elif what == "event":
                name = value
            elif what == "retry":
                self.retry_ms = int(value)
            else:
                data += value
        return Told(name, self.last_id, msgspec.json.decode(data)) if data else None

    async def next(self) -> Told:
        """The next event."""
        while True:
            if (told := await self.block()) is not None:
                return told

    async def end(self) -> str:
        """Read to the end; the last comment."""
        with contextlib.suppress(EOFError):
            while True:
                await self.block()
        return self.comments[-1]

    async def take(self, count: int) -> list[Told]:
        """So many events."""
        return [await self.next() for _ in range(count)]

    async def until_quiet(self) -> list[Told]:
        """All events up to the next heartbeat."""
        told: list[Told] = []
        heard = len(self.comments)
        while len(self.comments) == heard:
            if (one := await self.block()) is not None:
                told.append(one)
        return told


@contextlib.asynccontextmanager
async def following(
    session: aiohttp.ClientSession,
    key: str,
    path: str = "/v1/events",
    *,
    after: int | None = None,
    **more: Any,
) -> AsyncIterator[Events]:
    """A stream whose beginning was read, so that it misses nothing from now on."""
    headers = {"Authorization": f"Bearer {key}"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    timeout = aiohttp.ClientTimeout(total=None)
    async with session.get(path, headers=headers, timeout=timeout, **more) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        events = Events(response)
        assert await events.block() is None
        yield events
