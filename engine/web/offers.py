"""Offers: what merchants promise, checked as a whole before it goes live."""

from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from engine.consent.lanes import CHANNELS, PURPOSES
from engine.offers.offer import (
    CLAIM_TTL_DEFAULT_S,
    COOL_DOWN_DEFAULT_S,
    Brand,
    Budget,
    Offer,
    OfferCaps,
)
from engine.store.audit import Author
from engine.store.port import KeyRow, OfferRow, VersionMoved
from engine.web.auth import check_brand, may_see
from engine.web.brands import id_errors
from engine.web.conditions import Match, NoneMatch, expected, moved
from engine.web.context import Context
from engine.web.fields import (
    EPOCH,
    Channel,
    Count,
    Cursor,
    Id,
    Instant,
    Limit,
    Purpose,
    Seconds,
    Text,
    Words,
    Zone,
    ms_of,
    one_of,
    zone_errors,
)
from engine.web.live import etag, live_in_city
from engine.web.paging import LIMIT_DEFAULT, Page, page_ids
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer

Trigger = Literal["enter", "dwell", "exit", "pass"]
Status = Literal["draft", "live", "paused", "ended"]


class OfferCapsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of an offer towards one resident; null: none of that kind."""

    per_resident_day: Count | None = None
    per_resident_total: Count | None = None
    cool_down_s: Seconds = COOL_DOWN_DEFAULT_S


class BudgetBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many claims an offer may have; null: no limit."""

    total: Count | None = None
    per_day: Count | None = None


class OfferBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An offer as it is written and read."""

    LATER: ClassVar[frozenset[str]] = frozenset({"schedule", "money", "stock", "value"})
    """Fields that a later version will have: refused, not ignored."""

    id: Id | None = None
    """May be left out; else that of the address."""
    brand: Id
    title: Annotated[str, Meta(min_length=1, max_length=200)]
    body: Text
    fences: Annotated[tuple[Id, ...], Meta(max_length=1_000)] = ()
    tags: Words = ()
    """Exactly one of `fences` and `tags` is given; tags mean the brand's own fences."""
    trigger: Trigger
    dwell_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    """Required with the trigger `dwell`, and only there."""
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    timezone: Zone | None = None
    """The brand's by default."""
    categories: Words | None = None
    """The brand's by default."""
    channel: Channel = "push"
    purpose: Purpose = "offers"
    priority: Annotated[int, Meta(ge=-1_000, le=1_000)] = 0
    caps: OfferCapsBody = OfferCapsBody()
    budget: BudgetBody = BudgetBody()
    claim_ttl_s: Annotated[int, Meta(ge=1, le=366 * 86_400)] = CLAIM_TTL_DEFAULT_S
    status: Status = "draft"


async def put_offer(
    ctx: Context,
    key: KeyRow,
    body: OfferBody,
    by: Author | None,
    *,
    offer: Id,
    if_match: Match | None = None,
    if_none_match: NoneMatch | None = None,
) -> Answer[OfferBody]:
    """Write an offer, new or not."""
    check_brand(key, body.brand)
    old = ctx.engine.book.offers.get(offer)
    if old is not None:
        check_brand(key, old.brand)
    brand = ctx.engine.book.brands.get(body.brand)
    if brand is None:
        wrong = FieldError("brand", "unknown_brand", "Write the brand first.")
        raise Refused("unknown_brand", errors=(wrong,))
    written = offer_of(offer, body, brand)
    _check_fences(ctx, written)
    wanted = expected(if_match, if_none_match)
    try:
        done = await ctx.store.put_offer(written, expected=wanted, by=by)
    except VersionMoved as error:
        raise moved(error) from None
    await live_in_city(ctx, done.number)
    return Answer(view(written), 201 if done.created else 200, {"ETag": etag(done.version)})


def offer_of(offer_id: str, body: OfferBody, brand: Brand) -> Offer:
    """The offer that a body means."""
    zone = body.timezone or brand.timezone
    if errors := [*_errors(body, zone), *id_errors(body.id, offer_id)]:
        raise Refused("invalid_offer", errors[0].detail, errors=tuple(errors))
    categories = brand.categories if body.categories is None else body.categories
    return Offer(
        id=offer_id,
        brand=brand.id,
        title=body.title,
        body=body.body,
        trigger=body.trigger,
        fences=tuple(dict.fromkeys(body.fences)),
        tags=tuple(dict.fromkeys(body.tags)),
        dwell_s=body.dwell_s or 0,
        starts_ms=_ms(body.starts_at),
        ends_ms=_ms(body.ends_at),
        timezone=zone,
        categories=tuple(dict.fromkeys(categories)),
        channel=body.channel,
        purpose=body.purpose,
        priority=body.priority,
        caps=msgspec.convert(body.caps, OfferCaps, from_attributes=True),
        budget=msgspec.convert(body.budget, Budget, from_attributes=True),
        claim_ttl_s=body.claim_ttl_s,
        status=body.status,
    )


