"""Server-Sent Events: what happens in the city, and each resident's offers.

Each stream goes on where its reader left off, over a window that survives a restart. A comment now
and then shows that the connection is alive; its `id` moves the place to go on from, so that a
reader of rare events does not fall out of the window.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from engine.delivery.tail import Gap, Reader, Wanted
from engine.delivery.views import Stale, frame
from engine.store.port import KeyRow
from engine.store.window import EventRow
from engine.web.auth import resident_of
from engine.web.context import Context
from engine.web.fields import ResidentId
from engine.web.problem import FieldError, Refused
from engine.web.streams import Exchange

EVENT_STREAM: Final = "text/event-stream"
RETRY_MS: Final = 2_000
"""How long a browser waits before it connects again."""
WRITE_BYTES: Final = 64 * 1024
"""About how much is written before the reader must have read some of it."""
WITHHELD_MAX: Final = 1_000
"""Most claims kept back from one reader that are remembered."""
STALE_S: Final = 0.1
"""Between two tries to hand over what nobody could decide on."""

EVENT_ID_MAX: Final = 1 << 62

EventId = Annotated[
    str,
    Meta(
        description="`id` of the last event that was read; also as the query's `last_event_id`.",
        extra_json_schema={"pattern": "^[0-9]{1,18}$"},
    ),
]
View = Callable[[EventRow], bytes | None]


class PreferencesTold(msgspec.Struct, frozen=True, kw_only=True):
    """The latest version of a resident's preferences: read them, if it is not the one you have."""

    version: int
    at_ms: int | None = None
    """When it was said; null in the first event, which tells what there is."""


class GapTold(msgspec.Struct, frozen=True, kw_only=True):
    """Events after `last_event_id` may be missing: ask for what you need to know as it is now."""

    last_event_id: int
    goes_on: int
    """What comes next comes after this id."""


async def stream_events(
    ctx: Context, key: KeyRow, exchange: Exchange, *, last_event_id: EventId | None = None
) -> web.StreamResponse:
    """Follow what happens, as Server-Sent Events: transitions, offers, recalls, redemptions."""
    after = _number(exchange, last_event_id)
    if key.role == "operator":
        return await _follow(ctx, key, exchange, Wanted(), ctx.views.of_operator, after)
    wanted = Wanted(brands=frozenset(key.brands))
    return await _follow(ctx, key, exchange, wanted, ctx.views.of_merchant, after)


async def stream_offers(
    ctx: Context,
    key: KeyRow,
    exchange: Exchange,
    *,
    resident: ResidentId,
    last_event_id: EventId | None = None,
) -> web.StreamResponse:
    """Follow a resident's offers and their recalls, as Server-Sent Events."""
    whom, after = resident_of(key, resident), _number(exchange, last_event_id)
    if ctx.engine.preferences.version(whom) is None:
        raise Refused("unknown_resident")
    withheld: set[str] = set()

    def view(event: EventRow) -> bytes | None:
        if len(withheld) >= WITHHELD_MAX:
            withheld.clear()
        return ctx.views.of_resident(event, withheld)

    return await _follow(ctx, key, exchange, Wanted(resident=whom), view, after)


async def stream_preferences(
    ctx: Context,
    key: KeyRow,
    exchange: Exchange,
    *,
    resident: ResidentId,
    last_event_id: EventId | None = None,
) -> web.StreamResponse:
    """Follow the versions of a resident's preferences on all devices, as Server-Sent Events."""
    whom, after = resident_of(key, resident), _number(exchange, last_event_id)
    if after is None:
        # What is said from here on comes as an event, whatever the row read next shows of it.
        after = ctx.tail.number
    rows = await ctx.store.read_residents([whom])
    if not rows:
        raise Refused("unknown_resident")
    reached = rows[0].version
    told = msgspec.json.encode(PreferencesTold(version=reached))

    def view(event: EventRow) -> bytes | None:
        if event.name != "preferences":
            return None
        version = msgspec.json.decode(event.body, type=PreferencesTold).version
        if version <= reached:
            return None  # the first event told of it, or of a later one
        news = PreferencesTold(version=version, at_ms=event.at_ms)
        return frame(event.name, event.number, msgspec.json.encode(news))

    first = b"event: preferences\ndata: %s\n\n" % told
    return await _follow(ctx, key, exchange, Wanted(resident=whom), view, after, first)


