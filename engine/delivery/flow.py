"""The pings of one stream on their way: decided as they come, answered in their order.

Whoever reads the stream adds items and is held up when too many wait to be answered, and so is in
the end the sender. Whoever writes runs beside it. What waits for no commit, and has nothing before
it, is written at once by whoever reads: a turn of the loop would be dearer than the decision.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from engine.decision import Decision
from engine.delivery.answer import Answerer, Decided
from engine.ping import Ping

Shape = TypeVar("Shape")
ShapeIn_contra = TypeVar("ShapeIn_contra", contravariant=True)


class Outlet(Protocol[ShapeIn_contra]):
    """Where decisions go."""

    async def open(self) -> None:
        """Be ready for decisions."""

    async def write(self, decisions: list[Decision], shape: ShapeIn_contra) -> None:
        """Give them to the transport before anything is awaited, then wait until it has room."""


@dataclass(slots=True)
class _Part(Generic[Shape]):
    decided: Decided
    size: int
    """Bytes that it came as, which bound those that are held."""
    shape: Shape


class Flow(Generic[Shape]):
    """One stream.

    Args:
        answerer: decides.
        outlet: takes the decisions, with the shape that they came in.
        pings_max: most pings that may wait to be answered.
        bytes_max: most bytes that these may have come as.
        turn_pings_max: most pings before the loop may turn.
    """

    def __init__(
        self,
        answerer: Answerer,
        outlet: Outlet[Shape],
        *,
        pings_max: int,
        bytes_max: int,
        turn_pings_max: int,
    ) -> None:
        self._answerer = answerer
        self._outlet = outlet
        self._pings_max = pings_max
        self._bytes_max = bytes_max
        self._turn_pings_max = turn_pings_max
        self._parts: deque[_Part[Shape]] = deque()
        self._pings = self._bytes = self._since_turn = 0
        self._more, self._room = asyncio.Event(), asyncio.Event()
        self._ended = False

    async def add(self, items: Sequence[Ping | Decision], size: int, shape: Shape) -> None:
        """Decide items that come together and are answered together; wait while too many wait.

        Where too much waits for a commit in all, a stream that waits for some of it is held up,
        and only one that does not is shed.
        """
        while self._parts and self._answerer.full:
            self._room.clear()
            await self._room.wait()
        part = _Part(await self._answerer.decide(items), size, shape)
        if not self._parts and not part.decided.waits:
            await self._send(part)
        else:
            self._parts.append(part)
            self._pings += len(items)
            self._bytes += size
            self._more.set()
            while self._pings > self._pings_max or self._bytes > self._bytes_max:
                self._room.clear()
                await self._room.wait()
        self._since_turn += len(items) or 1
        if self._since_turn >= self._turn_pings_max:
            self._since_turn = 0
            await self._answerer.turn()

    def end(self) -> None:
        """Nothing more will be added."""
        self._ended = True
        self._more.set()

    async def run(self) -> None:
        """Answer what waits until the end. What the outlet raises ends it."""
        while True:
            while self._parts:
                part = self._parts[0]
                await self._send(part)
                self._parts.popleft()
                self._pings -= len(part.decided.decisions)
                self._bytes -= part.size
                self._room.set()
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()

    async def _send(self, part: _Part[Shape]) -> None:
        """Wait for the commits, ask consent once more, and write, with nothing in between."""
        await self._outlet.open()
        await self._answerer.settled(part.decided)
        await self._outlet.write(self._answerer.hand_over(part.decided), part.shape)
