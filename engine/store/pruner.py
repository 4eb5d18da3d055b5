"""The job that keeps every table bounded.

Each process runs it, and of all on one database one works at a time.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from engine.store.port import Store, StoreUnavailable
from engine.store.pruning import ROWS_MAX

EVERY_S: Final = 10.0


class Lives(msgspec.Struct, frozen=True, kw_only=True):
    """How long things are kept."""

    events_ms: int
    events_max: int
    """Most of them."""
    changes_ms: int
    """Lines of the change feed, and what imports wrote. A process that was away for longer is told
    FeedLost, and begins again with a snapshot."""
    audit_ms: int | None
    """Entries of the audit log; None: for ever."""


class Pruner:
    """The job.

    Args:
        store: whose tables are kept bounded.
        lives: for how long things are kept.
        clock_ms: Unix milliseconds.

    Attributes:
        pruned: rows that this process has forgotten since it started, by the names of `Pruned` and
            as `events`.
    """

    def __init__(self, store: Store, lives: Lives, *, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._lives = lives
        self._clock_ms = clock_ms
        self.pruned: Counter[str] = Counter()

    async def prune(self) -> None:
        """Forget all that is too old now, unless another process is at it.

        Raises:
            StoreUnavailable
        """
        lives, more = self._lives, True
        while more:
            events = await self._store.prune_events(
                age_max_ms=lives.events_ms, events_max=lives.events_max
            )
            self.pruned["events"] += events
            more = bool(events)
        more = True
        while more:
            done = await self._store.prune(
                now_ms=self._clock_ms(), changes_ms=lives.changes_ms, audit_ms=lives.audit_ms
            )
            counts = {} if done is None else msgspec.structs.asdict(done)
            self.pruned.update(counts)
            more = max(counts.values(), default=0) >= ROWS_MAX

    async def run(self) -> None:
        """Do so every 10 s, for ever; a store that is away is asked again then."""
        while True:
            await asyncio.sleep(EVERY_S)
            with contextlib.suppress(StoreUnavailable):
                await self.prune()
