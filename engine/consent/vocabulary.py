"""What the words of consent mean, each with its term of the W3C Data Privacy Vocabulary.

DPV 2 has no term for some of what a city asks: `match` says how near the term comes. An `exact` one
means the same, a `close` one may stand for it, a `related` one only tells what it is about.
"""

from typing import Final, Literal, NamedTuple

import msgspec

from engine.consent.lanes import ACTIONS, CATEGORIES, PURPOSES

NAMESPACES: Final = {"dpv": "https://w3id.org/dpv#", "pd": "https://w3id.org/dpv/pd#"}

Match = Literal["exact", "close", "related"]


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """A word and what it means."""

    name: str
    means: str
    term: str
    """Of DPV, such as `dpv:Use`."""
    iri: str
    match: Match


class Meaning(NamedTuple):
    """A word's meaning, and how near its term comes to it."""

    match: Match
    means: str


_PURPOSES: Final = {
    "offers": Meaning("close", "Offers of merchants whose door you come by."),
    "loyalty": Meaning("close", "Programmes of merchants for customers who come again."),
    "measurement": Meaning("close", "Counting how well offers and places do."),
    "city_planning": Meaning("close", "Planning of streets, transport and public services."),
    "service": Meaning("exact", "Providing the service itself."),
    "research": Meaning("exact", "Research and development."),
    "advertising": Meaning("exact", "Advertising aimed at you, beyond the offers at a door."),
    "security": Meaning("exact", "Keeping the service and its users safe."),
}
_ACTIONS: Final = {
    "use": Meaning("exact", "The data is looked at and worked with."),
    "contact": Meaning("related", "You are reached. DPV knows a purpose of it, no operation."),
    "share": Meaning("exact", "The data is given to others."),
    "sell": Meaning("close", "The data is given to others for money or its worth."),
}
_DATA: Final = {
    "precise_location": Meaning("close", "Where you are, more exactly than H3 resolution 7."),
    "coarse_location": Meaning("close", "Where you are, by a cell of H3 resolution 7 or larger."),
    "travel_patterns": Meaning("close", "Where you go, over days and weeks."),
    "facility_use": Meaning("close", "That you came to a place, stayed, and left."),
    "profile": Meaning("exact", "What you told about yourself."),
    "contact_point": Meaning("close", "A device, number or address by which you are reached."),
    "purchase": Meaning("exact", "What you bought."),
    "inferred_interests": Meaning("close", "What is concluded about what you like."),
}


def _terms(known: dict[str, str], meanings: dict[str, Meaning]) -> tuple[Term, ...]:
    return tuple(
        Term(
            name=name,
            means=meanings[name].means,
            term=term,
            iri=NAMESPACES[term.partition(":")[0]] + term.partition(":")[2],
            match=meanings[name].match,
        )
        for name, term in known.items()
    )


PURPOSE_TERMS: Final = _terms(PURPOSES, _PURPOSES)
ACTION_TERMS: Final = _terms(ACTIONS, _ACTIONS)
DATA_TERMS: Final = _terms(CATEGORIES, _DATA)

CHANNELS_MEAN: Final[dict[str, str]] = {
    "push": "A notification of the phone.",
    "in_app": "Inside the app, while it is open.",
    "sms": "A text message.",
    "email": "An e-mail.",
}
EFFECTS_MEAN: Final[dict[str, str]] = {
    "grant": "Turns on. What is not granted is off.",
    "withdraw": "Turns off: takes grants back, and lifts no deny.",
    "deny": "Never: holds against every grant of another scope, now and later.",
}
ACTORS_MEAN: Final[dict[str, str]] = {
    "self": "The resident.",
    "guardian": "A guardian of the resident.",
    "agent": "Somebody who speaks for the resident, such as a city's desk.",
    "signal": "A signal of the resident's browser.",
    "operator": "Whoever runs the service, after a restore.",
}
