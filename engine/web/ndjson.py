"""POST /v1/pings as a stream: a ping a line in, a decision a line out, in order."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from engine.decision import Decision, encode_lines
from engine.delivery.flow import Flow
from engine.ingest import native
from engine.store.port import KeyRow
from engine.web.body import pieces
from engine.web.context import Context
from engine.web.problem import Refused, problem_bytes
from engine.web.route import NDJSON
from engine.web.streams import Exchange

ABOUT: Final = (
    f"With `Content-Type: {NDJSON}` the body is a stream: a ping a line in, its decision a line "
    "out, in the order sent, from the first line on. Read while you send: whoever does not is held "
    "up, and after a while cut off. A line that is no ping is `rejected` in its place; a blank one "
    "is skipped; a ping beyond the rate of the key, or that could not be made durable, is `shed`. "
    "A stream that has to end before its body does (a line that is too long, a silence, a key that "
    "is deleted, a server that stops) ends with one last line that is a `Problem`, and the "
    "connection closes; where nothing was answered yet, the problem is the answer."
)
"""Of streams, for the description."""


class TooLong(Exception):
    """A line is longer than allowed."""


@dataclass(slots=True)
class Lines:
    """Cuts pieces into lines; blank ones are left out.

    Args:
        bytes_max: longest line.
    """

    bytes_max: int
    _rest: list[bytes] = field(default_factory=list)
    _rest_bytes: int = 0

    def feed(self, piece: bytes) -> Iterator[list[bytes]]:
        """The lines that a piece ends, at most once. Raises TooLong, after the lines before it."""
        lines = piece.split(b"\n")
        rest = lines.pop()
        if lines:
            if self._rest:
                lines[0] = b"".join((*self._rest, lines[0]))
                self._rest, self._rest_bytes = [], 0
            yield from self._checked(lines)
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
            if self._rest_bytes > self.bytes_max:
                raise TooLong

    def end(self) -> Iterator[list[bytes]]:
        """The last line, where no line feed ended it."""
        if self._rest:
            yield from self._checked([b"".join(self._rest)])

    def _checked(self, lines: list[bytes]) -> Iterator[list[bytes]]:
        """The lines before one that is too long."""
        longest = max(map(len, lines))
        for place, line in enumerate(lines if longest > self.bytes_max else ()):
            if len(line) > self.bytes_max:
                yield _told(lines[:place])
                raise TooLong
        yield _told(lines)


def _told(lines: list[bytes]) -> list[bytes]:
    """Those that say something."""
    return [line for line in lines if line and not line.isspace()]


@dataclass(slots=True)
class _Answer:
    """The response: its head goes with the first line."""

    exchange: Exchange
    ctx: Context
    response: web.StreamResponse
    _writer: AbstractStreamWriter | None = None

    async def open(self) -> None:
        """Be ready to write."""
        if self._writer is None:
            self._writer = await self.response.prepare(self.exchange.request)

    async def write(self, decisions: list[Decision], shape: None = None) -> None:
        """Lines of decisions."""
        await self.say(encode_lines(decisions))
        self.ctx.metrics.count(decisions)

    async def say(self, text: bytes) -> None:
        """Bytes as they are."""
        assert self._writer is not None
        await self._writer.write(text, drain=False)  # type: ignore[call-arg]
        await self.exchange.connection.drained()


async def stream_lines(ctx: Context, key: KeyRow, exchange: Exchange) -> web.StreamResponse:
    """Answer line by line until the body ends.

    Raises:
        Refused: the stream had to end before anything was answered.
        ConnectionError: the client is gone, or does not read.
    """
    exchange.check()
    headers = exchange.headers | {"Content-Type": NDJSON, "Cache-Control": "no-store"}
    response = web.StreamResponse(headers=headers)
    answer = _Answer(exchange, ctx, response)
    flow: Flow[None] = Flow(
        ctx.answerer,
        answer,
        pings_max=ctx.config.stream_lines_max,
        bytes_max=ctx.config.body_bytes_max,
        turn_pings_max=ctx.config.slice_pings_max,
    )
    reading = _read(ctx, key, exchange, flow)
    with exchange.streams.opened(key, exchange.connection, reading) as stream:
        stream.reading.add_done_callback(lambda _: flow.end())
        await flow.run()
        try:
            await stream.reading
        except asyncio.CancelledError:
            if not stream.ended_by:
                raise
            refused = Refused(stream.ended_by)
        except Refused as error:
            refused = error
        else:
            await answer.open()
            return response
        if not response.prepared:
            raise refused
        response.force_close()
        await answer.say(problem_bytes(refused, exchange.request_id) + b"\n")
        return response


async def _read(ctx: Context, key: KeyRow, exchange: Exchange, flow: Flow[None]) -> None:
    """Take in the body, in slices of lines."""
    config, lines = ctx.config, Lines(ctx.config.body_bytes_max)
    slice_max, meter = config.slice_pings_max, exchange.admission.meter(key, paid=1)
    resident = key.resident if key.role == "resident" else None

    async def take(told: list[bytes]) -> None:
        for start in range(0, len(told), slice_max):
            if not exchange.streams.in_force(key):
                raise Refused("unauthenticated")
            some = told[start : start + slice_max]
            items = native.decode_lines(some, received_ms=ctx.clock_ms(), resident=resident)
            await flow.add(meter.pay(items), sum(map(len, some)), None)

    body = pieces(exchange.request, float(config.stream_idle_seconds_max))
    try:
        async with contextlib.aclosing(body):
            async for piece in body:
                for told in lines.feed(piece):
                    await take(told)
        for told in lines.end():
            await take(told)
    except TooLong:
        raise Refused(
            "body_too_large", f"A line may have {config.body_bytes_max} bytes at most."
        ) from None
