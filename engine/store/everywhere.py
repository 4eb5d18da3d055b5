"""When a write is in force everywhere, so that a resident may be told so.

Why what this says is true, whatever dies, stands still or loses its connection, is argued in
`docs/decisions`; the rules that it rests on are those of `nodes`.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from engine.store.feed import Feed
from engine.store.nodes import Node
from engine.store.port import Store, StoreUnavailable

MARGIN_MS: Final = 250
"""Waited for beyond another process' lease: its clock may be slower than ours (an eighth of a lease
of 2 s; clocks that are being corrected differ by a thousandth), and what it checked at the last
moment takes a moment to leave."""
AGAIN_MS: Final = 100
"""Between two looks while somebody waits, should a notification be lost with its connection."""
REST_MS: Final = 5_000
"""Between two looks while nobody waits and there is no other process."""


class Everywhere:
    """Waits until all processes have applied a line of the feed, or can't act without it.

    Args:
        store: knows the processes.
        feed: this process' own, which has to have applied the line in any case.
        mono_ms: the monotonic clock, milliseconds.
        margin_ms: see `MARGIN_MS`.

    Attributes:
        buried: processes that were taken for dead since the start.
    """

    def __init__(
        self, store: Store, feed: Feed, *, mono_ms: Callable[[], int], margin_ms: int = MARGIN_MS
    ) -> None:
        self._store = store
        self._feed = feed
        self._mono_ms = mono_ms
        self._margin_ms = margin_ms
        self._waiting: dict[asyncio.Future[None], tuple[int, int]] = {}
        """For which number, and since when; the write was committed before."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Process -> its newest look, and when we learnt of that by our own clock."""
        self._wake = asyncio.Event()
        self.buried = 0

    async def reached(self, number: int, *, timeout_s: float = 10.0) -> None:
        """Return when a line of the feed, which was committed before this call, is in force.

        Then, and ever after, no process acts on preferences without it.

        Raises:
            StoreUnavailable: that could not be made sure in time. The write itself stands.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = (number, self._mono_ms())
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._feed.reached(number, timeout_s=timeout_s)
                await waiter
        except TimeoutError:
            raise StoreUnavailable("a process may not have followed yet") from None
        finally:
            del self._waiting[waiter]

    async def run(self) -> None:
        """Look after the processes until cancelled; `announce` runs beside it."""
        self._store.when_applied(self._told)
        while True:
            try:
                pause_ms = await self._look()
            except StoreUnavailable:
                pause_ms = AGAIN_MS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_ms / 1_000):
                    await self._wake.wait()
            self._wake.clear()

    async def announce(self) -> None:
        """Wake other processes when ours has applied more, until cancelled; a task of its own.

        It may have to wait for writers, which looking after others must not.
        """
        while True:
            await self._feed.moved.wait()
            self._feed.moved.clear()
            with contextlib.suppress(StoreUnavailable):
                await self._store.announce()

    def _told(self) -> None:
        """A process may have applied more."""
        if self._waiting:
            self._wake.set()

    async def _look(self) -> int:
        """Let go whoever need not wait any more; after how long to look again, milliseconds."""
        waiting = dict(self._waiting)
        nodes = [node for node in await self._store.read_nodes() if node.id != self._feed.node]
        now_ms = self._mono_ms()
        pause_ms = max((self._patience_ms(node) for node in nodes), default=REST_MS)
        for waiter, (number, since_ms) in waiting.items():
            left_ms = max(
                (
                    since_ms + self._patience_ms(node) - now_ms
                    for node in nodes
                    if node.applied < number
                ),
                default=0,
            )
            if left_ms > 0:
                pause_ms = min(pause_ms, AGAIN_MS, left_ms)
            elif not waiter.done():
                waiter.set_result(None)
        if dead := self._dead(nodes, now_ms):
            await self._store.bury(dead)
            self.buried += len(dead)
        return pause_ms

    def _patience_ms(self, node: Node) -> int:
        """After how long a process that has not looked again holds no lease any more."""
        return node.lease_ms + self._margin_ms

    def _dead(self, nodes: list[Node], now_ms: int) -> list[Node]:
        """Those that have not looked for too long; what is known of the others is kept."""
        seen: dict[str, tuple[int, int]] = {}
        dead = []
        for node in nodes:
            renewed_ms, since_ms = self._seen.get(node.id, (None, 0))
            if renewed_ms != node.renewed_ms:
                since_ms = now_ms
            elif now_ms >= since_ms + self._patience_ms(node):
                dead.append(node)
            seen[node.id] = (node.renewed_ms, since_ms)
        self._seen = seen
        return dead
