"""The store on PostgreSQL keeps the contract of every store, and what only a server can break."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.changes import Changes, PresenceRow, StayRow
from engine.consent.record import Scope, record_id
from engine.consent.saying import nobodys, sayings_of
from engine.residents import ResidentSettings
from engine.store.memory import MemoryStore
from engine.store.migrate import Migration, SchemaRefused, load_migrations, migrate
from engine.store.port import (
    AlreadyThere,
    Redemption,
    RedemptionRefused,
    Store,
    StoreUnavailable,
    VersionMoved,
)
from engine.store.postgres import PostgresStore
from engine.store.told import ResidentTold
from engine.store.wire import StoreBroken
from tests.conftest import Server
from tests.contract_administration import AdministrationContract
from tests.contract_guards import GuardContract
from tests.contract_nodes import NodeContract
from tests.contract_outage import OutageContract
from tests.contract_pruning import PruningContract
from tests.contract_rights import RightsContract
from tests.contract_store import (
    BRAND,
    DAY,
    KEY,
    NOW_MS,
    OFFER,
    SETTINGS,
    Outage,
    StoreContract,
    both,
    claim,
    claims,
    fence,
    presence,
    recall,
    record,
)
from tests.contract_window import WindowContract
from tests.test_consent_index import HARD


async def execute(url: str, *statements: str) -> None:
    """Run statements on a connection of their own."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(database_url, connect_s=5, command_s=20)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[PostgresStore]:
    other = PostgresStore(database_url, connect_s=5, command_s=20)
    await other.open()
    yield other
    await other.close()


class TestPostgresStore(
    StoreContract,
    RightsContract,
    AdministrationContract,
    OutageContract,
    PruningContract,
    WindowContract,
    GuardContract,
    NodeContract,
):
    """Two stores on one database."""

    @pytest.fixture
    def outage(self, store: PostgresStore, database_server: Server, database_url: str) -> Outage:
        name = urlsplit(database_url).path[1:]

        async def begin() -> None:
            await execute(
                database_server.url,
                f"alter database {name} allow_connections false",
                f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'",
            )
            # The end of a connection arrives like any message, and wakes whoever waits for one.
            listener = store._wire.listener
            while listener is not None and not listener.is_closed():
                await store.wait_for_change(5)

        async def end() -> None:
            await execute(database_server.url, f"alter database {name} allow_connections true")

        return Outage(begin, end)

    @pytest.fixture
    def prune(self, store: PostgresStore, database_url: str) -> Callable[[int], Awaitable[None]]:
        async def prune(up_to: int) -> None:
            await execute(database_url, f"delete from changes where number <= {up_to}")

        return prune


async def test_nobody_listening_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await PostgresStore("postgresql://passby:x@127.0.0.1:1/passby").open()


async def test_a_server_that_accepts_and_says_nothing_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreUnavailable):
            await PostgresStore(f"postgresql://a:b@127.0.0.1:{port}/c", connect_s=0.1).open()


async def test_a_wrong_password_is_unavailable(database_url: str) -> None:
    _, rest = database_url.split("@")
    with pytest.raises(StoreUnavailable, match="Password"):
        await PostgresStore(f"postgresql://passby:wrong@{rest}").open()


async def test_an_open_store_survives_broken_connections(
    store: PostgresStore, database_server: Server, database_url: str
) -> None:
    """Each broken connection fails once at most; the next call has a new one."""
    name = urlsplit(database_url).path[1:]
    await store.wait_for_change(0)
    await execute(
        database_server.url,
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'",
    )

    async with asyncio.timeout(10):
        while True:
            try:
                await store.commit(presence("ann", "door"))
                await store.wait_for_change(0)
                break
            except StoreUnavailable:
                pass
    await store.put_settings("ann", ResidentSettings())
    async with asyncio.timeout(10):
        await store.wait_for_change(5)


async def test_a_mistake_is_told_without_values(store: PostgresStore) -> None:
    with pytest.raises(StoreBroken) as told:
        await store.commit(presence("secret\x00resident", "door"))
    assert "secret" not in str(told.value)
    assert told.value.__suppress_context__

    with pytest.raises(StoreBroken) as told:
        await store.commit(claims(claim("c1", "secret", before=2**40)))
    assert "secret" not in str(told.value)


