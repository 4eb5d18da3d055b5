"""The second gate of consent: asked once more right before an offer leaves for its resident.

Between the decision and the hand-over the resident may have said no; that no is final. Nothing may
be awaited between a call of these and the sending.
"""

import msgspec

from engine.changes import ClaimRecalled
from engine.consent.index import PreferenceIndex
from engine.decision import Decision, OfferMade
from engine.offers.book import OfferBook
from engine.presence import Tracker


class SecondGate:
    """Asks, and takes back the claims that must not reach their residents.

    Args:
        book: tells which consent an offer needs.
        preferences: asked.
        tracker: its changes take the recalls, and its residents get their caps back.
    """

    def __init__(self, book: OfferBook, preferences: PreferenceIndex, tracker: Tracker) -> None:
        self._book = book
        self._preferences = preferences
        self._tracker = tracker

    def hand_over(self, decision: Decision, *, now_ms: int, mono_ms: int) -> Decision:
        """The second gate, right before a decision leaves: an offer only if still wanted.

        Nothing may be awaited between this call and the sending. A no recalls the claim: the next
        `take_changes` holds the recall. An offer that is gone is not handed over either, since
        nothing says any more what consent it needs; but a code that may have been given already
        keeps its worth.
        """
        made = decision.offer
        if made is None:
            return decision
        reason = self._hand_over_refusal(decision.resident, made, now_ms, mono_ms)
        if reason is None:
            return decision
        refused = msgspec.structs.replace(decision, offer=None, withheld=reason)
        if reason == "not_live" and decision.status == "duplicate":
            return refused
        self._recall(made.claim, decision.resident, reason)
        return refused

    def tell_refusal(
        self, resident_id: str, made: OfferMade, *, now_ms: int, mono_ms: int
    ) -> str | None:
        """The same gate, right before a claim is told to its resident by a stream; None: tell it.

        Nothing may be awaited between this call and the sending. Where the resident lets the brand
        no longer use the offer at all, a no recalls the claim as above. Quiet hours only keep it
        back, since the code may have been given by day, in the answer to the ping.
        """
        reason = self._hand_over_refusal(resident_id, made, now_ms, mono_ms)
        if reason != "consent_withdrawn":
            return reason
        offer, of_brand = self._book.offers[made.offer], self._book.categories(made.brand)
        if self._preferences.redeemable(
            resident_id,
            made.brand,
            offer.categories or of_brand,
            now_ms=now_ms,
            mono_ms=mono_ms,
            deny_categories=of_brand,
            purpose=offer.purpose,
        ):
            self._recall(made.claim, resident_id, reason)
        return reason

    def _recall(self, claim_id: str, resident_id: str, reason: str) -> None:
        """Take back a claim that was accepted."""
        self._tracker.changes.recalls.append(ClaimRecalled(claim_id, resident_id, reason))
        resident = self._tracker.residents.get(resident_id)
        if resident is not None:
            resident.drop_claim(claim_id, accepted=True)

    def _hand_over_refusal(
        self, resident_id: str, made: OfferMade, now_ms: int, mono_ms: int
    ) -> str | None:
        """Why an offer that was made must not reach the resident any more, or None."""
        offer = self._book.offers.get(made.offer)
        if offer is None:
            return "not_live"
        brand_categories = self._book.categories(made.brand)
        refused = self._preferences.offer_refusal(
            resident_id,
            made.brand,
            offer.categories or brand_categories,
            brand_categories,
            offer.purpose,
            offer.channel,
            now_ms=now_ms,
            mono_ms=mono_ms,
        )
        if refused is None:
            return None
        return "stale" if refused == "stale" else "consent_withdrawn"
