"""What becomes durable in a second: changes through the journal into PostgreSQL, with fsync.

Alone: one change, and the next when it is durable, as a single resident sees it. Waiting: many
pings at once wait for theirs, which share commits. Flood: as many as fit, what the database takes.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import perf_counter, time_ns
from typing import Final

import uvloop

from bench.leftovers import removed
from bench.table import Row
from bench.timing import median, percentile, told
from engine.changes import Changes, ClaimMade, PresenceRow, StayRow
from engine.decision import OfferMade
from engine.store.embedded import EmbeddedPostgres
from engine.store.journal import Journal
from engine.store.postgres import PostgresStore

WAITING: Final = 64
FLOOD_DEPTH: Final = 4_000
OFFERS: Final = 200
DAY: Final = 20_601


def run(*, residents: int, seconds: float) -> list[Row]:
    """Measure each case for so many seconds."""
    with told("commit"):
        return uvloop.run(_measured(residents, seconds))


async def _measured(residents: int, seconds: float) -> list[Row]:
    async with _journal() as (journal, room):
        # The rows are made first: later a presence replaces one that is there, as in a city.
        await _flood(journal, room, (_entered(n) for n in range(residents)), 600.0)
        moves = (_entered(n % residents) for n in count())
        claims = _claims(residents)
        return [
            await _row("commit, alone", journal, room, moves, seconds, 1),
            await _row(f"commit, {WAITING} waiting", journal, room, moves, seconds, WAITING),
            await _row("commit, flood of moves", journal, room, moves, seconds, 0),
            await _row("commit, flood of claims", journal, room, claims, seconds, 0),
        ]


async def _row(
    name: str,
    journal: Journal,
    room: asyncio.Event,
    changes: Iterator[Changes],
    seconds: float,
    waiting: int,
) -> Row:
    """One case, as a line of the table."""
    groups, done, began_s = journal.groups_committed, journal.changes_committed, perf_counter()
    took = await (
        _wait(journal, changes, seconds, waiting)
        if waiting
        else _flood(journal, room, changes, seconds)
    )
    lasted_s = perf_counter() - began_s
    groups, done = journal.groups_committed - groups, journal.changes_committed - done
    return Row(
        name=name,
        median_us=median(took) if took else None,
        p99_us=percentile(took, 0.99) if took else None,
        per_s=done / lasted_s,
        note=f"{groups / lasted_s:,.0f} commits a second of {done / max(groups, 1):,.0f} changes",
    )


async def _wait(
    journal: Journal, changes: Iterator[Changes], seconds: float, waiting: int
) -> list[float]:
    """Let so many wait, each for its own change; the microseconds of each wait."""
    took: list[float] = []
    until_s = perf_counter() + seconds

    async def one() -> None:
        while (began_s := perf_counter()) < until_s:
            change = next(changes)
            journal.add(change)
            group = journal.pending(next(iter(change.presences)))
            assert group is not None
            await group.settled()
            took.append((perf_counter() - began_s) * 1e6)

    await asyncio.gather(*(one() for _ in range(waiting)))
    return took


async def _flood(
    journal: Journal, room: asyncio.Event, changes: Iterator[Changes], seconds: float
) -> list[float]:
    """Keep the journal full until the time or the changes are over, then until all is durable."""
    until_s = perf_counter() + seconds
    for change in changes:
        journal.add(change)
        while journal.depth >= FLOOD_DEPTH:
            room.clear()
            await room.wait()
        if perf_counter() >= until_s:
            break
    await journal.drain()
    return []


def _entered(number: int) -> Changes:
    """A resident came into a fence."""
    name = f"r-{number:06}"
    now_ms = time_ns() // 1_000_000
    stays = (StayRow(f"f{number % 10_000:07}", now_ms, 0),)
    return Changes(presences={name: PresenceRow(name, stays, now_ms)})


def _claims(residents: int) -> Iterator[Changes]:
    """Offers to one resident after the other, again and again."""
    for number in count():
        yield _claimed(number % residents, number, number // residents)


def _claimed(resident: int, number: int, claims_before: int) -> Changes:
    """A resident came into a fence and was made an offer there."""
    name, claim, offer = f"c-{resident:06}", f"c{number:024x}", f"b{number % OFFERS:05}-enter"
    now_ms = time_ns() // 1_000_000
    made = OfferMade(
        claim=claim,
        offer=offer,
        brand=f"b{number % OFFERS:05}",
        fence="f0000001",
        title="Coffee for two",
        body="The second cup is on us until five o'clock.",
        code=f"{number:012}",
        expires_at_ms=now_ms + 3_600_000,
        consent_version=1,
    )
    return Changes(
        presences={name: PresenceRow(name, (StayRow("f0000001", now_ms, 0),), now_ms)},
        claims=[
            ClaimMade(
                resident=name,
                decision=f"d{number:024x}",
                made=made,
                made_ms=now_ms,
                claims_before=claims_before,
                budget_total=10_000_000,
                budget_day=None,
                day=DAY,
                why=b'{"candidates":[],"allowed_by":[]}',
            )
        ],
    )


@asynccontextmanager
async def _journal() -> AsyncIterator[tuple[Journal, asyncio.Event]]:
    """A journal on a new database, which is gone afterwards, and what each commit sets."""
    room = asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="passby-bench-") as folder, removed(Path(folder)):
        server = EmbeddedPostgres(Path(folder))
        store = PostgresStore(await server.start())
        try:
            await store.open()
            journal = Journal(
                store,
                lost=_lost,
                found=lambda _states, _counts: None,
                committed=lambda _changes, _outcome: room.set(),
                clock_ms=lambda: time_ns() // 1_000_000,
            )
            try:
                yield journal, room
            finally:
                await journal.close()
        finally:
            await store.close()
            await server.stop()
        if journal.claims_refused:
            raise Lost(f"{journal.claims_refused} claims were refused")


class Lost(Exception):
    """Something that was given to the journal did not become durable."""


def _lost(residents: set[str], _: set[str]) -> None:
    raise Lost(f"the changes of {len(residents)} residents")
