"""The fixes of a phone or a gateway that wait to be sent: bounded, in batches, sent until answered.

There is no clock, no chance and no network here: the caller passes the time and a number drawn
from 0 to 1, sends what `take` gives, and hands the answer to `settle`.

    add -> [waiting] -> take -> [in flight] -> settle -> answered
               ^                                 |
               +------- no answer, 429, 503, shed, 413: again, as they are ------+

A fix that is sent again is the same fix to the service (time, id and position are equal), so an
answer that was lost on the way costs nothing: the second one is a `duplicate` with the same claim.
"""

from collections import deque
from typing import Final

import msgspec

from engine.client.reply import REFUSED_FOR_GOOD, Problem, Reply
from engine.client.retry import Retry
from engine.decision import Decision
from engine.ping import AGE_MAX_MS, Ping

SIZE_MAX: Final = 10_000
BATCH_MAX: Final = 500
BATCH_LIMIT: Final = 10_000
"""The most that the service takes in one request."""


class Lost(msgspec.Struct):
    """How many fixes were given up, and why."""

    overflowed: int = 0
    """The oldest, because there was no more room."""
    expired: int = 0
    """Older than 7 days, which the service refuses."""
    refused: int = 0
    """Refused by themselves, as too large or unreadable."""
    withdrawn: int = 0
    """The resident turned it off before they were sent."""


class Answered(msgspec.Struct, frozen=True):
    """A fix and what it was answered."""

    ping: Ping
    decision: Decision


class Kept(msgspec.Struct):
    """What of an outbox outlives the process."""

    pings: list[Ping] = []
    lost: Lost = msgspec.field(default_factory=Lost)


class _Batch(msgspec.Struct):
    decisions: list[Decision]


class _Entry(msgspec.Struct):
    ping: Ping
    queued_ms: int


def encode(pings: list[Ping]) -> bytes:
    """The body of a request: one ping is sent as itself, more in an array."""
    return msgspec.json.encode(pings[0] if len(pings) == 1 else {"pings": pings})