def _number(exchange: Exchange, text: str | None) -> int | None:
    """The number of the event that was read last, wherever it was sent.

    Raises:
        Refused: it is none.
    """
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= EVENT_ID_MAX:
        return int(text)
    header = "Last-Event-ID"
    place = header if exchange.request.headers.get(header) else "last_event_id"
    wrong = FieldError(place, "invalid_event_id", "Must be the `id` of an event, as it was read.")
    raise Refused("invalid_parameter", errors=(wrong,))


async def _follow(
    ctx: Context,
    key: KeyRow,
    exchange: Exchange,
    wanted: Wanted,
    view: View,
    after: int | None,
    first: bytes = b"",
) -> web.StreamResponse:
    """Answer until the reader goes, the key does, or the service stops.

    Args:
        after: number of the event to go on from; None: from now on.
        first: frames that come before all others.

    Raises:
        Refused: there are too many streams, or the service is about to end.
        ConnectionError: the client is gone, or does not read.
    """
    exchange.check()
    if len(ctx.tail) >= ctx.config.event_streams_max:
        raise Refused("overloaded", "Too many streams of events are open; try again in a moment.")
    response = web.StreamResponse(
        headers=exchange.headers
        | {
            "Content-Type": EVENT_STREAM,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    if exchange.request.method == "HEAD":
        await response.prepare(exchange.request)
        return response
    with ctx.tail.subscribed(wanted) as subscription:
        reader = Reader(ctx.store, ctx.tail, subscription, after)
        answer = _Answer(ctx, key, exchange, response, reader, view, first)
        with exchange.streams.opened(key, exchange.connection, answer.run()) as stream:
            exchange.connection.lost = stream.reading.cancel
            try:
                await stream.reading
            except asyncio.CancelledError:
                if exchange.connection.transport is None:
                    raise ConnectionResetError("the client is gone") from None
                if not stream.ended_by:
                    raise
                await answer.say(b": %s\n\n" % stream.ended_by.encode())
    response.force_close()
    return response


class _Answer:
    """One stream on its way out."""

    def __init__(
        self,
        ctx: Context,
        key: KeyRow,
        exchange: Exchange,
        response: web.StreamResponse,
        reader: Reader,
        view: View,
        first: bytes,
    ) -> None:
        self._ctx = ctx
        self._key = key
        self._exchange = exchange
        self._response = response
        self._reader = reader
        self._view = view
        self._first = first
        self._waiting: deque[EventRow | Gap] = deque()
        self._said_s = 0.0

    async def run(self) -> None:
        """Hand over what comes until the key is no longer in force."""
        clock, every_s = asyncio.get_running_loop().time, self._ctx.config.event_heartbeat_ms / 1e3
        await self.say(b"retry: %d\nid: %d\n\n" % (RETRY_MS, self._reader.number) + self._first)
        while True:
            left_s = max(0.0, self._said_s + every_s - clock())
            if not self._waiting:
                self._waiting.extend(await self._reader.next(left_s))
            # A key that was given other brands is another key.
            if self._ctx.keys.get(self._key.hash) != self._key:
                await self.say(b": unauthenticated\n\n")
                return
            frames, held_back = self._frames()
            if frames:
                await self.say(frames)
            elif clock() - self._said_s >= every_s:
                await self.say(b": still here\nid: %d\n\n" % self._reached)
            if held_back:
                await asyncio.sleep(STALE_S)

    @property
    def _reached(self) -> int:
        """All up to this number was handed over, or is nothing to this reader."""
        if not self._waiting:
            return self._reader.number
        first = self._waiting[0]
        return first.after if isinstance(first, Gap) else first.number - 1

    def _frames(self) -> tuple[bytes, bool]:
        """What may be handed over now, and whether the rest has to wait for news of consent."""
        frames = bytearray()
        while self._waiting and len(frames) < WRITE_BYTES:
            item = self._waiting[0]
            if isinstance(item, Gap):
                told = GapTold(last_event_id=item.after, goes_on=item.goes_on)
                frames += frame("gap", item.goes_on, msgspec.json.encode(told))
            else:
                try:
                    frames += self._view(item) or b""
                except Stale:
                    return bytes(frames), True
            self._waiting.popleft()
        return bytes(frames), False

    async def say(self, text: bytes) -> None:
        """Give bytes to the transport before anything is awaited, then wait until it has room."""
        request, response = self._exchange.request, self._response
        if not response.prepared:
            await response.prepare(request)
        await request.writer.write(text, drain=False)  # type: ignore[call-arg]
        self._said_s = asyncio.get_running_loop().time()
        await self._exchange.connection.drained()
