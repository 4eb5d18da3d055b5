"""The 256 lanes of consent: 8 purposes x 4 actions x 8 categories of data, one bit each.

A need, a grant and a deny are all sets of lanes held in one int, so that the rule is a handful of
bit operations. The numbers are part of the stored format: names may be added where a place is
free, none may ever move.

Terms: W3C Data Privacy Vocabulary 2 (`dpv:` core, `pd:` its personal-data extension); what the
words mean, and how near the terms come, stands in `vocabulary`.
"""

from collections.abc import Iterable
from typing import Final

PURPOSES: Final[dict[str, str]] = {
    "offers": "dpv:PersonalisedAdvertising",
    "loyalty": "dpv:CustomerRelationshipManagement",
    "measurement": "dpv:ServiceUsageAnalytics",
    "city_planning": "dpv:ImprovePublicServices",
    "service": "dpv:ServiceProvision",
    "research": "dpv:ResearchAndDevelopment",
    "advertising": "dpv:TargetedAdvertising",
    "security": "dpv:EnforceSecurity",
}
"""Purpose -> DPV term, in bit order."""

ACTIONS: Final[dict[str, str]] = {
    "use": "dpv:Use",
    "contact": "dpv:CommunicationManagement",
    "share": "dpv:Share",
    "sell": "dpv:SellDataToThirdParties",
}
"""Action -> DPV term, in bit order."""

CATEGORIES: Final[dict[str, str]] = {
    "precise_location": "pd:Location",
    "coarse_location": "pd:Locality",
    "travel_patterns": "pd:TravelHistory",
    "facility_use": "pd:ServiceConsumptionBehavior",
    "profile": "pd:IndividualProfile",
    "contact_point": "pd:Contact",
    "purchase": "pd:Purchase",
    "inferred_interests": "pd:Interest",
}
"""Category of data -> DPV term, in bit order."""

CHANNELS: Final = ("push", "in_app", "sms", "email")
"""Ways to reach a resident, in bit order."""

PURPOSE_NUMBER: Final = {name: number for number, name in enumerate(PURPOSES)}
ACTION_NUMBER: Final = {name: number for number, name in enumerate(ACTIONS)}
CATEGORY_NUMBER: Final = {name: number for number, name in enumerate(CATEGORIES)}
CHANNEL_BIT: Final = {name: 1 << number for number, name in enumerate(CHANNELS)}

EVERYTHING: Final = (1 << 256) - 1
"""All lanes."""


def lane(purpose: str, action: str, category: str) -> int:
    """The one bit of a purpose, an action and a category of data.

    Raises:
        KeyError: one of the names is not in the tables above.
    """
    number = PURPOSE_NUMBER[purpose] * 4 + ACTION_NUMBER[action]
    return 1 << (number * 8 + CATEGORY_NUMBER[category])


def lanes(purpose: str, actions: Iterable[str], categories: Iterable[str]) -> int:
    """Every lane of a purpose with one of the actions on one of the categories."""
    wanted = tuple(categories)
    return sum(lane(purpose, a, c) for a in set(actions) for c in set(wanted))


def name_of(one_lane: int) -> str:
    """Readable name of a set's lowest lane, such as ``offers:use:precise_location``."""
    number, category = divmod((one_lane & -one_lane).bit_length() - 1, 8)
    purpose, action = divmod(number, 4)
    return ":".join((tuple(PURPOSES)[purpose], tuple(ACTIONS)[action], tuple(CATEGORIES)[category]))


def every_purpose(action: str, category: str) -> int:
    """The lanes of an action on a category, whatever the purpose."""
    return sum(lane(purpose, action, category) for purpose in PURPOSES)


USE_LOCATION: Final = every_purpose("use", "precise_location")
"""Any of these granted to anybody means that a ping may be used at all."""

CONTACT: Final = sum(lanes(purpose, ("contact",), CATEGORIES) for purpose in PURPOSES)
"""Every lane of contact: only of those do channels, hours and places say anything."""

MATCH_NEED: Final = lane("offers", "use", "precise_location")
"""What a brand needs before its fences see a position."""

OFFER_NEED: Final = MATCH_NEED | lane("offers", "contact", "contact_point")
"""What a brand needs before its offer reaches a resident."""

OFFER_NEEDS: Final = {
    purpose: lane(purpose, "use", "precise_location") | lane(purpose, "contact", "contact_point")
    for purpose in PURPOSES
}
"""Purpose -> lanes that an offer needs: to use the precise location, and to contact."""


def offer_need(purpose: str) -> int:
    """Lanes that an offer needs."""
    return OFFER_NEEDS[purpose]
