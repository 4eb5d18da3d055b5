"""GET /v1/pings/stream: a WebSocket, pings in and decisions out, in order."""

import asyncio
import sys
from dataclasses import dataclass
from struct import pack
from typing import Any, Final, Literal

from aiohttp import WSCloseCode, WSMsgType, web

from engine.decision import Decision, encode, encode_array
from engine.delivery.flow import Flow
from engine.ingest import native
from engine.ping import Ping
from engine.store.port import KeyRow
from engine.web.connection import LINGER_SECONDS, Stalled
from engine.web.context import Context
from engine.web.fault import log_fault
from engine.web.problem import Refused
from engine.web.streams import Exchange

PROTOCOL: Final = "passby.v1"
BEARER: Final = "bearer."
"""Begins the subprotocol by which a browser gives its key: it can set no header."""

ALONE: Final = -1
_TEXT_WHOLE: Final = 0x81
"""FIN and the opcode of text."""
_CLOSE_WHOLE: Final = 0x88
"""Likewise of a close, whose reason has at most 123 bytes."""


class _Socket(web.WebSocketResponse[Literal[False]]):
    """One that is not closed by what it can't read: aiohttp would do so at once, without a word,
    before what came earlier is answered, and by a reset where more is on its way.

    Attributes:
        broken: the code of what could not be read, or None.
    """

    broken: int | None = None

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Close, or leave it to whoever reads, where the protocol was broken."""
        if code in PROTOCOL_CLOSES and not message:
            self.broken = code
            return False
        return await super().close(code=code, message=message, drain=drain)


CLOSES: Final[dict[str, tuple[int, str]]] = {
    "stopping": (WSCloseCode.GOING_AWAY, "this server stops; connect again"),
    "unauthenticated": (WSCloseCode.POLICY_VIOLATION, "the key is no longer in force"),
    "stalled": (WSCloseCode.POLICY_VIOLATION, "the answers are not read"),
    "not_utf8": (WSCloseCode.INVALID_TEXT, "text must be UTF-8"),
    "too_many_pings": (WSCloseCode.MESSAGE_TOO_BIG, "too many pings in one message"),
    "internal": (WSCloseCode.INTERNAL_ERROR, "the fault is ours; connect again"),
}
"""Why we close, besides what the protocol itself knows: code and reason."""

PROTOCOL_CLOSES: Final[dict[int, str]] = {
    WSCloseCode.PROTOCOL_ERROR: "this is no WebSocket frame (RFC 6455)",
    WSCloseCode.MESSAGE_TOO_BIG: "the message is too long; see the limits",
}
"""What the protocol itself knows, likewise."""

ABOUT: Final = (
    "A WebSocket (RFC 6455, version 13). Send a message of text, or of bytes: JSON in UTF-8, "
    "either one `PingBody` or an array of them. Each message is answered by one message of text, "
    "in the order sent: a `Decision`, or an array of them of the same length in the same order. "
    "What is no ping is answered `rejected` in its place, a message that is no JSON by one such "
    "decision, and the connection goes on; a ping beyond the rate of the key is `shed`.\n\n"
    "The key goes into the header `Authorization`, or, from a browser, which can set none, into a "
    f"subprotocol: `new WebSocket(url, ['{PROTOCOL}', '{BEARER}' + key])`. The server chooses "
    f"`{PROTOCOL}` and never repeats the key. A key never stands in a URL.\n\n"
    "Whoever is silent is pinged, and must answer. Send no more than you read: a client that does "
    "not read its answers is held up, and then cut off; the reason comes behind the answers that "
    f"wait, so it reaches who reads on within {LINGER_SECONDS:.0f} s. The server closes with a "
    "code and a reason:\n\n"
    + "\n".join(
        f"- {int(code)}: {reason}"
        for code, reason in sorted({*CLOSES.values(), *PROTOCOL_CLOSES.items()})
    )
)
"""Of this route, for the description."""


class _Closed(Exception):
    """The stream has to end, for one of CLOSES."""


def key_in_protocols(request: web.Request) -> str | None:
    """The Authorization that a browser hid among the subprotocols, or None."""
    for one in _offered(request):
        if one.startswith(BEARER):
            return f"Bearer {one.removeprefix(BEARER)}"
    return None


def _offered(request: web.Request) -> list[str]:
    told = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [one.strip() for line in told for one in line.split(",") if one.strip()]


async def stream_messages(ctx: Context, key: KeyRow, exchange: Exchange) -> web.StreamResponse:
    """Send pings over a WebSocket, one or an array a message, and get their decisions in order."""
    exchange.check()
    request, offered = exchange.request, _offered(exchange.request)
    if offered and PROTOCOL not in offered:
        raise Refused(
            "upgrade_required", f"Offer the subprotocol `{PROTOCOL}` beside any other, or none."
        )
    socket = _Socket(
        timeout=LINGER_SECONDS,
        heartbeat=float(ctx.config.heartbeat_seconds),
        autoclose=False,
        compress=False,
        protocols=(PROTOCOL,),
        max_msg_size=ctx.config.body_bytes_max,
        writer_limit=sys.maxsize,  # Connection.drained is what waits
        decode_text=False,
    )
    if request.method != "GET" or not socket.can_prepare(request):
        raise Refused("upgrade_required", headers={"Upgrade": "websocket"})
    if exchange.streams.sockets >= ctx.config.sockets_max:
        raise Refused("overloaded", "Too many WebSockets are open; try again in a moment.")
    socket.headers.update(exchange.headers)
    exchange.streams.sockets += 1
    try:
        await socket.prepare(request)
        await _Conversation(ctx, key, exchange, socket).run()
    finally:
        exchange.streams.sockets -= 1
    return socket


class _Conversation:
    """One open WebSocket.

    Messages that are there already are decided together and answered by one write, as a slice of
    lines is: each would cost more by itself than its decision. The shape of such a part is how
    many pings each message held, ALONE for one that was no array.
    """

    def __init__(self, ctx: Context, key: KeyRow, exchange: Exchange, socket: _Socket) -> None:
        self._ctx = ctx
        self._key = key
        self._exchange = exchange
        self._connection = exchange.connection
        self._socket = socket
        self._meter = exchange.admission.meter(key, paid=0)
        self._resident = key.resident if key.role == "resident" else None
        self._flow: Flow[list[int]] = Flow(
            ctx.answerer,
            self,
            pings_max=ctx.config.stream_lines_max,
            bytes_max=ctx.config.body_bytes_max,
            turn_pings_max=ctx.config.slice_pings_max,
        )

    async def run(self) -> None:
        """Until either side closes."""
        code, reason = int(WSCloseCode.OK), ""
        streams = self._exchange.streams
        with streams.opened(self._key, self._connection, self._read()) as stream:
            stream.reading.add_done_callback(lambda _: self._flow.end())
            try:
                await self._flow.run()
                await stream.reading
            except asyncio.CancelledError:
                if not stream.ended_by:
                    raise
                code, reason = CLOSES[stream.ended_by]
            except Stalled:
                code, reason = CLOSES["stalled"]
            except ConnectionError:
                return
            except _Closed as closed:
                if self._socket.broken is not None:
                    await self._say_last(self._socket.broken)
                    return
                code, reason = CLOSES[str(closed)]
            except Exception as error:  # whatever it is, the client is told and we get a trace
                log_fault("GET /v1/pings/stream", error)
                code, reason = CLOSES["internal"]
            await self._socket.close(code=code, message=reason.encode(), drain=False)

    async def _read(self) -> None:
        """Take in messages until the client closes."""
        slice_max, goes_on = self._ctx.config.slice_pings_max, True
        while goes_on and not self._socket.closed:
            part = _Part([], [], 0)
            message = await self._socket.receive()
            try:
                goes_on = self._add(message, part)
                while goes_on and len(part.items) < slice_max and len(part.shape) < slice_max:
                    if not _has_more(self._socket):
                        break
                    goes_on = self._add(await self._socket.receive(), part)
            finally:
                # What came before a message that ends it is answered too.
                if part.shape:
                    await self._flow.add(self._meter.pay(part.items), part.size, part.shape)

    def _add(self, message: Any, part: "_Part") -> bool:
        """Read one message; False: there are no more."""
        if message.type is not WSMsgType.TEXT and message.type is not WSMsgType.BINARY:
            if self._socket.broken is not None:
                raise _Closed("broken")
            return False
        if not self._exchange.streams.in_force(self._key):
            raise _Closed("unauthenticated")
        data: bytes = message.data
        try:
            given = native.decode_message(
                data,
                received_ms=self._ctx.clock_ms(),
                resident=self._resident,
                pings_max=self._ctx.config.pings_max,
            )
        except native.BodyRefused as refused:
            raise _Closed(refused.code) from None
        if isinstance(given, list):
            part.items += given
            part.shape.append(len(given))
        else:
            if isinstance(given, Decision) and message.type is WSMsgType.TEXT:
                _check_text(data)
            part.items.append(given)
            part.shape.append(ALONE)
        part.size += len(data)
        return True

    async def _say_last(self, code: int) -> None:
        """Close where nothing can be read any more.

        What still comes is taken in unread for a while, or until the client closes: a connection
        that is closed over it would be reset, and take the reason along.
        """
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return
        said = pack("!H", code) + PROTOCOL_CLOSES[code].encode()
        gone = asyncio.get_running_loop().create_future()
        self._connection.lost = gone.cancel
        transport.write(pack("!BB", _CLOSE_WHOLE, len(said)) + said)
        await asyncio.wait([gone], timeout=LINGER_SECONDS)
        transport.close()

    async def open(self) -> None:
        """Nothing has to be said before the first decision."""

    async def write(self, decisions: list[Decision], shape: list[int]) -> None:
        """A message for each that came, all in one write."""
        frames: list[bytes] = []
        at = 0
        for held in shape:
            if held == ALONE:
                text = encode(decisions[at])
                at += 1
            else:
                text = encode_array(decisions[at : at + held])
                at += held
            frames += (_frame_head(len(text)), text)
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(b"".join(frames))
        self._ctx.metrics.count(decisions)
        if self._connection.writing_paused:
            await self._connection.drained()


@dataclass(slots=True)
class _Part:
    """Messages that were there together."""

    items: list[Ping | Decision]
    shape: list[int]
    size: int
    """Bytes."""


def _has_more(socket: _Socket) -> bool:
    """Whether a message of pings is there already, so that receiving it waits for nothing."""
    reader = socket._reader
    if reader is None or not reader._buffer:
        return False
    following = reader._buffer[0][0].type
    return following is WSMsgType.TEXT or following is WSMsgType.BINARY


def _frame_head(length: int) -> bytes:
    """The head of a whole message of text, as a server sends it (RFC 6455, 5.2)."""
    if length < 126:
        return pack("!BB", _TEXT_WHOLE, length)
    if length < 1 << 16:
        return pack("!BBH", _TEXT_WHOLE, 126, length)
    return pack("!BBQ", _TEXT_WHOLE, 127, length)


def _check_text(data: bytes) -> None:
    """Whether what could not be read was text at all, as RFC 6455 asks of a text message."""
    try:
        data.decode()
    except UnicodeDecodeError:
        raise _Closed("not_utf8") from None
