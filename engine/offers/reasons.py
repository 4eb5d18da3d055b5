"""Why an offer was made, and each other candidate was not: what is kept with a claim.

It holds no position and no resident's id. Where a question of consent decided, it names the rule,
the record or the lane; see `consent.because`.
"""

from collections.abc import Sequence

import msgspec

from engine.consent.because import because, rules_of
from engine.consent.floor import Floor
from engine.consent.index import PreferenceIndex
from engine.consent.lanes import offer_need
from engine.offers.choice import Candidate, Circumstances


class Gate(msgspec.Struct, frozen=True):
    """One line of the ladder that explains a decision."""

    offer: str
    brand: str
    fence: str
    trigger: str
    withheld: str | None
    because: str | None
    """Which rule, record or lane, where consent decided."""


def why(
    found: Sequence[Candidate],
    chosen: Candidate,
    told: Circumstances,
    preferences: PreferenceIndex,
    floor: Floor,
) -> bytes:
    """JSON of one line a candidate, how far it came, and of the records that allowed the offer."""
    offer = chosen.offer
    allowed_by = preferences.allowing(
        told.resident.id,
        offer_need(offer.purpose),
        offer.brand,
        offer.categories or told.book.categories(offer.brand),
        now_ms=told.now_ms,
    )
    ladder = [
        Gate(
            offer=c.offer.id,
            brand=c.offer.brand,
            fence=c.event.fence.id,
            trigger=c.event.kind,
            withheld="outranked" if c.withheld is None and c is not chosen else c.withheld,
            because=_because(c, told, preferences, floor),
        )
        for c in found
    ]
    return msgspec.json.encode({"candidates": ladder, "allowed_by": allowed_by})


def _because(
    one: Candidate, told: Circumstances, preferences: PreferenceIndex, floor: Floor
) -> str | None:
    """The rule, the record or the lane that decided against a candidate."""
    if one.withheld == "law" and (code := floor.forbidden.get(one.event.fence.id)):
        return f"law:{code}"
    offer, who = one.offer, told.resident.id
    of_brand = told.book.categories(offer.brand)
    categories = offer.categories or of_brand
    return because(
        one.withheld,
        offer_need(offer.purpose),
        told.entry.row,
        offer.brand,
        categories,
        of_brand,
        rules=rules_of(floor, who),
        denies=lambda need: preferences.denying(who, need, offer.brand, (*categories, *of_brand)),
    )
