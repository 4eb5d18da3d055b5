"""The tail of the window of events: one reader a process, and all who follow it.

One task gives numbers to what was committed, reads on from where it was, and hands each event to
the subscriptions that it concerns. What a subscriber does not take in time is dropped, and read
again from the store when the subscriber is ready for it: so each costs a bounded queue, whatever
it does, and none ever misses an event that the store still has.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from engine.store.port import Store, StoreUnavailable
from engine.store.window import EventRow, EventsLost

BACK_OFF_MIN_S: Final = 0.05
BACK_OFF_MAX_S: Final = 0.5
PAGE_EVENTS: Final = 1_000
"""Most events that are read at once."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Some events may be missing: those after `after`, which is where the reader was."""

    after: int
    goes_on: int
    """What comes next is after this number."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a subscriber is to get."""

    brands: frozenset[str] | None = None
    """Those that are the business of these brands; None: of all, and of none."""
    resident: str | None = None
    """Those told to this resident, and no others."""


@dataclass(eq=False, slots=True)
class Subscription:
    """What waits in memory for one subscriber."""

    wanted: Wanted
    queue_max: int
    queue: deque[EventRow] = field(default_factory=deque)
    behind: bool = True
    """There is more in the store than in the queue: nothing is queued until it was read."""
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, event: EventRow) -> None:
        """Take an event, or drop them all if they are too many."""
        if self.behind:
            return
        if len(self.queue) < self.queue_max:
            self.queue.append(event)
        else:
            self.fall_behind()
        self.more.set()

    def fall_behind(self) -> None:
        """Have everything read from the store."""
        self.queue.clear()
        self.behind = True
        self.more.set()

    def catch_up(self) -> None:
        """From now on queue what comes; what came before is about to be read."""
        self.queue.clear()
        self.behind = False


class Tail:
    """Follows the window.

    Args:
        store: whose window.
        poll_ms: longest pause between two looks, whether somebody woke us or not.
        every_ms: shortest pause: what is committed meanwhile gets its numbers together.
        queue_max: most events that may wait for one subscriber.

    Attributes:
        number: all events up to this one were handed to those whom they concern.
    """

    def __init__(
        self, store: Store, *, poll_ms: int = 500, every_ms: int = 20, queue_max: int = 1_000
    ) -> None:
        self._store = store
        self._poll_s = poll_ms / 1_000
        self._every_s = every_ms / 1_000
        self._queue_max = queue_max
        self._following: set[Subscription] = set()
        """Of operators and merchants."""
        self._of_resident: dict[str, set[Subscription]] = {}
        self._count = 0
        self.number = 0
        self.failures = 0

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return self._count

    async def run(self) -> None:
        """Follow the window until cancelled; the one task of this object."""
        loop, back_off_s = asyncio.get_running_loop(), BACK_OFF_MIN_S
        while True:
            began_s = loop.time()
            try:
                await self._look()
                await self._store.wait_for_events(self._poll_s)
                back_off_s = BACK_OFF_MIN_S
            except StoreUnavailable:
                self.failures += 1
                await asyncio.sleep(back_off_s)
                back_off_s = min(2 * back_off_s, BACK_OFF_MAX_S)
            await asyncio.sleep(max(0.0, began_s + self._every_s - loop.time()))

    async def _look(self) -> None:
        """Give numbers, and hand out what is new."""
        newest = await self._store.number_events()
        if not self._count:
            # Whoever comes later reads from the store what is older than this.
            self.number = max(self.number, newest)
        while self.number < newest:
            try:
                page = await self._store.events_after(self.number, limit=PAGE_EVENTS)
            except EventsLost as lost:
                self.number = lost.goes_on
                for subscription in self._all():
                    subscription.fall_behind()
                continue
            for event in page.events:
                self._hand_out(event)
            self.number = page.reached
            await asyncio.sleep(0)

    def _hand_out(self, event: EventRow) -> None:
        """Give an event to those whom it concerns."""
        for subscription in self._following:
            brands = subscription.wanted.brands
            if brands is None or event.brand in brands:
                subscription.push(event)
        if event.resident is not None and event.name != "transition":
            for subscription in self._of_resident.get(event.resident, ()):
                subscription.push(event)

    def _all(self) -> Iterator[Subscription]:
        yield from self._following
        for several in self._of_resident.values():
            yield from several

    @contextmanager
    def subscribed(self, wanted: Wanted) -> Iterator[Subscription]:
        """A subscription for as long as the block runs; it begins behind."""
        resident = wanted.resident
        group = (
            self._following if resident is None else self._of_resident.setdefault(resident, set())
        )
        subscription = Subscription(wanted, self._queue_max)
        group.add(subscription)
        self._count += 1
        try:
            yield subscription
        finally:
            self._count -= 1
            group.discard(subscription)
            if resident is not None and not group and self._of_resident.get(resident) is group:
                del self._of_resident[resident]


class Reader:
    """Reads on for one subscriber: from the store until it has caught up, then from the queue.

    Attributes:
        number: all that the subscriber is to get up to this one was given out.
    """

    def __init__(
        self, store: Store, tail: Tail, subscription: Subscription, after: int | None
    ) -> None:
        self._store = store
        self._tail = tail
        self._subscription = subscription
        self.number = tail.number if after is None else after

    async def next(self, timeout_s: float) -> list[EventRow | Gap]:
        """What comes next; nothing when the time is over, or while the store is away."""
        subscription = self._subscription
        if not subscription.behind and not subscription.queue:
            # All up to the tail's number that concerns us was queued, and was taken.
            self.number = max(self.number, self._tail.number)
            subscription.more.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await subscription.more.wait()
            except TimeoutError:
                return []
        if subscription.behind:
            return await self._read()
        events = [event for event in subscription.queue if event.number > self.number]
        subscription.queue.clear()
        if events:
            self.number = events[-1].number
        return list(events)

    async def _read(self) -> list[EventRow | Gap]:
        """A page from the store. What is committed while we read is queued, or read again."""
        subscription, wanted = self._subscription, self._subscription.wanted
        subscription.catch_up()
        try:
            page = await self._store.events_after(
                self.number,
                brands=None if wanted.brands is None else sorted(wanted.brands),
                resident=wanted.resident,
                limit=PAGE_EVENTS,
            )
        except EventsLost as lost:
            gap = Gap(self.number, lost.goes_on)
            self.number = lost.goes_on
            subscription.fall_behind()
            return [gap]
        except BaseException as error:
            subscription.fall_behind()
            if not isinstance(error, StoreUnavailable):
                raise
            await asyncio.sleep(BACK_OFF_MAX_S)
            return []
        self.number = page.reached
        if page.reached < page.newest:
            subscription.fall_behind()
        return list(page.events)
