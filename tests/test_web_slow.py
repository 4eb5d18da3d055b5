"""Clients that are slow, silent, or too many, over real HTTP."""

import asyncio
import contextlib
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.running import until
from tests.test_web_socket import resident_kb
from tests.web_town import OPERATOR, Town, raw, town

IDLE: Final = 10_000
PER_CONNECTION_KB_MAX: Final = 40
PINGS: Final = 500

CROWD: Final = """
import resource, socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
open_ones = []
for n in range(count):
    one = socket.create_connection(("127.0.0.1", port))
    if n % 2:
        one.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 200 ")
    open_ones.append(one)
print("ready", flush=True)
sys.stdin.read()
"""
"""Connects and stays; every second one has asked something before."""


async def test_a_head_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    """408 from its first byte on, also after a request that was good, however it trickles."""
    async with town(tmp_path, head_seconds_max=1) as here:
        good = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
        asked = b"GET /v1/events HTTP/1.1\r\nHost: here\r\n\r\n"
        first, after, behind, together, whole = await asyncio.gather(
            raw(here.port, b"GET /healthz HTTP/1.1\r\nHost: he"),
            twice(here.port, good, b"GET /healthz HTTP/1.1\r\nX: "),
            raw(here.port, good, asked, b"GET /healthz HT"),
            raw(here.port, good + asked + b"G"),
            raw(
                here.port, b"GET /healthz HTTP/1.1\r\nConnection: close\r\nHo", b"st: here\r\n\r\n"
            ),
        )

        assert first.startswith(b"HTTP/1.1 408 ")
        assert b'"slow_head"' in first
        assert after.startswith(b"HTTP/1.1 408 ")
        for answers in (behind, together):
            assert answers.count(b"HTTP/1.1 200 ") == answers.count(b"HTTP/1.1 401 ") == 1
            assert b"HTTP/1.1 408 " in answers
        assert whole.startswith(b"HTTP/1.1 200 ")
        assert b"408" not in whole


async def twice(port: int, good: bytes, slow: bytes) -> bytes:
    """What comes to a slow head after a good request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(good)
    await reader.readuntil(b'"ok"}')
    writer.write(slow)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_head_that_came_in_time_is_forgotten(tmp_path: Path) -> None:
    """Its time does not run on while the body comes, or while the connection rests."""
    async with town(tmp_path, head_seconds_max=1, body_seconds_max=2) as here:
        head = (
            f"POST /v1/pings HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {OPERATOR}\r\n"
            "Content-Length: 100\r\n"
        ).encode()
        length = b"Content-Length: 2\r\n\r\n"
        whole = head.replace(b"Content-Length: 100\r\n", length)
        slow, rested = await asyncio.gather(
            raw(here.port, head, b"\r\n{"), rests(here.port, whole, b"{}", 1.2)
        )

        assert b'"slow_body"' in slow
        assert rested.count(b"HTTP/1.1 422 ") == 2
        assert b" 408 " not in rested


async def rests(port: int, head: bytes, body: bytes, rest_s: float) -> bytes:
    """What comes to a request, and to the same one after a rest, head and body apart."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = b""
    for last in (False, True):
        writer.write(head)
        await writer.drain()
        writer.write(body)
        answers += await reader.readuntil(b'"request_id":"') + await reader.readuntil(b"}")
        await asyncio.sleep(0 if last else rest_s)  # the rest is what is tested
    writer.close()
    return answers


async def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    async with town(tmp_path, idle_seconds_max=1) as here:
        assert await raw(here.port) == b""


async def test_who_does_not_read_an_answer_is_cut_off(tmp_path: Path) -> None:
    """A request in the ordinary way; everybody else is served meanwhile."""
    async with town(tmp_path, stalled_seconds_max=1) as here:
        connections = here.ctx.metrics.gauges["passby_connections"][1]
        stalled = here.ctx.metrics.gauges["passby_connections_stalled"][1]
        body = msgspec.json.encode({"pings": [here.ping("n", id="x" * 120)] * 10_000})
        head = (
            f"POST /v1/pings HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {OPERATOR}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        sending = asyncio.create_task(send(writer, (head.encode() + body) * 20))
        await until(stalled, within_s=20)
        alive = await here.call("POST", "/v1/pings", here.ping("n"))
        await sending
        writer.close()
        await until(lambda: connections() == 1, within_s=10)

        assert alive.status == 200
        assert stalled() == 1


async def send(writer: asyncio.StreamWriter, sent: bytes) -> None:
    """Until all is sent, or the server closes."""
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()


async def test_only_so_many_connections(tmp_path: Path) -> None:
    """One more is told so; when one goes there is room again."""
    async with town(tmp_path, connections_max=3) as here:
        connections = here.ctx.metrics.gauges["passby_connections"][1]
        others = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(3)]
        await until(lambda: connections() == 3, within_s=10)
        refused = await raw(here.port)
        others[0][1].close()
        await until(lambda: connections() == 2, within_s=10)
        alive = await here.call("GET", "/healthz")

        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"overloaded"' in refused
        assert b"Retry-After: 1\r\n" in refused
        assert alive.status == 200
        for _, writer in others:
            writer.close()


async def test_ten_thousand_idle_connections(tmp_path: Path, measured: list[str]) -> None:
    """Pings are answered as fast as before, and memory stays bounded."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < IDLE + 512:
        pytest.skip(f"ONLY {hard} FILES MAY BE OPEN: {IDLE} CONNECTIONS ARE NOT TRIED")
    async with town(tmp_path) as here:
        connections = here.ctx.metrics.gauges["passby_connections"][1]
        alone_ms, before_kb = await times_ms(here), resident_kb()
        async with crowd(here.port, IDLE):
            assert connections() >= IDLE
            grown_kb = resident_kb() - before_kb
            beside_ms = await times_ms(here)
        await until(lambda: connections() < 10, within_s=30)
        gone = await here.call("POST", "/v1/pings", here.ping("n"))

    assert gone.status == 200
    measured.append(
        f"{IDLE} idle connections: {grown_kb / 1_024:.0f} MB, {grown_kb / IDLE:.1f} kB each; "
        f"a ping takes {median(beside_ms):.2f} ms (p99 {p99(beside_ms):.2f}) beside them, "
        f"{median(alone_ms):.2f} ms (p99 {p99(alone_ms):.2f}) alone"
    )
    assert grown_kb < IDLE * PER_CONNECTION_KB_MAX
    assert median(beside_ms) < max(5.0, 3 * median(alone_ms))


@contextlib.asynccontextmanager
async def crowd(port: int, count: int) -> AsyncIterator[None]:
    """Idle connections of another process, for as long as the block runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CROWD, str(port), str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"ready\n"
    try:
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def times_ms(here: Town) -> list[float]:
    """How long single pings take, one after the other."""
    times, body = [], msgspec.json.encode(here.ping("n"))
    for _ in range(PINGS):
        began_s = time.perf_counter()
        reply = await here.call("POST", "/v1/pings", data=body)
        times.append((time.perf_counter() - began_s) * 1_000)
        assert reply.status == 200
    return sorted(times)


def median(times: list[float]) -> float:
    return times[len(times) // 2]


def p99(times: list[float]) -> float:
    return times[len(times) * 99 // 100]
