"""Follow the change feed, and hold the lease that says how fresh this process's memory is.

The lease is the whole point: preferences may be acted on only while it runs. It is counted from
the beginning of the last read whose lines, to the feed's end, are in memory, since only what was
written before that is known to be there; and on the monotonic clock, which nobody can set back.
Each read also tells all other processes how far this one is: see `nodes` for what they may conclude
from it.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from engine.store.nodes import NotJoined
from engine.store.port import Change, Store, StoreUnavailable

BACK_OFF_MIN_S: Final = 0.05
BACK_OFF_MAX_S: Final = 0.5
LOOK_LINES: Final = 10_000
"""Most lines of one look."""
LEAVE_S: Final = 1.0
"""Longest time that a process which ends takes for saying so."""

_log = logging.getLogger(__name__)


def new_node() -> str:
    """An id for a process that starts: no other ever had it, and nobody can guess it."""
    return secrets.token_hex(16)


class Feed:
    """Applies what others wrote, in the order of the feed.

    Args:
        store: whose feed.
        apply: reads what changed and puts it into memory; is given each (kind, id) once, with its
            newest number, in the order of those numbers. What takes long and is not about anybody's
            preferences may come into memory later: then it gives the task that sees to it. An error
            of either that is not StoreUnavailable ends `run`: nothing is known any more, and the
            lease runs out.
        start: the number up to which memory is already true: that of the snapshot.
        lease_ms: how long memory may be trusted after a look at the feed's end began.
        poll_ms: longest pause between two looks at the feed, whether somebody woke us or not.
        mono_ms: the monotonic clock, milliseconds.
        node: an id from `new_node`; empty: one of its own.

    Attributes:
        node: this process' id among all that follow the feed.
        number: all changes up to this one are in memory, but for those that come later.
        moved: set when the store was told that there are more of them.
        lease_until_mono_ms: until when memory may be trusted; 0 before the first look.
    """

    def __init__(
        self,
        store: Store,
        apply: Callable[[list[Change]], Awaitable[asyncio.Task[None] | None]],
        *,
        start: int,
        lease_ms: int = 2_000,
        poll_ms: int = 500,
        mono_ms: Callable[[], int],
        node: str = "",
    ) -> None:
        self._store = store
        self._apply = apply
        self._lease_ms = lease_ms
        self._poll_ms = poll_ms
        self._mono_ms = mono_ms
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._later: set[asyncio.Task[None]] = set()
        self._ended = False
        self._looked = asyncio.Event()
        self.node = node or new_node()
        self.number = self._told = start
        self.moved = asyncio.Event()
        self.lease_until_mono_ms = 0
        self.changes_applied = 0
        self.failures = 0

    @property
    def stale(self) -> bool:
        """Whether the lease has run out: what is in memory must not be acted on."""
        return self._mono_ms() >= self.lease_until_mono_ms

    @property
    def lag_ms(self) -> int:
        """Milliseconds since the look that last found the feed's end began; -1 before it."""
        if self.lease_until_mono_ms == 0:
            return -1
        return self._mono_ms() - (self.lease_until_mono_ms - self._lease_ms)

    async def run(self) -> None:
        """Follow the feed until cancelled; the one task of this object.

        Raises:
            FeedLost: memory must be made again from a snapshot.
            Exception: `apply` made a mistake.
        """
        back_off_s = BACK_OFF_MIN_S
        try:
            while True:
                try:
                    await self._catch_up()
                    self._check_later()
                    back_off_s = BACK_OFF_MIN_S
                    await self._store.wait_for_change(self._poll_ms / 1_000)
                except StoreUnavailable:
                    self.failures += 1
                    await asyncio.sleep(back_off_s)
                    back_off_s = min(2 * back_off_s, BACK_OFF_MAX_S)
        except Exception as error:
            # The kind alone: texts may quote ids.
            _log.error("the change feed can't be followed: %s", type(error).__name__)
            raise
        finally:
            self._ended = True
            for task in self._later:
                task.cancel()
            self._looked.set()
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(StoreUnavailable("the change feed is not followed"))

    async def looked(self) -> None:
        """Return when the feed was seen to its end once, so that the lease runs.

        A service that is asked before that can only refuse. Returns too when `run` has ended.
        """
        await self._looked.wait()

    async def reached(self, number: int, *, timeout_s: float = 5.0) -> None:
        """Return when everything up to a number is in memory.

        Raises:
            StoreUnavailable: it took too long, or nobody follows the feed any more. The write
                itself stands.
        """
        if number <= self.number:
            return
        if self._ended:
            raise StoreUnavailable("the change feed is not followed")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = number
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise StoreUnavailable("the change feed lags behind") from None
        finally:
            del self._waiters[waiter]

    async def settled(self, number: int, *, timeout_s: float = 5.0) -> None:
        """Return when everything up to a number is in memory, what comes later too.

        Raises:
            StoreUnavailable: as `reached`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.reached(number, timeout_s=timeout_s)
                if later := [task for task in self._later if not task.done()]:
                    await asyncio.wait(later)
        except TimeoutError:
            raise StoreUnavailable("the change feed lags behind") from None
        if self._ended:
            raise StoreUnavailable("the change feed is not followed")

    async def leave(self) -> None:
        """Act on nothing any more, and say so: nobody has to wait for this process from now on.

        For the end, after `run`. Where the store does not answer, others find out by themselves.
        """
        self.lease_until_mono_ms = 0
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._store.leave(self.node)

    def _check_later(self) -> None:
        """Let go of what has come into memory; raise what it raised."""
        for task in [task for task in self._later if task.done()]:
            self._later.discard(task)
            task.result()

    async def _catch_up(self) -> None:
        """Apply the feed to its end, and renew the lease whenever the end of a look is in memory.

        Where others write without a pause the end is never seen to be there still; but what a look
        found is all that there was when it began.
        """
        while True:
            began_mono_ms = self._mono_ms()
            try:
                changes = await self._store.follow(
                    self.node, self.number, renewed_ms=began_mono_ms, limit=LOOK_LINES
                )
            except NotJoined:
                # At the start, or after standing still for so long that we were taken for dead.
                await self._store.join(self.node, lease_ms=self._lease_ms)
                continue
            if self._told != self.number:
                self._told = self.number
                self.moved.set()
            if changes:
                await self._take(changes)
            if len(changes) < LOOK_LINES:
                self.lease_until_mono_ms = began_mono_ms + self._lease_ms
                self._looked.set()
            if not changes:
                return

    async def _take(self, changes: list[Change]) -> None:
        """Bring changes into memory, and tell those who wait for them."""
        newest = {(change.kind, change.id): change for change in changes}
        later = await self._apply(sorted(newest.values(), key=lambda change: change.number))
        if later is not None:
            self._later.add(later)
        self.number = changes[-1].number
        self.changes_applied += len(changes)
        for waiter, number in self._waiters.items():
            if number <= self.number and not waiter.done():
                waiter.set_result(None)