async def test_a_writer_that_commits_late_does_not_lose_its_line(
    store: PostgresStore, database_url: str
) -> None:
    """Its number is drawn first and visible first: whoever comes later waits for it."""
    late = await asyncpg.connect(database_url)
    try:
        writing = late.transaction()
        await writing.start()
        drawn = await late.fetchval("select append_changes('fence', array['slow'])")
        quick = asyncio.create_task(store.create_residents({"ann": ResidentSettings()}))
        await asyncio.wait([quick], timeout=0.1)
        assert not quick.done()
        assert await store.changes_after(0) == []

        await writing.commit()

        assert (drawn, await quick) == (1, 2)
        assert [change.id for change in await store.changes_after(0)] == ["slow", "ann"]
    finally:
        await late.close()


async def test_a_lost_commit_is_waited_for(store: PostgresStore, database_url: str) -> None:
    """A commit whose answer we gave up on has ended, either way, before states are read."""
    blocker = await asyncpg.connect(database_url)
    try:
        await store.commit(presence("ann", "door"))
        blocking = blocker.transaction()
        await blocking.start()
        await blocker.execute("select from resident_states for update")
        lost = asyncio.create_task(store.commit(presence("ann", "square")))
        await asyncio.wait([lost], timeout=0.1)

        reading = asyncio.create_task(store.read_states(["ann"], now_ms=NOW_MS))
        await asyncio.wait([reading], timeout=0.1)
        assert not reading.done()
        await blocking.commit()

        ((stay,),) = [state.stays for state in await reading]
        assert stay.fence == "square"
        await lost
    finally:
        await blocker.close()


async def test_a_commit_that_takes_too_long_is_unavailable(database_url: str) -> None:
    store = PostgresStore(database_url, command_s=0.3)
    await store.open()
    blocker = await asyncpg.connect(database_url)
    try:
        await store.commit(presence("ann", "door"))
        blocking = blocker.transaction()
        await blocking.start()
        await blocker.execute("select from resident_states for update")
        with pytest.raises(StoreUnavailable):
            await store.commit(presence("ann", "square"))
        await blocking.rollback()
        await store.commit(presence("ann", "square"))
    finally:
        await blocker.close()
        await store.close()


async def test_a_lost_commit_never_comes_late(database_url: str) -> None:
    """A server process that hung before it read our commit does not do it after we read back.

    However many read back at the same time.
    """
    store = PostgresStore(database_url, pool_min=1, command_s=0.5)
    await store.open()
    looker = await asyncpg.connect(database_url)
    try:
        await store.commit(presence("ann", "door"))
        pid = await looker.fetchval(
            "select pid from pg_stat_activity where pid <> pg_backend_pid()"
            " and query like '%commit_told(%' order by query_start desc limit 1"
        )
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable):
                await store.commit(presence("ann", "square"))
            reading = [store.read_states(["ann"], now_ms=NOW_MS) for _ in range(2)]
            for states in await asyncio.gather(*reading):
                ((before,),) = [s.stays for s in states]
        finally:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while await looker.fetchval(  # noqa: ASYNC110 (only the server knows)
                "select exists (select from pg_stat_activity where pid = $1)", pid
            ):
                await asyncio.sleep(0)
        ((after,),) = [s.stays for s in await store.read_states(["ann"], now_ms=NOW_MS)]

        assert (before.fence, after.fence) == ("door", "door")
    finally:
        await looker.close()
        await store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update consent_records set version = 9",
        "delete from consent_records",
        "update audit set name = 'nobody'",
        "delete from audit",
        "truncate audit",
    ],
)
async def test_records_and_entries_are_append_only(
    store: PostgresStore, database_url: str, statement: str
) -> None:
    await store.create_residents({"ann": ResidentSettings()})
    await store.append_records("ann", (record("ann", 1),), version_before=0)

    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await execute(database_url, statement)


# Twins.

CITY_OPS: Final = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *("presence", "leave", "touch", "claim", "claim", "claim", "recall", "redeem"),
                *("roll_back", "fences", "delete_fence", "offer", "delete_offer", "brand"),
                *("resident", "records", "settings", "key", "delete_key"),
            )
        ),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    max_size=40,
)


