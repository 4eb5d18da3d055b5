"""Redemptions: a code at the till, once, and only as long as the resident allows it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.offers.codes import normal_code
from engine.store.audit import Author
from engine.store.port import ClaimRecord, KeyRow, Redemption, RedemptionRefused
from engine.web.auth import may_see, new_id
from engine.web.context import Context
from engine.web.fields import Id, Lat, Lon, Name
from engine.web.problem import Refused
from engine.web.route import Answer


class RedemptionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A code as it was typed or scanned; case, spaces and dashes do not matter."""

    code: Annotated[str, Meta(min_length=1, max_length=64, examples=["7K2M-Q0XD-93TZ"])]
    till: Name | None = None
    lon: Lon | None = None
    """Where the till is. Not kept."""
    lat: Lat | None = None


class Redeemed(msgspec.Struct, frozen=True, kw_only=True):
    """A redemption that stands."""

    redemption: str
    claim: str
    offer: str
    brand: str
    title: str
    at_ms: int
    till: str | None


async def redeem(ctx: Context, key: KeyRow, body: RedemptionBody) -> Answer[Redeemed]:
    """Redeem a code, once."""
    code = normal_code(body.code)
    claim = None if code is None else await ctx.store.claim_by_code(code)
    if claim is None or not may_see(key, claim.row.made.brand):
        raise Refused("unknown_code")
    made = claim.row.made
    redemption = Redemption(
        id=new_id("x"),
        claim=made.claim,
        offer=made.offer,
        brand=made.brand,
        at_ms=ctx.clock_ms(),
        till=body.till,
    )
    if claim.state == "made" and claim.redemption is None:
        _check_consent(ctx, claim)
    try:
        await ctx.store.redeem(redemption)
    except RedemptionRefused as refused:
        raise Refused(refused.code) from None
    try:
        # The resident may have withdrawn while the store was writing; that "no" is final.
        _check_consent(ctx, claim)
    except Refused:
        await ctx.store.roll_back(redemption.id)
        raise
    return Answer(
        Redeemed(
            redemption=redemption.id,
            claim=made.claim,
            offer=made.offer,
            brand=made.brand,
            title=made.title,
            at_ms=redemption.at_ms,
            till=redemption.till,
        ),
        201,
    )


def _check_consent(ctx: Context, claim: ClaimRecord) -> None:
    """Refuse when the resident no longer lets the brand use the offer."""
    made, book = claim.row.made, ctx.engine.book
    offer = book.offers.get(made.offer)
    of_brand = book.categories(made.brand)
    no = ctx.engine.preferences.redeemable(
        claim.row.resident,
        made.brand,
        (offer.categories if offer else ()) or of_brand,
        now_ms=ctx.clock_ms(),
        mono_ms=ctx.mono_ms(),
        deny_categories=of_brand,
        purpose=offer.purpose if offer else "offers",
    )
    if no == "stale":
        raise Refused("stale")
    if no is not None:
        raise Refused("withdrawn")


async def roll_back(
    ctx: Context, key: KeyRow, by: Author | None, *, redemption: Id
) -> Answer[None]:
    """Take a redemption back; its code can be used again."""
    found = await ctx.store.redemption(redemption)
    if found is None or not may_see(key, found.brand):
        raise Refused("unknown_redemption")
    if not await ctx.store.roll_back(redemption, by=by):
        raise Refused("unknown_redemption")
    return Answer(None, 204)
