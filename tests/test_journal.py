"""The journal: nothing is told durable that is not, nothing added is forgotten, whatever fails."""

import asyncio
import logging
import os
import random
import selectors
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from engine.changes import Changes, ClaimRecalled, OfferCount, ResidentState
from engine.store.embedded import EmbeddedPostgres
from engine.store.journal import Group, Journal
from engine.store.memory import MemoryStore
from engine.store.port import Committed, Store, StoreUnavailable
from engine.store.postgres import PostgresStore
from tests.contract_store import NOW_MS, both, claim, claims, presence


class GatedStore(MemoryStore):
    """Commits when told to, and then as told: well, or failing before or after it took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.fail: str | None = None
        self.groups: list[Changes] = []

    async def commit(self, changes: Changes) -> Committed:
        self.groups.append(changes)
        self.begun.set()
        await self.gate.wait()
        if self.fail == "before":
            raise StoreUnavailable("failed before")
        committed = await super().commit(changes)
        await asyncio.sleep(0)  # like a real store, let others run before it answers
        if self.fail == "after":
            raise StoreUnavailable("failed after")
        return committed


class Told:
    """What a journal told, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.lost: list[tuple[set[str], set[str]]] = []
        self.states: list[ResidentState] = []
        self.counts: list[OfferCount] = []
        self.found = asyncio.Event()

    def on_lost(self, residents: set[str], offers: set[str]) -> None:
        self.log.append("lost")
        self.lost.append((residents, offers))

    def on_found(self, states: list[ResidentState], counts: list[OfferCount]) -> None:
        self.log.append("found")
        self.states += states
        self.counts += counts
        self.found.set()

    def on_committed(self, _: Changes, committed: Committed) -> None:
        self.log.append("committed")
        self.counts += committed.counts


@pytest.fixture
async def store() -> AsyncIterator[GatedStore]:
    store = GatedStore()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def told() -> Told:
    return Told()


Make = Callable[..., Journal]


@pytest.fixture
async def make(store: GatedStore, told: Told) -> AsyncIterator[Make]:
    made: list[Journal] = []

    def make(**limits: int) -> Journal:
        journal = Journal(
            store,
            lost=told.on_lost,
            found=told.on_found,
            committed=told.on_committed,
            clock_ms=lambda: NOW_MS,
            **limits,
        )
        made.append(journal)
        return journal

    yield make
    store.gate.set()
    for journal in made:
        await journal.close()


def group_of(journal: Journal, resident: str) -> Group:
    group = journal.pending(resident)
    assert group is not None
    return group


async def within(waiting: Awaitable[object]) -> None:
    """Wait, but not for ever."""
    async with asyncio.timeout(10):
        await waiting


async def test_a_change_is_durable_when_its_group_has_settled(
    make: Make, store: GatedStore
) -> None:
    journal = make()
    journal.add(presence("ann", "door"))

    await group_of(journal, "ann").settled()

    assert store.shared.presences["ann"].stays[0].fence == "door"
    assert journal.pending("ann") is None
    assert journal.depth == 0
    assert (journal.groups_committed, journal.changes_committed) == (1, 1)


async def test_what_comes_during_a_commit_goes_whole_into_the_next(
    make: Make, store: GatedStore
) -> None:
    journal = make()
    store.gate.clear()
    journal.add(presence("ann", "door"))
    first = group_of(journal, "ann")
    await within(store.begun.wait())

    journal.add(presence("ann", "square"))
    journal.add(presence("bob", "door"))
    second = group_of(journal, "ann")
    assert second is not first
    assert group_of(journal, "bob") is second
    assert journal.depth == 3
    store.gate.set()
    await first.settled()
    assert journal.pending("ann") is second
    await second.settled()

    assert [sorted(group.presences) for group in store.groups] == [["ann"], ["ann", "bob"]]
    assert store.shared.presences["ann"].stays[0].fence == "square"


async def test_a_touch_makes_nobody_wait(make: Make, store: GatedStore) -> None:
    journal = make()
    journal.add(presence("ann", "door"))
    await within(journal.drain())

    journal.add(Changes(touches={"ann": NOW_MS + 5}))

    assert journal.pending("ann") is None
    await within(journal.drain())
    assert store.shared.presences["ann"].seen_ms == NOW_MS + 5


async def test_adding_nothing_is_nothing(make: Make, store: GatedStore) -> None:
    journal = make()
    journal.add(Changes())
    await within(journal.drain())

    assert store.groups == []


