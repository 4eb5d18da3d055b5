"""kill -9 in a burst with offers: nothing that was answered is lost, nothing is sold twice."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests import fault_audit
from tests.fault_crowd import Crowd, Json, Walker
from tests.fault_town import STEP_DEG, Town, side_by_side
from tests.running import Service, remove, serving, until, until_async

CLAIMS_A_ROUND: Final = 100
"""Answered before the process is killed."""
TOLD: Final = ("decision", "resident", "at_ms", "status", "events", "offer", "withheld")
"""Of a decision: all but the advice on the next fix."""
FREEZES_MAX: Final = 50
COMMITTING: Final = (
    "select exists (select from pg_stat_activity where state = 'active' "
    "and query like '%commit_told(%' and pid <> pg_backend_pid())"
)
QUIET_S: Final = 0.05
"""How long nothing more is read from a frozen service before it counts as drained."""


async def kill_it(service: Service, _: Crowd) -> None:
    """Kill the service alone; the database is told by the kernel and stops in order."""
    await service.kill()


async def kill_all(service: Service, _: Crowd) -> None:
    """Kill the service and every process of its database, as if the machine had lost power."""
    doomed = service.children()
    service.signal(signal.SIGSTOP)  # so that it starts nothing anew in between
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    await service.kill()


async def kill_between(service: Service, crowd: Crowd) -> None:
    """Kill the service after a commit and before its answers.

    The service is stopped while the database commits, what the database has begun ends, and
    clients read what was on its way; if claims are then there that nobody read, this is the moment.
    """
    async with service.database() as database:

        async def committing() -> bool:
            return bool(await database.fetchval(COMMITTING))

        for _ in range(FREEZES_MAX):
            await until_async(committing, within_s=10)
            service.signal(signal.SIGSTOP)
            read = -1
            while read != crowd.ledger.answered:
                read = crowd.ledger.answered
                await asyncio.sleep(QUIET_S)
            if await database.fetchval("select count(*) from claims") > len(crowd.ledger.claims):
                await service.kill()
                return
            service.signal(signal.SIGCONT)
            answered = crowd.ledger.answered
            await until(lambda was=answered: crowd.ledger.answered > was, within_s=10)  # type: ignore[misc]
    raise AssertionError("no claim was ever between its commit and its answer")


Kill = Callable[[Service, Crowd], Awaitable[None]]
KILLS: Final[tuple[Kill, ...]] = (kill_it, kill_between, kill_all, kill_between, kill_all)


async def send_again(service: Service, crowd: Crowd, unread: dict[str, Json]) -> int:
    """Send every unanswered ping again; how many of them came to a claim."""
    claims = 0

    async def once(walker: Walker) -> None:
        nonlocal claims
        ping = walker.asked
        assert ping is not None
        reply = await walker.send(service, crowd.ledger, ping)
        assert reply.status == 200, reply
        committed, offer = unread.get(walker.resident), reply.body["offer"]
        claims += offer is not None
        if committed is not None:
            assert reply.body["status"] == "duplicate", reply
            assert reply.body["events"] == []
            assert offer is not None
            assert (offer["claim"], offer["code"]) == (committed["claim"], committed["code"])

    await side_by_side(map(once, crowd.asking))
    return claims


async def stand_still(service: Service, crowd: Crowd) -> int:
    """Have everybody post from where they are: nobody enters; how many were inside."""
    inside = 0

    async def once(walker: Walker) -> None:
        nonlocal inside
        inside += bool(walker.inside)
        reply = await walker.send(service, crowd.ledger, walker.again())
        assert reply.status == 200, reply
        assert [e for e in reply.body["events"] if e["kind"] == "enter"] == []

    await side_by_side(once(walker) for walker in crowd.walkers if walker.last is not None)
    return inside


async def ask_why(service: Service, claims: list[Json]) -> None:
    """Every one of the claims can say why it was made."""

    async def once(told: Json) -> None:
        why = await service.must("GET", f"/v1/decisions/{told['claim']}/why")
        assert (why["decision"], why["offer"]) == (told["decision"], told["offer"])

    await side_by_side(map(once, claims))


async def one_round(data: Path, crowd: Crowd, kill: Kill) -> int:
    """Start, let the crowd walk, and kill in the middle of it; requests that had no answer."""
    async with serving(data) as service:
        goal = len(crowd.ledger.claims) + CLAIMS_A_ROUND
        async with crowd.walking(service):
            await until(lambda: len(crowd.ledger.claims) >= goal, within_s=20)
            await kill(service, crowd)
    return len(crowd.asking)


async def one_check(data: Path, crowd: Crowd, before: set[str]) -> tuple[int, int, int, float]:
    """Start again and look; claims unread, claims in flight, people inside, seconds to start."""
    async with serving(data) as service:
        books = await fault_audit.read(service)
        unread = fault_audit.unread(books, crowd)
        assert fault_audit.faults(books, crowd) == []
        assert unread.keys() <= {walker.resident for walker in crowd.asking}
        in_flight = await send_again(service, crowd, unread)
        inside = await stand_still(service, crowd)
        new = [told for claim, told in crowd.ledger.claims.items() if claim not in before]
        await ask_why(service, new)
        assert fault_audit.faults(await fault_audit.read(service), crowd) == []
        return len(unread), in_flight, inside, service.start_s


async def test_kill_nine_five_times_in_a_burst_with_offers(
    tmp_path: Path, measured: list[str]
) -> None:
    """Answers hold, limits hold, nobody enters twice, and claims nobody read are told again."""
    town = Town.of("killed", residents=120, fences=24, budget_total=30, budget_day=110, per_day=18)
    crowd = Crowd(town)
    data = tmp_path / "data"
    try:
        async with serving(data) as service:
            await crowd.town.register(service)
            async with service.database() as database:
                assert await database.fetchval("show fsync") == "on"
        for kill in KILLS:
            before = set(crowd.ledger.claims)
            requests = await one_round(data, crowd, kill)
            answered = len(crowd.ledger.claims) - len(before)
            unread, in_flight, inside, start_s = await one_check(data, crowd, before)
            measured.append(
                f"kill -9 ({kill.__name__}): {answered} claims answered; in flight {requests} "
                f"requests, {in_flight} claims, {unread} of them committed and unread; "
                f"{inside} people inside, none entered again; restarted in {start_s:.2f} s"
            )
            assert in_flight > 0
            assert unread > 0 or kill is not kill_between
        assert crowd.ledger.withheld["budget_total"] > 0
    finally:
        remove(data)


async def test_claims_by_exit_and_by_pass_are_told_again(tmp_path: Path) -> None:
    """After a kill nothing else is remembered of who is outside everywhere."""
    town, data = Town.of("outside", residents=2, fences=2), tmp_path / "data"
    crowd = Crowd(town)
    (lon, lat), half = town.place(0), STEP_DEG / 2
    ways = (
        ("exit", [(lon, lat), (lon - half, lat), (lon - half, lat)]),
        ("pass", [(lon - half, lat), (lon + half, lat)]),
    )
    try:
        async with serving(data) as service:
            await town.register(service)
            for number, (trigger, _) in enumerate(ways):
                body = town.offer(0) | {"trigger": trigger}
                await service.must("PUT", f"/v1/offers/o-{number}", body)
            made = [
                await last_told(service, crowd, walker, way)
                for walker, (_, way) in zip(crowd.walkers, ways, strict=True)
            ]
            assert [told["status"] for told in made] == ["decided", "decided"]
            await service.kill()
        async with serving(data) as service:
            for walker, told in zip(crowd.walkers, made, strict=True):
                assert told["offer"] is not None
                assert walker.last is not None
                again = await walker.send(service, crowd.ledger, walker.last)
                wanted = told | {"status": "duplicate", "events": []}
                assert {name: again.body[name] for name in TOLD} == {n: wanted[n] for n in TOLD}
    finally:
        remove(data)


async def last_told(
    service: Service, crowd: Crowd, walker: Walker, way: list[tuple[float, float]]
) -> Json:
    """Walk a way; the answer to its last fix."""
    told: Json = {}
    for place in way:
        told = (await walker.send(service, crowd.ledger, walker.ping(*place))).body
    return told
