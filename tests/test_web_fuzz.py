"""Bytes that nobody would send, in every way that takes pings: all are answered as described."""

import asyncio
import base64
import logging
import random
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decision import STATUSES
from engine.web.openapi import document
from engine.web.routes import ROUTES
from tests.test_web_ndjson import NDJSON
from tests.test_web_socket import connected
from tests.web_town import OPERATOR, Town, offer, town

T = TypeVar("T")

SEED: Final = 20_261
MUTANTS: Final = 400
EXAMPLES: Final = 150
KEY: Final = {"Authorization": f"Bearer {OPERATOR}"}
DESCRIBED: Final = {
    int(status) for status in document(ROUTES)["paths"]["/v1/pings"]["post"]["responses"]
}
LIMITS: Final = ("body_seconds_max", "head_seconds_max", "heartbeat_seconds", "idle_seconds_max")
"""Settings that are cut to a second, so that what never ends by itself does."""
PIECES: Final = (
    *(b"\xff", b"\x00", b"\n", b"\r\n", b'"', b"\\", b"\\ud800", b"[", b"]", b"{", b"}", b","),
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"-0.0", b"null", b"true", b'"pings"', b":"),
    *(b"[" * 2_000, b'{"a":' * 2_000, b'"' + b"x" * 5_000 + b'"', b"\xef\xbb\xbf", b"\xed\xa0\x80"),
)


