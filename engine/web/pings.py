"""POST /v1/pings: the hot route, as short as it can be."""

from time import perf_counter
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from engine.decision import Decision, encode, encode_all
from engine.ingest import native
from engine.ping import Ping
from engine.store.port import KeyRow
from engine.web.auth import resident_of
from engine.web.body import check_json
from engine.web.context import Context
from engine.web.fields import Lat, Lon
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer


class PingBody(msgspec.Struct, frozen=True, kw_only=True):
    """One position of one resident, WGS 84; unknown fields are ignored."""

    resident: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    """Whose position; a resident key may leave it out."""
    at_ms: int
    """When the phone took the fix, Unix milliseconds: at most 60 s ahead, at most 7 days ago."""
    lon: Lon
    lat: Lat
    accuracy_m: Annotated[float, Meta(ge=0)] | None = None
    """Radius of the circle that holds the true position 68 times in 100; null: unknown."""
    id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    """The sender's own name for the fix; comes back in the decision."""
    speed_mps: float | None = None
    heading_deg: float | None = None
    mock: bool = False
    """The phone says that the position is made up."""
    next_fix: bool = False
    """Ask when and where the next fix would matter; told with `decided`."""


class Pings(msgspec.Struct, frozen=True):
    """Many pings, answered in their order; a bad one is `rejected` in its place."""

    pings: Annotated[tuple[PingBody, ...], Meta(max_length=10_000)]


class Decisions(msgspec.Struct, frozen=True):
    """The answers to many pings, in the order sent."""

    decisions: tuple[Decision, ...]


class Posted(NamedTuple):
    """A body that was read."""

    items: list[Ping | Decision]
    """A ping that could not be read is its decision already."""
    one: bool
    """It was one ping, not a batch of one."""
    began_s: float


async def post_pings(ctx: Context, key: KeyRow, body: bytes) -> Answer[Decision]:
    """Send one ping or many and get a decision for each."""
    posted = read(ctx, key, body)
    decisions = await ctx.answerer.answer(posted.items)
    return Answer(msgspec.Raw(told(ctx, posted, decisions)), cost=len(decisions))


def read(ctx: Context, key: KeyRow, body: bytes) -> Posted:
    """Read a body of pings.

    Raises:
        Refused: nothing of it can be used.
    """
    try:
        given = native.decode_request(
            body,
            received_ms=ctx.clock_ms(),
            resident=resident_of(key, "me") if key.role == "resident" else None,
            pings_max=ctx.config.pings_max,
        )
    except native.BodyRefused as refused:
        if refused.code == "invalid_ping":
            check_json(body)
        raise Refused(
            refused.code, refused.detail, errors=tuple(map(_field_error, refused.errors))
        ) from None
    one = isinstance(given, Ping)
    return Posted([given] if isinstance(given, Ping) else given, one, perf_counter())


def told(ctx: Context, posted: Posted, decisions: list[Decision]) -> bytes:
    """Decisions as the answer to what was posted, counted.

    Raises:
        Refused: nothing of it could be decided.
    """
    ctx.metrics.answer_s.observe(perf_counter() - posted.began_s)
    ctx.metrics.count(decisions)
    if decisions and decisions[0].status == "shed" and all(d.status == "shed" for d in decisions):
        raise _shed(decisions[0])
    return encode(decisions[0]) if posted.one else encode_all(decisions)


def _field_error(wrong: native.Problem) -> FieldError:
    """A field of a ping that could not be read."""
    return FieldError(wrong.path, wrong.code, wrong.detail)


def _shed(decision: Decision) -> Refused:
    """A request of which nothing could be decided is refused as a whole."""
    reject = decision.reject
    if isinstance(reject, msgspec.UnsetType):
        return Refused("overloaded")
    return Refused(reject.code, reject.detail)
