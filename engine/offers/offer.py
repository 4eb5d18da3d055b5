"""What a merchant promises, and under which conditions: Brand and Offer as values."""

from typing import Final

import msgspec

STATUSES: Final = ("draft", "live", "paused", "ended")
TRIGGERS: Final = ("enter", "dwell", "exit", "pass")

COOL_DOWN_DEFAULT_S: Final = 6 * 3_600
CLAIM_TTL_DEFAULT_S: Final = 24 * 3_600


class BrandCaps(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of a brand towards one resident."""

    per_resident_day: int | None = None


class Brand(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's name under which fences and offers stand."""

    id: str
    name: str
    categories: tuple[str, ...] = ()
    timezone: str = "UTC"
    caps: BrandCaps = BrandCaps()


class OfferCaps(msgspec.Struct, frozen=True):
    """Limits of an offer towards one resident; None: none of that kind.

    Written out whole: msgspec leaves out a default only where it is the very object, so that equal
    offers would not have equal bytes, and one written again as it was would be told as changed.
    """

    per_resident_day: int | None = None
    per_resident_total: int | None = None
    cool_down_s: int = COOL_DOWN_DEFAULT_S


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many claims an offer may have; None: no limit."""

    total: int | None = None
    per_day: int | None = None
    """A day of the offer's own zone."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """An offer as the merchant wrote it, its instants resolved to Unix milliseconds."""

    id: str
    brand: str
    title: str
    body: str
    trigger: str
    fences: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """Any of the brand's fences that has one of these tags; only where `fences` is empty."""
    dwell_s: int = 0
    """How long a resident must have stayed; > 0 for the trigger `dwell`, else 0."""
    starts_ms: int | None = None
    """Live from this instant, included."""
    ends_ms: int | None = None
    """Live until this instant, excluded."""
    timezone: str = "UTC"
    categories: tuple[str, ...] = ()
    channel: str = "push"
    purpose: str = "offers"
    priority: int = 0
    caps: OfferCaps = OfferCaps()
    budget: Budget = Budget()
    claim_ttl_s: int = CLAIM_TTL_DEFAULT_S
    status: str = "draft"
