"""A withdrawal that was acknowledged is final in every process, whatever becomes of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any, Final

from bench import revoke
from bench.timing import percentile
from engine.store.everywhere import MARGIN_MS
from tests.fault_crowd import Walker
from tests.fault_town import Town, opt
from tests.running import Service, remove, serving, until_async

LEASE_S: Final = 2.0
PATIENCE_S: Final = LEASE_S + MARGIN_MS / 1_000
SLACK_S: Final = 1.5
"""For a machine that has other things to do."""


def test_an_acknowledged_withdrawal_is_silence(measured: list[str]) -> None:
    """Of residents who post to two processes, before, during and after each withdrawal."""
    found = revoke.measure(residents=50, withdrawals=200, rest_s=0.3)

    took_ms = [1e3 * withdrawal.took_s for withdrawal in found.withdrawals]
    p50, p99 = percentile(took_ms, 0.5), percentile(took_ms, 0.99)
    measured.append(
        f"revoke to silence p50 {p50:.0f} ms, p99 {p99:.0f} ms; {revoke.summary(found)}"
    )
    assert len(found.withdrawals) == 200
    assert found.offered >= found.asked / 2
    assert (found.after, found.offered_after) == (600, 0)
    assert found.left >= found.offered
    assert found.left_after == 0


def test_without_the_second_gate_it_is_not(measured: list[str]) -> None:
    """What was decided before the withdrawal, and waited for its commit, leaves after it."""
    found = revoke.measure(residents=30, withdrawals=90, rest_s=0.3, second_gate=False)

    measured.append(f"without the second gate: {revoke.summary(found)}")
    assert found.left_after > 0


@asynccontextmanager
async def two(tmp_path: Path, town: Town) -> AsyncIterator[tuple[Service, Service]]:
    """A town that two processes on one database know."""
    data, other = tmp_path / "one", tmp_path / "other"
    try:
        async with (
            serving(data) as one,
            serving(other, database_url=one.database_url) as another,
        ):
            await town.register(one)
            yield one, another
    finally:
        remove(data)
        remove(other)


class Phones:
    """The residents of a town, each of whom can be in any fence."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._walkers = [Walker(name, town, turn) for turn, name in enumerate(town.residents)]

    async def ping(self, service: Service, fence: int) -> list[Any]:
        """All of them are in a fence; the answers, each a decision or the code of a refusal."""
        return list(await asyncio.gather(*self.start(service, fence)))

    def start(self, service: Service, fence: int) -> list[asyncio.Task[Any]]:
        """The same, not waited for."""

        async def one(walker: Walker) -> Any:
            ping = walker.last = walker.ping(*self._town.place(fence))
            reply = await service.call("POST", "/v1/pings", ping)
            return reply.code if reply.status == 503 else reply.body

        return [asyncio.create_task(one(walker)) for walker in self._walkers]

    async def withdraw(self, service: Service) -> list[float]:
        """All of them withdraw, one after the other; how long each took, seconds."""
        took_s = []
        for name in self._town.residents:
            began_s = time.monotonic()
            await opt(service, name, wanted=False)
            took_s.append(time.monotonic() - began_s)
        return took_s


def offers(answers: list[Any]) -> int:
    """How many of them make an offer."""
    return sum(isinstance(answer, dict) and answer["offer"] is not None for answer in answers)


def statuses(answers: list[Any]) -> set[str]:
    """What they say."""
    return {answer if isinstance(answer, str) else answer["status"] for answer in answers}


async def test_a_process_that_is_stopped_is_waited_for_and_wakes_up_silent(
    tmp_path: Path, measured: list[str]
) -> None:
    """With pings that it has read and not answered, and pings that it has not read."""
    town = Town.of("stopped", residents=20, budget_total=1_000, budget_day=1_000, per_day=100)
    phones = Phones(town)
    async with two(tmp_path, town) as (one, other):
        assert offers(await phones.ping(other, 0)) > len(town.residents) / 2
        on_their_way = phones.start(other, 1)
        await asyncio.wait(on_their_way, return_when=asyncio.FIRST_COMPLETED)
        other.signal(SIGSTOP)
        took_s = await phones.withdraw(one)
        held = [task for task in on_their_way if not task.done()]
        unread = phones.start(other, 2)
        assert statuses(await phones.ping(one, 3)) == {"no_consent"}
        other.signal(SIGCONT)
        frozen, awake = await asyncio.gather(*held), await asyncio.gather(*unread)
        while statuses(again := await phones.ping(other, 4)) != {"no_consent"}:
            awake += again
    measured.append(
        f"one of two stopped: acknowledged after {max(took_s):.2f} s at most, then in "
        f"{min(took_s) * 1e3:.0f} ms; it woke up with {len(held)} pings read and {len(unread)} not"
    )
    assert max(took_s) < PATIENCE_S + SLACK_S
    assert sum(s > PATIENCE_S / 2 for s in took_s) == 1
    assert offers(awake) == 0
    # The stop comes while answers are leaving: it may fall between one's check and its system call.
    assert offers(frozen) <= 1


