"""Brands: the names under which merchants' fences and offers stand."""

import msgspec

from engine.offers.offer import Brand, BrandCaps
from engine.store.audit import Author
from engine.store.port import KeyRow, VersionMoved
from engine.web.auth import check_brand
from engine.web.conditions import Match, NoneMatch, expected, moved
from engine.web.context import Context
from engine.web.fields import Count, Cursor, Id, Limit, Name, Words, Zone, zone_errors
from engine.web.live import etag, live_in_city
from engine.web.paging import LIMIT_DEFAULT, Page, page_ids
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer


class BrandCapsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of a brand towards one resident."""

    per_resident_day: Count | None = None


class BrandBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A brand as it is written."""

    name: Name
    id: Id | None = None
    """May be left out; else that of the address."""
    categories: Words = ()
    timezone: Zone | None = None
    """The city's by default."""
    caps: BrandCapsBody = BrandCapsBody()


def id_errors(given: str | None, path_id: str) -> list[FieldError]:
    """An error if a body names another thing than its address does."""
    if given in (None, path_id):
        return []
    return [FieldError("id", "id_mismatch", "Must be the id in the address, or left out.")]


async def put_brand(
    ctx: Context,
    key: KeyRow,
    body: BrandBody,
    by: Author | None,
    *,
    brand: Id,
    if_match: Match | None = None,
    if_none_match: NoneMatch | None = None,
) -> Answer[Brand]:
    """Write a brand, new or not."""
    check_brand(key, brand)
    written = brand_of(ctx, brand, body)
    wanted = expected(if_match, if_none_match)
    try:
        done = await ctx.store.put_brand(written, expected=wanted, by=by)
    except VersionMoved as error:
        raise moved(error) from None
    await live_in_city(ctx, done.number)
    return Answer(written, 201 if done.created else 200, {"ETag": etag(done.version)})


def brand_of(ctx: Context, brand: str, body: BrandBody) -> Brand:
    """The brand that a body means."""
    zone = body.timezone or ctx.config.timezone
    errors = id_errors(body.id, brand) + zone_errors("timezone", zone)
    if errors:
        raise Refused("invalid_body", errors[0].detail, errors=tuple(errors))
    return Brand(
        id=brand,
        name=body.name,
        categories=tuple(dict.fromkeys(body.categories)),
        timezone=zone,
        caps=BrandCaps(per_resident_day=body.caps.per_resident_day),
    )


async def get_brand(ctx: Context, key: KeyRow, *, brand: Id) -> Answer[Brand]:
    """Read one brand."""
    check_brand(key, brand)
    rows = await ctx.store.read_brands([brand])
    if not rows:
        raise Refused("no_such_brand")
    return Answer(rows[0].brand, headers={"ETag": etag(rows[0].version)})


async def list_brands(
    ctx: Context, key: KeyRow, *, limit: Limit = LIMIT_DEFAULT, cursor: Cursor | None = None
) -> Answer[Page[Brand]]:
    """List brands by id; a merchant sees its own."""
    known = ctx.engine.book.brands
    mine = known if key.role == "operator" else [b for b in key.brands if b in known]
    ids, following = page_ids(mine, limit, cursor)
    return Answer(Page(tuple(known[one] for one in ids), following))