async def test_groups_keep_their_limit(make: Make, store: GatedStore) -> None:
    journal = make(group_max=3)
    store.gate.clear()
    for n in range(8):
        journal.add(presence(f"r{n}", "door"))
    journal.add(both(*(presence(f"big{n}", "door") for n in range(5))))
    store.gate.set()
    await within(journal.drain())

    assert [len(group.presences) for group in store.groups] == [3, 3, 2, 5]


async def test_merged_changes_count_once(make: Make, store: GatedStore) -> None:
    journal = make()
    store.gate.clear()
    for _ in range(5):
        journal.add(presence("ann", "door"))

    assert journal.depth == 1


async def test_full_from_the_limit_on(make: Make, store: GatedStore) -> None:
    journal = make(queue_max=2)
    store.gate.clear()
    journal.add(presence("ann", "door"))
    assert not journal.full
    journal.add(presence("bob", "door"))
    assert journal.full
    store.gate.set()
    await within(journal.drain())

    assert not journal.full


async def test_the_oldest_age_is_that_of_the_group_under_way(store: GatedStore) -> None:
    now_ms = NOW_MS
    told = Told()
    journal = Journal(
        store,
        lost=told.on_lost,
        found=told.on_found,
        committed=told.on_committed,
        clock_ms=lambda: now_ms,
    )
    assert journal.oldest_age_ms == 0
    store.gate.clear()
    journal.add(presence("ann", "door"))
    await within(store.begun.wait())
    now_ms += 7

    assert journal.oldest_age_ms == 7
    store.gate.set()
    await within(journal.drain())
    assert journal.oldest_age_ms == 0
    await journal.close()


async def test_a_refused_claim_is_told_to_its_group_alone(make: Make, told: Told) -> None:
    journal = make()
    journal.add(both(claims(claim("c1", total=0)), presence("ann", "door")))
    group = group_of(journal, "ann")
    await group.settled()

    assert group.refused == {"c1": "budget_total"}
    assert journal.claims_refused == 1
    assert told.counts == [OfferCount("latte", None, 0), OfferCount("latte", NOW_DAY, 0)]
    journal.add(claims(claim("c2")))
    group = group_of(journal, "ann")
    await group.settled()
    assert group.refused == {}


NOW_DAY = NOW_MS // 86_400_000


async def test_committed_is_told_before_anybody_wakes(make: Make, told: Told) -> None:
    journal = make()
    journal.add(presence("ann", "door"))
    await group_of(journal, "ann").settled()
    told.log.append("woke")

    assert told.log == ["committed", "woke"]


@pytest.mark.parametrize("fail", ["before", "after"])
async def test_a_failed_group_takes_all_behind_it_along(
    make: Make, store: GatedStore, told: Told, fail: str
) -> None:
    journal = make(group_max=1)
    store.fail = fail
    store.gate.clear()
    journal.add(both(presence("ann", "door"), claims(claim("c1"))))
    journal.add(presence("bob", "door"))
    journal.add(Changes(recalls=[ClaimRecalled("c0", "cid", "why")]))
    groups = [group_of(journal, resident) for resident in ("ann", "bob", "cid")]

    async def wait(group: Group) -> str:
        try:
            await group.settled()
        except StoreUnavailable as error:
            told.log.append("woke")
            return str(error)
        return "durable"

    waiting = [asyncio.create_task(wait(group)) for group in groups]
    await within(store.begun.wait())
    store.gate.set()

    assert await asyncio.gather(*waiting) == [f"failed {fail}"] * 3
    assert told.log[:4] == ["lost", "woke", "woke", "woke"]
    assert told.lost == [({"ann", "bob", "cid"}, {"latte"})]
    assert len(store.groups) == 1
    assert journal.depth == 0
    assert journal.pending("ann") is None

    store.fail = None
    await within(told.found.wait())
    assert [state.resident for state in told.states] == ["ann", "bob", "cid"]
    assert told.states[0].claims_count == (1 if fail == "after" else 0)
    assert [count.claims for count in told.counts] == ([1, 1] if fail == "after" else [])
    assert journal.missing == 0


async def test_others_are_committed_while_lost_ones_are_looked_for(
    make: Make, store: GatedStore, told: Told
) -> None:
    journal = make()
    store.fail = "before"
    journal.add(presence("ann", "door"))
    await within(journal.drain())
    store.fail = None

    journal.add(presence("bob", "door"))
    await group_of(journal, "bob").settled()

    assert told.log == ["lost", "committed"]
    await within(told.found.wait())
    assert told.log == ["lost", "committed", "found"]