async def act(store: Store, op: str, a: int, b: int, c: int) -> object:
    """One operation on a small city, in which ids collide; what came of it, refusals included."""
    resident, name = f"r{a}", f"c{a}{b}"
    group: dict[str, Changes] = {
        "presence": presence(resident, *(f"f{n}" for n in range(b)), seen_ms=NOW_MS + c),
        "leave": presence(resident),
        "touch": Changes(touches={resident: NOW_MS + b, f"r{c}": NOW_MS + a}),
        "claim": both(
            claims(
                claim(name, resident, before=c, offer=f"o{b % 2}", total=3, per_day=2, day=DAY + c),
                claim(
                    f"d{a}{c}", f"r{b}", before=b, made_ms=NOW_MS - b * 345_600_000, code=f"k{b}{c}"
                ),
                claim(f"e{b}{c}", resident, before=c + 1, decision=f"d{b}"),
            ),
            recall(f"d{a}{b}") if c else presence(f"r{b}", "f1"),
        ),
        "recall": both(recall(name), recall(f"d{a}{c}")),
    }
    use = Redemption(
        id=f"u{b}", claim=f"c{a}{c}", offer="o", brand="cafe", at_ms=NOW_MS + 30_000 * c
    )
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "redeem": lambda: store.redeem(use),
        "roll_back": lambda: store.roll_back(f"u{b}"),
        "fences": lambda: store.put_fences([fence(f"f{b}", b"{%d}" % c), fence(f"f{a + 4}")]),
        "delete_fence": lambda: store.delete_fence(f"f{a}"),
        "offer": lambda: store.put_offer(msgspec.structs.replace(OFFER, id=f"o{a}", title=str(b))),
        "delete_offer": lambda: store.delete_offer(f"o{a}"),
        "brand": lambda: store.put_brand(msgspec.structs.replace(BRAND, id=f"b{a}")),
        "resident": lambda: store.create_residents(dict.fromkeys({resident, f"r{b}"}, SETTINGS)),
        "records": lambda: store.append_records(
            resident, (record(resident, c + 1),), version_before=c
        ),
        "settings": lambda: store.put_settings(resident, ResidentSettings(language=str(b))),
        "key": lambda: store.put_key(msgspec.structs.replace(KEY, id=f"k{a}")),
        "delete_key": lambda: store.delete_key(f"k{a}"),
    }
    try:
        return await (store.commit(group[op]) if op in group else calls[op]())
    except (RedemptionRefused, AlreadyThere, VersionMoved) as refused:
        return type(refused), refused.args


async def look(store: Store) -> list[object]:
    """Everything that can be read of the small city."""
    return [
        await store.snapshot(now_ms=NOW_MS),
        await store.changes_after(0),
        await store.read_states([f"r{n}" for n in range(5)], now_ms=NOW_MS),
        await store.read_counts(["o1", "latte"], now_ms=NOW_MS),
        *[await store.claim_by_code(f"k{a}{b}") for a in range(4) for b in range(3)],
        *[await store.claim_by_id(f"d{n}") for n in range(4)],
        *[await store.claim_by_id(f"c{a}{b}") for a in range(4) for b in range(4)],
        *[await store.redemption(f"u{n}") for n in range(4)],
    ]


def test_the_twins_agree(database_url: str) -> None:
    """Any operations in any order give the same answers and the same state on both."""
    with asyncio.Runner() as runner:
        postgres = PostgresStore(database_url)
        runner.run(postgres.open())

        @settings(max_examples=40, deadline=None, derandomize=True)
        @given(CITY_OPS)
        def agree(ops: list[tuple[str, int, int, int]]) -> None:
            runner.run(play(ops))

        async def play(ops: list[tuple[str, int, int, int]]) -> None:
            await execute(
                database_url,
                "set session_replication_role = replica",
                "delete from consent_records",
                "delete from residents; delete from changes; delete from brands; delete from keys;"
                "delete from fences; delete from offers; delete from claims;"
                "delete from resident_states; delete from offer_counts",
            )
            memory = MemoryStore()
            await memory.open()
            for op in ops:
                assert await act(postgres, *op) == await act(memory, *op)
            assert await look(postgres) == await look(memory)

        agree()
        runner.run(postgres.close())


# Migrations.


