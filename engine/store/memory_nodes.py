"""The feed and its followers in memory."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from engine.store.memory_part import MemoryPart
from engine.store.nodes import Node, NotJoined
from engine.store.port import Change, FeedLost

if TYPE_CHECKING:
    from engine.store.shared import Shared


class Nodes:
    """Who follows the feed of stores in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, Node] = {}
        self.canaries: dict[str, bytes] = {}
        self.listeners: dict[int, Callable[[], object]] = {}
        """Store -> what it calls when somebody may have applied more."""

    def forget(self, node: str) -> None:
        """A process is gone."""
        self.canaries.pop(node, None)
        if self.rows.pop(node, None) is not None:
            self.tell()

    def tell(self) -> None:
        """Call whoever listens."""
        for call in list(self.listeners.values()):
            call()


class MemoryNodes(MemoryPart):
    """The part of a store in memory that keeps them; see `nodes.NodeStore`."""

    shared: "Shared"
    _grown: asyncio.Event

    async def changes_after(self, number: int, *, limit: int = 10_000) -> list[Change]:
        """The feed's next lines."""
        feed = self._open_shared().feed
        first = feed[0].number if feed else 1
        at = number + 1 - first
        if (number > 0 and at < 1) or at < 0 or at > len(feed):
            raise FeedLost(number)
        return feed[at : at + limit]

    async def newest_change(self) -> int:
        """Number of the feed's last line."""
        feed = self._open_shared().feed
        return feed[-1].number if feed else 0

    async def follow(
        self, node: str, number: int, *, renewed_ms: int, limit: int = 10_000
    ) -> list[Change]:
        """Tell and read."""
        nodes = self._open_shared().nodes
        row = nodes.rows.get(node)
        if row is None:
            raise NotJoined
        nodes.rows[node] = msgspec.structs.replace(row, applied=number, renewed_ms=renewed_ms)
        return await self.changes_after(number, limit=limit)

    async def announce(self) -> None:
        """Call whoever listens."""
        self._open_shared().nodes.tell()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until the feed grows; a growth since the last wait counts."""
        self._open_shared()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._grown.wait()
        self._grown.clear()

    async def join(self, node: str, *, lease_ms: int) -> None:
        """Register a process."""
        self._open_shared().nodes.rows.setdefault(node, Node(id=node, lease_ms=lease_ms))

    async def leave(self, node: str) -> None:
        """Forget a process."""
        self._open_shared().nodes.forget(node)

    async def read_nodes(self) -> list[Node]:
        """All of them, by id."""
        rows = self._open_shared().nodes.rows
        return [rows[node] for node in sorted(rows)]

    async def bury(self, nodes: list[Node]) -> None:
        """Forget those that have not looked since."""
        shared = self._open_shared()
        for node in nodes:
            row = shared.nodes.rows.get(node.id)
            if row is not None and row.renewed_ms == node.renewed_ms:
                shared.nodes.forget(node.id)

    def when_applied(self, call: Callable[[], object]) -> None:
        """Have this called until the store is closed."""
        self.shared.nodes.listeners[id(self)] = call

    async def put_canary(self, node: str, body: bytes) -> int | None:
        """Write what a made-up resident says."""
        shared = self._open_shared()
        if node not in shared.nodes.rows:
            return None
        shared.nodes.canaries[node] = body
        return shared.append("canary", [node])

    async def read_canary(self, node: str) -> bytes | None:
        """What a made-up resident says."""
        return self._open_shared().nodes.canaries.get(node)
