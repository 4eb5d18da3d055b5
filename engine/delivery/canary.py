"""A made-up resident in every process, who opts in and withdraws again and again.

A shop was fined because its opt-out had been broken for 40 days and nobody had noticed. Here
somebody notices: the canary says yes and no through the store and the feed as everybody does, is
acknowledged as everybody is, and is asked after in the same index of preferences, under the same
lease, by the same code. All else is its own: it walks in a city of three doors and keeps its claims
in a store in memory. So it takes nobody's budget, no cap holds it, and it is in nobody's counts,
events, lists or exports; and no client can name it, for its ids have a letter that none may have.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from engine.changes import Changes
from engine.consent import sync
from engine.consent.index import PreferenceIndex
from engine.consent.record import WeekWindow
from engine.decision import Decision
from engine.delivery.answer import Answerer
from engine.offers.gates import Attention
from engine.offers.offer import Brand, Offer, OfferCaps
from engine.ping import Ping
from engine.pipeline import Engine, EngineSettings
from engine.residents import ResidentSettings
from engine.store.everywhere import Everywhere
from engine.store.follow import canary_id
from engine.store.journal import Journal
from engine.store.memory import MemoryStore
from engine.store.port import Committed, ResidentRow, Store, StoreUnavailable
from geofences.fence import Circle, Fence
from geofences.measure import make_fence

BRAND: Final = "/canary"
DOORS: Final = 3
STEP_DEG: Final = 0.1
"""Between two doors."""
FIRST_S: Final = 5.0
"""Until the first round after a start, at most."""
COMMIT_S: Final = 5.0
"""Longest time until a ping waits for its commit."""
ROUNDS_LATE: Final = 3
LATE_S: Final = 60.0
"""No round for so many rounds' time and this: the canary is stuck."""

Outcome = Literal["silent", "missed", "leaked", "unknown"]

_ALWAYS: Final = (WeekWindow(days=(1, 2, 3, 4, 5, 6, 7), from_hour=0, to_hour=24),)

_log = logging.getLogger(__name__)


class Canary:
    """One process' own.

    Args:
        node: the process' id among those that follow the feed.
        store: takes what the canary says.
        everywhere: acknowledges it.
        preferences: those of the service.
        clock_ms: Unix milliseconds.
        mono_ms: the monotonic clock of the lease.
        every_s: between two rounds.
        answerer: what answers pings, as it does in the service.

    Attributes:
        rounds: that came to an end, whatever came of them.
        leaks: offers that left after a withdrawal was acknowledged. There must never be one, and
            if there was, this process is not to be trusted any more.
        misses: rounds in which no offer came, though it was wanted.
        last: what came of the last round of which something is known; None before the first.
    """

    def __init__(
        self,
        node: str,
        store: Store,
        everywhere: Everywhere,
        preferences: PreferenceIndex,
        *,
        clock_ms: Callable[[], int],
        mono_ms: Callable[[], int],
        every_s: float,
        answerer: type[Answerer] = Answerer,
    ) -> None:
        self._node = node
        self._store = store
        self._everywhere = everywhere
        self._preferences = preferences
        self._clock_ms = clock_ms
        self._mono_ms = mono_ms
        self._every_s = every_s
        self._answerer = answerer
        self._row = ResidentRow(id=canary_id(node), settings=ResidentSettings())
        self._known_ms = mono_ms()
        self.rounds = 0
        self.leaks = 0
        self.misses = 0
        self.last: Outcome | None = None

    @property
    def trouble(self) -> str | None:
        """What is wrong, in a sentence; None: nothing is, as far as anybody knows."""
        if self.leaks:
            return "An offer left after its withdrawal was acknowledged: stop this process."
        if self.last == "missed":
            return "No offer came that was wanted: nobody gets any."
        late_ms = 1_000 * (ROUNDS_LATE * self._every_s + LATE_S)
        if self._mono_ms() > self._known_ms + late_ms:
            return "No opt-in or withdrawal came to an end for long."
        return None

    async def run(self) -> None:
        """Make rounds until cancelled; the one task of this object."""
        await asyncio.sleep(min(FIRST_S, self._every_s))
        while True:
            try:
                self._note(await self.round())
            except Exception as error:
                # A mistake, which must not end the service and must not stay unseen either.
                _log.error("the canary can't make its round: %s", type(error).__name__)
                self._note("missed")
            await asyncio.sleep(self._every_s)

    def _note(self, outcome: Outcome) -> None:
        self.rounds += 1
        if outcome == "unknown":
            return
        self.last = outcome
        self.misses += outcome == "missed"
        self._known_ms = self._mono_ms()

    async def round(self) -> Outcome:
        """Opt in, get an offer; withdraw, and get none, not even one that was on its way.

        Unknown: the store does not answer, or the lease has run out, which others tell of.
        """
        town = _Town(self._preferences, self._answerer, self._row.id, self._clock_ms, self._mono_ms)
        await town.store.open()
        try:
            await self._say(wanted=True)
            town.store.lets_commit.set()
            first = await town.ping(0)
            if first.offer is None:
                return "unknown" if self._preferences.is_stale(self._mono_ms()) else "missed"
            town.store.lets_commit.clear()
            waiting = asyncio.create_task(town.ping(1))
            async with asyncio.timeout(COMMIT_S):
                await town.store.asked.wait()
            await self._say(wanted=False)
            town.store.lets_commit.set()
            answers = [await waiting, await town.ping(2)]
        except (StoreUnavailable, TimeoutError):
            return "unknown"
        finally:
            town.store.lets_commit.set()
            await town.journal.close()
            await town.store.close()
        leaks = sum(answer.offer is not None for answer in answers)
        self.leaks += leaks
        return "leaked" if leaks else "silent"

    async def _say(self, *, wanted: bool) -> None:
        """Say yes or no, and wait until it is acknowledged.

        Raises:
            StoreUnavailable: it was not.
        """
        now_ms, row = self._clock_ms(), self._row
        said = sync.Said(actor="self", now_ms=now_ms, if_match=row.version)
        asked = sync.marketing(wanted, [BRAND])
        if wanted:
            asked = tuple(
                msgspec.structs.replace(one, week=_ALWAYS if "contact" in one.actions else None)
                for one in asked
            )
        records = sync.resolve(row, asked, said).records
        # What it said before is of no use to anybody.
        kept = msgspec.structs.replace(row, version=records[-1].version, records=records)
        number = await self._store.put_canary(self._node, msgspec.json.encode(kept))
        if number is None:
            raise StoreUnavailable("this process is not known to the store")
        self._row = msgspec.structs.replace(kept, records=())
        await self._everywhere.reached(number)


