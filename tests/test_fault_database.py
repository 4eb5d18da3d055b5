"""The database dies or hangs under load: what is not durable is refused, and all goes on after."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from tests import fault_audit
from tests.fault_crowd import AGAIN_S, Crowd, Walker
from tests.fault_town import LAT, LON, STEP_DEG, Town, now_ms
from tests.running import Service, remove, serving, until, until_async

DEATHS_AT: Final = (200, 500, 800)
"""Claims answered when the database is killed, and once more, and once more."""
HANG_AT: Final = 1_100
"""Claims answered when it is stopped."""
HANG_S: Final = 3.0
LEASE_S: Final = 2.0
SLACK_S: Final = 0.2
RECOVERY_S_MAX: Final = 15.0
ELSEWHERE: Final = (LON - 10 * STEP_DEG, LAT)
"""Outside every fence: a ping from here changes nothing that must survive."""


class Stander:
    """Somebody outside every fence, who posts and posts."""

    def __init__(self, walker: Walker) -> None:
        self._walker = walker
        self._told: list[tuple[float, float, str]] = []
        """(sent, answered, `answered` or the code of the refusal), monotonic seconds."""

    @contextlib.asynccontextmanager
    async def posting(self, service: Service, crowd: Crowd) -> AsyncIterator[None]:
        """Post while the block runs."""
        stop = asyncio.Event()

        async def post() -> None:
            while not stop.is_set():
                sent_s = time.monotonic()
                reply = await self._walker.send(
                    service, crowd.ledger, self._walker.ping(*ELSEWHERE)
                )
                told = "answered" if reply.status == 200 else reply.code
                self._told.append((sent_s, time.monotonic(), told))
                await asyncio.sleep(AGAIN_S)

        posting = asyncio.create_task(post())
        try:
            yield
        finally:
            stop.set()
            await posting

    def told(self, from_s: float, to_s: float) -> Counter[str]:
        """What was sent and told within a span of time."""
        return Counter(
            told for sent_s, told_s, told in self._told if from_s <= sent_s and told_s < to_s
        )


@contextlib.contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Processes that do nothing while the block runs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def recovered(crowd: Crowd) -> float:
    """Wait until everybody had a new ping answered that had to be made durable; seconds."""
    since_ms = now_ms()
    return await until(
        lambda: all(w.last is not None and w.last["at_ms"] > since_ms for w in crowd.walkers),
        within_s=RECOVERY_S_MAX,
    )


async def die(service: Service, crowd: Crowd, at: int, measured: list[str]) -> None:
    """Kill the database's postmaster, whose children then end, in the middle of the walk."""
    ledger = crowd.ledger
    await until(lambda: len(ledger.claims) >= at, within_s=20)
    began_s, refused_before = time.monotonic(), ledger.refused.copy()
    os.kill(service.children()[0], signal.SIGKILL)
    await until(lambda: ledger.refused != refused_before, within_s=5)
    await recovered(crowd)
    refused = ledger.refused - refused_before
    measured.append(
        f"database killed: {sum(refused.values())} pings refused ({_words(refused)}); everybody "
        f"answered again {time.monotonic() - began_s:.2f} s after the kill"
    )
    assert refused["not_durable"] > 0


async def hang(service: Service, crowd: Crowd, stander: Stander, measured: list[str]) -> None:
    """Stop all processes of the database for a while, and let them go on."""
    ledger = crowd.ledger
    await until(lambda: len(ledger.claims) >= HANG_AT, within_s=20)
    began_s = time.monotonic()
    with frozen(service.children()):
        await until(lambda: time.monotonic() > began_s + SLACK_S, within_s=5)
        claims = len(ledger.claims)
        await until(lambda: time.monotonic() > began_s + HANG_S, within_s=5)
        assert len(ledger.claims) == claims
        over_s = time.monotonic()
    leased = stander.told(began_s, began_s + LEASE_S / 2)
    stale = stander.told(began_s + LEASE_S + SLACK_S, over_s)
    took_s = await recovered(crowd)
    measured.append(
        f"database stopped for {over_s - began_s:.1f} s: pings that need no commit were told "
        f"{_words(leased)} in the first second, {_words(stale)} once the lease was over; "
        f"everybody answered again {took_s:.2f} s after it went on"
    )
    assert leased["answered"] > 0
    assert set(stale) == {"stale"}


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def sold_out(town: Town) -> dict[str, int]:
    """How often each offer is made if everybody goes everywhere."""
    once = len(town.residents) - 1
    bodies = {f"o-{n}": town.offer(n) for n in range(town.fences)}
    return {
        name: min(body.get("budget", {}).values(), default=once) for name, body in bodies.items()
    }


async def test_the_database_dies_and_hangs_under_load(tmp_path: Path, measured: list[str]) -> None:
    """Nothing is told that is not durable; the service resumes by itself; limits are exact."""
    town = Town.of("hung", residents=61, fences=36, budget_total=45, budget_day=50, per_day=36)
    crowd, data = Crowd(town), tmp_path / "data"
    stander = Stander(crowd.walkers.pop())

    async def made() -> dict[str, int]:
        books = await fault_audit.read(service)
        return Counter(offer for _, offer in books.standing)

    async def all_made() -> bool:
        return await made() == sold_out(town)

    try:
        async with serving(data) as service:
            await town.register(service)
            async with stander.posting(service, crowd), crowd.walking(service):
                for at in DEATHS_AT:
                    await die(service, crowd, at, measured)
                await hang(service, crowd, stander, measured)
                with contextlib.suppress(AssertionError):
                    await until_async(all_made, within_s=60)
            books = await fault_audit.read(service)
            assert fault_audit.faults(books, crowd) == []
            assert await made() == sold_out(town)
    finally:
        remove(data)
