"""How a ping is answered: a decision, with what it holds and nothing else."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from engine.decision import Decision, Event, NextFix, OfferMade, Reject
from engine.ping import Ping
from geofences.transitions import Transition

NOTHING: Final[tuple[Event, ...]] = ()


def answer(
    ping: Ping,
    name: str,
    status: str,
    *,
    events: tuple[Event, ...] = NOTHING,
    offer: OfferMade | None = None,
    withheld: str | None = None,
    reject: Reject | UnsetType = UNSET,
    next_fix: NextFix | UnsetType = UNSET,
) -> Decision:
    """The decision on a ping."""
    return Decision(
        name,
        ping.resident,
        ping.at_ms,
        status,
        events,
        offer,
        withheld,
        UNSET if ping.id is None else ping.id,
        reject,
        next_fix,
    )


def rejected(ping: Ping, reject: Reject) -> Decision:
    """The answer to a ping that broke a limit; text that is no text is not repeated."""
    refused = answer(ping, "", "rejected", reject=reject)
    try:
        f"{ping.resident}{ping.id}".encode()
    except UnicodeEncodeError:
        return msgspec.structs.replace(refused, resident="", id=UNSET)
    return refused


def event_of(told: Transition) -> Event:
    """A transition as the client sees it."""
    return Event(told.fence.id, told.kind, told.at_ms, told.confidence, told.dwell_s, told.assumed)
