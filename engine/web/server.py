"""The aiohttp application made from the route table, and how it is served and stopped."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from aiohttp import HttpVersion11, web

from engine.web.admission import Admission
from engine.web.connection import Connection, Runner, Server, allow_files
from engine.web.context import CONTEXT, Context
from engine.web.cors import Cors
from engine.web.endpoint import endpoint
from engine.web.listening import Certificate, Drain
from engine.web.problem import Refused, response_to
from engine.web.request_id import request_id
from engine.web.routes import PINGS, ROUTES
from engine.web.shortcut import Shortcut
from engine.web.streams import Streams

BACKLOG: Final = 1_024
"""Who may stand in line to be accepted; the kernel may allow fewer."""

DRAIN: Final = web.AppKey("drain", Drain)
SHORTCUT: Final = web.AppKey("shortcut", Shortcut)

_LOG: Final = logging.getLogger(__name__)
_QUIET: Final = logging.getLogger("engine.web.http")
"""Takes aiohttp's own lines, which quote what was sent, and keeps them to itself."""
for _quiet in (_QUIET, logging.getLogger("aiohttp.websocket")):
    _quiet.addHandler(logging.NullHandler())
    _quiet.propagate = False


def make_app(ctx: Context) -> web.Application:
    """The application: every route of the table, and problem+json for every other address."""
    app = web.Application()
    app[CONTEXT] = ctx
    admission, cors, streams = Admission(ctx), Cors(ctx.config.cors_origins), Streams(ctx.keys)
    for route in ROUTES:
        handler = endpoint(route, ctx, admission, streams, cors)
        app.router.add_route(route.method, route.path, handler, expect_handler=_expect)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, handler, expect_handler=_expect)
    drain = app[DRAIN] = Drain(app)
    shortcut = app[SHORTCUT] = Shortcut(PINGS, ctx, admission, cors, drain)
    app.router.add_route("*", "/{rest:.*}", _elsewhere(ctx, cors), expect_handler=_expect)
    app.cleanup_ctx.append(_watching(streams))
    _watch(ctx, admission)
    ctx.metrics.watch("passby_streams", "Streams that are open.", lambda: len(streams))
    ctx.metrics.watch(
        "passby_requests_short",
        "Posts of pings that asked for nothing special and were answered by the short way.",
        lambda: shortcut.taken,
    )
    ctx.metrics.watch("passby_sockets", "WebSockets among them.", lambda: streams.sockets)
    return app


async def _expect(request: web.Request) -> None:
    """Let a client go on that waits for it; of other expectations nothing need come (RFC 9110)."""
    if request.version == HttpVersion11 and request.headers["Expect"].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # It is no part of the answer.
        request.writer.output_size = 0


def _watching(streams: Streams) -> Callable[[web.Application], AsyncIterator[None]]:
    """What ends streams from outside: their keys' deletion, and the stop of the service."""

    async def watching(app: web.Application) -> AsyncIterator[None]:
        async def stop(_: web.Application) -> None:
            streams.stop()

        app.on_shutdown.append(stop)
        task = asyncio.create_task(streams.watch())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return watching


