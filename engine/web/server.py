"""The aiohttp application made from the route table, and how it is served and stopped."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from engine.web.admission import Admission
from engine.web.context import CONTEXT, Context
from engine.web.endpoint import endpoint, log_fault
from engine.web.problem import Refused, response_to
from engine.web.routes import ROUTES

LINGER_SECONDS: Final = 2.0
"""How long we go on reading what is left of a refused body, so that its sender sees why."""

_QUIET: Final = logging.getLogger("engine.web.http")
"""Takes aiohttp's own lines, which quote what was sent, and keeps them to itself."""
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


def make_app(ctx: Context) -> web.Application:
    """The application: every route of the table, and problem+json for every other address."""
    app = web.Application()
    app[CONTEXT] = ctx
    admission = Admission(ctx)
    for route in ROUTES:
        handler = endpoint(route, ctx, admission)
        app.router.add_route(route.method, route.path, handler)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, handler)
    app.router.add_route("*", "/{rest:.*}", _elsewhere(ctx))
    _watch(ctx, admission)
    return app


def _elsewhere(ctx: Context) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What answers where there is no route: 405 where only the method is wrong, else 404."""

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        allowed: set[str] = set()
        for resource in request.app.router.resources():
            if resource.canonical != "/{rest}":
                allowed |= (await resource.resolve(request))[1]
        if allowed:
            methods = ", ".join(sorted(allowed))
            refused = Refused("method_not_allowed", headers={"Allow": methods})
        else:
            refused = Refused("not_found")
        ctx.metrics.count_request("*", "*", refused.problem.status)
        return response_to(refused)

    return elsewhere


def _watch(ctx: Context, admission: Admission) -> None:
    """Show with the metrics the numbers that other parts own."""
    watch, engine, feed, journal = ctx.metrics.watch, ctx.engine, ctx.feed, ctx.journal
    watch("passby_fences", "Fences in memory.", lambda: len(engine.fences))
    watch("passby_residents", "Residents in memory.", lambda: len(engine.preferences))
    watch("passby_waiting", "Requests that wait for an answer.", lambda: admission.waiting)
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
    watch(
        "passby_uptime_seconds",
        "Since the start.",
        lambda: (ctx.clock_ms() - ctx.started_ms) / 1_000,
    )


@asynccontextmanager
async def serve(ctx: Context, host: str, port: int) -> AsyncIterator[int]:
    """Serve while the block runs; gives the port, a free one where 0 was asked for.

    Leaving the block stops gracefully: nothing new is accepted, and what is in flight is finished
    within `config.stop_seconds_max`.
    """
    runner = _Runner(
        make_app(ctx),
        access_log=None,
        logger=_QUIET,
        lingering_time=LINGER_SECONDS,
        shutdown_timeout=float(ctx.config.stop_seconds_max),
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1_024)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class _Connection(RequestHandler):
    """One connection; what is no HTTP is answered as everything else is.

    aiohttp's own answer, and its log line, quote the bytes that it could not read.
    """

    __slots__ = ()

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
        if status < 500:
            return response_to(Refused("unreadable_request"))
        log_fault("a request", exc or RuntimeError())
        response = response_to(Refused("internal"))
        response.force_close()
        return response


class _Server(web.Server):
    """A server whose connections are ours."""

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Runs the application on our server: the runners' own hook for making one."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        kwargs: dict[str, Any] = made._kwargs
        return _Server(made.request_handler, request_factory=made.request_factory, **kwargs)
