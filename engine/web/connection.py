"""One connection: how many there may be, how slow it may be, and what is no HTTP.

aiohttp bounds how long a connection may rest. Here is the rest of what a hostile or broken client
can do: a head that never ends, an answer that is never read, more connections than there is room
for. aiohttp's own answers, and its log lines, quote the bytes that it could not read; ours do not.
"""

import asyncio
import resource
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from engine.config import Config
from engine.web.fault import log_fault
from engine.web.problem import CONTENT_TYPE, Refused, problem_bytes, response_to
from engine.web.request_id import HEADER, new_request_id
from engine.web.shortcut import Head, Shortcut, answer_bytes

LINGER_SECONDS: Final = 2.0
"""How long we go on after the last word, so that the other side sees why."""

REST_SECONDS: Final = 0.2
"""How long the body of a plain request may be in coming behind its head."""
_HEAD_END: Final = b"\r\n\r\n"

FILES_BESIDES: Final = 256
"""Open files that a process needs besides its connections."""


class Stalled(ConnectionError):
    """The client reads nothing of what waits for it."""


class Connection(RequestHandler):
    """One connection.

    Attributes:
        streaming: whether a stream runs on it, which ends by itself when the service stops.
        lost: called when the client is gone, by a stream that may not write for long.
    """

    __slots__ = (
        "_begun",
        "_begun_s",
        "_config",
        "_head",
        "_later",
        "_look",
        "_measured",
        "_owed",
        "_owner",
        "_rest",
        "_room",
        "_shortcut",
        "_unread",
        "_waiting",
        "lost",
        "streaming",
    )

    def __init__(self, owner: "Server", config: Config, shortcut: Shortcut, **given: Any) -> None:
        super().__init__(owner, **given)
        self._owner = owner
        self._config = config
        self._shortcut = shortcut
        self._measured = True
        """Whether it is known of all that came so far where its requests end."""
        self._owed = 0
        """Bytes that belong to the request that aiohttp is reading."""
        self._begun = b""
        """The head of a plain request whose body has yet to come,"""
        self._rest: asyncio.TimerHandle | None = None
        """as long as this runs."""
        self._later: asyncio.Task[None] | None = None
        """Waits for an answer of the shortcut."""
        self._waiting = b""
        """What came meanwhile."""
        self._head: asyncio.TimerHandle | None = None
        """Looks whether a head has begun; one timer, since heads may come by the thousand."""
        self._begun_s: float | None = None
        """When the first bytes of a head came, while nothing else was going on."""
        self._look: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._unread = 0
        self.streaming = False
        self.lost: Callable[[], object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it, or say that there is no room.

        What is written goes to the system at once, not at the end of the loop's turn, and a stream
        writes no more before it has left: what was checked must not lie with us, where a process
        that stands still, or a client that does not read, would keep it beyond a withdrawal.
        """
        super().connection_made(transport)
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=0)
        if self._owner.count > self._config.connections_max:
            self._say(Refused("overloaded", "Too many connections; try again in a moment."))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everybody who waits for it."""
        for timer in (self._head, self._look, self._rest):
            if timer is not None:
                timer.cancel()
        if self._room is not None and not self._room.done():
            self._room.set_exception(ConnectionResetError("the client is gone"))
        if self.lost is not None:
            self.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came: plain pings by the shortcut, all else by aiohttp, each in its turn.

        A connection whose requests are not all measured stays with aiohttp to its end: only so is
        it sure that nothing within a body is ever taken for a request.
        """
        if not data:  # aiohttp itself, which goes on with what it holds back
            super().data_received(data)
        if self._later is not None:
            self._keep(data)
            return
        if self._rest is not None:
            self._rest.cancel()
            data = self._begun + data
            self._rest = None
        while data and self._measured:
            if self._owed:
                part, data = data[: self._owed], data[self._owed :]
                self._owed -= len(part)
                self._pass_on(part)
                continue
            data = self._begin(data)
            if self._later is not None:
                self._keep(data)
                return
        if data:
            self._pass_on(data)

    def _begin(self, data: bytes) -> bytes:
        """Look at the beginning of a request; what is left when it has been answered."""
        shortcut = self._shortcut
        end = data.find(_HEAD_END) + len(_HEAD_END)
        whole = end >= len(_HEAD_END) and data.startswith(shortcut.start)
        head = shortcut.head(data[:end]) if whole else None
        if head is None:
            self._measured = False
            return data
        size = end + head.length
        if len(data) >= size and self._is_free:
            self._take(head, data[end:size])
            return data[size:]
        if len(data) == end and self._is_free:
            # Many clients send a head and its body one after the other.
            self._begun = data
            self._rest = self._loop.call_later(REST_SECONDS, self._rest_late, head.length)
            return b""
        self._owed = size
        return data

    def _rest_late(self, length: int) -> None:
        """A body is long in coming: let aiohttp wait for it."""
        self._rest, self._owed = None, length
        self._pass_on(self._begun)

    @property
    def _is_free(self) -> bool:
        """Whether the next answer would be the next thing that is written, and leaves at once."""
        return self._rests and not (self._paused or self._close or self._force_close)

    def _take(self, head: Head, body: bytes) -> None:
        """Answer by the shortcut."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._owner.requests_count += 1
        answer = self._shortcut.answer(head, body)
        if isinstance(answer, bytes):
            self._send(answer)
        else:
            self._request_in_progress = True
            self._later = self._loop.create_task(self._send_later(answer))

    def _send(self, answer: bytes) -> None:
        if self.transport is None:
            return
        self.transport.write(answer)
        if self._close or self._shortcut.drain.on:
            self.force_close()

    async def _send_later(self, answer: Coroutine[Any, Any, bytes]) -> None:
        """Send an answer when it is there, and go on with what came meanwhile."""
        try:
            self._send(await answer)
        finally:
            self._later = None
            self._request_in_progress = False
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        data, self._waiting = self._waiting, b""
        if data:
            self._resume_reading_for_buffer()
            self.data_received(data)

    def _keep(self, data: bytes) -> None:
        """Read no more than this before the answer that is waited for has been sent."""
        if data:
            self._waiting += data
            self._pause_reading_for_buffer()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 (aiohttp's)
        """End, when what is being answered is, or the time is over."""
        await super().shutdown(timeout)
        if self._later is not None:
            self._later.cancel()

    def _pass_on(self, data: bytes) -> None:
        """Let aiohttp read; a head may take only so long from its first bytes to its end."""
        super().data_received(data)
        if not self._rests:
            self._begun_s = None
        elif self._begun_s is None:
            self._begun_s = self._loop.time()
        if self._head is None and not self._force_close:
            self._look_at_head(self._config.head_seconds_max)

    @property
    def _rests(self) -> bool:
        """Whether no request is being answered, nor waits for that."""
        waiter = self._waiter
        return not self._request_count if waiter is None else not waiter.done()

    def _look_at_head(self, seconds: float) -> None:
        self._head = self._loop.call_later(seconds, self._head_late)

    def _head_late(self) -> None:
        """Refuse a head that has begun and does not end, also behind a request answered since."""
        self._head = None
        left_s, longest_s = 0.0, self._config.head_seconds_max
        if self.transport is None or self._force_close or self._upgraded:
            return
        if not self._rests:
            left_s = longest_s
        elif self._begun_s is not None:
            left_s = self._begun_s + longest_s - self._loop.time()
        if left_s > 0:
            self._look_at_head(left_s)
        elif self._has_begun():
            self._say(Refused("slow_head"))

    def _has_begun(self) -> bool:
        """Whether there is a part of a head. Only its end can tell, so no more may come of it."""
        assert self._parser is not None
        try:
            return self._parser.feed_eof() is not None
        except Exception:  # whatever is wrong with a part: it is one
            return True

    def _say(self, refused: Refused) -> None:
        """Answer outside of any request, and close."""
        if self.transport is None:
            return
        status, request_id = refused.problem.status, new_request_id()
        headers = {"Content-Type": CONTENT_TYPE, HEADER: request_id, **refused.headers}
        body = problem_bytes(refused, request_id)
        self.transport.write(answer_bytes(status, headers, body, last=True))
        self.force_close()

    def close(self) -> None:
        """Take no more requests; a stream goes on until its own end."""
        if not self.streaming:
            super().close()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write: look again in a while."""
        super().pause_writing()
        self._look_later(self._config.stalled_seconds_max)

    def resume_writing(self) -> None:
        """There is room again."""
        super().resume_writing()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _look_later(self, seconds: float) -> None:
        if self.transport is not None:
            self._unread = self.transport.get_write_buffer_size()
            self._look = self._loop.call_later(seconds, self._look_whether_it_reads)

    def _look_whether_it_reads(self) -> None:
        """Cut off whoever has read nothing since; a stream may say a last word before."""
        self._look = None
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() < self._unread:
            self._look_later(self._config.stalled_seconds_max)
        elif self._room is not None and not self._room.done():
            self._owner.stalled += 1
            self._room.set_exception(Stalled("the client reads nothing"))
            until_s = self._loop.time() + self._config.stalled_seconds_max
            self._linger(until_s)
        else:
            self._owner.stalled += 1
            self.transport.abort()

    def _linger(self, until_s: float) -> None:
        """Leave a client that was told why the time to read it, as long as it reads."""
        if self.transport is not None:
            self._unread = self.transport.get_write_buffer_size()
            self._look = self._loop.call_later(LINGER_SECONDS, self._look_a_last_time, until_s)

    def _look_a_last_time(self, until_s: float) -> None:
        self._look = None
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() < self._unread and self._loop.time() < until_s:
            self._linger(until_s)
        else:
            self.transport.abort()

    async def drained(self) -> None:
        """Wait until what was written has left, all but a little; for one waiter at a time.

        Raises:
            Stalled: the client reads nothing; the connection ends in a moment.
            ConnectionError: the client is gone.
        """
        if not self.writing_paused:
            return
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        self._room = self._loop.create_future()
        try:
            await self._room
        finally:
            self._room = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer an error that no route has seen."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun already")
        if isinstance(exc, ConnectionError):
            raise exc  # nobody is there to be answered, and it is no fault of ours
        if status < 500:
            return response_to(Refused("unreadable_request"), new_request_id())
        log_fault("a request", exc or RuntimeError())
        response = response_to(Refused("internal"), new_request_id())
        response.force_close()
        return response


class Server(web.Server):
    """A server whose connections are ours.

    Attributes:
        count: connections that are open now.
        stalled: connections that were cut off because their clients read nothing.
    """

    def __init__(self, config: Config, shortcut: Shortcut, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._config = config
        self._shortcut = shortcut
        self.count = 0
        self.stalled = 0

    def __call__(self) -> RequestHandler:
        """One connection."""
        return Connection(self, self._config, self._shortcut, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count it."""
        self.count += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Count it no more."""
        self.count -= 1
        super().connection_lost(handler, exc)


class Runner(web.AppRunner):
    """Runs the application on our server: the runners' own hook for making one."""

    def __init__(
        self, app: web.Application, config: Config, shortcut: Shortcut, **given: Any
    ) -> None:
        super().__init__(
            app,
            lingering_time=LINGER_SECONDS,
            keepalive_timeout=float(config.idle_seconds_max),
            shutdown_timeout=float(config.stop_seconds_max),
            auto_decompress=False,  # see encoding
            **given,
        )
        self._config = config
        self._shortcut = shortcut

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        kwargs: dict[str, Any] = made._kwargs
        return Server(
            self._config,
            self._shortcut,
            made.request_handler,
            request_factory=made.request_factory,
            **kwargs,
        )


def allow_files(connections_max: int) -> int:
    """Let this process open as many files as its connections need, if it may; how many it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + FILES_BESIDES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