def _errors(body: OfferBody, zone: str) -> list[FieldError]:
    """Everything in which an offer contradicts itself."""
    errors = zone_errors("timezone", zone)
    errors += one_of("channel", body.channel, CHANNELS, f"one of {', '.join(CHANNELS)}")
    errors += one_of("purpose", body.purpose, PURPOSES, f"one of {', '.join(PURPOSES)}")
    if bool(body.fences) == bool(body.tags):
        told = "Give exactly one of fences and tags, with at least one entry."
        errors.append(FieldError("fences", "fences_or_tags", told))
    if (body.trigger == "dwell") != (body.dwell_s is not None):
        told = "Is required with the trigger dwell, and must be left out with any other."
        errors.append(FieldError("dwell_s", "dwell_s_mismatch", told))
    if body.starts_at and body.ends_at and body.starts_at >= body.ends_at:
        errors.append(FieldError("ends_at", "ends_before_start", "Must be later than starts_at."))
    return errors


def _check_fences(ctx: Context, offer: Offer) -> None:
    """Refuse fences that are not there or not the brand's."""
    for wanted, code, told in (
        (False, "unknown_fence", "Write the fence first."),
        (True, "foreign_fence", "Must be a fence of the offer's own brand."),
    ):
        errors = []
        for place, fence_id in enumerate(offer.fences):
            fence = ctx.engine.fences.get(fence_id)
            if (fence is not None and fence.brand != offer.brand) if wanted else fence is None:
                errors.append(FieldError(f"fences[{place}]", code, told))
        if errors:
            raise Refused(code, errors=tuple(errors))


def _ms(instant: datetime | None) -> int | None:
    return None if instant is None else ms_of(instant)


def view(offer: Offer) -> OfferBody:
    """An offer as it was written, its instants in its own zone."""
    zone = ZoneInfo(offer.timezone)

    def told(ms: int | None) -> datetime | None:
        return None if ms is None else (EPOCH + timedelta(milliseconds=ms)).astimezone(zone)

    return OfferBody(
        id=offer.id,
        brand=offer.brand,
        title=offer.title,
        body=offer.body,
        fences=offer.fences,
        tags=offer.tags,
        trigger=msgspec.convert(offer.trigger, Trigger),
        dwell_s=offer.dwell_s or None,
        starts_at=told(offer.starts_ms),
        ends_at=told(offer.ends_ms),
        timezone=offer.timezone,
        categories=offer.categories,
        channel=offer.channel,
        purpose=offer.purpose,
        priority=offer.priority,
        caps=msgspec.convert(offer.caps, OfferCapsBody, from_attributes=True),
        budget=msgspec.convert(offer.budget, BudgetBody, from_attributes=True),
        claim_ttl_s=offer.claim_ttl_s,
        status=msgspec.convert(offer.status, Status),
    )


async def _row(ctx: Context, key: KeyRow, offer: str) -> OfferRow:
    """An offer that is there and the caller's business."""
    rows = await ctx.store.read_offers([offer])
    if not rows:
        raise Refused("no_such_offer")
    check_brand(key, rows[0].offer.brand)
    return rows[0]


async def get_offer(ctx: Context, key: KeyRow, *, offer: Id) -> Answer[OfferBody]:
    """Read one offer."""
    row = await _row(ctx, key, offer)
    return Answer(view(row.offer), headers={"ETag": etag(row.version)})


async def delete_offer(
    ctx: Context, key: KeyRow, by: Author | None, *, offer: Id, if_match: Match | None = None
) -> Answer[None]:
    """Delete an offer; codes that were handed out stay good."""
    await _row(ctx, key, offer)
    try:
        number = await ctx.store.delete_offer(offer, expected=expected(if_match, None), by=by)
    except VersionMoved as error:
        raise moved(error) from None
    if number is None:
        raise Refused("no_such_offer")
    await live_in_city(ctx, number)
    return Answer(None, 204)


async def list_offers(
    ctx: Context, key: KeyRow, *, limit: Limit = LIMIT_DEFAULT, cursor: Cursor | None = None
) -> Answer[Page[OfferBody]]:
    """List offers by id; a merchant sees its own."""
    known = ctx.engine.book.offers
    mine = (one.id for one in known.values() if may_see(key, one.brand))
    ids, following = page_ids(mine, limit, cursor)
    return Answer(Page(tuple(view(known[one]) for one in ids), following))
