"""The composition root: builds every part once, in the order in which they need each other."""

import asyncio
import contextlib
import gc
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from importlib.resources import files
from pathlib import Path
from typing import Final

from engine.changes import Changes, OfferCount, ResidentState
from engine.config import Config, SettingRefused
from engine.consent.law import Laws, Pack, PackRefused, read_pack
from engine.delivery.answer import Answerer
from engine.delivery.canary import Canary
from engine.delivery.tail import Tail
from engine.delivery.views import Views
from engine.offers.gates import Attention
from engine.pipeline import Engine, EngineSettings
from engine.store.cluster import write_private
from engine.store.embedded import EmbeddedPostgres
from engine.store.everywhere import Everywhere
from engine.store.feed import Feed, new_node
from engine.store.follow import Follower
from engine.store.journal import Journal
from engine.store.port import Committed, KeyRow, Store
from engine.store.postgres import PostgresStore
from engine.store.pruner import Lives, Pruner
from engine.store.recent import DAY_MS
from engine.store.retention import Retention
from engine.web.context import Context
from engine.web.metrics import Metrics

log = logging.getLogger(__name__)

OPERATOR_KEY_FILE: Final = "operator.key"

GC_THRESHOLDS: Final = (700, 10, 1_000)
"""The young generations as usual, the full collection rarely: with 100,000 fences its pauses fell
from 603 to 4 ms, and its share of the time from 11 to 3 %."""
FIRST_LOOK_S: Final = 5.0
"""How long a start waits for the first look at the feed, before which every ping is refused."""

_LEASE_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

SWEEP_EVERY_S: Final = 60.0
SWEEP_SLICE: Final = 500


def clock_ms() -> int:
    """Now, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def mono_ms() -> int:
    """The monotonic clock of leases, milliseconds; on Linux it goes on while a machine sleeps."""
    return time.clock_gettime_ns(_LEASE_CLOCK) // 1_000_000


def spare_the_collector() -> None:
    """Never look for garbage among all that is there now."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


@contextlib.asynccontextmanager
async def running(
    config: Config, failed: Callable[[], None], *, answerer: type[Answerer] = Answerer
) -> AsyncIterator[Context]:
    """All parts of the service but its listening socket, started and in the end stopped.

    Args:
        config: the settings.
        failed: called when a part can't go on, so that the process must end.
        answerer: what answers pings; another one than ours only for seeing that it is missed.

    Raises:
        StoreUnavailable: the database can't be reached.
        embedded.DataInUse and others of the embedded server: its text says what to do.
    """
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        url = config.database_url
        if not url:
            server = EmbeddedPostgres(config.data, failed=failed)
            url = await server.start()
            stack.push_async_callback(server.stop)
        store = PostgresStore(url)
        await store.open()
        stack.push_async_callback(store.close)
        yield await assemble(config, store, stack, failed, answerer=answerer)