async def test_a_process_that_is_gone_is_waited_for_once(tmp_path: Path) -> None:
    """And one that ends in order not at all."""
    town = Town.of("gone", residents=4)
    phones = Phones(town)
    async with two(tmp_path, town) as (one, other):
        async with serving(tmp_path / "third", database_url=one.database_url) as third:
            assert statuses(await phones.ping(third, 0)) == {"decided"}
        (first_s, *_) = await phones.withdraw(one)
        assert first_s < LEASE_S / 2
        await other.kill()
        took_s = await phones.withdraw(one)
    assert took_s[0] < PATIENCE_S + SLACK_S
    assert max(took_s[1:]) < LEASE_S / 2


async def test_a_store_that_goes_away_acknowledges_nothing(tmp_path: Path) -> None:
    """The device is told that its "no" is not in force yet, and says it again."""
    town = Town.of("torn", residents=1)
    phones = Phones(town)
    (resident,) = town.residents
    marketing = f"/v1/residents/{resident}/preferences/marketing"
    async with two(tmp_path, town) as (one, other), one.database() as database:
        waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock'"
        async with database.transaction():
            await database.execute("lock table consent_records in exclusive mode")
            saying = asyncio.create_task(one.call("PUT", marketing, {"opted_in": False}))
            await until_async(lambda: database.fetchval(waiting), within_s=5)
            await database.execute(f"select pg_terminate_backend(pid) from ({waiting}) as w")
            told = await saying
        assert (told.status, told.code) == (503, "not_in_force")
        assert "send it again" in told.body["detail"]
        assert int(told.headers["Retry-After"]) >= 1
        ((made,), (again,)) = [await phones.ping(service, 0) for service in (one, other)]
        assert (made["status"], again["status"]) == ("decided", "decided")
        await phones.withdraw(one)
        code = {"code": made["offer"]["code"]}
        assert (await other.call("POST", "/v1/redemptions", code)).code == "withdrawn"
        for service in (one, other):
            assert statuses(await phones.ping(service, 1)) == {"no_consent"}


async def test_a_feed_that_stands_still_denies_everything(
    tmp_path: Path, measured: list[str]
) -> None:
    """For 3 s nobody may follow: then nothing is decided, redeemed or acknowledged."""
    town = Town.of("still", residents=2)
    phones = Phones(town)
    async with two(tmp_path, town) as (one, other), one.database() as database:
        (made, _) = await phones.ping(one, 0)
        began_s = time.monotonic()
        async with database.transaction():
            await database.execute("lock table nodes in access exclusive mode")
            withdrawing = asyncio.create_task(phones.withdraw(other))
            stale_s = await until_async(
                lambda: _all_stale(phones, one, other), within_s=LEASE_S + 1
            )
            code = {"code": made["offer"]["code"]}
            assert (await one.call("POST", "/v1/redemptions", code)).code == "stale"
            assert (await one.call("GET", "/readyz")).status == 503
            while time.monotonic() < began_s + 3:
                assert statuses(await phones.ping(one, 1)) == {"stale"}
                assert not withdrawing.done()
        over_s = time.monotonic()
        await withdrawing
        await until_async(lambda: _all_silent(phones, one, other), within_s=LEASE_S)
        measured.append(
            f"feed stopped: everything denied after {stale_s:.1f} s, "
            f"in force {time.monotonic() - over_s:.2f} s after it went on"
        )


async def _all_stale(phones: Phones, *services: Service) -> bool:
    told = [statuses(await phones.ping(service, 2)) for service in services]
    return all(one == {"stale"} for one in told)


async def _all_silent(phones: Phones, *services: Service) -> bool:
    told = [statuses(await phones.ping(service, 3)) for service in services]
    return all(one == {"no_consent"} for one in told)
