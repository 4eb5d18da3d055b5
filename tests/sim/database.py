"""The database as processes see it: far away, sometimes slow, sometimes gone, and always one.

What a statement does, the store in memory does, at one instant. What is added is the way there and
back: each takes its time, and a connection may be lost before or after the statement was executed,
when nobody can tell which. Notifications take their time too, and some are lost.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final

from engine.store.memory import MemoryStore
from engine.store.port import Change, StoreUnavailable
from tests.sim.clockwork import Agenda, ProcessLoop, give

TRIP_US: Final = 200
"""Shortest way there or back."""
LEASE_MS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What chance does to one world."""

    slow: float
    """Share of ways that take up to a second rather than a few milliseconds."""
    deaf: float
    """Share of notifications that get lost."""
    fault_ms: int
    """Between two faults, on average."""


@dataclass(eq=False, slots=True)
class Statement:
    """One on its way."""

    name: str
    call: Callable[[], Coroutine[Any, Any, Any]]
    answer: asyncio.Future[Any]
    given: tuple[tuple[Any, ...], dict[str, Any]]
    lost: bool = False


class Database:
    """The one that all processes share.

    Args:
        agenda: of the world.
        rng: its own chance.
        weather: how slow and lossy ways are.
        executed: told the name and the arguments of each statement that was not refused.
    """

    def __init__(
        self,
        agenda: Agenda,
        rng: random.Random,
        weather: Weather,
        executed: Callable[[str, tuple[Any, ...], dict[str, Any]], None],
    ) -> None:
        self._agenda = agenda
        self._rng = rng
        self._weather = weather
        self._executed = executed
        self._still_until_us = 0
        self.links: list[Link] = []
        self.store = self.make_store()
        run(self.store.open())
        shared = self.store.shared
        self._bells = [_Bell(self, name) for name in ("changes", "events")]
        shared.listeners.add(self._bells[0])  # type: ignore[arg-type]
        shared.window.listeners.add(self._bells[1])  # type: ignore[arg-type]
        shared.nodes.listeners[0] = lambda: self.notify("nodes")

    def make_store(self) -> MemoryStore:
        """What executes statements."""
        return MemoryStore()

    def stand_still(self, for_us: int) -> None:
        """Execute nothing for a while; what comes meanwhile waits."""
        self._still_until_us = self._agenda.now_us + for_us

    def calm(self) -> None:
        """From now on nothing is slow or lost."""
        self._weather = Weather(slow=0.0, deaf=0.0, fault_ms=0)
        self._still_until_us = 0

    def way_us(self) -> int:
        """How long something is under way."""
        chance = self._rng.random()
        if chance < self._weather.slow:
            return int(10 ** self._rng.uniform(4, 6))
        return TRIP_US + int(3_000 * self._rng.random())

    def take(self, statement: Statement) -> None:
        """A statement that was sent now."""
        self._agenda.after(self.way_us(), lambda: self._arrive(statement))

    def _arrive(self, statement: Statement) -> None:
        if statement.lost:
            return
        if self._agenda.now_us < self._still_until_us:
            self._agenda.at(self._still_until_us, lambda: self._arrive(statement))
            return
        self.execute(statement)

    def execute(self, statement: Statement) -> None:
        """Do what it says, all of it now."""
        try:
            found = run(statement.call())
        except Exception as refused:
            found = refused
        else:
            self._executed(statement.name, *statement.given)
        self.reply(partial(give, statement.answer, found))

    def reply(self, call: Callable[[], object]) -> None:
        """Have an answer arrive in its time."""
        self._agenda.after(self.way_us(), call)

    def notify(self, name: str) -> None:
        """Tell all who listen, each in its time, if at all."""
        for link in self.links:
            if self._rng.random() >= self._weather.deaf:
                self._agenda.after(self.way_us(), link.rings(name))


class _Bell:
    """Stands where the store in memory has the events of those who wait."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    def set(self) -> None:
        """Something happened."""
        self._database.notify(self._name)


class Link:
    """One process' connections: the store, as that process sees it.

    Every method of the store that is not here goes to the database and back.
    """

    def __init__(
        self, database: Database, agenda: Agenda, loop: ProcessLoop, mono_ms: Callable[[], int]
    ) -> None:
        self._database = database
        self._mono_ms = mono_ms
        self._agenda = agenda
        self._loop = loop
        self._torn_until_us = 0
        self._sent: dict[int, Statement] = {}
        self._count = 0
        self._grown, self._told = asyncio.Event(), asyncio.Event()
        self._applied: Callable[[], object] = lambda: None
        self.lease_until_ms = 0
        """Until when the process may act by its clock, as we count it ourselves."""
        database.links.append(self)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._database.store, name)
        if not iscoroutinefunction(method):
            return method

        async def ask(*args: Any, **kwargs: Any) -> Any:
            return await self._ask(name, lambda: method(*args, **kwargs), (args, kwargs))

        self.__dict__[name] = ask
        return ask

    async def _ask(
        self,
        name: str,
        call: Callable[[], Coroutine[Any, Any, Any]],
        given: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> Any:
        self._check_there()
        answer = self._loop.create_future()
        self._count += 1
        mine = self._count
        self._sent[mine] = statement = Statement(name, call, answer, given)
        self._database.take(statement)
        try:
            return await answer
        finally:
            del self._sent[mine]

    def _check_there(self) -> None:
        if self._agenda.now_us < self._torn_until_us:
            raise StoreUnavailable("the connection is lost")

    def tear(self, for_us: int, rng: random.Random) -> None:
        """Lose all connections for a while; of what is under way, chance has some executed.

        A commit that was not executed by now never is: whoever reads back waits for that.
        """
        self._torn_until_us = self._agenda.now_us + for_us
        for statement in list(self._sent.values()):
            statement.lost = statement.name == "commit" or rng.random() < 0.5
            give(statement.answer, StoreUnavailable("the connection was lost"))

    def cut(self) -> None:
        """Answer nothing any more."""
        self._torn_until_us = self._agenda.now_us + 1
        for statement in list(self._sent.values()):
            statement.answer.cancel()

    def die(self, rng: random.Random) -> None:
        """The process is gone; of what is under way, chance has some executed."""
        self._database.links.remove(self)
        for statement in self._sent.values():
            statement.lost = rng.random() < 0.5

    def rings(self, name: str) -> Callable[[], None]:
        """What a notification does when it arrives."""

        def ring() -> None:
            if self._loop.dead or self._agenda.now_us < self._torn_until_us:
                return
            if name == "nodes":
                self._loop.call_soon(self._applied)
            else:
                (self._grown if name == "changes" else self._told).set()

        return ring

    async def follow(
        self, node: str, number: int, *, renewed_ms: int, limit: int = 10_000
    ) -> list[Change]:
        """Tell and read, and count the lease from here if this finds all that there is.

        Whether that is in memory is not our concern: whoever acts without it is seen to do so.
        """
        began_ms = self._mono_ms()
        method = self._database.store.follow
        found: list[Change] = await self._ask(
            "follow", lambda: method(node, number, renewed_ms=renewed_ms, limit=limit), ((), {})
        )
        if len(found) < limit:
            self.lease_until_ms = began_ms + LEASE_MS
        return found

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait for a notification."""
        self._check_there()
        await _rung(self._grown, timeout_s)

    async def wait_for_events(self, timeout_s: float) -> None:
        """Wait for a notification."""
        self._check_there()
        await _rung(self._told, timeout_s)

    def when_applied(self, call: Callable[[], object]) -> None:
        """Have this called at each notification."""
        self._applied = call


async def _rung(bell: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await bell.wait()
    bell.clear()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a statement waits for something")
