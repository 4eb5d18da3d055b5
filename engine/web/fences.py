"""Fences: places in, places out, and the plain question of which of them cover a position."""

import asyncio
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson
from msgspec import Meta

from engine.store.audit import Author
from engine.store.port import FencePage, FenceRow, KeyRow, VersionMoved
from engine.web.auth import check_brand, may_see
from engine.web.boxes import ids_within
from engine.web.conditions import Match, NoneMatch, expected, moved
from engine.web.context import Context
from engine.web.fields import Cursor, Id, Limit, Position
from engine.web.live import etag, live_in_city
from engine.web.paging import LIMIT_DEFAULT, Page, read_cursor, write_cursor
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer
from geofences.fence import Fence, FenceRejected
from geofences.geojson import parse_fence, to_feature

POSITIONS_MAX: Final = 10_000
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""A page of fences ends with the one that makes it as long: one alone may have 4 MiB."""

Box = Annotated[str, Meta(max_length=120, description="`west,south,east,north`, degrees.")]


class Geometry(msgspec.Struct, frozen=True):
    """A GeoJSON geometry: Polygon, MultiPolygon, Point with `properties.radius_m`, or LineString or
    MultiLineString with `properties.width_m`."""

    type: Literal["Point", "LineString", "MultiLineString", "Polygon", "MultiPolygon"]
    coordinates: list[Any]


class FenceProperties(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose the place is, and what it is called."""

    brand: Id
    name: str = ""
    tags: tuple[str, ...] = ()
    radius_m: float | None = None
    """Of a Point: metres, more than 0."""
    width_m: float | None = None
    """Of a LineString: metres from side to side, 0.1 to 20,000."""
    corridor: dict[str, Any] | None = None
    """Of a LineString: the polygon that was made of it, as it was answered; need not be sent."""


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A fence as a GeoJSON Feature (RFC 7946)."""

    type: Literal["Feature"]
    id: Id | None = None
    geometry: Geometry
    properties: FenceProperties


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """A GeoJSON FeatureCollection of fences."""

    type: Literal["FeatureCollection"]
    features: list[Feature]


class Positions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Positions to ask about, `[lon, lat]`."""

    positions: Annotated[tuple[Position, ...], Meta(max_length=POSITIONS_MAX)]


class Covering(msgspec.Struct, frozen=True):
    """For each position the ids of the fences that cover it, rising; boundaries count."""

    fences: tuple[tuple[str, ...], ...]


async def put_fence(
    ctx: Context,
    key: KeyRow,
    body: bytes,
    by: Author | None,
    *,
    fence: Id,
    if_match: Match | None = None,
    if_none_match: NoneMatch | None = None,
) -> Answer[Feature]:
    """Write a fence, new or not."""
    wanted = expected(if_match, if_none_match)
    # A short line may be a corridor of 100,000 corners, so no body is short enough for the loop.
    parsed, feature = await asyncio.to_thread(_parse, body, fence)
    check_brand(key, parsed.brand)
    old = ctx.engine.fences.get(fence)
    if old is not None:
        check_brand(key, old.brand)
    if parsed.brand not in ctx.engine.book.brands:
        wrong = FieldError("properties.brand", "unknown_brand", "Write the brand first.")
        raise Refused("unknown_brand", errors=(wrong,))
    laws = ctx.engine.floor.laws
    if laws.has_places and (code := laws.near(parsed)) is not None:
        wrong = FieldError("geometry", f"law:{code}", laws.source(code))
        raise Refused("forbidden_by_law", errors=(wrong,))
    row = FenceRow(id=fence, brand=parsed.brand, feature=feature)
    try:
        (done,) = await ctx.store.put_fences([row], expected=wanted, by=by)
    except VersionMoved as error:
        raise moved(error) from None
    await live_in_city(ctx, done.number)
    headers = {"ETag": etag(done.version)}
    return Answer(msgspec.Raw(feature), 201 if done.created else 200, headers)


def _parse(body: bytes, fence_id: str) -> tuple[Fence, bytes]:
    """The fence and its canonical Feature."""
    try:
        document = orjson.loads(body)
        parsed = parse_fence(document, fence_id=fence_id)
    except orjson.JSONDecodeError:
        raise Refused("malformed_json") from None
    except FenceRejected as rejected:
        errors = tuple(FieldError(p.path, p.code, p.detail) for p in rejected.problems)
        raise Refused("invalid_fence", errors[0].detail, errors=errors) from None
    return parsed, orjson.dumps(to_feature(parsed))


async def _row(ctx: Context, key: KeyRow, fence: str) -> FenceRow:
    """A fence that is there and the caller's business."""
    rows = await ctx.store.read_fences([fence])
    if not rows:
        raise Refused("no_such_fence")
    check_brand(key, rows[0].brand)
    return rows[0]


async def get_fence(ctx: Context, key: KeyRow, *, fence: Id) -> Answer[Feature]:
    """Read one fence."""
    row = await _row(ctx, key, fence)
    return Answer(msgspec.Raw(row.feature), headers={"ETag": etag(row.version)})


async def delete_fence(
    ctx: Context, key: KeyRow, by: Author | None, *, fence: Id, if_match: Match | None = None
) -> Answer[None]:
    """Delete a fence; whoever is inside leaves it without an event."""
    await _row(ctx, key, fence)
    try:
        number = await ctx.store.delete_fence(fence, expected=expected(if_match, None), by=by)
    except VersionMoved as error:
        raise moved(error) from None
    if number is None:
        raise Refused("no_such_fence")
    await live_in_city(ctx, number)
    return Answer(None, 204)


async def list_fences(
    ctx: Context,
    key: KeyRow,
    *,
    bbox: Box | None = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor | None = None,
) -> Answer[Page[Feature]]:
    """List fences by id, those that may touch a box or all; a merchant sees its own.

    A page of very large fences has fewer than `limit`.
    """
    after = "" if cursor is None else read_cursor(cursor)
    ids = None if bbox is None else await ids_within(ctx, key, bbox, after, limit + 1)
    asked = FencePage(
        after=after,
        ids=None if ids is None else tuple(ids[:limit]),
        brands=None if key.role == "operator" else key.brands,
        limit=limit,
        bytes_max=PAGE_BYTES_MAX,
    )
    rows, more = await ctx.store.page_fences(asked)
    last = rows[-1].id if more else None
    if last is None and ids is not None and len(ids) > limit:
        last = ids[limit - 1]
    following = None if last is None else write_cursor(last)
    page = Page(tuple(msgspec.Raw(row.feature) for row in rows), following)
    return Answer(msgspec.Raw(msgspec.json.encode(page)))


async def covering(ctx: Context, key: KeyRow, body: Positions) -> Answer[Covering]:
    """Which fences cover each position; no resident is involved."""
    found: list[tuple[str, ...]] = []
    step = ctx.config.slice_pings_max or 1
    for start in range(0, len(body.positions), step):
        for lon, lat in body.positions[start : start + step]:
            hits = ctx.engine.fences.covering(lon, lat)
            found.append(tuple(sorted(f.id for f in hits if may_see(key, f.brand))))
        await asyncio.sleep(0)
    return Answer(Covering(tuple(found)))
