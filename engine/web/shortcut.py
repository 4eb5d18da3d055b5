"""The short way of a plain `POST /v1/pings`: from its bytes to its answer's, past aiohttp.

Most of what a server did for one ping was aiohttp's: a request, a task, a response. A request that
asks for nothing special is answered here instead, with the same bytes; every other one goes
aiohttp's way. Heads are read by aiohttp's own parser, so that both ways agree where a request ends,
and remembered, since clients send the same head again and again.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, NamedTuple

from aiohttp.base_protocol import BaseProtocol
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpRequestParser, HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError

from engine.decision import Decision
from engine.delivery.answer import Decided
from engine.store.port import KeyRow
from engine.web import pings
from engine.web.admission import Admission
from engine.web.context import Context
from engine.web.cors import Cors
from engine.web.fault import LOG, refusal
from engine.web.listening import Drain
from engine.web.problem import CONTENT_TYPE, Refused, problem_bytes
from engine.web.request_id import HEADER, sane_or_new
from engine.web.route import JSON, Route, is_ndjson

HEAD_BYTES_MAX: Final = 2_048
"""Longest head that is remembered."""
HEADS_MAX: Final = 1_024
"""Most heads remembered; with one more, all are forgotten."""

_LAST: Final = "Connection: close\r\n"
_SPECIAL: Final = ("Content-Encoding", "Expect", "Origin", "Sec-GPC")
"""What else than aiohttp's own headers is acted on only by aiohttp's way."""


class Head(NamedTuple):
    """What matters of a plain request's head."""

    length: int
    """Of the body, bytes."""
    authorization: str | None
    request_id: str | None
    """As the sender has it."""


@dataclass(slots=True)
class _Call:
    """One request being answered."""

    called: str
    """The request's id."""
    began_s: float
    key: KeyRow | None = None


class Shortcut:
    """Answers plain posts of pings.

    Args:
        route: the one whose requests these are.
        drain: says whether an answer is the connection's last.

    Attributes:
        start: how a request begins that may be plain.
        taken: requests so far.
    """

    def __init__(
        self, route: Route, ctx: Context, admission: Admission, cors: Cors, drain: Drain
    ) -> None:
        self.start = f"{route.method} {route.path} HTTP/1.1\r\n".encode()
        self.taken = 0
        self.drain = drain
        self._route = route
        self._ctx = ctx
        self._admission = admission
        self._common = cors.headers("")
        self._heads: dict[bytes, Head | None] = {}

    def head(self, text: bytes) -> Head | None:
        """What a head says, taken up to and with its empty line; None: it is not plain."""
        try:
            return self._heads[text]
        except KeyError:
            head = self._read(text)
        if len(text) <= HEAD_BYTES_MAX:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[text] = head
        return head

    def _read(self, text: bytes) -> Head | None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, HEAD_BYTES_MAX)
        try:
            messages, upgraded, rest = parser.feed_data(text)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded or rest:
            return None
        message = messages[0][0]
        headers = message.headers
        length = headers.get("Content-Length", "")
        if (
            message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or message.chunked
            or not length.isdecimal()
            or int(length) > self._ctx.config.body_bytes_max
            or is_ndjson(headers.get("Content-Type"))
            or any(name in headers for name in _SPECIAL)
        ):
            return None
        return Head(int(length), headers.get("Authorization"), headers.get(HEADER))

    def answer(self, head: Head, body: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        """The whole answer, or where it has to be waited for what gives it.

        Nothing may be awaited between either and the sending.
        """
        self.taken += 1
        call = _Call(sane_or_new(head.request_id), perf_counter())
        try:
            key = call.key = self._admission.key_of(head.authorization)
            self._admission.admit(key, self._route.roles)
            self._admission.waiting.check()
            posted = pings.read(self._ctx, key, body)
            answerer = self._ctx.answerer
            decided = answerer.decide_at_once(posted.items)
            if decided is None or decided.waits:
                return self._later(call, posted, decided)
            return self._good(call, posted, answerer.hand_over(decided))
        except Exception as error:  # whatever it is, the client gets an answer and we a trace
            return self._bad(call, refusal(self._route.name, error))

    async def _later(self, call: _Call, posted: pings.Posted, decided: Decided | None) -> bytes:
        """The answer to pings that wait for a commit, or are too many for one turn of the loop."""
        answerer, waiting = self._ctx.answerer, self._admission.waiting
        waiting.taken += 1
        try:
            if decided is None:
                decided = await answerer.decide(posted.items)
            await answerer.settled(decided)
            return self._good(call, posted, answerer.hand_over(decided))
        except Exception as error:  # as above
            return self._bad(call, refusal(self._route.name, error))
        finally:
            waiting.taken -= 1

    def _good(self, call: _Call, posted: pings.Posted, decisions: list[Decision]) -> bytes:
        """The answer with decisions; `overloaded` and the like are raised."""
        body = pings.told(self._ctx, posted, decisions)
        assert call.key is not None
        self._admission.charge(call.key, len(decisions))
        return self._bytes(call, 200, {"Content-Type": JSON, HEADER: call.called}, body)

    def _bad(self, call: _Call, refused: Refused) -> bytes:
        """The answer that refuses."""
        headers = {"Content-Type": CONTENT_TYPE, HEADER: call.called, **refused.headers}
        body = problem_bytes(refused, call.called)
        return self._bytes(call, refused.problem.status, headers, body)

    def _bytes(self, call: _Call, status: int, headers: dict[str, str], body: bytes) -> bytes:
        """An answer as it is sent; counted, and logged if that is wanted."""
        route = self._route
        self._ctx.metrics.count_request(route.method, route.path, status)
        if LOG.isEnabledFor(logging.DEBUG):
            ms = (perf_counter() - call.began_s) * 1_000
            LOG.debug("%s %d %.1f ms %s", route.name, status, ms, call.called)
        if call.key is not None:
            headers |= self._admission.headers(call.key)
        headers |= self._common
        return answer_bytes(status, headers, body, last=self.drain.on)


def answer_bytes(status: int, headers: Mapping[str, str], body: bytes, *, last: bool) -> bytes:
    """An HTTP/1.1 answer as aiohttp would send it; with `last` the connection ends."""
    told = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    length, date = len(body), rfc822_formatted_time()
    head = (
        f"{_first_line(status)}{told}Content-Length: {length}\r\nDate: {date}\r\n"
        f"Server: {SERVER_SOFTWARE}\r\n{_LAST if last else ''}\r\n"
    )
    return head.encode("latin-1") + body


@cache
def _first_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
