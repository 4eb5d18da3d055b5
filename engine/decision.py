"""What a ping is answered: a status, the events, at most one offer, and what withheld one.

Every word that a client may have to understand is in a closed list here, with its meaning; the
API description and the reference page are made from these lists.
"""

from typing import Final

import msgspec

STATUSES: Final[dict[str, str]] = {
    "rejected": "The ping broke a limit; `reject` says which.",
    "no_consent": "The resident has not granted the use of precise location; nothing was kept.",
    "private_zone": "The position is in, or may be in, a place the resident keeps private.",
    "duplicate": "The same fix was sent before; the first one's still valid offer is repeated.",
    "late": "Older than a fix already used: presence may be corrected, nothing is offered.",
    "decided": "The ping was matched and decided.",
    "shed": "The service could not decide or could not make it durable; send the ping again.",
}
"""Statuses in the order in which the first that applies is given; `shed` can replace any."""

WITHHELD: Final[dict[str, str]] = {
    "not_live": "The offer is a draft, paused or ended, or outside its dates, or was deleted.",
    "assumed_event": "The event was assumed after a silence, so the resident may be elsewhere.",
    "too_old": "The fix was over 120 s old when it arrived.",
    "mock_position": "The phone says that the position is made up.",
    "stale": "This server can't be sure that it knows the latest preferences.",
    "no_record": "Nothing is known of the resident's wishes, which means no.",
    "law": "A rule that holds whatever the resident says: their age, a signal of their browser, or "
    "a law that the city switched on.",
    "denied": "The resident denies it to this brand, to its category, or to all.",
    "suspended": "The grant is older than a backup that was restored, and not confirmed since.",
    "no_grant": "The resident has not granted it to this brand, to its category, or to all.",
    "channel": "The resident does not want to be reached over this channel.",
    "place": "The resident is, or may be, at a place where the grant doesn't hold.",
    "quiet_hours": "The resident's zone is in hours in which they do not want to be reached.",
    "cool_down": "The same offer was made to the resident too short a time ago.",
    "cap_resident_day": "The offer's cap for one resident and day is reached.",
    "cap_resident_total": "The offer's cap for one resident is reached.",
    "cap_brand_day": "The brand's cap for one resident and day is reached.",
    "attention_day": "The resident has had as many offers today as they want.",
    "attention_week": "The resident has had as many offers in seven days as they want.",
    "budget_day": "The offer's budget for the day is spent.",
    "budget_total": "The offer's budget is spent.",
    "outranked": "Another offer of the same ping was the better one.",
    "conflict": "Another server made this resident an offer at the same moment.",
    "consent_withdrawn": "The resident withdrew between the decision and its hand-over.",
}
"""Reasons for which a candidate lost, in the order of the gates; the furthest one is told."""

EVENT_KINDS: Final = ("exit", "enter", "dwell", "pass")
"""Kinds of event in the order in which one ping tells them."""


class Reject(msgspec.Struct, frozen=True):
    """Why a ping was refused; never with a value that was in it."""

    code: str
    detail: str


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A resident's change of presence at a fence.

    `at_ms` is the time of the fix that showed it, or for an assumed exit the last fix before the
    silence plus 30 min. `confidence` is the probability, 0 to 1, that the position was inside
    (exit: outside).
    """

    fence: str
    kind: str
    at_ms: int
    confidence: float
    dwell_s: int | None = None
    assumed: bool = False


class OfferMade(msgspec.Struct, frozen=True):
    """An offer as it is handed to the resident's phone."""

    claim: str
    offer: str
    brand: str
    fence: str
    title: str
    body: str
    code: str
    expires_at_ms: int
    consent_version: int


class NextFix(msgspec.Struct, frozen=True):
    """When and where the next fix would matter, so that a phone may save its battery until then."""

    after_s: int
    """Seconds from this fix before which the phone can't be there, at up to twice its speed."""
    radius_m: int
    """Metres from this fix within which nothing can happen; 0: the very next one may matter."""
    latest_s: int
    """Seconds from this fix when the next is due however far the phone is: a stay may have lasted
    as long as an offer waits for; at most 900."""


class Decision(msgspec.Struct, frozen=True):
    """The answer to one ping."""

    decision: str
    """Its own id; the same ping always has the same one. Empty where nothing was kept."""
    resident: str
    at_ms: int
    status: str
    events: tuple[Event, ...]
    offer: OfferMade | None
    withheld: str | None
    id: str | msgspec.UnsetType = msgspec.UNSET
    reject: Reject | msgspec.UnsetType = msgspec.UNSET
    next_fix: NextFix | msgspec.UnsetType = msgspec.UNSET


_encoder = msgspec.json.Encoder()


def encode(decision: Decision) -> bytes:
    """JSON bytes of one decision: the same decision always gives the same bytes."""
    return _encoder.encode(decision)


def encode_all(decisions: list[Decision]) -> bytes:
    """JSON bytes of a batch's answer, ``{"decisions": [...]}``, in the order given."""
    return b'{"decisions":' + _encoder.encode(decisions) + b"}"


def encode_lines(decisions: list[Decision]) -> bytes:
    """JSON bytes of decisions, a line each (NDJSON), in the order given."""
    return _encoder.encode_lines(decisions)


def encode_array(decisions: list[Decision]) -> bytes:
    """JSON bytes of an array of decisions, in the order given."""
    return _encoder.encode(decisions)
