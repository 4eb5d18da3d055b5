"""The gates that an offer passes besides consent: its dates, the resident's caps, its budget."""

from collections.abc import Iterable
from typing import NamedTuple

from engine.changes import ClaimRow
from engine.localtime import LocalTime, clock_of
from engine.offers.book import OfferBook
from engine.offers.offer import Offer
from engine.residents import Limits


class Attention(NamedTuple):
    """How many offers a resident wants at most, over all brands."""

    per_day: int
    per_week: int


def attention_of(limits: Limits, default: Attention) -> Attention:
    """What the resident chose, else what the city gives."""
    return Attention(
        default.per_day if limits.per_day is None else limits.per_day,
        default.per_week if limits.per_week is None else limits.per_week,
    )


def date_refusal(offer: Offer, now_ms: int) -> str | None:
    """`not_live` outside [starts, ends) or when the merchant has not set it live, else None."""
    live = (
        offer.status == "live"
        and (offer.starts_ms is None or offer.starts_ms <= now_ms)
        and (offer.ends_ms is None or now_ms < offer.ends_ms)
    )
    return None if live else "not_live"


def cap_refusal(
    offer: Offer,
    brand_per_day: int | None,
    claims: Iterable[ClaimRow],
    made_ever: int,
    older_ms: int | None,
    now_ms: int,
    local: LocalTime,
) -> str | None:
    """Why the offer may not be made to a resident again yet, or None.

    Args:
        offer: with its caps; a cool-down of c seconds is over at made + c, included.
        brand_per_day: the brand's cap for one resident and day, None: none.
        claims: the resident's claims that stand, at least of the last 8 days.
        made_ever: how many claims of this offer the resident has had.
        older_ms: when the newest of these that is not among `claims` was made, None: there is none.
        now_ms: Unix milliseconds.
        local: now in the resident's zone; days are the resident's.
    """
    caps = offer.caps
    of_offer_today = of_brand_today = 0
    cooling_after_ms = now_ms - caps.cool_down_s * 1_000
    if older_ms is not None and older_ms > cooling_after_ms:
        return "cool_down"
    for claim in claims:
        if claim.made.brand != offer.brand:
            continue
        today = claim.made_ms >= local.day_start_ms
        of_brand_today += today
        if claim.made.offer == offer.id:
            if claim.made_ms > cooling_after_ms:
                return "cool_down"
            of_offer_today += today
    if caps.per_resident_day is not None and of_offer_today >= caps.per_resident_day:
        return "cap_resident_day"
    if caps.per_resident_total is not None and made_ever >= caps.per_resident_total:
        return "cap_resident_total"
    if brand_per_day is not None and of_brand_today >= brand_per_day:
        return "cap_brand_day"
    return None


def attention_refusal(
    claims: Iterable[ClaimRow], attention: Attention, local: LocalTime
) -> str | None:
    """Why the resident gets no more offers of anybody now, or None."""
    today = week = 0
    for claim in claims:
        today += claim.made_ms >= local.day_start_ms
        week += claim.made_ms >= local.week_start_ms
    if today >= attention.per_day:
        return "attention_day"
    return "attention_week" if week >= attention.per_week else None


def budget_refusal(offer: Offer, book: OfferBook, day: int) -> str | None:
    """Why there is nothing left of the offer, or None; `day` as from `offer_day`."""
    budget = offer.budget
    if budget.per_day is not None and book.claims(offer.id, day) >= budget.per_day:
        return "budget_day"
    if budget.total is not None and book.claims(offer.id, None) >= budget.total:
        return "budget_total"
    return None


def offer_day(offer: Offer, now_ms: int) -> int:
    """The day that a claim counts in: of the offer's own zone, days since 1970-01-01."""
    return clock_of(offer.timezone).at(now_ms).day


def rank(offer: Offer, follows: tuple[str, ...]) -> tuple[bool, int, str]:
    """Sort key, best first: brands the resident follows, then the merchant's priority, then id."""
    return (offer.brand not in follows, -offer.priority, offer.id)
