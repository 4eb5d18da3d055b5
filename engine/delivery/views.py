"""What of an event its reader may see, asked anew each time that one is handed over.

Nothing may be awaited between a call of these and the sending: they ask what residents allow now.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from engine.consent.visits import purposes_of, shared_visits
from engine.decision import OfferMade
from engine.pipeline import Engine
from engine.store.journal import Journal
from engine.store.window import EventRow, Recall, RedemptionTold, Transition

FRAMES_MAX: Final = 4_096
"""Most events whose bytes are kept, so that many readers share the work."""


class Stale(Exception):
    """Nobody can tell now what residents allow: hand over later."""


class Visit(Transition, frozen=True, omit_defaults=True, kw_only=True):
    """A transition as a merchant gets it."""

    purposes: tuple[str, ...]
    """For which the resident shares it."""


class OfferTold(msgspec.Struct, frozen=True, kw_only=True):
    """A claim as operators and merchants get it: the code is the resident's."""

    claim: str
    offer: str
    brand: str
    at_ms: int
    expires_at_ms: int


class RecallTold(Recall, frozen=True, kw_only=True):
    """A claim that was taken back: its code is worth nothing any more."""

    at_ms: int


class Redeemed(RedemptionTold, frozen=True, kw_only=True):
    """A code that was used, or is free again."""

    at_ms: int


_encode: Final = msgspec.json.Encoder().encode
_transition: Final = msgspec.json.Decoder(Transition)
_made: Final = msgspec.json.Decoder(OfferMade)
_recall: Final = msgspec.json.Decoder(Recall)
_redemption: Final = msgspec.json.Decoder(RedemptionTold)


def frame(name: str, number: int, data: bytes) -> bytes:
    """An event as Server-Sent Events have it."""
    return b"event: %s\nid: %d\ndata: %s\n\n" % (name.encode(), number, data)


class Views:
    """Asks, and encodes.

    Args:
        engine: knows what residents allow.
        journal: takes the recalls of claims that must not be told any more.
        clock_ms: Unix milliseconds.
        mono_ms: the monotonic clock of the lease.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        *,
        clock_ms: Callable[[], int],
        mono_ms: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._clock_ms = clock_ms
        self._mono_ms = mono_ms
        self._frames: dict[tuple[int, str], bytes] = {}

    def of_operator(self, event: EventRow) -> bytes | None:
        """Everything but what residents say; nobody's id and no code."""
        if event.name == "preferences":
            return None
        known = self._frames.get((event.number, event.name))
        if known is None:
            known = frame(event.name, event.number, _public(event))
            if len(self._frames) >= FRAMES_MAX:
                self._frames.clear()
            self._frames[event.number, event.name] = known
        return known

    def of_merchant(self, event: EventRow) -> bytes | None:
        """The same of the merchant's brands, but visits only if the resident shares them now.

        Raises:
            Stale: this process may not know what they share.
        """
        if event.name != "transition":
            return self.of_operator(event)
        if event.resident is None or event.brand is None:
            return None
        preferences = self._engine.preferences
        if preferences.is_stale(self._mono_ms()):
            raise Stale
        entry = preferences.entry(event.resident, self._clock_ms())
        if entry is None:
            return None
        lanes = shared_visits(entry.row, event.brand, self._engine.book.categories(event.brand))
        if not lanes:
            return None
        told = _transition.decode(event.body)
        visit = Visit(**msgspec.structs.asdict(told), purposes=purposes_of(lanes))
        return frame(event.name, event.number, _encode(visit))

    def of_resident(self, event: EventRow, withheld: set[str]) -> bytes | None:
        """A resident's own offers and recalls, as long as the offers are wanted and of use.

        A claim that the resident does not want any more is recalled.

        Args:
            withheld: claims that were kept back from this reader; their recalls are not told.

        Raises:
            Stale: this process may not know what they want.
        """
        if event.name == "recall":
            told = _recall.decode(event.body)
            return None if told.claim in withheld else self.of_operator(event)
        if event.name != "offer" or event.resident is None:
            return None
        made, now_ms = _made.decode(event.body), self._clock_ms()
        if made.expires_at_ms <= now_ms:
            return None
        refused = self._engine.second_gate.tell_refusal(
            event.resident, made, now_ms=now_ms, mono_ms=self._mono_ms()
        )
        if refused == "stale":
            raise Stale
        if refused is None:
            return frame(event.name, event.number, event.body)
        withheld.add(made.claim)
        if changes := self._engine.take_changes():
            self._journal.add(changes)
        return None


def _public(event: EventRow) -> bytes:
    """The body that operators and merchants get."""
    if event.name == "offer":
        made = _made.decode(event.body)
        return _encode(
            OfferTold(
                claim=made.claim,
                offer=made.offer,
                brand=made.brand,
                at_ms=event.at_ms,
                expires_at_ms=made.expires_at_ms,
            )
        )
    if event.name == "recall":
        recall = msgspec.structs.asdict(_recall.decode(event.body))
        return _encode(RecallTold(**recall, at_ms=event.at_ms))
    if event.name == "redemption":
        redeemed = msgspec.structs.asdict(_redemption.decode(event.body))
        return _encode(Redeemed(**redeemed, at_ms=event.at_ms))
    return event.body