class _Waiting(MemoryStore):
    """A store in memory whose commits wait until they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.lets_commit = asyncio.Event()
        self.asked = asyncio.Event()
        """A claim waits for its commit."""

    async def commit(self, changes: Changes) -> Committed:
        """Apply a group, in its time."""
        if changes.claims and not self.lets_commit.is_set():
            self.asked.set()
        await self.lets_commit.wait()
        return await super().commit(changes)


class _Town:
    """Three doors with an offer at each, for one round."""

    def __init__(
        self,
        preferences: PreferenceIndex,
        answerer: type[Answerer],
        resident: str,
        clock_ms: Callable[[], int],
        mono_ms: Callable[[], int],
    ) -> None:
        settings = EngineSettings(attention=Attention(per_day=DOORS, per_week=DOORS))
        engine = Engine(secret=secrets.token_bytes(32), settings=settings, preferences=preferences)
        engine.put_brand(Brand(id=BRAND, name=BRAND))
        engine.put_fences([_door(number) for number in range(DOORS)])
        for number in range(DOORS):
            engine.put_offer(_offer(number))

        def committed(changes: Changes, outcome: Committed) -> None:
            engine.settle(changes.claims, {}, outcome.counts)

        self.store = _Waiting()
        self.journal = Journal(
            self.store,
            lost=lambda residents, _: engine.forget(residents),
            found=engine.restore,
            committed=committed,
            clock_ms=clock_ms,
        )
        self._answerer = answerer(
            engine,
            self.journal,
            clock_ms=clock_ms,
            mono_ms=mono_ms,
            slice_pings_max=1,
            waiting_max=DOORS,
            decided_s=lambda _: None,
        )
        self._resident = resident
        self._clock_ms = clock_ms

    async def ping(self, door: int) -> Decision:
        """The answer to a ping at a door."""
        now_ms = self._clock_ms()
        ping = Ping(
            resident=self._resident,
            at_ms=now_ms + door,
            lon=STEP_DEG * door,
            lat=0.0,
            accuracy_m=5.0,
            received_ms=now_ms,
        )
        (decision,) = await self._answerer.answer([ping])
        return decision


def _door(number: int) -> Fence:
    """A fence of 60 m around the middle of a door."""
    shape = Circle(STEP_DEG * number, 0.0, 60.0)
    return make_fence(f"{BRAND}-{number}", BRAND, BRAND, (), shape)


def _offer(number: int) -> Offer:
    """An offer for whoever comes to a door, however often."""
    return Offer(
        id=f"{BRAND}-{number}",
        brand=BRAND,
        title=BRAND,
        body=BRAND,
        trigger="enter",
        fences=(f"{BRAND}-{number}",),
        caps=OfferCaps(cool_down_s=0),
        status="live",
    )
