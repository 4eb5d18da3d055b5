"""GET /v1/pings/stream, a WebSocket, over real HTTP."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType

from engine.web.websocket import PROTOCOL
from tests.running import until
from tests.web_town import OPERATOR, Town, offer, town

PATH = "/v1/pings/stream"


class Socket:
    """A WebSocket of a client."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = socket

    async def send(self, value: Any) -> None:
        await self.raw.send_str(msgspec.json.encode(value).decode())

    async def get(self) -> Any:
        """The next answer."""
        async with asyncio.timeout(10):
            return msgspec.json.decode(await self.raw.receive_str())

    async def ask(self, value: Any) -> Any:
        await self.send(value)
        return await self.get()

    async def closed(self) -> tuple[int | None, str]:
        """The code and the reason with which the server closes; what comes before is skipped."""
        async with asyncio.timeout(10):
            while True:
                message = await self.raw.receive()
                if message.type is WSMsgType.CLOSE:
                    return message.data, message.extra or ""
                assert message.type is WSMsgType.TEXT, message


@contextlib.asynccontextmanager
async def connected(here: Town, key: str = OPERATOR, **more: Any) -> AsyncIterator[Socket]:
    """A WebSocket by a client of its own, which may outlive the town."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"http://127.0.0.1:{here.port}{PATH}", headers=headers, autoclose=False, **more
        ) as socket,
    ):
        yield Socket(socket)


async def test_one_ping_or_an_array_a_message(tmp_path: Path) -> None:
    """Each is answered in its shape, in order."""
    async with town(tmp_path) as here, connected(here) as socket:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        await here.resident()
        one = await socket.ask(here.ping(id="a"))
        many = await socket.ask([here.ping("n", id="b"), {"id": "c"}, here.ping("n", id="d")])
        none = await socket.ask([])
        await socket.raw.send_bytes(msgspec.json.encode(here.ping("n")))
        of_bytes = await socket.get()

        assert (one["status"], one["offer"]["offer"]) == ("decided", "bun")
        assert [d["id"] for d in many] == ["b", "c", "d"]
        assert [d["status"] for d in many] == ["no_consent", "rejected", "no_consent"]
        assert none == []
        assert of_bytes["status"] == "no_consent"


async def test_answers_keep_the_order_of_messages(tmp_path: Path) -> None:
    """Whatever waits for a commit and whatever does not."""
    async with town(tmp_path, slice_pings_max=7) as here, connected(here) as socket:
        await here.brand("cafe")
        for n in range(20):
            await here.resident(f"r{n}")
        for n in range(400):
            await socket.send(here.ping(f"r{n % 40}", id=str(n)))
        told = [await socket.get() for _ in range(400)]

        assert [d["id"] for d in told] == [str(n) for n in range(400)]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "malformed_json"),
        ("{", "malformed_json"),
        ("[{]", "malformed_json"),
        ("[" * 10_000, "malformed_json"),
        ("7", "invalid_ping"),
        ('{"pings": []}', "invalid_ping"),
    ],
)
async def test_a_message_that_is_no_ping_is_rejected(
    tmp_path: Path, message: str, code: str
) -> None:
    """By one decision, and the conversation goes on."""
    async with town(tmp_path) as here, connected(here) as socket:
        await socket.raw.send_str(message)
        told = await socket.get()
        good = await socket.ask(here.ping("n"))

        assert (told["status"], told["reject"]["code"]) == ("rejected", code)
        assert good["status"] == "no_consent"


async def test_text_that_is_no_text_closes(tmp_path: Path) -> None:
    """1007, as RFC 6455 asks."""
    async with town(tmp_path) as here, connected(here) as socket:
        await socket.raw.send_frame(b'{"x": "\xff"}', WSMsgType.TEXT)

        assert await socket.closed() == (1007, "text must be UTF-8")


async def test_messages_have_a_longest_and_a_most(tmp_path: Path) -> None:
    """1009 for too many bytes and for too many pings."""
    async with town(tmp_path, body_bytes_max=2_000, pings_max=3) as here:
        async with connected(here) as socket:
            await socket.send([here.ping("n", pad="x" * 3_000)])
            assert await socket.closed() == (1009, "the message is too long; see the limits")
        async with connected(here) as socket:
            await socket.send([{}] * 4)
            assert await socket.closed() == (1009, "too many pings in one message")


UNREAD = b"x" * (8 << 20)
"""More than the buffers of both ends hold."""


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (
            struct.pack("!BBQ", 0x81, 0xFF, 1 << 40),
            (1009, "the message is too long; see the limits"),
        ),
        (b"\xff\xff\xff\xff", (1002, "this is no WebSocket frame (RFC 6455)")),
    ],
)
async def test_who_goes_on_sending_gets_the_reason(
    tmp_path: Path, sent: bytes, told: tuple[int, str]
) -> None:
    """By a bare socket: what came before, then the reason, and no reset that takes it along."""
    async with town(tmp_path) as here, bare(here) as (reader, writer):
        ping = msgspec.json.encode(here.ping("n"))
        writer.write(struct.pack("!BBH4x", 0x81, 0xFE, len(ping)) + ping + sent + UNREAD)
        async with asyncio.timeout(10):
            await writer.drain()
            answer = await reader.readuntil(told[1].encode())

        (text, decision), (close, last) = short_frames(answer)
        assert (text, msgspec.json.decode(decision)["status"]) == (0x81, "no_consent")
        assert (close, *struct.unpack("!H", last[:2]), last[2:].decode()) == (0x88, *told)


def short_frames(data: bytes) -> list[tuple[int, bytes]]:
    """The first byte and the payload of frames that have less than 64 KiB."""
    frames = []
    while data:
        head, length, at = data[0], data[1], 2
        if length == 126:
            (length,), at = struct.unpack("!H", data[2:4]), 4
        frames.append((head, data[at : at + length]))
        data = data[at + length :]
    return frames


@contextlib.asynccontextmanager
async def bare(here: Town) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket as the bytes that it is; a mask of zeros changes nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    head = (
        f"GET {PATH} HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        f"Authorization: Bearer {OPERATOR}\r\n\r\n"
    )
    writer.write(head.encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_a_resident_key_sends_its_own(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        key = await here.resident("anna")
        async with connected(here, key) as socket:
            own = here.ping()
            del own["resident"]
            mine, other = await socket.ask(own), await socket.ask(here.ping("berta"))

            assert (mine["status"], mine["resident"]) == ("decided", "anna")
            assert other["reject"]["code"] == "foreign_resident"


async def test_a_browser_gives_its_key_as_a_subprotocol(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is never repeated, neither in the answer nor in a log."""
    caplog.set_level("DEBUG")
    async with town(tmp_path) as here:
        offered = (PROTOCOL, f"bearer.{OPERATOR}")
        async with connected(here, "", protocols=offered) as socket:
            assert socket.raw.protocol == PROTOCOL
            assert (await socket.ask(here.ping("n")))["status"] == "no_consent"
        for protocols, status in (
            ((PROTOCOL,), 401),
            ((PROTOCOL, "bearer.wrong"), 401),
            ((f"bearer.{OPERATOR}",), 426),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with connected(here, "", protocols=protocols):
                    pass
            assert refused.value.status == status

    assert OPERATOR not in caplog.text


async def test_what_is_no_websocket_is_told_so(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("GET", PATH)
        odd = await here.call(
            "GET",
            PATH,
            Upgrade="websocket",
            Connection="upgrade",
            Sec_WebSocket_Version="99",
            Sec_WebSocket_Key="24.9414",
        )

        assert (reply.status, reply.code, reply.headers["Upgrade"]) == (
            426,
            "upgrade_required",
            "websocket",
        )
        assert (odd.status, odd.code) == (426, "upgrade_required")
        assert "24.9414" not in str(odd.body)


async def test_only_so_many_are_open(tmp_path: Path) -> None:
    """One more is 503; when one goes there is room again."""
    async with town(tmp_path, sockets_max=1) as here:
        async with connected(here):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with connected(here):
                    pass
            assert refused.value.status == 503
        sockets = here.ctx.metrics.gauges["passby_sockets"][1]
        await until(lambda: not sockets(), within_s=10)
        async with connected(here) as socket:
            assert (await socket.ask(here.ping("n")))["status"] == "no_consent"


async def test_a_deleted_key_closes_its_sockets(tmp_path: Path) -> None:
    """Also a silent one, within a second or so."""
    async with town(tmp_path) as here:
        made = await here.must("POST", "/v1/keys", {"role": "sender", "name": "gateway"})
        async with connected(here, made["key"]) as socket:
            await socket.ask(here.ping("n"))
            await here.call("DELETE", f"/v1/keys/{made['id']}")

            assert await socket.closed() == (1008, "the key is no longer in force")


async def test_a_stop_closes_with_going_away(tmp_path: Path) -> None:
    """What was read is answered before."""
    async with contextlib.AsyncExitStack() as outer, contextlib.AsyncExitStack() as running:
        here = await running.enter_async_context(town(tmp_path))
        socket = await outer.enter_async_context(connected(here))
        told = await socket.ask(here.ping("n"))
        stopping = asyncio.create_task(running.aclose())
        closed = await socket.closed()
        await socket.raw.close()
        await stopping

    assert told["status"] == "no_consent"
    assert closed == (1001, "this server stops; connect again")


async def test_a_client_that_closes_gets_its_answers(tmp_path: Path) -> None:
    """All that it sent before is answered, and the close is answered by a close."""
    async with town(tmp_path) as here, connected(here) as socket:
        await here.brand("cafe")
        await here.resident()
        await socket.send(here.ping())
        await socket.raw.send_frame(struct.pack("!H", 1000), WSMsgType.CLOSE)
        told = await socket.get()

        assert told["events"][0]["kind"] == "enter"
        assert (await socket.closed())[0] == 1000


async def test_the_silent_are_pinged(tmp_path: Path) -> None:
    """Who answers stays; who does not is gone after half as long again."""
    async with town(tmp_path, heartbeat_seconds=1) as here:
        sockets = here.ctx.metrics.gauges["passby_sockets"][1]
        async with connected(here, autoping=False) as socket:
            async with asyncio.timeout(10):
                message = await socket.raw.receive()
            assert message.type is WSMsgType.PING
            await socket.raw.pong(message.data)
            assert (await socket.ask(here.ping("n")))["status"] == "no_consent"
            await until(lambda: not sockets(), within_s=10)


async def test_messages_count_for_the_rate(tmp_path: Path) -> None:
    """A ping each, and the handshake one; its answer tells what is left."""
    async with town(tmp_path, requests_per_second_max=5, rate_burst_s=1) as here:
        frozen_ms = here.ctx.mono_ms()
        here.ctx.mono_ms = lambda: frozen_ms
        async with connected(here) as socket:
            headers = socket.raw._response.headers
            told = [await socket.ask(here.ping("n")) for _ in range(4)]
            more = await socket.ask([here.ping("n")] * 2)

            assert headers["RateLimit"] == '"key";r=4;t=1'
            assert headers["RateLimit-Policy"] == '"key";q=5;w=1'
            assert headers["X-Request-Id"]
            assert {d["status"] for d in told} == {"no_consent"}
            assert [d["reject"]["code"] for d in more] == ["too_many_requests"] * 2


async def test_who_does_not_read_is_cut_off(tmp_path: Path, measured: list[str]) -> None:
    """It costs bounded memory, gets the reason if it reads on in time, and disturbs nobody."""
    async with (
        town(tmp_path, stalled_seconds_max=1, stream_lines_max=1_000) as here,
        connected(here) as socket,
    ):
        transport = socket.raw._response.connection.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.pause_reading()
        stalled = here.ctx.metrics.gauges["passby_connections_stalled"][1]
        message = msgspec.json.encode([here.ping("n", id="x" * 100)] * 500).decode()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while not stalled():
                await socket.raw.send_str(message)
                sent += 1

        before_kb = resident_kb()
        flooding = asyncio.create_task(flood())
        await until(stalled, within_s=20)
        grown_kb = resident_kb() - before_kb
        flooding.cancel()
        transport.resume_reading()
        closed = await socket.closed()
        alive = await here.call("POST", "/v1/pings", here.ping("n"))

        assert closed == (1008, "the answers are not read")
        assert alive.status == 200
        assert grown_kb < 64 * 1_024
        measured.append(
            f"a WebSocket that reads nothing: cut off after {sent} messages of 500 pings, "
            f"{grown_kb / 1_024:.1f} MB more in use by client and server"
        )


def resident_kb() -> int:
    """Memory of this process, kB; Linux."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith("VmRSS:"):
            return int(text.split()[1])
    raise AssertionError("no VmRSS")
