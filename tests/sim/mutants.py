"""Services that lack one of the rules that make an acknowledged "no" final.

Each is the real one but for one part. None may get through the simulation unnoticed: else that
rule could be lost without anybody noticing.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, NamedTuple

from engine.consent.index import Entry
from engine.decision import Decision, OfferMade
from engine.delivery.answer import Answerer
from engine.ping import Ping
from engine.second_gate import SecondGate
from engine.store.everywhere import Everywhere
from engine.store.feed import Feed
from engine.store.memory import MemoryStore
from engine.store.nodes import Node
from engine.store.port import Change, Kind
from engine.store.shared import Shared
from engine.web.context import Context
from tests.sim.database import Database, Statement
from tests.sim.process import Build

FOREVER_MS: Final = 1 << 60
DAWDLE_S: Final = 0.05


class OpenGate(SecondGate):
    """Lets everything leave that was once decided."""

    def hand_over(self, decision: Decision, *, now_ms: int, mono_ms: int) -> Decision:
        """What was decided, whatever was said since."""
        del now_ms, mono_ms
        return decision

    def tell_refusal(
        self, resident_id: str, made: OfferMade, *, now_ms: int, mono_ms: int
    ) -> str | None:
        """Nothing is against it."""
        del resident_id, made, now_ms, mono_ms
        return None


def _open_the_gate(ctx: Context) -> None:
    engine = ctx.engine
    engine.second_gate = OpenGate(engine.book, engine.preferences, engine.tracker)


def _let_nothing_end(ctx: Context) -> None:
    def compile_nothing(resident: str, entry: Entry, now_ms: int) -> None:
        del resident, entry, now_ms

    ctx.engine.preferences._compile = compile_nothing  # type: ignore[method-assign]


def _ignore_the_lease(ctx: Context) -> None:
    ctx.engine.preferences.lease_until_mono_ms = lambda: FOREVER_MS


class Dawdler(Answerer):
    """Does something else between the check and the hand-over."""

    async def answer(self, items: Sequence[Ping | Decision]) -> list[Decision]:
        """What was checked a moment ago."""
        decisions = await super().answer(items)
        await asyncio.sleep(DAWDLE_S)
        return decisions


class Hasty(Everywhere):
    """Acknowledges what its own process has applied."""

    async def reached(self, number: int, *, timeout_s: float = 10.0) -> None:
        """Wait for nobody else."""
        await self._feed.reached(number, timeout_s=timeout_s)


class Impatient(Everywhere):
    """Waits for others half as long as their leases run."""

    def _patience_ms(self, node: Node) -> int:
        return node.lease_ms // 2


class Eager(Feed):
    """Renews its lease before what it found is in memory."""

    async def _take(self, changes: list[Change]) -> None:
        self.lease_until_mono_ms = self._mono_ms() + self._lease_ms
        await super()._take(changes)


class Generous(Feed):
    """Counts its lease from the end of a look."""

    async def _catch_up(self) -> None:
        await super()._catch_up()
        self.lease_until_mono_ms = self._mono_ms() + self._lease_ms


# What runs already, and others have too, becomes of another kind: the very same object has to.


def _acknowledging_by(kind: type[Everywhere]) -> Callable[[Context], None]:
    def change(ctx: Context) -> None:
        ctx.everywhere.__class__ = kind

    return change


def _following_by(kind: type[Feed]) -> Callable[[Context], None]:
    def change(ctx: Context) -> None:
        ctx.feed.__class__ = kind

    return change


class PlainFeed(Shared):
    """Numbers the feed as a plain sequence does: when a statement begins, not when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count(1)
        self.drawn: int | None = None

    def append(self, kind: Kind, ids: list[str]) -> int:
        """Add lines with numbers that may have been drawn before."""
        number = 0
        for id_ in ids:
            number = next(self.numbers) if self.drawn is None else self.drawn
            self.drawn = None
            self.feed.append(Change(number, kind, id_))
        self.feed.sort(key=lambda line: line.number)
        for listener in self.listeners:
            listener.set()
        return number


class PlainStore(MemoryStore):
    """Reads the feed without minding gaps, which a plain sequence has in any case."""

    async def changes_after(self, number: int, *, limit: int = 10_000) -> list[Change]:
        """The lines that can be seen."""
        return [line for line in self._open_shared().feed if line.number > number][:limit]


class PlainDatabase(Database):
    """Takes a while between the number and the commit of what residents say."""

    def make_store(self) -> MemoryStore:
        """One with such a feed."""
        return PlainStore(PlainFeed())

    def execute(self, statement: Statement) -> None:
        """Draw a number now, and write later."""
        shared = self.store.shared
        assert isinstance(shared, PlainFeed)
        if statement.name != "append_records":
            super().execute(statement)
            return
        number = next(shared.numbers)

        def commit() -> None:
            shared.drawn = number
            super(PlainDatabase, self).execute(statement)
            shared.drawn = None

        self.reply(commit)


class Mutant(NamedTuple):
    """One of them."""

    build: Build
    caught: str
    """Of the sentence by which it is caught."""


MUTANTS: Final = {
    "second gate dropped": Mutant(Build(change=_open_the_gate), "had forbidden"),
    "grants never end": Mutant(Build(change=_let_nothing_end), "had forbidden"),
    "lease ignored": Mutant(Build(change=_ignore_the_lease), "acts after its lease"),
    "lease counted from the end of a look": Mutant(
        Build(change=_following_by(Generous)), "acts after its lease"
    ),
    "lease renewed before what was found is in memory": Mutant(
        Build(change=_following_by(Eager)), "acts on version"
    ),
    "stale widening allowed": Mutant(Build(heeds_if_match=False), "widened by call"),
    "feed numbered by a plain sequence": Mutant(Build(database=PlainDatabase), "acts on version"),
    "hand-over awaited after the check": Mutant(Build(answerer=Dawdler), "had forbidden"),
    "acknowledged without waiting for the others": Mutant(
        Build(change=_acknowledging_by(Hasty)), "acts on version"
    ),
    "others waited for half as long as their leases run": Mutant(
        Build(change=_acknowledging_by(Impatient)), "acts on version"
    ),
}