async def assemble(
    config: Config,
    store: Store,
    stack: contextlib.AsyncExitStack,
    failed: Callable[[], None],
    *,
    answerer: type[Answerer] = Answerer,
    clock_ms: Callable[[], int] = clock_ms,
    mono_ms: Callable[[], int] = mono_ms,
    loaded: Callable[[], None] = spare_the_collector,
) -> Context:
    """Put the parts around an open store together and bring them up to date.

    Args: as of `running`, and
        clock_ms: Unix milliseconds; may jump.
        mono_ms: the monotonic clock of leases, milliseconds.
        loaded: called when all that lives as long as the process is in memory.
    """
    engine = await _engine(config, store)
    journal = _journal(config, store, engine, clock_ms)
    stack.push_async_callback(_end_journal, journal, config.stop_seconds_max)
    keys: dict[str, KeyRow] = {}
    node = new_node()
    follower = Follower(store, engine, keys, node=node, clock_ms=clock_ms, write=journal.add)
    await _operator_key(config, store)
    start = await _load(follower, store, clock_ms, loaded)
    feed = _feed(config, store, follower, mono_ms, node, start)
    engine.preferences.lease_until_mono_ms = lambda: feed.lease_until_mono_ms
    everywhere = Everywhere(store, feed, mono_ms=mono_ms)
    stack.push_async_callback(feed.leave)
    pruner, sweeping = _pruner(config, store, clock_ms), _sweep(engine, journal, clock_ms)
    _keep_running(
        stack, failed, feed.run(), everywhere.run(), everywhere.announce(), sweeping, pruner.run()
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK_S):
            await feed.looked()
    tail = await _tail(config, store, stack, failed)
    metrics = Metrics()
    canary = Canary(
        node,
        store,
        everywhere,
        engine.preferences,
        clock_ms=clock_ms,
        mono_ms=mono_ms,
        every_s=config.canary_s,
        answerer=answerer,
    )
    retention = _retention(config, store, metrics, clock_ms)
    _keep_running(stack, failed, canary.run(), retention.run())
    answering = answerer(
        engine,
        journal,
        clock_ms=clock_ms,
        mono_ms=mono_ms,
        slice_pings_max=config.slice_pings_max,
        waiting_max=config.waiting_max,
        decided_s=metrics.decide_s.observe,
    )
    return Context(
        config=config,
        store=store,
        engine=engine,
        journal=journal,
        feed=feed,
        everywhere=everywhere,
        canary=canary,
        answerer=answering,
        tail=tail,
        pruner=pruner,
        views=Views(engine, journal, clock_ms=clock_ms, mono_ms=mono_ms),
        keys=keys,
        clock_ms=clock_ms,
        mono_ms=mono_ms,
        started_mono_ms=mono_ms(),
        metrics=metrics,
    )


def _feed(
    config: Config,
    store: Store,
    follower: Follower,
    mono_ms: Callable[[], int],
    node: str,
    start: int,
) -> Feed:
    """What follows the change feed from a number on."""
    return Feed(
        store,
        follower.apply,
        start=start,
        lease_ms=config.lease_ms,
        poll_ms=config.poll_ms,
        mono_ms=mono_ms,
        node=node,
    )


async def _load(
    follower: Follower, store: Store, clock_ms: Callable[[], int], loaded: Callable[[], None]
) -> int:
    """Bring all that there is into memory; the number of the feed that it is as of."""
    snapshot = await store.snapshot(now_ms=clock_ms(), take=follower.take_residents)
    await follower.load(snapshot)
    loaded()
    return snapshot.number


def _retention(
    config: Config, store: Store, metrics: Metrics, clock_ms: Callable[[], int]
) -> Retention:
    """What forgets of residents what is old."""
    retention = Retention(
        store,
        presence_ms=config.presence_age_max_days * DAY_MS,
        claims_ms=config.claim_age_max_days * DAY_MS,
        clock_ms=clock_ms,
    )
    metrics.watch(
        "passby_presences_forgotten",
        "Whereabouts that this process forgot because they were old.",
        lambda: retention.presences,
    )
    metrics.watch(
        "passby_claims_anonymised",
        "Claims that this process made nobody's because they were old.",
        lambda: retention.claims,
    )
    return retention


def _engine_settings(config: Config) -> EngineSettings:
    """What the city sets about decisions."""
    return EngineSettings(
        attention=Attention(config.attention_per_day, config.attention_per_week),
        kept_fixes_max=config.kept_fixes_max,
    )


async def _engine(config: Config, store: Store) -> Engine:
    """The engine, with nothing in it yet."""
    return Engine(
        secret=await store.secret("claims"),
        settings=_engine_settings(config),
        laws=read_laws(config.law_packs),
    )