class Outbox:
    """The queue.

    Args:
        size_max: most fixes kept; beyond it the oldest is dropped.
        batch_max: most fixes in one request.
        linger_ms: how long the oldest fix waits for others to fill a batch; 0: not at all.
        retry: when to try again.

    Attributes:
        lost: how many were given up.
        stopped: why nothing is sent any more (the key or the address is wrong), or None.
    """

    def __init__(
        self,
        *,
        size_max: int = SIZE_MAX,
        batch_max: int = BATCH_MAX,
        linger_ms: int = 0,
        retry: Retry | None = None,
    ) -> None:
        if not (0 < batch_max <= BATCH_LIMIT and size_max >= batch_max and linger_ms >= 0):
            raise ValueError("0 < batch_max <= 10,000, batch_max <= size_max and linger_ms >= 0")
        self._size_max = size_max
        self._batch_max = batch_max
        self._linger_ms = linger_ms
        self._retry = retry or Retry()
        self._waiting: deque[_Entry] = deque()
        self._in_flight: list[_Entry] = []
        self._fits = batch_max
        """How many the service took or may take at once; halved when it was too much."""
        self._allowed = batch_max
        """How many the rate of the key leaves."""
        self._forgotten = False
        """Whether what is in flight is not to be sent again."""
        self.lost = Lost()
        self.stopped: Problem | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def add(self, ping: Ping, now_ms: int) -> None:
        """Queue a fix. Its `id` should be its own, so that it can be told from one like it."""
        self._waiting.append(_Entry(ping, now_ms))
        if len(self) > self._size_max:
            self._waiting.popleft()
            self.lost.overflowed += 1

    def due_ms(self) -> int | None:
        """When there is something to send, Unix milliseconds; None: not before something changes.

        A past time means now.
        """
        if self.stopped is not None or self._in_flight or not self._waiting:
            return None
        lingers_ms = 0
        if len(self._waiting) < self._most() and not self._retry.failures:
            lingers_ms = self._waiting[0].queued_ms + self._linger_ms
        return max(lingers_ms, self._retry.not_before_ms)

    def take(self, now_ms: int) -> list[Ping]:
        """The next batch, oldest first, if one is due; it is in flight until `settle`."""
        due_ms = self.due_ms()
        if due_ms is None or due_ms > now_ms:
            return []
        self._forgotten = False
        while self._waiting and len(self._in_flight) < self._most():
            entry = self._waiting.popleft()
            if now_ms - entry.ping.at_ms > AGE_MAX_MS:
                self.lost.expired += 1
            else:
                self._in_flight.append(entry)
        return [entry.ping for entry in self._in_flight]

    def settle(self, reply: Reply, now_ms: int, *, chance: float) -> list[Answered]:
        """Take in what the batch in flight was answered.

        Args:
            reply: the answer; one with the status 0 where none came.
            now_ms: Unix milliseconds.
            chance: 0 to 1, drawn evenly.

        Returns:
            The fixes that are done, in their order. The others wait again, before all else.
        """
        sent, self._in_flight = self._in_flight, []
        asked_ms, left = reply.asks_to_wait_ms(now_ms), reply.left()
        self._allowed = self._batch_max if left is None else max(1, left)
        if reply.done and (decisions := _decode(reply.body, len(sent))) is not None:
            return self._take_in(sent, decisions, now_ms, chance=chance, asked_ms=asked_ms)
        if reply.status in REFUSED_FOR_GOOD:
            self.stopped = reply.problem()
        elif not reply.passes:
            sent = self._split(sent)
        else:
            self._retry.failed(now_ms, chance=chance, asked_ms=asked_ms)
        self._again(sent)
        return []

    def resume(self) -> None:
        """Send again, with another key or to another address."""
        self.stopped = None

    def forget(self) -> None:
        """Drop all that waits, because the resident no longer wants it to be sent.

        What is in flight can't be called back, and is not sent again.
        """
        self.lost.withdrawn += len(self._waiting)
        self._waiting.clear()
        self._forgotten = True

    def kept(self) -> Kept:
        """What is to be kept for the next start, what is in flight too."""
        sent = [] if self._forgotten else self._in_flight
        return Kept([entry.ping for entry in (*sent, *self._waiting)], self.lost)

    def restore(self, kept: Kept, now_ms: int) -> None:
        """Take up what an earlier process kept; before anything is added."""
        self.lost = kept.lost
        for ping in kept.pings:
            self.add(ping, now_ms)

    def _most(self) -> int:
        """How many the next batch may have."""
        return min(self._fits, self._allowed)

    def _take_in(
        self,
        sent: list[_Entry],
        decisions: list[Decision],
        now_ms: int,
        *,
        chance: float,
        asked_ms: int,
    ) -> list[Answered]:
        """Part what was decided from what was shed, which waits again."""
        pairs = list(zip(sent, decisions, strict=True))
        again = [entry for entry, decision in pairs if decision.status == "shed"]
        self._again(again)
        if again:
            self._retry.failed(now_ms, chance=chance, asked_ms=asked_ms)
        else:
            self._retry.succeeded(now_ms, asked_ms=asked_ms)
            self._fits = min(self._batch_max, self._fits + 1)
        return [Answered(e.ping, d) for e, d in pairs if d.status != "shed"]

    def _again(self, sent: list[_Entry]) -> None:
        """Let fixes wait again, before all others, unless they are forgotten."""
        if self._forgotten:
            self.lost.withdrawn += len(sent)
        else:
            self._waiting.extendleft(reversed(sent))

    def _split(self, sent: list[_Entry]) -> list[_Entry]:
        """What is left of a batch that was refused whole: smaller ones, or nothing of one fix."""
        if len(sent) > 1:
            self._fits = len(sent) // 2
            return sent
        self.lost.refused += len(sent)
        return []


def _decode(body: bytes, count: int) -> list[Decision] | None:
    """The decisions of an answer; None where it is not one, as that of a hotel's login page."""
    try:
        if count == 1:
            return [msgspec.json.decode(body, type=Decision)]
        decisions = msgspec.json.decode(body, type=_Batch).decisions
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return decisions if len(decisions) == count else None
