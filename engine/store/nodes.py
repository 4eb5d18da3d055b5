"""The processes that follow the feed, as the store knows them, and what each has heard.

A write is in force everywhere when every process has applied it, or can't act on what it knows any
more. That rests on five rules, which `docs/decisions` argues out:

1. A process may act on preferences only under a lease, counted on its own monotonic clock from the
   beginning of the last call of `follow` whose lines, to the feed's end, are all in memory.
2. `follow` first writes the process' row, then reads the feed; without a row it fails, and the
   lease is not renewed. So a lease that rests on a feed without line N was taken by a process
   whose row was there when N was committed.
3. Whoever has committed N reads all rows (`read_nodes`) and waits for those that have applied less
   than N: until they have, or until their lease and a margin have passed since the commit.
4. A row is forgotten (`bury`) only if its process has not looked for a lease and a margin: it holds
   no lease then, and its next look fails.
5. A new row (`join`) is durable before the look that relies on it begins.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from engine.store.port import Change


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A process that may act on what residents say."""

    id: str
    applied: int = -1
    """All lines of the feed up to this number are in its memory; -1: it has not looked yet."""
    renewed_ms: int = -1
    """When it began its last look, by its own clock: only good for telling two looks apart."""
    lease_ms: int


class NotJoined(Exception):
    """A process has no row: it never had one, or was taken for dead. It may join and look again."""


class NodeStore(Protocol):
    """The part of the store that keeps the feed and its followers."""

    async def changes_after(self, number: int, *, limit: int = 10_000) -> "list[Change]":
        """The feed's next lines in the order of their numbers; none: the end is reached.

        Raises:
            FeedLost: the line after `number`, or that of `number` itself, is not kept.
        """

    async def follow(
        self, node: str, number: int, *, renewed_ms: int, limit: int = 10_000
    ) -> "list[Change]":
        """Tell that a process has applied all up to a number; then the same as `changes_after`.

        Args:
            node: its id.
            number: applied so far.
            renewed_ms: when this call begins, by the process' own monotonic clock.
            limit: most lines.

        Raises:
            NotJoined: nothing was told or read.
            FeedLost: as `changes_after`.
        """

    async def newest_change(self) -> int:
        """Number of the feed's last line: of all that was committed before this call; 0: none."""

    async def announce(self) -> None:
        """Wake whoever waits for this process to have applied more, after `follow` has told it."""

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when the feed may have grown, or after the timeout; may return early.

        A growth between two calls ends the second at once. For one caller at a time.
        """

    async def join(self, node: str, *, lease_ms: int) -> None:
        """Register a process, durably; one that is there stays as it is."""

    async def leave(self, node: str) -> None:
        """Forget a process that acts on nothing any more."""

    async def read_nodes(self) -> list[Node]:
        """All of them, by id; as of an instant after this call."""

    async def bury(self, nodes: list[Node]) -> None:
        """Forget processes, each only if it has not looked since (`renewed_ms` is the same)."""

    def when_applied(self, call: Callable[[], object]) -> None:
        """Have this called whenever a process may have applied more, or may be gone; by one caller.

        May be called for nothing. While nobody listens to the server nothing is told.
        """

    async def put_canary(self, node: str, body: bytes) -> int | None:
        """Write what the made-up resident of a process says: a change of kind `canary`.

        Returns:
            The feed's number, or None if there is no such process.
        """

    async def read_canary(self, node: str) -> bytes | None:
        """What the made-up resident of a process says, if anything."""
