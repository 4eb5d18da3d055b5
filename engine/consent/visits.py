"""Visits: whether a brand may be told that a resident came, stayed or left at one of its fences."""

from collections.abc import Sequence
from typing import Final

from engine.consent.lanes import PURPOSES, every_purpose
from engine.consent.row import Row

SHARED_VISIT: Final = every_purpose("share", "facility_use") | every_purpose(
    "share", "precise_location"
)
"""A visit tells of the use of a facility, and of where the resident was: either grant covers it."""

_OF_PURPOSE: Final = {
    purpose: SHARED_VISIT & (0xFFFFFFFF << 32 * number) for number, purpose in enumerate(PURPOSES)
}


def shared_visits(row: Row, brand: str, categories: Sequence[str]) -> int:
    """The lanes by which a resident shares visits with a brand: granted, and denied by nobody.

    Args:
        row: what the resident's say comes to now.
        brand: whose fence it is.
        categories: of the brand.
    """
    grants, denies = row.granted_and_denied(brand, categories)
    return SHARED_VISIT & grants & ~denies


def purposes_of(lanes: int) -> tuple[str, ...]:
    """The purposes that have one of these lanes, which travel with what is shared."""
    return tuple(purpose for purpose, own in _OF_PURPOSE.items() if lanes & own)