async def test_what_bodies_say_is_read_without_what_is_their_residents_own(
    store: PostgresStore, database_url: str
) -> None:
    """By SQL as by `sayings_of`, whatever texts are in them; if written otherwise, as a whole."""
    hard = [
        msgspec.structs.replace(
            record("ann", 1, effect), device=text, places=(text,), scope=Scope(brand=text)
        )
        for effect in ("grant", "deny")
        for text in HARD
    ]
    hard += [msgspec.structs.replace(one, expires_ms=NOW_MS + n) for n, one in enumerate(hard)]
    residents = {f"r{place}": one for place, one in enumerate(hard)}
    bodies = {
        name: (
            msgspec.json.encode(one),
            msgspec.json.encode(one, order="sorted"),
            msgspec.json.format(msgspec.json.encode(one)),
        )
        for name, one in residents.items()
    }
    await store.create_residents(dict.fromkeys(residents, SETTINGS))
    connection = await asyncpg.connect(database_url)
    try:
        await connection.executemany(
            "insert into consent_records (resident, position, version, id, body) "
            "values ($1, $2, 1, $3, $4)",
            [
                (name, position, record_id(residents[name]), body)
                for name, both_ in bodies.items()
                for position, body in enumerate(both_)
            ],
        )
    finally:
        await connection.close()

    told: list[ResidentTold] = []
    await store.snapshot(now_ms=NOW_MS, take=told.extend)

    assert [one.id for one in told] == sorted(residents)
    for one in told:
        said = sayings_of((residents[one.id],) * 3)
        content, *_ = lines = one.said.contents.splitlines()
        assert one.said.kept == said.kept
        assert content == said.contents.splitlines()[0]
        assert [*map(nobodys, lines)] == [nobodys(content)] * 3


async def test_a_reader_of_residents_that_fails_is_heard(store: PostgresStore) -> None:
    """Though the database works on what comes next; and the connection is as good as new."""
    await store.create_residents({f"r{n}": SETTINGS for n in range(5_000)})
    taken: list[ResidentTold] = []

    def take(told: list[ResidentTold]) -> None:
        taken.extend(told)
        if len(taken) >= 1_000:
            raise LookupError

    with pytest.raises(LookupError):
        await store.snapshot(now_ms=NOW_MS, take=take)

    assert len(await store.read_residents(["r0", "r1"])) == 2
    await store.snapshot(now_ms=NOW_MS, take=lambda told: None)


async def test_migrations_are_applied_once(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        ours = load_migrations()
        assert await migrate(connection, ours) == len(ours)
        assert await migrate(connection, ours) == 0
    finally:
        await connection.close()


async def test_of_many_processes_one_migrates(empty_database_url: str) -> None:
    stores = [PostgresStore(empty_database_url, pool_min=1) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_changed_migration_is_refused(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        first = Migration(1, "one", "create table one (a integer)")
        await migrate(connection, [first])
        with pytest.raises(SchemaRefused, match=r"0001 \(one\) was applied in another form"):
            await migrate(connection, [Migration(1, "one", "create table one (b integer)")])
    finally:
        await connection.close()


async def test_a_newer_database_is_refused(empty_database_url: str) -> None:
    await execute(
        empty_database_url,
        "create table passby_migrations (number integer primary key, name text not null,"
        " checksum text not null, applied_at timestamptz not null default now())",
        "insert into passby_migrations select n, 'x', 'x' from generate_series(1, 99) n",
    )
    with pytest.raises(SchemaRefused, match="newer version"):
        await PostgresStore(empty_database_url).open()


async def test_a_broken_migration_leaves_nothing(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        good = Migration(1, "one", "create table one (a integer)")
        broken = Migration(2, "two", "create table two (a integer); select 1/0")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(connection, [good, broken])
        assert await connection.fetchval("select to_regclass('two')") is None
        assert await migrate(connection, [good]) == 0
    finally:
        await connection.close()


# Speed.


async def test_throughput_of_commits(store: PostgresStore, measured: list[str]) -> None:
    """Not a bar, a figure: how fast groups of changed presences are committed, to memory here."""
    for size in (1, 100, 1_000):
        rounds, began_s = min(200, 20_000 // size), time.perf_counter()
        for n in range(rounds):
            residents = [f"r{(n * size + k) % 50_000}" for k in range(size)]
            stays = (StayRow("door", NOW_MS + n, 0),)
            await store.commit(
                Changes(presences={r: PresenceRow(r, stays, NOW_MS + n) for r in residents})
            )
        took_s = time.perf_counter() - began_s
        measured.append(
            f"store: groups of {size}: {rounds / took_s:,.0f} commits/s, "
            f"{rounds * size / took_s:,.0f} changes/s"
        )


async def test_throughput_of_claims(store: PostgresStore, measured: list[str]) -> None:
    """Not a bar, a figure: groups of 100 claims on 10 offers."""
    rounds, began_s = 50, time.perf_counter()
    for n in range(rounds):
        done = await store.commit(
            claims(*(claim(f"c{n}-{k}", f"r{n}-{k}", offer=f"o{k % 10}") for k in range(100)))
        )
        assert done.refused == ()
    took_s = time.perf_counter() - began_s
    measured.append(f"store: groups of 100 claims: {rounds * 100 / took_s:,.0f} claims/s")
