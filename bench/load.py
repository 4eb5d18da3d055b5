"""The load of `bench/serve.py`, in its own process: ``python -m bench.load``, a plan on stdin.

A closed loop over keep-alive connections: each sends its next request when its last is answered.
Requests are built before the clock runs, and answers are read after it, so that the client takes
as little of the machine as it can. Per phase one line of JSON goes to stdout.
"""

import asyncio
import os
import sys
from pathlib import Path
from time import perf_counter, perf_counter_ns, time_ns
from typing import Final, cast

import msgspec
import uvloop

from bench.city import STANDING_SHARE, STEP_MS, Walk, batches, bodies
from bench.timing import percentile, progress

PASS_ONLY: Final = frozenset({"pass"})
"""Kinds of event that are told, but change nothing that has to be kept."""


class Phase(msgspec.Struct, kw_only=True):
    """Rounds in each of which every resident sends one ping."""

    name: str
    rounds: int
    batch: int = 1
    connections: int = 64
    standing: float = STANDING_SHARE
    step_ms: int = STEP_MS
    """Event time between two rounds."""


class Plan(msgspec.Struct, kw_only=True):
    """What is to be sent to whom."""

    host: str
    port: int
    key: str
    residents: int
    server_pid: int
    phases: list[Phase]
    ahead_ms_max: int = 20_000
    """How far the event time of the last round may be ahead of the clock."""


class Result(msgspec.Struct, kw_only=True):
    """What a phase came to."""

    name: str
    pings: int
    seconds: float
    p50_us: float
    p99_us: float
    changing: int
    """Pings whose answer tells an enter, an exit, a dwell or an offer, and waited for a commit."""
    events: int
    offers: int
    statuses: dict[str, int]
    server_cpu: float | None
    """Share of one core that the server's process took, without the database."""


class BadAnswer(Exception):
    """The server answered something else than 200."""


class _Event(msgspec.Struct):
    kind: str


class _Decision(msgspec.Struct):
    status: str
    events: list[_Event]
    offer: msgspec.Raw


class _Decisions(msgspec.Struct):
    decisions: list[_Decision]


class _Work:
    """Requests still to be sent, and what came of those that were."""

    def __init__(self, requests: list[bytes], connections: int) -> None:
        self.requests = iter(requests)
        self.took_ns: list[int] = []
        self.answers: list[bytes] = []
        self.done = asyncio.get_running_loop().create_future()
        self._open = connections

    def leave(self, error: Exception | None) -> None:
        """A connection has nothing more to do, or can't go on."""
        self._open -= 1
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        elif not self._open:
            self.done.set_result(None)


class _Connection(asyncio.Protocol):
    """Sends one request after the other and reads of the answers where they end."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._received = b""
        self._sent_ns = 0
        self._left = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is sent yet: all connections start together."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the next request, if there is one."""
        request = next(self._work.requests, None)
        if request is None:
            self._leave(None)
            return
        self._sent_ns = perf_counter_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read on; at the end of an answer go on with the next request."""
        received = self._received = self._received + data if self._received else data
        head_end = received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        at = received.find(b"Content-Length: ") + 16
        length = int(received[at : received.find(b"\r\n", at)])
        if len(received) < head_end + 4 + length:
            return
        if not received.startswith(b"HTTP/1.1 200"):
            self._leave(BadAnswer(received[:200].decode("ascii", "replace")))
            return
        self._work.took_ns.append(perf_counter_ns() - self._sent_ns)
        self._work.answers.append(received[head_end + 4 :])
        self._received = b""
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server must not hang up."""
        self._leave(exc or ConnectionError("the server closed a connection"))

    def _leave(self, error: Exception | None) -> None:
        if not self._left:
            self._left = True
            self._transport.close()
            self._work.leave(error)


async def _send(plan: Plan, phase: Phase, requests: list[bytes]) -> Result:
    """Send the requests of a phase and tell what came of it."""
    loop = asyncio.get_running_loop()
    work = _Work(requests, phase.connections)
    connections = [
        (await loop.create_connection(lambda: _Connection(work), plan.host, plan.port))[1]
        for _ in range(phase.connections)
    ]
    cpu_s, began_s = _cpu_s(plan.server_pid), perf_counter()
    for connection in connections:
        connection.send()
    await work.done
    seconds, cpu_after_s = perf_counter() - began_s, _cpu_s(plan.server_pid)
    cpu = None if cpu_s is None or cpu_after_s is None else (cpu_after_s - cpu_s) / seconds
    return _result(phase, work, seconds, cpu)


def _result(phase: Phase, work: _Work, seconds: float, cpu: float | None) -> Result:
    """Read the answers."""
    one, many = msgspec.json.Decoder(_Decision), msgspec.json.Decoder(_Decisions)
    pings = changing = events = offers = 0
    statuses: dict[str, int] = {}
    for answer in work.answers:
        decisions = [one.decode(answer)] if phase.batch == 1 else many.decode(answer).decisions
        for decision in decisions:
            pings += 1
            statuses[decision.status] = statuses.get(decision.status, 0) + 1
            offered = bytes(decision.offer) != b"null"
            events += len(decision.events)
            offers += offered
            changing += offered or any(e.kind not in PASS_ONLY for e in decision.events)
    took_us = [ns / 1_000 for ns in work.took_ns]
    return Result(
        name=phase.name,
        pings=pings,
        seconds=seconds,
        p50_us=percentile(took_us, 0.5),
        p99_us=percentile(took_us, 0.99),
        changing=changing,
        events=events,
        offers=offers,
        statuses=statuses,
        server_cpu=cpu,
    )


def _cpu_s(pid: int) -> float | None:
    """Seconds of processor time that a process has used, where the system tells it."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _requests(plan: Plan, sent: list[bytes]) -> list[bytes]:
    """HTTP around bodies."""
    head = (
        f"POST /v1/pings HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\n"
        f"Authorization: Bearer {plan.key}\r\nContent-Type: application/json\r\nContent-Length: "
    ).encode()
    return [head + b"%d\r\n\r\n%b" % (len(body), body) for body in sent]


async def _run(plan: Plan) -> None:
    """All phases, one after the other; the residents walk on from each to the next."""
    walk = Walk(plan.residents)
    lasts_ms = sum(phase.rounds * phase.step_ms for phase in plan.phases)
    at_ms = time_ns() // 1_000_000 + plan.ahead_ms_max - lasts_ms
    for phase in plan.phases:
        sent: list[bytes] = []
        for _ in range(phase.rounds):
            at_ms += phase.step_ms
            pings = bodies(walk.step(phase.standing), at_ms)
            sent += pings if phase.batch == 1 else batches(pings, phase.batch)
        result = await _send(plan, phase, _requests(plan, sent))
        progress(f"  {phase.name}: {result.pings / result.seconds:,.0f} pings/s")
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_run(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
