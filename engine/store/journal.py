"""The journal: many pings' changes in one transaction, and what happens when it fails.

Changes join the open group; one task commits groups, one after the other, and takes the next one
whole as soon as the one before is done. So under load groups grow by themselves, and at rest a
change waits for nobody.

    open --taken--> committing --ok-----> durable, its waiters go on
                               --failed-> this group and all behind it fail; lost(...); reading
                                          until found(...)

Reads after a failure are made by the same task, between commits, so that what is found is never
older than what was told committed.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from engine.changes import Changes, OfferCount, ResidentState
from engine.store.port import Committed, Store, StoreUnavailable

BACK_OFF_MIN_S: Final = 0.05
BACK_OFF_MAX_S: Final = 1.0
READ_RESIDENTS_MAX: Final = 2_000
"""Most residents read back between two commits."""

_log = logging.getLogger(__name__)


class Group:
    """Changes that become durable together, or not at all.

    Attributes:
        refused: claim id -> reason, of claims that the store did not accept; filled when settled.
    """

    __slots__ = ("_error", "_settled", "changes", "opened_ms", "refused", "residents")

    def __init__(self, opened_ms: int) -> None:
        self.changes = Changes(presences={}, touches={}, claims=[], recalls=[], told=[])
        self.opened_ms = opened_ms
        self.residents: set[str] = set()
        """Those whose answers wait for this group; touched ones do not."""
        self.refused: dict[str, str] = {}
        self._settled = asyncio.Event()
        self._error: str | None = None

    @property
    def size(self) -> int:
        """How many changes it holds, merged ones once."""
        return self.changes.size

    @property
    def is_settled(self) -> bool:
        """Whether it is durable or failed."""
        return self._settled.is_set()

    async def settled(self) -> None:
        """Return when the group is durable.

        Raises:
            StoreUnavailable: it failed; it may or may not have become durable.
        """
        await self._settled.wait()
        if self._error is not None:
            raise StoreUnavailable(self._error)

    def settle(self, error: str | None = None) -> None:
        """Wake whoever waits."""
        self._error = error
        self._settled.set()


class Journal:
    """Commits changes in groups, in the order in which they were added.

    Args:
        store: where groups are committed.
        lost: told the residents and offers whose last changes may not have become durable, before
            anybody who waits for them wakes. Nothing may be decided for these residents until they
            are found.
        found: told what the store holds of lost residents, and of lost offers, once it answers.
            Counts are of what is durable: claims still in the journal are not in them.
        committed: told each group's changes and their outcome, before anybody who waits for it
            wakes.
        clock_ms: Unix milliseconds; for `oldest_age_ms` and for what the store reads back.
        group_max: most changes in one transaction (one call of `add` is never split).
        queue_max: changes not yet durable from which on `full` is true.

    The committing task is made when there is first something to do; there is no other.
    """

    def __init__(
        self,
        store: Store,
        *,
        lost: Callable[[set[str], set[str]], None],
        found: Callable[[list[ResidentState], list[OfferCount]], None],
        committed: Callable[[Changes, Committed], None],
        clock_ms: Callable[[], int],
        group_max: int = 5_000,
        queue_max: int = 100_000,
    ) -> None:
        self._store = store
        self._lost = lost
        self._found = found
        self._committed = committed
        self._clock_ms = clock_ms
        self._group_max = group_max
        self._queue_max = queue_max
        self._groups: deque[Group] = deque()
        """Oldest first; the last one is open, and the first may be under way."""
        self._taken: Group | None = None
        self._group_of: dict[str, Group] = {}
        self._depth = 0
        self._missing_residents: set[str] = set()
        self._missing_offers: set[str] = set()
        self._back_off_s = BACK_OFF_MIN_S
        self._read_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._failing = False
        self.groups_committed = 0
        self.changes_committed = 0
        self.groups_failed = 0
        self.claims_refused = 0

    # For the hot path.

    def add(self, changes: Changes) -> None:
        """Queue changes for the next group; they are copied, not kept. Awaits nothing.

        Raises:
            StoreUnavailable: the journal is closed.
        """
        if self._closed:
            raise StoreUnavailable("the journal is closed")
        if not changes:
            return
        group = self._open_group(changes)
        size = group.size
        group.changes.merge(changes)
        self._depth += group.size - size
        for residents in (
            changes.presences,
            [claim.resident for claim in changes.claims],
            [recall.resident for recall in changes.recalls],
            [told.resident for told in changes.told],
        ):
            for resident in residents:
                group.residents.add(resident)
                self._group_of[resident] = group
        self._wake_task()

    def pending(self, resident: str) -> Group | None:
        """The group that the resident's next answer waits for, or None."""
        return self._group_of.get(resident)

    @property
    def full(self) -> bool:
        """Whether callers should shed."""
        return self._depth >= self._queue_max

    def read_again(self, residents: Iterable[str]) -> None:
        """Read residents back of whom another process knows more; `found` is told.

        They are treated like lost ones, so nothing may be decided for them until they are found;
        `lost` is not told, since the caller knows.
        """
        self._missing_residents.update(residents)
        self._read_now()

    # For metrics.

    @property
    def depth(self) -> int:
        """Changes that are not yet durable."""
        return self._depth

    @property
    def oldest_age_ms(self) -> int:
        """How long the oldest group has been waiting, milliseconds; 0 if none is."""
        oldest = self._taken or (self._groups[0] if self._groups else None)
        return 0 if oldest is None else max(0, self._clock_ms() - oldest.opened_ms)

    @property
    def missing(self) -> int:
        """Residents who were lost and are not found yet."""
        return len(self._missing_residents)

    # For the end.

    async def drain(self) -> None:
        """Return when everything that was added before is durable or failed."""
        last = self._groups[-1] if self._groups else self._taken
        if last is not None:
            with contextlib.suppress(StoreUnavailable):
                await last.settled()

    async def close(self) -> None:
        """Stop; what is not durable yet fails. Call `drain` first for a graceful end."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._taken is not None or self._groups:
            self._fail("the journal was closed")

    # The one task.

    def _open_group(self, changes: Changes) -> Group:
        """The group that takes these changes: the last one, unless they would overfill it."""
        if self._groups:
            group = self._groups[-1]
            if group.size + changes.size <= self._group_max:
                return group
        group = Group(self._clock_ms())
        self._groups.append(group)
        return group

    async def _run(self) -> None:
        """Commit whatever is queued; read back what was lost, in between."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._groups or self._read_due:
                if self._groups:
                    await self._commit(self._groups.popleft())
                if self._read_due:
                    self._read_due = False
                    await self._read_back()

    async def _commit(self, group: Group) -> None:
        """Commit one group and tell its outcome."""
        self._taken = group
        try:
            committed = await self._store.commit(group.changes)
            self._committed(group.changes, committed)
        except StoreUnavailable as error:
            if not self._failing:
                self._failing = True
                _log.error("nothing can be committed, pings are refused: %s", error)
            self._fail(str(error))
        except Exception as error:
            # A mistake in a callback or in a statement. The kind alone: texts may quote ids.
            _log.error("a group could not be committed: %s", type(error).__name__)
            self._fail(type(error).__name__)
        else:
            if self._failing:
                self._failing = False
                _log.warning("commits go on")
            self.groups_committed += 1
            self.changes_committed += group.size
            self.claims_refused += len(committed.refused)
            group.refused = {refusal.claim: refusal.reason for refusal in committed.refused}
            self._taken = None
            self._settle(group)

    def _fail(self, error: str) -> None:
        """Fail the group under way and all that was decided on top of it."""
        failed = [group for group in (self._taken, *self._groups) if group is not None]
        self._taken = None
        self._groups.clear()
        residents = {resident for group in failed for resident in group.residents}
        offers = {claim.made.offer for group in failed for claim in group.changes.claims}
        self.groups_failed += len(failed)
        self._missing_residents |= residents
        self._missing_offers |= offers
        try:
            self._lost(residents, offers)
        except Exception as mistake:
            _log.error("what was lost could not be told: %s", type(mistake).__name__)
        for group in failed:
            self._settle(group, error)
        if not self._closed:
            self._read_later()

    def _settle(self, group: Group, error: str | None = None) -> None:
        """Forget a group and wake its waiters."""
        self._depth -= group.size
        for resident in group.residents:
            if self._group_of.get(resident) is group:
                del self._group_of[resident]
        group.settle(error)

    def _read_later(self) -> None:
        """Let the task read back after the back-off, which grows until a read succeeds."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._back_off_s, self._read_in_time)
            self._back_off_s = min(2 * self._back_off_s, BACK_OFF_MAX_S)

    def _read_in_time(self) -> None:
        self._timer = None
        self._read_now()

    def _read_now(self) -> None:
        self._read_due = True
        self._wake_task()

    def _wake_task(self) -> None:
        """Wake the committing task, which the first call makes."""
        self._wake.set()
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _read_back(self) -> None:
        """Read lost residents and offers, and tell what was found.

        A resident for whom something was queued meanwhile is left for after that group.
        """
        residents = sorted(self._missing_residents - self._group_of.keys())[:READ_RESIDENTS_MAX]
        offers = sorted(self._missing_offers)
        try:
            now_ms = self._clock_ms()
            states = await self._store.read_states(residents, now_ms=now_ms)
            counts = await self._store.read_counts(offers, now_ms=now_ms)
            states = [state for state in states if state.resident not in self._group_of]
            self._found(states, counts)
        except Exception as error:
            if not isinstance(error, StoreUnavailable):
                _log.error("what was lost could not be found: %s", type(error).__name__)
            self._read_later()
            return
        self._back_off_s = BACK_OFF_MIN_S
        self._missing_residents.difference_update(state.resident for state in states)
        self._missing_offers.difference_update(offers)
        if self._missing_residents:
            self._read_now() if states else self._read_later()