def _elsewhere(ctx: Context, cors: Cors) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What answers where there is no route: 405 where only the method is wrong, else 404.

    And browsers, which ask whether the page of another origin may call.
    """

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        allowed: set[str] = set()
        for resource in request.app.router.resources():
            if resource.canonical != "/{rest}":
                allowed |= (await resource.resolve(request))[1]
        preflight = cors.preflight(request, allowed) if allowed else None
        if preflight is not None:
            ctx.metrics.count_request("*", "*", preflight.status)
            return preflight
        if allowed:
            methods = ", ".join(sorted(allowed))
            refused = Refused("method_not_allowed", headers={"Allow": methods})
        else:
            refused = Refused("not_found")
        ctx.metrics.count_request("*", "*", refused.problem.status)
        response = response_to(refused, request_id(request))
        response.headers.update(cors.headers(request.headers.get("Origin", "")))
        return response

    return elsewhere


def _watch(ctx: Context, admission: Admission) -> None:
    """Show with the metrics the numbers that other parts own."""
    watch, engine, feed, journal = ctx.metrics.watch, ctx.engine, ctx.feed, ctx.journal
    watch("passby_fences", "Fences in memory.", lambda: len(engine.fences))
    watch("passby_residents", "Residents in memory.", lambda: engine.counts()["residents"])
    watch("passby_waiting", "Requests that wait for an answer.", lambda: admission.waiting.taken)
    watch("passby_journal_depth", "Changes that wait for a commit.", lambda: journal.depth)
    watch(
        "passby_journal_oldest_seconds",
        "Age of the oldest change that waits.",
        lambda: journal.oldest_age_ms / 1_000,
    )
    watch(
        "passby_journal_groups_committed",
        "Groups made durable since the start.",
        lambda: journal.groups_committed,
    )
    watch(
        "passby_journal_groups_failed",
        "Groups that could not be made durable.",
        lambda: journal.groups_failed,
    )
    watch(
        "passby_journal_claims_refused",
        "Claims that the store did not accept: a budget was spent, or another server was first.",
        lambda: journal.claims_refused,
    )
    watch(
        "passby_feed_lag_seconds",
        "Since the change feed was last seen to its end; -1: never.",
        lambda: feed.lag_ms / 1_000 if feed.lag_ms >= 0 else -1,
    )
    watch("passby_feed_stale", "1: the lease has run out.", lambda: float(feed.stale))
    tail = ctx.tail
    watch("passby_event_streams", "Streams of events that are open.", lambda: len(tail))
    watch("passby_event_number", "Number of the newest event handed out.", lambda: tail.number)
    watch(
        "passby_event_failures",
        "Looks at the window of events that failed since the start.",
        lambda: tail.failures,
    )
    _watch_silence(ctx)
    _watch_rows(ctx)
    watch(
        "passby_uptime_seconds",
        "Since the start.",
        lambda: (ctx.mono_ms() - ctx.started_mono_ms) / 1_000,
    )


def _watch_silence(ctx: Context) -> None:
    """Whether an acknowledged no holds, and in how many processes."""
    watch, canary = ctx.metrics.watch, ctx.canary
    watch(
        "passby_canary_rounds",
        "Times that this process' made-up resident opted in and withdrew since the start.",
        lambda: canary.rounds,
    )
    watch(
        "passby_canary_leaks",
        "Offers that it got after its withdrawal was acknowledged: must be 0.",
        lambda: canary.leaks,
    )
    watch(
        "passby_canary_misses", "Times that it wanted an offer and got none.", lambda: canary.misses
    )
    watch("passby_canary_ok", "0: one of these just happened.", lambda: canary.trouble is None)
    watch(
        "passby_processes_buried",
        "Processes on this database that this one took for dead since the start.",
        lambda: ctx.everywhere.buried,
    )


def _watch_rows(ctx: Context) -> None:
    """What a restore left to do, and what time has taken."""
    watch, pruned = ctx.metrics.watch, ctx.pruner.pruned
    watch(
        "passby_residents_suspended",
        "Residents who have a grant that counts no more since a backup was restored.",
        lambda: ctx.engine.preferences.suspended,
    )
    for name, what in (
        ("events", "Events for streams"),
        ("changes", "Lines of the change feed"),
        ("batches", "Lists of what an import wrote"),
        ("entries", "Entries of the audit log"),
        ("calls", "Answers kept under an Idempotency-Key"),
    ):
        watch(
            f"passby_pruned_{name}",
            f"{what} that this server has forgotten since the start, because they were too old.",
            partial(pruned.__getitem__, name),
        )


@asynccontextmanager
async def serve(
    ctx: Context,
    host: str,
    port: int,
    *,
    certificate: Certificate | None = None,
    handed: socket.socket | None = None,
) -> AsyncIterator[int]:
    """Serve while the block runs; gives the port, a free one where 0 was asked for.

    Leaving the block stops gracefully: nothing new is accepted, connections that were kept are told
    that they end for `config.drain_seconds`, and what is in flight is finished within
    `config.stop_seconds_max`.

    Args:
        ctx: the service's parts.
        host, port: where to listen.
        certificate: for TLS.
        handed: a socket that listens already, instead of host and port.
    """
    files, connections_max = allow_files(ctx.config.connections_max), ctx.config.connections_max
    if files < connections_max:
        _LOG.warning(
            "only %d files may be open: too few for %d connections", files, connections_max
        )
    app = make_app(ctx)
    runner = Runner(app, ctx.config, app[SHORTCUT], access_log=None, logger=_QUIET)
    await runner.setup()
    server = runner.server
    assert isinstance(server, Server)
    watch = ctx.metrics.watch
    watch("passby_connections", "Connections that are open.", lambda: server.count)
    watch(
        "passby_connections_stalled",
        "Connections cut off since the start because their clients read nothing.",
        lambda: server.stalled,
    )
    try:
        context = None if certificate is None else certificate.context
        site: web.BaseSite = (
            web.TCPSite(runner, host, port, ssl_context=context, backlog=BACKLOG)
            if handed is None
            else web.SockSite(runner, handed, ssl_context=context, backlog=BACKLOG)
        )
        await site.start()
        yield runner.addresses[0][1]
        await site.stop()
        await app[DRAIN].run(lambda: _kept(server), within_s=ctx.config.drain_seconds)
    finally:
        await runner.cleanup()


def _kept(server: Server) -> int:
    """How many connections take requests; a stream ends in its own way."""
    return sum(not (isinstance(one, Connection) and one.streaming) for one in server.connections)
