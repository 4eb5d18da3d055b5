"""Two processes on one database: what one writes is live in the other, and limits hold for both."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any, Final

from tests import fault_audit
from tests.fault_crowd import Crowd, Walker
from tests.fault_town import Town, opt
from tests.running import Service, remove, serving, until, until_async

LIVE_S_MAX: Final = 1.0
LEASE_S: Final = 2.0
LAPS: Final = 4
WITHDRAWN: Final = 30
"""Residents who withdraw while they walk."""


@asynccontextmanager
async def two(tmp_path: Path) -> AsyncIterator[tuple[Service, Service]]:
    """A service with its embedded database, and another one that joins it."""
    data, other = tmp_path / "one", tmp_path / "other"
    try:
        async with serving(data) as one:
            url = one.database_url
            async with serving(other, database_url=url) as another:
                yield one, another
    finally:
        remove(data)
        remove(other)


def ping_in(town: Town, resident: str, fence: int) -> dict[str, Any]:
    """A ping from the middle of a fence, now."""
    return Walker(resident, town, 0).ping(*town.place(fence))


class Writing:
    """Writes to one service and looks for it in the other."""

    def __init__(self, town: Town, here: Service, there: Service, number: int) -> None:
        self._town, self._here, self._there, self._n = town, here, there, number
        self._resident = f"follower-{number}"
        self.took_s: dict[str, float] = {}

    async def all(self) -> dict[str, float]:
        """Write one of everything, then take it back; how long each took to be live, seconds."""
        here, n, town = self._here, self._n, self._town
        brand, fence, offer = f"/v1/brands/b-{n}", f"/v1/fences/f-{n}", f"/v1/offers/o-{n}"
        await here.must("PUT", brand, town.brand())
        await self._live("brand", lambda: self._listed("brands", f"b-{n}"))
        await here.must("PUT", fence, town.fence(n))
        await self._live("fence", self._covers)
        await here.must("PUT", offer, town.offer(n))
        await self._live("offer", lambda: self._listed("offers", f"o-{n}"))
        made = await here.must("POST", "/v1/keys", {"role": "operator", "name": "a second one"})
        await self._live("key", lambda: self._lets_in(made["key"]))
        told = {"resident": self._resident, "timezone": town.zone}
        await here.must("POST", "/v1/residents", told)
        version = await opt(here, self._resident, wanted=True)
        await self._live("grant", self._answers)
        await opt(here, self._resident, wanted=False, version=version)
        await self._live("withdrawal", lambda: _no(self._answers))
        await here.must("DELETE", offer)
        await self._live("offer deleted", lambda: _no(lambda: self._listed("offers", f"o-{n}")))
        await here.must("DELETE", fence)
        await self._live("fence deleted", lambda: _no(self._covers))
        await here.must("DELETE", f"/v1/keys/{made['id']}")
        await self._live("key deleted", lambda: _no(lambda: self._lets_in(made["key"])))
        return self.took_s

    async def _live(self, what: str, met: Callable[[], Awaitable[bool]]) -> None:
        self.took_s[what] = await until_async(met, within_s=LIVE_S_MAX)

    async def _listed(self, kind: str, wanted: str) -> bool:
        items = (await self._there.must("GET", f"/v1/{kind}"))["items"]
        return wanted in [item["id"] for item in items]

    async def _covers(self) -> bool:
        at = {"positions": [list(self._town.place(self._n))]}
        found = await self._there.must("POST", "/v1/fences/covering", at)
        return f"f-{self._n}" in found["fences"][0]

    async def _lets_in(self, key: str) -> bool:
        return (await self._there.call("GET", "/v1/keys", key=key)).status == 200

    async def _answers(self) -> bool:
        ping = ping_in(self._town, self._resident, self._n)
        told = await self._there.must("POST", "/v1/pings", ping)
        return bool(told["status"] == "decided")


async def _no(met: Callable[[], Awaitable[bool]]) -> bool:
    return not await met()


async def test_what_one_writes_is_live_in_the_other_within_a_second(
    tmp_path: Path, measured: list[str]
) -> None:
    """Brands, fences, offers, keys and preferences, written and taken back, both ways."""
    town = Town.of("unused", residents=0)
    async with two(tmp_path) as (one, other):
        there = await Writing(town, one, other, 1).all()
        back = await Writing(town, other, one, 2).all()
    for what, took_s in there.items():
        assert took_s < LIVE_S_MAX
        assert back[what] < LIVE_S_MAX
    told = ", ".join(f"{what} {s * 1e3:.0f}/{back[what] * 1e3:.0f}" for what, s in there.items())
    measured.append(f"live in the other process after (ms, there/back): {told}")


async def test_limits_hold_for_residents_who_post_to_both(
    tmp_path: Path, measured: list[str]
) -> None:
    """Never one over, whoever of the two decides; who loses tells no offer."""
    town = Town.of("shared", residents=40, budget_total=15, budget_day=25, per_day=5)
    crowd = Crowd(town)
    crowd.walkers += Crowd(town).walkers
    async with two(tmp_path) as (one, other):
        await town.register(one)
        half = len(town.residents)
        pairs = zip(crowd.walkers[:half], crowd.walkers[half:], strict=True)
        crowd.walkers = [walker for pair in pairs for walker in pair]
        goal = LAPS * town.fences
        async with crowd.walking(one, other):
            await until(lambda: all(w.visited >= goal for w in crowd.walkers), within_s=40)
        books = await fault_audit.read(one)
    assert fault_audit.faults_of_claims(books, crowd) == []
    spent = Counter(offer for _, offer in books.standing)
    most = Counter(resident for resident, _ in books.standing)
    told = crowd.ledger
    measured.append(
        f"two processes: {len(told.claims)} claims answered, {len(books.claims)} made, "
        f"{told.withheld['conflict']} conflicts, {told.refused.total()} refused; "
        f"{sum(count == town.per_day for count in most.values())} residents at their limit, "
        f"{sum(spent[f'o-{n}'] == town.budget_total for n in range(0, town.fences, 3))} budgets "
        "spent, none passed"
    )
    assert told.withheld["conflict"] > 0
    assert max(most.values()) == town.per_day


async def leave(town: Town, here: Service, there: Service, number: int) -> tuple[float, int]:
    """Have a resident withdraw at one process while they post to the other.

    Returns:
        Milliseconds from the acknowledgement to the other's first no, at most; and how many pings
        that were sent after the acknowledgement were still decided.
    """
    resident, acknowledged_s = town.residents[number], float("inf")

    async def withdraw() -> None:
        nonlocal acknowledged_s
        await opt(here, resident, wanted=False)
        acknowledged_s = time.monotonic()

    withdrawing = asyncio.create_task(withdraw())
    decided_after = 0
    while True:
        was_acknowledged = withdrawing.done()
        ping = ping_in(town, resident, number % town.fences)
        told = await there.must("POST", "/v1/pings", ping)
        if told["status"] == "no_consent":
            break
        decided_after += was_acknowledged
    no_s = time.monotonic()
    await withdrawing
    return max(0.0, no_s - acknowledged_s) * 1_000, decided_after


async def test_a_withdrawal_holds_in_the_other_process(tmp_path: Path, measured: list[str]) -> None:
    """Once acknowledged by one, the other one decides nothing that is sent after that."""
    town = Town.of("withdrawn", residents=WITHDRAWN, per_day=100)
    async with two(tmp_path) as (one, other):
        await town.register(one)
        left = [await leave(town, one, other, number) for number in range(WITHDRAWN)]
    worst_ms = max(ms for ms, _ in left)
    measured.append(
        f"{WITHDRAWN} withdrawals acknowledged by one process: the other one's first no came at "
        f"most {worst_ms:.1f} ms later, after {sum(decided for _, decided in left)} pings that "
        "were sent since and still decided"
    )
    assert sum(decided for _, decided in left) == 0
    assert worst_ms < LIVE_S_MAX * 1_000


async def test_a_process_that_was_frozen_does_not_act_on_what_it_knew(tmp_path: Path) -> None:
    """Whoever withdrew while it stood still gets no decision from it, not even the first one."""
    town = Town.of("frozen", residents=8)
    async with two(tmp_path) as (one, other):
        await town.register(one)
        for resident in town.residents:
            before = await other.must("POST", "/v1/pings", ping_in(town, resident, 0))
            assert before["status"] == "decided"
        other.signal(SIGSTOP)
        began_s = time.monotonic()
        for resident in town.residents:
            await opt(one, resident, wanted=False)
        waiting = [
            asyncio.create_task(other.call("POST", "/v1/pings", ping_in(town, resident, 1)))
            for resident in town.residents
        ]
        await until(lambda: time.monotonic() > began_s + LEASE_S, within_s=2 * LEASE_S)
        other.signal(SIGCONT)
        for reply in await asyncio.gather(*waiting):
            assert reply.code == "stale" if reply.status == 503 else is_no(reply.body)


def is_no(decision: dict[str, Any]) -> bool:
    """Whether nothing was used and nothing was told."""
    told = (decision["status"], decision["events"], decision["offer"])
    return told == ("no_consent", [], None)
