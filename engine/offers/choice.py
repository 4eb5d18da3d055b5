"""Take the events of one ping through the ladder of gates and choose at most one offer."""

from collections.abc import Container, Sequence
from typing import Final

import msgspec

from engine.consent.index import Entry
from engine.consent.lanes import offer_need
from engine.decision import WITHHELD
from engine.offers.book import OfferBook
from engine.offers.gates import (
    Attention,
    attention_of,
    attention_refusal,
    budget_refusal,
    cap_refusal,
    date_refusal,
    offer_day,
    rank,
)
from engine.offers.offer import Offer
from engine.residents import Resident, ResidentSettings
from geofences.transitions import Transition
from geofences.zones import Whereabouts

AGE_FOR_OFFER_MAX_MS: Final = 120_000
"""Older fixes tell events, but the resident may be elsewhere by now."""

_GATE: Final = {reason: place for place, reason in enumerate(WITHHELD)}


class Candidate(msgspec.Struct, frozen=True):
    """An offer that an event could lead to."""

    offer: Offer
    event: Transition
    withheld: str | None
    """The gate that it failed, None if it passed all."""


class Circumstances(msgspec.Struct, frozen=True):
    """All that the gates look at besides the offer and the event."""

    resident: Resident
    settings: ResidentSettings
    entry: Entry
    book: OfferBook
    attention: Attention
    now_ms: int
    age_ms: int
    mock: bool
    """The phone says that the position is made up."""
    at: Whereabouts | None = None
    forbidden: Container[str] = ()
    """Fences at which the law lets nobody make an offer."""


def candidates(events: Sequence[Transition], told: Circumstances) -> list[Candidate]:
    """Every offer that waits for one of the events, each with the first gate that it failed.

    An offer that waits for several of them is a candidate once, by the first.
    """
    found: dict[str, Candidate] = {}
    for event in events:
        for offer in told.book.waiting(event.fence, event.kind):
            if offer.id in found or (event.kind == "dwell" and offer.dwell_s != event.dwell_s):
                continue
            found[offer.id] = Candidate(offer, event, _withheld(offer, event, told))
    return list(found.values())


def choose(found: Sequence[Candidate], told: Circumstances) -> Candidate | None:
    """The best candidate that passed every gate, None if none did."""
    open_ones = [c for c in found if c.withheld is None]
    if not open_ones:
        return None
    follows = told.settings.follows
    return min(open_ones, key=lambda c: rank(c.offer, follows))


def furthest(found: Sequence[Candidate]) -> str | None:
    """The gate that the candidate which came furthest failed; None without candidates."""
    reasons = [c.withheld for c in found if c.withheld is not None]
    return max(reasons, key=_GATE.__getitem__) if reasons else None


def _withheld(offer: Offer, event: Transition, told: Circumstances) -> str | None:
    """The first gate that keeps an offer from being made, None if none does."""
    if reason := date_refusal(offer, told.now_ms):
        return reason
    if event.assumed:
        return "assumed_event"
    if told.age_ms > AGE_FOR_OFFER_MAX_MS:
        return "too_old"
    if told.mock:
        return "mock_position"
    if event.fence.id in told.forbidden:
        return "law"
    local = told.entry.clock.at(told.now_ms)
    row, book = told.entry.row, told.book
    brand_categories = book.categories(offer.brand)
    categories = offer.categories or brand_categories
    need = offer_need(offer.purpose)
    if reason := row.refusal(
        need, offer.brand, categories, brand_categories
    ) or row.contact_refusal(
        need, offer.brand, categories, offer.channel, local.hour_of_week, told.at
    ):
        return reason
    brand = book.brands.get(offer.brand)
    resident = told.resident
    return (
        cap_refusal(
            offer,
            None if brand is None else brand.caps.per_resident_day,
            resident.claims,
            resident.by_offer.get(offer.id, 0),
            resident.older_ms.get(offer.id),
            told.now_ms,
            local,
        )
        or attention_refusal(
            resident.claims, attention_of(told.settings.limits, told.attention), local
        )
        or budget_refusal(offer, book, offer_day(offer, told.now_ms))
    )
