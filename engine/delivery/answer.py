"""From decoded pings to decisions that may leave: decide, wait until durable, ask consent again.

Every way by which pings come in uses this one. A ping waits only for its own resident's last
uncommitted change; with none it leaves at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import msgspec

from engine.decision import Decision, Reject
from engine.ping import Ping
from engine.pipeline import Engine
from engine.store.journal import Group, Journal
from engine.store.port import StoreUnavailable

_OVERLOADED: Final = Reject("overloaded", "Too much is waiting to be made durable; try again.")
_NOT_DURABLE: Final = Reject(
    "not_durable", "The decision could not be made durable; send the ping again."
)


@dataclass(slots=True)
class Decided:
    """Decisions that may not leave yet, each with the commit that it waits for."""

    decisions: list[Decision] = field(default_factory=list)
    groups: list[Group | None] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether any of them waits for a commit."""
        return any(group is not None for group in self.groups)


class Answerer:
    """Answers pings.

    Args:
        engine: decides.
        journal: makes changes durable.
        clock_ms: Unix milliseconds.
        mono_ms: the monotonic clock of the lease.
        slice_pings_max: most pings decided before the loop may turn.
        waiting_max: most calls that may wait for the journal; more are shed.
        decided_s: told how long each slice took to decide, seconds.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        *,
        clock_ms: Callable[[], int],
        mono_ms: Callable[[], int],
        slice_pings_max: int,
        waiting_max: int,
        decided_s: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._clock_ms = clock_ms
        self._mono_ms = mono_ms
        self._slice_pings_max = slice_pings_max
        self._waiting_max = waiting_max
        self._decided_s = decided_s
        self._turns = asyncio.Lock()
        self.waiting = 0
        """Calls that wait for the journal now."""

    @property
    def full(self) -> bool:
        """Whether too much waits for a commit, so that what comes now is shed."""
        return self._journal.full or self.waiting >= self._waiting_max

    async def turn(self) -> None:
        """Let the loop turn. Of all who wait for this one goes on in each turn.

        Else a turn would take as long as there are streams, and the news of consent, for which the
        loop has to turn several times, would come later than they may.
        """
        async with self._turns:
            await asyncio.sleep(0)

    async def answer(self, items: Sequence[Ping | Decision]) -> list[Decision]:
        """Answer pings in their order; what is a decision already stays in its place.

        A ping whose changes could not be made durable is answered `shed`.
        """
        decided = await self.decide(items)
        await self.settled(decided)
        return self.hand_over(decided)

    async def decide(self, items: Sequence[Ping | Decision]) -> Decided:
        """Decide pings of any number; the loop turns between two slices."""
        decided = Decided()
        for start in range(0, len(items), self._slice_pings_max):
            if start:
                await self.turn()
            self.decide_slice(items[start : start + self._slice_pings_max], decided)
        return decided

    def decide_at_once(self, items: Sequence[Ping | Decision]) -> Decided | None:
        """Decide pings that are one slice; None, and nothing is decided, if they are more."""
        if len(items) > self._slice_pings_max:
            return None
        decided = Decided()
        self.decide_slice(items, decided)
        return decided

    def decide_slice(self, items: Sequence[Ping | Decision], decided: Decided) -> None:
        """Decide one slice and note which commit each decision waits for."""
        decisions, groups = decided.decisions, decided.groups
        if self.full:
            decisions.extend(shed(i, _OVERLOADED) if isinstance(i, Ping) else i for i in items)
            groups.extend(None for _ in items)
            return
        pings = [item for item in items if isinstance(item, Ping)]
        began_s = perf_counter()
        made = self._engine.decide(pings, mono_ms=self._mono_ms())
        self._decided_s(perf_counter() - began_s)
        self._write()
        if len(pings) == len(items):
            decisions.extend(made)
        else:
            each = iter(made)
            decisions.extend(next(each) if isinstance(item, Ping) else item for item in items)
        pending = self._journal.pending
        groups += [pending(d.resident) for d in decisions[len(groups) :]]

    async def settled(self, decided: Decided) -> None:
        """Wait for the commits, and put right the decisions that they did not bear out."""
        if not decided.waits:
            return
        decisions, groups = decided.decisions, decided.groups
        failed: set[int] = set()
        self.waiting += 1
        try:
            for group in {id(g): g for g in groups if g is not None}.values():
                try:
                    await group.settled()
                except StoreUnavailable:
                    failed.add(id(group))
        finally:
            self.waiting -= 1
        for place, waited in enumerate(groups):
            if waited is None:
                continue
            decision = decisions[place]
            if id(waited) in failed:
                decisions[place] = shed(decision, _NOT_DURABLE)
            elif decision.offer is not None:
                reason = waited.refused.get(decision.offer.claim)
                if reason is not None:
                    decisions[place] = msgspec.structs.replace(
                        decision, offer=None, withheld=reason
                    )

    def hand_over(self, decided: Decided) -> list[Decision]:
        """Ask consent again for every offer; nothing may be awaited from here to the sending."""
        decisions = decided.decisions
        if not any([d.offer is not None for d in decisions]):  # noqa: C419 (a list is faster)
            return decisions
        now_ms, mono_ms = self._clock_ms(), self._mono_ms()
        out = [self._engine.hand_over(d, now_ms=now_ms, mono_ms=mono_ms) for d in decisions]
        self._write()
        return out

    def _write(self) -> None:
        """Give the journal what the engine wants to have made durable."""
        changes = self._engine.take_changes()
        if changes:
            self._journal.add(changes)


def shed(item: Ping | Decision, why: Reject) -> Decision:
    """The answer to a ping that could not be decided, or whose decision could not be kept."""
    ping_id = item.id
    return Decision(
        "",
        item.resident,
        item.at_ms,
        "shed",
        (),
        None,
        None,
        msgspec.UNSET if ping_id is None else ping_id,
        why,
    )
