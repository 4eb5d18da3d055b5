"""The window of events: what streams tell, how it is kept, and how it is read.

An event is written in the transaction of what it tells, and gets its number afterwards: see
`docs/decisions/` and the migration that makes the tables.
"""

from typing import Final, Protocol

import msgspec

from engine.changes import TransitionTold
from engine.decision import Event

NAMES: Final = ("transition", "offer", "recall", "redemption", "preferences")
"""Every name that an event can have."""


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it is kept."""

    number: int
    """Rises in the order of commits. There may be gaps between the events that one reader gets."""
    at_ms: int
    name: str
    brand: str | None
    """None: it is no brand's business."""
    resident: str | None
    """To whom it is told (`offer`, `recall`, `preferences`), or who must still allow that it is
    (`transition`); None where neither matters. Never part of what operators and merchants get."""
    body: bytes
    """JSON: of a transition a `Transition`, of an offer an `OfferMade`, of a recall a `Recall`, of
    a redemption a `RedemptionTold`, of preferences their `version`."""


class Transition(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The body of a transition."""

    brand: str


class Recall(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a recall."""

    claim: str
    offer: str
    brand: str
    reason: str


class RedemptionTold(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a redemption, made or taken back."""

    redemption: str
    claim: str
    offer: str
    brand: str
    till: str | None
    rolled_back: bool
    """Whether it was taken back, so that the code can be used again."""


class EventPage(msgspec.Struct, frozen=True):
    """Some of the window."""

    events: tuple[EventRow, ...]
    """In the order of their numbers."""
    reached: int
    """All that was asked for up to this number is among them."""
    newest: int
    """The newest number given when it was read."""


class EventsLost(Exception):
    """The window can't be read on from a number.

    What came next was pruned, or the database is an older one than was read before.

    Attributes:
        goes_on: the number from which on it can be read.
    """

    def __init__(self, goes_on: int) -> None:
        super().__init__(f"the window goes on from number {goes_on}")
        self.goes_on = goes_on


class EventStore(Protocol):
    """The part of the store that keeps the window."""

    async def number_events(self) -> int:
        """Give numbers to the events that were committed without; the newest number.

        Until then nobody sees them. Any process may do it, also at the same time.
        """

    async def events_after(
        self,
        number: int,
        *,
        brands: list[str] | None = None,
        resident: str | None = None,
        limit: int = 1_000,
    ) -> EventPage:
        """The next events that have numbers.

        Args:
            number: of the event after which to go on.
            brands: only what is the business of these.
            resident: only what is told to them: no transitions.
            limit: most of them.

        Raises:
            EventsLost: there may have been some that are not kept.
        """

    async def wait_for_events(self, timeout_s: float) -> None:
        """Return when there may be new events, or after the timeout; may return early.

        What this process commits ends it at once; what others commit, when it got its number. An
        end between two calls ends the second at once. For one caller at a time.
        """

    async def prune_events(self, *, age_max_ms: int, events_max: int) -> int:
        """Forget some of the events that are older than an age or beyond a count; 0: all are."""


_encode: Final = msgspec.json.Encoder().encode


def transition_body(told: TransitionTold) -> bytes:
    """A transition's body, without the resident."""
    event = told.event
    return _encode(
        Transition(
            brand=told.brand,
            fence=event.fence,
            kind=event.kind,
            at_ms=event.at_ms,
            confidence=event.confidence,
            dwell_s=event.dwell_s,
            assumed=event.assumed,
        )
    )
