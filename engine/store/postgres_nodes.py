"""The feed and its followers on PostgreSQL."""

from collections.abc import Callable

import asyncpg

from engine.store.nodes import Node, NotJoined
from engine.store.port import Change, FeedLost
from engine.store.wire import Wire


class PostgresNodes:
    """The part of the store on PostgreSQL that keeps them; see `nodes.NodeStore`."""

    _wire: Wire

    async def changes_after(self, number: int, *, limit: int = 10_000) -> list[Change]:
        """The feed's next lines. Asks for the reader's own line too, to see that it is there."""
        return _after(number, await self._wire.fetch("changes_from", number, limit + 1), limit)

    async def follow(
        self, node: str, number: int, *, renewed_ms: int, limit: int = 10_000
    ) -> list[Change]:
        """Tell and read, in one round trip and one transaction that waits for no flush."""
        found = await self._wire.fetch("follow", node, number, renewed_ms, limit + 1, ahead=True)
        if found and found[0]["number"] is None:
            raise NotJoined
        return _after(number, found, limit)

    async def newest_change(self) -> int:
        """Number of the feed's last line; numbers are drawn in the order of commits."""
        number: int = (await self._wire.row("newest_change"))[0]
        return number

    async def announce(self) -> None:
        """Notify; may take as long as the writers do who notify before."""
        await self._wire.fetch("announce", ahead=True)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait for a notification; one that came since the last wait counts."""
        await self._wire.wait_for_change(timeout_s)

    async def join(self, node: str, *, lease_ms: int) -> None:
        """Register a process, flushed to disk."""
        await self._wire.fetch("join", node, lease_ms, ahead=True)

    async def leave(self, node: str) -> None:
        """Forget a process."""
        await self._wire.fetch("leave", node, ahead=True)

    async def read_nodes(self) -> list[Node]:
        """All of them, by id."""
        return [
            Node(
                id=row["id"],
                applied=row["applied"],
                renewed_ms=row["renewed_ms"],
                lease_ms=row["lease_ms"],
            )
            for row in await self._wire.fetch("read_nodes", ahead=True)
        ]

    async def bury(self, nodes: list[Node]) -> None:
        """Forget those that have not looked since."""
        await self._wire.fetch(
            "bury", [node.id for node in nodes], [node.renewed_ms for node in nodes], ahead=True
        )

    def when_applied(self, call: Callable[[], object]) -> None:
        """Have this called at each notification."""
        self._wire.when_applied = call

    async def put_canary(self, node: str, body: bytes) -> int | None:
        """Write what a made-up resident says."""
        number: int | None = (await self._wire.row("put_canary", node, body))["number"]
        return number

    async def read_canary(self, node: str) -> bytes | None:
        """What a made-up resident says."""
        for row in await self._wire.fetch("read_canary", node, ahead=True):
            body: bytes = row["canary"]
            return body
        return None


def _after(number: int, found: list[asyncpg.Record], limit: int) -> list[Change]:
    """The lines after a reader's own, which comes first; line 0 is never kept."""
    changes = [Change(row["number"], row["kind"], row["id"]) for row in found]
    if number == 0:
        changes.insert(0, Change(0, "brand", ""))
    if (
        not changes
        or changes[0].number != number
        or changes[-1].number != number + len(changes) - 1
    ):
        raise FeedLost(number)
    return changes[1 : limit + 1]
