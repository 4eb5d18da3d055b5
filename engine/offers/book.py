"""The offer book: which offers wait at a fence, and how much of each is still to be had."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from engine.changes import OfferCount
from engine.offers.offer import Brand, Offer
from geofences.fence import Fence
from geofences.transitions import Dwells

_NONE: Final[tuple[Offer, ...]] = ()


class _AtFence:
    """What waits at one fence."""

    __slots__ = ("by_trigger", "dwells_s")

    def __init__(self, offers: Iterable[Offer]) -> None:
        by_trigger: dict[str, list[Offer]] = {}
        for offer in offers:
            by_trigger.setdefault(offer.trigger, []).append(offer)
        self.by_trigger = {trigger: tuple(found) for trigger, found in by_trigger.items()}
        self.dwells_s = tuple(
            sorted({o.dwell_s for o in self.by_trigger.get("dwell", ()) if o.status == "live"})
        )


class OfferBook:
    """All brands and offers, and the counts of claims against their budgets.

    Counts are what the store says plus what this process has reserved and not yet committed, so a
    budget can only ever be under-used by a doubt, never overdrawn.
    """

    def __init__(self) -> None:
        self.brands: dict[str, Brand] = {}
        self.offers: dict[str, Offer] = {}
        self._of_brand: defaultdict[str, dict[str, Offer]] = defaultdict(dict)
        self._looked_at: defaultdict[str, set[str]] = defaultdict(set)
        """Brand -> ids of its fences that `_at` holds."""
        self._at: dict[str, _AtFence] = {}
        self._dwells: Dwells | None = None
        """None: to be looked for."""
        self._durable: dict[tuple[str, int | None], int] = {}
        self._reserved: defaultdict[tuple[str, int | None], int] = defaultdict(int)

    def put_brand(self, brand: Brand) -> None:
        """Take over a brand, new or changed."""
        self.brands[brand.id] = brand

    def put_offer(self, offer: Offer) -> None:
        """Take over an offer, new or changed; at its fences from now on."""
        self.drop_offer(offer.id)
        self.offers[offer.id] = offer
        self._of_brand[offer.brand][offer.id] = offer
        self._look_anew(offer.brand)

    def drop_offer(self, offer_id: str) -> None:
        """Forget an offer; unknown ids change nothing. Its counts stay."""
        offer = self.offers.pop(offer_id, None)
        if offer is not None:
            del self._of_brand[offer.brand][offer_id]
            self._look_anew(offer.brand)

    def forget_fence(self, fence_id: str) -> None:
        """Look at a fence anew: it was edited or deleted."""
        self._at.pop(fence_id, None)

    def forget_fences(self) -> None:
        """Look at every fence anew."""
        self._at.clear()

    def waiting(self, fence: Fence, trigger: str) -> tuple[Offer, ...]:
        """Offers of any status that wait at a fence for a trigger, by id."""
        found = self._at.get(fence.id) or self._look_at(fence)
        return found.by_trigger.get(trigger, _NONE)

    def dwells_s(self, fence: Fence) -> Sequence[int]:
        """Lengths of stay that live offers wait for at a fence, rising, seconds."""
        return (self._at.get(fence.id) or self._look_at(fence)).dwells_s

    @property
    def dwells(self) -> Dwells:
        """What live offers wait for, at a fence and anywhere."""
        if self._dwells is None:
            everywhere_s = [
                offer.dwell_s
                for offer in self.offers.values()
                if offer.trigger == "dwell" and offer.status == "live"
            ]
            least_s, most_s = min(everywhere_s, default=0), max(everywhere_s, default=0)
            self._dwells = Dwells(self.dwells_s, least_s, most_s)
        return self._dwells

    def categories(self, brand_id: str) -> tuple[str, ...]:
        """A brand's categories; none for an unknown brand."""
        brand = self.brands.get(brand_id)
        return () if brand is None else brand.categories

    def has_category(self, category: str) -> bool:
        """Whether a brand or an offer is of a category; O(brands + offers)."""
        brands, offers = self.brands.values(), self.offers.values()
        return any(category in one.categories for one in brands) or any(
            category in one.categories for one in offers
        )

    def _look_at(self, fence: Fence) -> _AtFence:
        offers = self._of_brand[fence.brand]
        found = _AtFence(offers[o] for o in sorted(offers) if _waits_at(offers[o], fence))
        self._at[fence.id] = found
        self._looked_at[fence.brand].add(fence.id)
        return found

    def _look_anew(self, brand: str) -> None:
        """Forget what waits at a brand's fences: its offers have changed."""
        self._dwells = None
        for fence_id in self._looked_at.pop(brand, ()):
            self._at.pop(fence_id, None)

    def claims(self, offer_id: str, day: int | None) -> int:
        """Claims of an offer that stand or are reserved, on a day of its own, or in all (None)."""
        key = (offer_id, day)
        return self._durable.get(key, 0) + self._reserved.get(key, 0)

    def reserve(self, offer_id: str, day: int, claims: int = 1) -> None:
        """Count claims that are not durable yet; negative: they are now, or never will be."""
        for key in ((offer_id, None), (offer_id, day)):
            self._reserved[key] += claims
            if not self._reserved[key]:
                del self._reserved[key]

    def set_counts(self, counts: Iterable[OfferCount]) -> None:
        """Take over what the store counts."""
        for count in counts:
            self._durable[count.offer, count.day] = count.claims


def _waits_at(offer: Offer, fence: Fence) -> bool:
    """Whether the offer names the fence, or one of its tags."""
    if offer.fences:
        return fence.id in offer.fences
    return any(tag in fence.tags for tag in offer.tags)