def read_laws(names: str) -> Laws:
    """The packs that a setting names.

    Raises:
        SettingRefused: one of them is not there, or can't be used.
    """
    packs: list[Pack] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        shipped = files("engine.consent") / "packs" / f"{name}.json"
        is_file = "/" in name or name.endswith(".json")
        try:
            packs.append(read_pack((Path(name) if is_file else shipped).read_bytes()))
        except (OSError, PackRefused) as error:
            raise SettingRefused(f"law_packs: {name} can't be used: {error}") from None
    return Laws(packs)


def _journal(config: Config, store: Store, engine: Engine, clock_ms: Callable[[], int]) -> Journal:
    """The journal, wired to what the engine must learn of each commit."""

    def committed(changes: Changes, outcome: Committed) -> None:
        refused = {refusal.claim: refusal.reason for refusal in outcome.refused}
        moved = engine.settle(changes.claims, refused, outcome.counts)
        if moved:
            journal.read_again(moved)

    def lost(residents: set[str], _: set[str]) -> None:
        engine.forget(residents)

    def found(states: list[ResidentState], counts: list[OfferCount]) -> None:
        engine.restore(states, counts)

    journal = Journal(
        store,
        lost=lost,
        found=found,
        committed=committed,
        clock_ms=clock_ms,
        group_max=config.group_changes_max,
        queue_max=config.queue_changes_max,
    )
    return journal


async def _tail(
    config: Config,
    store: Store,
    stack: contextlib.AsyncExitStack,
    failed: Callable[[], None],
) -> Tail:
    """What follows the window of events, running."""
    tail = Tail(
        store,
        poll_ms=config.poll_ms,
        every_ms=config.event_every_ms,
        queue_max=config.event_queue_max,
    )
    tail.number = await store.number_events()
    _keep_running(stack, failed, tail.run())
    return tail


def _keep_running(
    stack: contextlib.AsyncExitStack,
    failed: Callable[[], None],
    *works: Coroutine[object, object, None],
) -> None:
    """Have works go on beside the service, which ends when one of them does."""
    for work in works:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda done: None if done.cancelled() else failed())
        stack.push_async_callback(_end_task, task)


def _pruner(config: Config, store: Store, clock_ms: Callable[[], int]) -> Pruner:
    """What keeps the tables bounded, for as long as the operator says."""
    lives = Lives(
        events_ms=config.event_age_max_s * 1_000,
        events_max=config.events_max,
        changes_ms=config.change_age_max_s * 1_000,
        audit_ms=config.audit_age_max_days * DAY_MS or None,
    )
    return Pruner(store, lives, clock_ms=clock_ms)


async def _sweep(engine: Engine, journal: Journal, clock_ms: Callable[[], int]) -> None:
    """Go round all residents in memory, for ever, a slice at a time."""
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        names = list(engine.residents)
        for start in range(0, len(names), SWEEP_SLICE):
            engine.sweep(names[start : start + SWEEP_SLICE], clock_ms())
            if changes := engine.take_changes():
                journal.add(changes)
            await asyncio.sleep(0)


async def _end_journal(journal: Journal, seconds_max: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds_max):
            await journal.drain()
    await journal.close()


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


async def _operator_key(config: Config, store: Store) -> None:
    """See to it that the operator's key works: the one set, the one in `data`, or a new one."""
    key = config.operator_key or _kept_key(config.data / OPERATOR_KEY_FILE)
    digest = hashlib.sha256(key.encode()).hexdigest()
    key_id = f"operator-{digest[:12]}"
    if not await store.read_keys([key_id]):
        await store.put_key(
            KeyRow(id=key_id, hash=digest, role="operator", name="operator", created_ms=clock_ms())
        )


def _kept_key(path: Path) -> str:
    """The key in a file that only its owner can read; made if there is none.

    An empty file holds none: else whoever sends no key would be the operator.
    """
    with contextlib.suppress(FileNotFoundError):
        if key := path.read_text(encoding="utf-8").strip():
            return key
    key = f"pb_operator_{secrets.token_urlsafe(32)}"
    write_private(path, key)
    return key
