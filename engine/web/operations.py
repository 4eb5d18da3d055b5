"""For whoever runs the service: is it alive, is it ready, and what has it counted."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from engine.store.port import StoreUnavailable
from engine.web.context import Context
from engine.web.route import Answer

CHECK_SECONDS_MAX: Final = 2
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PAGE: Final = Path(__file__).parent / "pages" / "index.html"
PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
)


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class Check(msgspec.Struct, frozen=True):
    """One thing that must be in order."""

    ok: bool
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether pings can be decided and made durable, and each check by name."""

    ready: bool
    checks: dict[str, Check]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What this process holds and has done since it started."""

    brands: int
    fences: int
    offers: int
    residents: int
    pings: int
    events: int
    offers_made: int
    uptime_s: int


async def healthz(ctx: Context) -> Answer[Health]:
    """Say that the process is alive."""
    del ctx
    return Answer(Health("ok"))


async def readyz(ctx: Context) -> Answer[Readiness]:
    """Say whether the service can do its work, check by check."""
    checks = {
        "store": await _check(ctx.store.read_brands),
        "feed": _feed(ctx),
        "journal": _journal(ctx),
        "canary": _canary(ctx),
    }
    ready = all(check.ok for check in checks.values())
    return Answer(Readiness(ready, checks), 200 if ready else 503)


async def _check(read: Callable[[list[str]], Awaitable[object]]) -> Check:
    """Whether the store answers a small question in time."""
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            await read([""])
    except (StoreUnavailable, TimeoutError):
        return Check(False, "The store does not answer.")
    return Check(True, "The store answers.")


def _feed(ctx: Context) -> Check:
    """Whether preferences may be believed."""
    if ctx.feed.stale:
        return Check(False, "The lease on the change feed has run out; nothing is offered.")
    return Check(True, f"Followed up to {ctx.feed.number}.")


def _journal(ctx: Context) -> Check:
    """Whether more may wait for a commit."""
    told = f"{ctx.journal.depth} changes wait."
    return Check(not ctx.journal.full, told)


def _canary(ctx: Context) -> Check:
    """Whether a withdrawal is silence, and an opt-in is not, as far as it was tried."""
    trouble, last = ctx.canary.trouble, ctx.canary.last
    if trouble is not None:
        return Check(False, trouble)
    told = "not tried yet" if last is None else "tried, and a withdrawal was silence"
    return Check(True, f"Opting in and withdrawing: {told}.")


async def metrics(ctx: Context) -> Answer[str]:
    """Give the counts in Prometheus' text format."""
    return Answer(msgspec.Raw(ctx.metrics.text()), content_type=METRICS_TYPE)


async def counts(ctx: Context) -> Answer[Counts]:
    """Give a few numbers for a page; nothing about anybody."""
    held, told = ctx.engine.counts(), ctx.metrics
    return Answer(
        Counts(
            brands=held["brands"],
            fences=held["fences"],
            offers=held["offers"],
            residents=held["residents"],
            pings=sum(told.pings.values()),
            events=sum(told.events.values()),
            offers_made=told.offers,
            uptime_s=(ctx.mono_ms() - ctx.started_mono_ms) // 1_000,
        )
    )


async def page(ctx: Context) -> Answer[str]:
    """Show what this is, to people."""
    del ctx
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
    return Answer(
        msgspec.Raw(PAGE.read_bytes()), headers=headers, content_type="text/html; charset=utf-8"
    )