async def test_a_lost_resident_with_something_queued_is_found_after_it(
    make: Make, store: GatedStore, told: Told
) -> None:
    """Ending a presence on a withdrawal can't wait until the resident is found."""
    journal = make()
    store.fail = "after"
    journal.add(presence("ann", "door"))
    await within(journal.drain())
    store.fail = None
    store.gate.clear()
    store.begun.clear()
    journal.add(presence("ann"))
    await within(store.begun.wait())
    journal.add(Changes(touches={"ann": NOW_MS + 1}))
    journal.add(presence("ann", "square"))
    store.gate.set()
    await within(told.found.wait())
    while journal.missing:
        told.found.clear()
        await within(told.found.wait())

    assert [state.stays[0].fence for state in told.states] == ["square"]


async def test_a_cancelled_waiter_harms_nobody(make: Make, store: GatedStore) -> None:
    journal = make()
    store.gate.clear()
    journal.add(presence("ann", "door"))
    group = group_of(journal, "ann")
    gone, staying = (asyncio.create_task(group.settled()) for _ in range(2))
    await within(store.begun.wait())
    gone.cancel()
    store.gate.set()

    await staying
    await asyncio.wait([gone])
    assert gone.cancelled()


async def test_a_mistake_in_a_callback_is_told_and_doubted(
    store: GatedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The group is durable, but memory is not known to be right: so its states are read again."""
    told = Told()

    def stumble(*_: object) -> None:
        raise KeyError("ann")

    journal = Journal(
        store,
        lost=told.on_lost,
        found=told.on_found,
        committed=stumble,
        clock_ms=lambda: NOW_MS,
    )
    journal.add(presence("ann", "door"))
    with caplog.at_level(logging.ERROR), pytest.raises(StoreUnavailable):
        await group_of(journal, "ann").settled()
    await within(told.found.wait())
    await journal.close()

    assert "a group could not be committed: KeyError" in caplog.text
    assert "ann" not in caplog.text
    assert told.lost == [({"ann"}, set())]


async def test_mistakes_in_the_other_callbacks_end_nothing(
    store: GatedStore, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    stumbles = 2

    def stumble(*_: object) -> None:
        nonlocal stumbles
        stumbles -= 1
        if stumbles >= 0:
            raise KeyError("ann")
        told.found.set()

    journal = Journal(
        store, lost=stumble, found=stumble, committed=told.on_committed, clock_ms=lambda: NOW_MS
    )
    store.fail = "before"
    journal.add(presence("ann", "door"))
    with caplog.at_level(logging.ERROR), pytest.raises(StoreUnavailable):
        await group_of(journal, "ann").settled()
    store.fail = None
    await within(told.found.wait())
    journal.add(presence("ann", "door"))
    await group_of(journal, "ann").settled()
    await journal.close()

    assert "could not be told: KeyError" in caplog.text
    assert "could not be found: KeyError" in caplog.text


async def test_closing_fails_what_is_not_durable(make: Make, store: GatedStore, told: Told) -> None:
    journal = make()
    store.gate.clear()
    journal.add(presence("ann", "door"))
    first = group_of(journal, "ann")
    await within(store.begun.wait())
    journal.add(presence("bob", "door"))
    second = group_of(journal, "bob")
    await journal.close()

    for group in (first, second):
        with pytest.raises(StoreUnavailable, match="closed"):
            await group.settled()
    with pytest.raises(StoreUnavailable):
        journal.add(presence("cid", "door"))
    assert told.lost == [({"ann", "bob"}, set())]


async def test_reading_again_is_told_as_found(make: Make, told: Told, store: GatedStore) -> None:
    """As after a conflict: another process knows more of the resident."""
    await store.commit(claims(claim("c1")))
    journal = make()
    journal.read_again(["ann", "bob"])
    await within(told.found.wait())

    assert [state.claims_count for state in told.states] == [1, 0]
    assert told.log == ["found"]
    assert journal.missing == 0


async def test_closing_an_unused_journal(make: Make) -> None:
    journal = make()
    await within(journal.drain())
    await journal.close()


# Seeded interleavings, on a clock that jumps to the next timer.


class JumpingSelector(selectors.DefaultSelector):
    """Never waits; what would have been waited is added to the clock."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now_s += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time is made up, so that hours of back-off pass in no time."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class ShakyStore(MemoryStore):
    """Takes random time, and fails at random, before or after a commit took effect."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.failures = {"before": 0, "after": 0, "read": 0}
        self.shaky = True

    def stumble(self, where: str, probability: float) -> None:
        if self.shaky and self.rng.random() < probability:
            self.failures[where] += 1
            raise StoreUnavailable(where)

    async def commit(self, changes: Changes) -> Committed:
        await asyncio.sleep(self.rng.random() * 0.01)
        self.stumble("before", 0.1)
        committed = await super().commit(changes)
        await asyncio.sleep(self.rng.random() * 0.01)
        self.stumble("after", 0.1)
        return committed

    async def read_states(self, ids: list[str], *, now_ms: int) -> list[ResidentState]:
        await asyncio.sleep(self.rng.random() * 0.01)
        self.stumble("read", 0.3)
        states = await super().read_states(ids, now_ms=now_ms)
        await asyncio.sleep(self.rng.random() * 0.01)
        return states


class City:
    """Residents' memory as a service holds it, driven by walkers, checked against the store."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = ShakyStore(self.rng)
        self.seen_ms: dict[str, int] = {}
        self.claims: dict[str, int] = {}
        self.counts: dict[tuple[str, int | None], int] = {}
        self.unknown: set[str] = set()
        self.times_lost: dict[str, int] = {}
        self.acknowledged: set[str] = set()
        self.in_doubt: set[str] = set()
        self.journal = Journal(
            self.store,
            lost=self.on_lost,
            found=self.on_found,
            committed=self.on_committed,
            clock_ms=lambda: NOW_MS,
            group_max=self.rng.choice([1, 3, 50]),
        )

    def on_lost(self, residents: set[str], _: set[str]) -> None:
        self.unknown |= residents
        for resident in residents:
            self.times_lost[resident] = self.times_lost.get(resident, 0) + 1

    def on_found(self, states: list[ResidentState], counts: list[OfferCount]) -> None:
        for state in states:
            assert state.resident in self.unknown
            self.unknown.discard(state.resident)
            self.seen_ms[state.resident] = state.seen_ms or 0
            self.claims[state.resident] = state.claims_count
        self.counts.update({(count.offer, count.day): count.claims for count in counts})

    def on_committed(self, _: Changes, committed: Committed) -> None:
        assert committed.refused == ()
        self.counts.update({(count.offer, count.day): count.claims for count in committed.counts})

    async def walk(self, resident: str, walker: int) -> None:
        """Move and be offered things, each on top of what memory says, whoever wrote it."""
        for step in range(40):
            await asyncio.sleep(self.rng.random() * 0.03)
            if resident in self.unknown:
                continue
            seen_ms = self.seen_ms[resident] = self.seen_ms.get(resident, 0) + 1
            moved = presence(resident, "door", seen_ms=seen_ms)
            name = None
            if self.rng.random() < 0.5:
                name = f"{resident}-{walker}-{step}"
                before = self.claims.get(resident, 0)
                moved = both(moved, claims(claim(name, resident, before=before)))
                self.claims[resident] = before + 1
            times_lost = self.times_lost.get(resident, 0)
            self.journal.add(moved)
            group = group_of(self.journal, resident)
            try:
                await group.settled()
            except StoreUnavailable:
                assert self.times_lost.get(resident, 0) > times_lost
                self.in_doubt |= {name} if name else set()
            else:
                assert self.store.shared.presences[resident].seen_ms >= seen_ms
                assert group.refused == {}
                self.acknowledged |= {name} if name else set()

    async def run(self) -> None:
        await self.store.open()
        residents = [f"r{n}" for n in range(6)]
        await asyncio.gather(*(self.walk(r, walker) for r in residents for walker in range(3)))
        self.store.shaky = False
        await self.journal.drain()
        while self.journal.missing:  # noqa: ASYNC110 - on a jumping clock
            await asyncio.sleep(0.1)
        await self.journal.close()

        shared = self.store.shared
        assert self.unknown == set()
        assert self.journal.depth == 0
        kept = shared.claims.keys()
        assert self.acknowledged <= kept
        assert kept - self.acknowledged <= self.in_doubt
        for resident in residents:
            stored = shared.presences.get(resident)
            assert self.seen_ms.get(resident, 0) == (stored.seen_ms if stored else 0)
            assert self.claims.get(resident, 0) == len(shared.claims_of.get(resident, []))
        assert self.counts == shared.counts
        await self.store.close()


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a jumping clock."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(scene)


def test_whatever_fails_memory_and_store_agree(measured: list[str]) -> None:
    """150 seeds of walkers on a shaky store; what was acknowledged is kept, in every one."""
    failures: dict[str, int] = {}
    acknowledged = 0
    for seed in range(150):
        city = City(seed)
        try:
            play(city.run())
        except BaseException:
            print(f"seed {seed}")  # noqa: T201
            raise
        acknowledged += len(city.acknowledged)
        for where, times in city.store.failures.items():
            failures[where] = failures.get(where, 0) + times

    assert min(failures.values()) > 300
    measured.append(
        f"journal: 150 seeds, {acknowledged:,} claims acknowledged, failures {failures}"
    )


# On a real server.


def real_journal(store: Store, told: Told, **limits: int) -> Journal:
    return Journal(
        store,
        lost=told.on_lost,
        found=told.on_found,
        committed=told.on_committed,
        clock_ms=lambda: NOW_MS,
        **limits,
    )


async def test_throughput_of_the_journal(database_url: str, measured: list[str]) -> None:
    """Not a bar, a figure: groups of 100 changes and of whatever gathers, one ping a change."""
    store = PostgresStore(database_url)
    await store.open()
    for group_max in (100, 5_000):
        journal = real_journal(store, Told(), group_max=group_max)
        total, began_s = 20_000, time.perf_counter()
        for n in range(total):
            journal.add(presence(f"r{n}", "door"))
            if n % 1_000 == 999:
                await asyncio.sleep(0)
        await within(journal.drain())
        took_s = time.perf_counter() - began_s
        assert journal.changes_committed == total
        measured.append(
            f"journal: groups of at most {group_max}: {journal.groups_committed / took_s:,.0f} "
            f"commits/s, {total / took_s:,.0f} changes/s"
        )
        await journal.close()
    await store.close()


async def test_a_killed_server_loses_nothing_acknowledged(
    tmp_path: Path, measured: list[str]
) -> None:
    """kill -9 of the server under load, three times: what was told durable is there."""
    embedded = EmbeddedPostgres(tmp_path / "data")
    store = PostgresStore(await embedded.start(), connect_s=2, command_s=5)
    await store.open()
    told = Told()
    journal = real_journal(store, told, group_max=50)
    acknowledged: dict[str, int] = {}
    failed = in_flight = kills = 0

    async def walk(resident: str) -> None:
        nonlocal failed
        before = at = 0
        lost_before = len(told.lost)
        while kills < 3 or at < before + 5:
            at += 1
            if kills == 3 and before == 0:
                before = at
            journal.add(presence(resident, "door", seen_ms=at))
            try:
                await group_of(journal, resident).settled()
                acknowledged[resident] = at
            except StoreUnavailable:
                failed += 1
                assert len(told.lost) > lost_before
                await asyncio.sleep(0.02)

    async def kill() -> None:
        nonlocal in_flight, kills
        for restarts in range(3):
            while len(acknowledged) < 20:  # noqa: ASYNC110 - another process is awaited
                await asyncio.sleep(0.01)
            counted = journal.changes_committed
            # Kill in the middle of a commit, so that there is something to lose.
            while (  # noqa: ASYNC110
                journal.changes_committed < counted + 200 or journal.depth == 0
            ):
                await asyncio.sleep(0)
            in_flight += journal.depth
            os.kill(embedded.pid, signal.SIGKILL)
            while embedded.restarts == restarts:  # noqa: ASYNC110 - another process is awaited
                await asyncio.sleep(0.01)
            kills += 1

    async with asyncio.timeout(60):
        await asyncio.gather(kill(), *(walk(f"r{n}") for n in range(20)))
        await within(journal.drain())
    states = await store.read_states(sorted(acknowledged), now_ms=NOW_MS)
    await journal.close()
    await store.close()
    await embedded.stop()
    shutil.rmtree(embedded.cluster.home, ignore_errors=True)

    assert failed > 0
    assert in_flight > 0
    for state in states:
        assert state.seen_ms is not None
        assert state.seen_ms >= acknowledged[state.resident]
    measured.append(
        f"journal: 3 kills of the server, {in_flight} changes in flight, {failed} failed"
    )