class Running:
    """A town in a thread of its own, so that Hypothesis can call it."""

    def __init__(self, data: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.here = self.run(self._start(data))

    async def _start(self, data: Path) -> Town:
        short: dict[str, Any] = dict.fromkeys(LIMITS, 1)
        here = await self._stack.enter_async_context(town(data, **short))
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        await here.resident()
        return here

    def run(self, call: Awaitable[T]) -> T:
        """What a coroutine comes to."""

        async def called() -> T:
            async with asyncio.timeout(60):
                return await call

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def stop(self) -> None:
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Faults(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One town for all tests of this file, which is alive and well at the end."""
    faults = Faults(logging.ERROR)
    logging.getLogger().addHandler(faults)
    one = Running(tmp_path_factory.mktemp("fuzz"))
    yield one
    alive = one.run(one.here.call("POST", "/v1/pings", one.here.ping()))
    requests = one.here.ctx.metrics.requests
    one.stop()
    logging.getLogger().removeHandler(faults)
    assert faults.told == []
    assert alive.status == 200
    assert not {status for _, _, status in requests if status == 500}


def mutant(rng: random.Random, good: bytes) -> bytes:
    """A good body with one to four things wrong."""
    body = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randrange(len(body) + 1), rng.randrange(len(body) + 1)))
        match rng.randrange(5):
            case 0:
                body[at:at] = rng.choice(PIECES)
            case 1:
                body[at : at + rng.randint(1, 8)] = b""
            case 2:
                body[at : at + 1] = rng.randbytes(1)
            case 3:
                body[at:at] = body[at : min(end, at + 200)]
            case _:
                body[at : at + 6] = rng.choice(PIECES)
    return bytes(body)


def ping(**more: Any) -> bytes:
    told = {"resident": "n", "at_ms": 1_790_000_000_000, "lon": 24.9414, "lat": 60.1699}
    return msgspec.json.encode(told | {"accuracy_m": 5.0, "id": "a"} | more)


ONE: Final = ping()
BATCH: Final = b'{"pings":[' + b",".join((ping(id="x"), ping(mock=True), ping(lat=3))) + b"]}"
LINES: Final = b"\n".join((ping(id="x"), ping(mock=True), ping(lat=3))) + b"\n"
ARRAY: Final = b"[" + b",".join((ping(id="x"), ping(mock=True))) + b"]"


async def as_body(here: Town, body: bytes) -> None:
    """One ping or a batch."""
    async with here.session.post("/v1/pings", data=body, headers=KEY) as response:
        text = await response.read()
    check_status(response)
    told = msgspec.json.decode(text)
    if response.status == 200:
        for one in told.get("decisions", [told]):
            assert one["status"] in STATUSES
    else:
        assert told["status"] == response.status


async def as_lines(here: Town, body: bytes) -> None:
    """One decision a line that is not blank."""
    headers = KEY | {"Content-Type": NDJSON}
    async with here.session.post("/v1/pings", data=body, headers=headers) as response:
        text = await response.read()
    check_status(response)
    assert response.status == 200
    told = [msgspec.json.decode(line) for line in text.splitlines()]
    assert all(one["status"] in STATUSES for one in told)
    assert len(told) == sum(bool(line.strip()) for line in body.split(b"\n"))


def check_status(response: aiohttp.ClientResponse) -> None:
    assert response.status in DESCRIBED
    assert response.status < 500


async def as_message(here: Town, body: bytes, kind: WSMsgType = WSMsgType.TEXT) -> None:
    """A decision, an array of them, or a close because it is no text."""
    async with connected(here) as socket:
        await socket.raw.send_frame(body, kind)
        message = await socket.raw.receive()
        if message.type is WSMsgType.CLOSE:
            assert message.data == 1007
            with pytest.raises(UnicodeDecodeError):
                body.decode()
            return
        told = msgspec.json.decode(message.data)
        for one in told if isinstance(told, list) else [told]:
            assert one["status"] in STATUSES


async def as_bytes_message(here: Town, body: bytes) -> None:
    await as_message(here, body, WSMsgType.BINARY)


Way = Callable[[Town, bytes], Awaitable[None]]
WAYS: Final[list[tuple[Way, bytes]]] = [
    (as_body, ONE),
    (as_body, BATCH),
    (as_lines, LINES),
    (as_message, ONE),
    (as_message, ARRAY),
    (as_bytes_message, ARRAY),
]
EACH_WAY: Final = pytest.mark.parametrize(
    ("way", "good"), WAYS, ids=lambda it: it.__name__ if callable(it) else len(it)
)


@EACH_WAY
def test_good_bytes_gone_wrong_are_answered(running: Running, way: Way, good: bytes) -> None:
    """Seeded, so that a failure comes again."""
    rng = random.Random(SEED)

    async def all_of_them() -> None:
        for _ in range(MUTANTS):
            body = mutant(rng, good)
            try:
                await way(running.here, body)
            except Exception as error:
                error.add_note(f"body: {body[:2_000]!r}")
                raise

    running.run(all_of_them())


@EACH_WAY
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_bytes_are_answered(running: Running, way: Way, good: bytes, body: bytes) -> None:
    del good
    running.run(way(running.here, body))


def frame(body: bytes) -> bytes:
    """A masked frame of text, as a client sends it; the mask is zero."""
    length = len(body)
    head = struct.pack("!BB", 0x81, 0x80 | length) if length < 126 else b""
    head = head or struct.pack("!BBH", 0x81, 0xFE, length)
    return head + bytes(4) + body


async def raw_frames(here: Town, sent: bytes) -> bytes:
    """What comes back to bytes that may be no frames, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    key = base64.b64encode(bytes(16)).decode()
    head = (
        f"GET /v1/pings/stream HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {OPERATOR}\r\n"
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n\r\n"
    )
    try:
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(sent)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_frames_gone_wrong_end_only_themselves(running: Running) -> None:
    """No fault of ours, and the next one is served."""
    rng = random.Random(SEED)

    async def all_of_them() -> None:
        sent = [mutant(rng, frame(ONE) + frame(ARRAY)) for _ in range(MUTANTS)]
        told = await asyncio.gather(*(raw_frames(running.here, one) for one in sent))
        assert not [one for one in told if one[-60:].find(b"the fault is ours") >= 0]
        assert sum(bool(one) for one in told) > MUTANTS / 2

    running.run(all_of_them())
    running.run(as_message(running.here, ONE))


def test_a_control_frame_behind_a_ping_holds_up_nothing(running: Running) -> None:
    """Both in one piece: the ping is answered at once, though nothing follows."""
    asked = struct.pack("!BB", 0x89, 0x80) + bytes(4)
    told = running.run(raw_frames(running.here, frame(ONE) + asked + frame(ARRAY) + asked))

    assert told.count(b'"status":') == 3


def test_requests_gone_wrong_are_told_so(running: Running) -> None:
    """Also their heads."""
    rng = random.Random(SEED)
    good = (
        f"POST /v1/pings HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {OPERATOR}\r\n"
        f"Content-Length: {len(ONE)}\r\nConnection: close\r\n\r\n"
    ).encode() + ONE

    async def one(sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.here.port)
        try:
            writer.write(sent)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def all_of_them() -> None:
        answers = await asyncio.gather(*(one(mutant(rng, good)) for _ in range(MUTANTS)))
        statuses = Counter(int(told.split(b" ", 2)[1]) for told in answers if told)
        assert not [status for status in statuses if status not in DESCRIBED | {404, 405, 426}]
        assert 500 not in statuses
        assert statuses[200]
        assert statuses[400]
        assert statuses.total() > MUTANTS * 0.9

    running.run(all_of_them())
