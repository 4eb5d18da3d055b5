"""The window of events in memory."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING
from weakref import WeakSet

import msgspec

from engine.changes import ClaimMade, TransitionTold
from engine.store.memory_part import MemoryPart
from engine.store.window import (
    EventPage,
    EventRow,
    EventsLost,
    Recall,
    RedemptionTold,
    transition_body,
)

if TYPE_CHECKING:
    from engine.store.port import Redemption


class Window:
    """What several in-memory stores have in common of it."""

    def __init__(self) -> None:
        self.rows: list[EventRow] = []
        self.kept_ms: list[int] = []
        """When each of the rows was written."""
        self.newest = 0
        self.listeners: WeakSet[asyncio.Event] = WeakSet()

    def tell(
        self, name: str, at_ms: int, brand: str | None, resident: str | None, body: bytes
    ) -> None:
        """Append an event."""
        self.newest += 1
        row = EventRow(
            number=self.newest, at_ms=at_ms, name=name, brand=brand, resident=resident, body=body
        )
        self.rows.append(row)
        self.kept_ms.append(store_ms())
        for listener in self.listeners:
            listener.set()

    def tell_transition(self, told: TransitionTold) -> None:
        """One that became durable."""
        resident = told.resident if told.shared else None
        self.tell("transition", told.event.at_ms, told.brand, resident, transition_body(told))

    def tell_offer(self, claim: ClaimMade) -> None:
        """A claim that was accepted."""
        body = msgspec.json.encode(claim.made)
        self.tell("offer", claim.made_ms, claim.made.brand, claim.resident, body)

    def tell_recall(self, claim: ClaimMade, reason: str) -> None:
        """A claim that was taken back."""
        made = claim.made
        body = Recall(claim=made.claim, offer=made.offer, brand=made.brand, reason=reason)
        self.tell("recall", store_ms(), made.brand, claim.resident, msgspec.json.encode(body))

    def tell_redemption(self, redemption: "Redemption", *, rolled_back: bool) -> None:
        """A code that was used, or is free again."""
        body = RedemptionTold(
            redemption=redemption.id,
            claim=redemption.claim,
            offer=redemption.offer,
            brand=redemption.brand,
            till=redemption.till,
            rolled_back=rolled_back,
        )
        at_ms = store_ms() if rolled_back else redemption.at_ms
        self.tell("redemption", at_ms, redemption.brand, None, msgspec.json.encode(body))

    def tell_preferences(self, resident: str, version: int) -> None:
        """A resident said something."""
        body = msgspec.json.encode({"version": version})
        self.tell("preferences", store_ms(), None, resident, body)

    @property
    def pruned(self) -> int:
        """Events up to this number are gone."""
        return self.newest - len(self.rows)


class MemoryWindow(MemoryPart):
    """The part of the store in memory that keeps the window; see `window.EventStore`."""

    _told: asyncio.Event | None = None

    async def number_events(self) -> int:
        """Nothing to do: events get their numbers as they are written."""
        return self._open_shared().window.newest

    async def events_after(
        self,
        number: int,
        *,
        brands: list[str] | None = None,
        resident: str | None = None,
        limit: int = 1_000,
    ) -> EventPage:
        """The next events."""
        window = self._open_shared().window
        if not window.pruned <= number <= window.newest:
            raise EventsLost(window.pruned if number < window.pruned else window.newest)
        found = []
        for row in window.rows[number - window.pruned :]:
            if resident is not None:
                wanted = row.resident == resident and row.name != "transition"
            else:
                wanted = brands is None or row.brand in brands
            if wanted:
                found.append(row)
            if len(found) == limit:
                return EventPage(tuple(found), row.number, window.newest)
        return EventPage(tuple(found), window.newest, window.newest)

    async def wait_for_events(self, timeout_s: float) -> None:
        """Wait until something is told."""
        window = self._open_shared().window
        if self._told is None:
            self._told = asyncio.Event()
            window.listeners.add(self._told)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._told.wait()
        self._told.clear()

    async def prune_events(self, *, age_max_ms: int, events_max: int) -> int:
        """Forget the oldest events."""
        window, now_ms = self._open_shared().window, store_ms()
        gone = max(0, len(window.rows) - events_max)
        while gone < len(window.rows) and window.kept_ms[gone] < now_ms - age_max_ms:
            gone += 1
        del window.rows[:gone], window.kept_ms[:gone]
        return gone


def store_ms() -> int:
    """The store's own clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000
