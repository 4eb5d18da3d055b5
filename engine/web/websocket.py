"""GET /v1/pings/stream: a WebSocket, pings in and decisions out, in order."""

import asyncio
import sys
from typing import Final, Literal

from aiohttp import WSCloseCode, WSMsgType, web

from engine.decision import Decision, encode, encode_array
from engine.delivery.flow import Flow
from engine.ingest import native
from engine.store.port import KeyRow
from engine.web.connection import LINGER_SECONDS, Stalled
from engine.web.context import Context
from engine.web.fault import log_fault
from engine.web.problem import Refused
from engine.web.streams import Exchange

PROTOCOL: Final = "passby.v1"
BEARER: Final = "bearer."
"""Begins the subprotocol by which a browser gives its key: it can set no header."""

_Socket = web.WebSocketResponse[Literal[False]]

CLOSES: Final[dict[str, tuple[int, str]]] = {
    "stopping": (WSCloseCode.GOING_AWAY, "this server stops; connect again"),
    "unauthenticated": (WSCloseCode.POLICY_VIOLATION, "the key is no longer in force"),
    "stalled": (WSCloseCode.POLICY_VIOLATION, "the answers are not read"),
    "not_utf8": (WSCloseCode.INVALID_TEXT, "text must be UTF-8"),
    "too_many_pings": (WSCloseCode.MESSAGE_TOO_BIG, "too many pings in one message"),
    "internal": (WSCloseCode.INTERNAL_ERROR, "the fault is ours; connect again"),
}
"""Why we close, besides what the protocol itself knows: code and reason."""


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
    "not read its answers is held up, and then cut off. The server closes with a code and a "
    "reason:\n\n"
    + "\n".join(f"- {int(code)}: {reason}" for code, reason in sorted(set(CLOSES.values())))
    + "\n- 1009: the message is too long\n- 1002: it is no WebSocket frame"
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
    socket: _Socket = web.WebSocketResponse(
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
    """One open WebSocket; the shape of a part is whether it was one ping alone."""

    def __init__(self, ctx: Context, key: KeyRow, exchange: Exchange, socket: _Socket) -> None:
        self._ctx = ctx
        self._key = key
        self._exchange = exchange
        self._connection = exchange.connection
        self._socket = socket
        self._meter = exchange.admission.meter(key, paid=0)
        self._resident = key.resident if key.role == "resident" else None
        self._flow: Flow[bool] = Flow(
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
                code, reason = CLOSES[str(closed)]
            except Exception as error:  # whatever it is, the client is told and we get a trace
                log_fault("GET /v1/pings/stream", error)
                code, reason = CLOSES["internal"]
            await self._socket.close(code=code, message=reason.encode(), drain=False)

    async def _read(self) -> None:
        """Take in messages until the client closes."""
        socket, receive = self._socket, self._socket.receive
        while not socket.closed:
            message = await receive()
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                await self._take(message.data, is_text=message.type is WSMsgType.TEXT)
            else:
                return

    async def _take(self, data: bytes, *, is_text: bool) -> None:
        """Decide one message."""
        if not self._exchange.streams.in_force(self._key):
            raise _Closed("unauthenticated")
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
            await self._flow.add(self._meter.pay(given), len(data), False)
            return
        if is_text and isinstance(given, Decision):
            _check_text(data)
        await self._flow.add(self._meter.pay([given]), len(data), True)

    async def open(self) -> None:
        """Nothing has to be said before the first decision."""

    async def write(self, decisions: list[Decision], shape: bool) -> None:
        """One message."""
        text = encode(decisions[0]) if shape else encode_array(decisions)
        await self._socket.send_frame(text, WSMsgType.TEXT)
        self._ctx.metrics.count(decisions)
        if self._connection.writing_paused:
            await self._connection.drained()


def _check_text(data: bytes) -> None:
    """Whether what could not be read was text at all, as RFC 6455 asks of a text message."""
    try:
        data.decode()
    except UnicodeDecodeError:
        raise _Closed("not_utf8") from None
