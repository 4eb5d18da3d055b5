"""The streams that are open: who holds them, and what ends them from outside."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from engine.store.port import KeyRow
from engine.web.admission import Admission
from engine.web.connection import Connection
from engine.web.problem import Refused

LOOK_SECONDS: Final = 1.0
"""Between two looks for streams whose key is no longer in force."""


@dataclass(eq=False, slots=True)
class Stream:
    """One open stream."""

    key: KeyRow
    reading: asyncio.Task[None]
    """What takes in; ending the stream ends this first, and what was taken in is still answered."""
    ended_by: str = ""
    """Code of a problem, when it was ended from outside."""

    def end(self, code: str) -> None:
        """End it, for the first reason that is given."""
        if not self.ended_by:
            self.ended_by = code
            self.reading.cancel()


@dataclass(slots=True)
class Streams:
    """All open streams of this process."""

    keys: Mapping[str, KeyRow]
    """Hash -> key: those in force."""
    sockets: int = 0
    """WebSockets among the streams."""
    stopping: bool = False
    _open: set[Stream] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.contextmanager
    def opened(
        self, key: KeyRow, connection: Connection, reading: Coroutine[Any, Any, None]
    ) -> Iterator[Stream]:
        """A stream for as long as the block runs; in the end nothing of it goes on."""
        stream = Stream(key, asyncio.create_task(reading))
        self._open.add(stream)
        connection.streaming = True
        try:
            yield stream
        finally:
            connection.streaming = False
            self._open.discard(stream)
            stream.reading.cancel()

    def in_force(self, key: KeyRow) -> bool:
        """Whether a key still is."""
        return key.hash in self.keys

    def look(self) -> None:
        """End the streams whose keys are deleted."""
        for stream in [one for one in self._open if not self.in_force(one.key)]:
            stream.end("unauthenticated")

    def stop(self) -> None:
        """End them all, and let no more begin."""
        self.stopping = True
        for stream in list(self._open):
            stream.end("stopping")

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()


@dataclass(slots=True)
class Exchange:
    """A request that its handler answers by itself, in parts."""

    request: web.Request
    request_id: str
    headers: dict[str, str]
    """What its answer has to carry."""
    admission: Admission
    streams: Streams

    @property
    def connection(self) -> Connection:
        """The connection that it came on."""
        protocol = self.request.protocol
        assert isinstance(protocol, Connection)
        return protocol

    def check(self) -> None:
        """Refuse to begin a stream when the service is about to end."""
        if self.streams.stopping:
            raise Refused("stopping")
