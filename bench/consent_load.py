"""Load all residents of a database as a process does that starts, and measure it: for `consent`.

Memory is the process' own, less what it took before the first resident.
"""

import gc
import os
import random
import resource
import sys
import time
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec
import uvloop

from bench.timing import in_turns, median, settled_memory
from engine.changes import Changes
from engine.pipeline import Engine
from engine.store.follow import Follower
from engine.store.postgres import PostgresStore
from engine.store.told import ResidentTold

NOW_MS: Final = 1_779_969_600_000
"""Thursday 28 May 2026, 12:00 UTC."""
CATEGORIES: Final = ("cafes", "books", "music")
WARM: Final = 500
"""Residents whose rows the processor's caches hold."""
ROUNDS: Final = 200
_MB: Final = 1_000_000


class Took(msgspec.Struct):
    """Of one decision."""

    least_us: float
    median_us: float


class Measured(msgspec.Struct):
    """What a load came to."""

    residents: int
    rows: int
    """Different ones."""
    load_s: float
    cpu_s: float
    """Of the process that loads; the database's is not in it."""
    turn_ms: float
    """The longest that the event loop was held by a slice."""
    held_mb: float
    peak_mb: float
    decisions: dict[str, Took]


async def load(url: str) -> tuple[Engine, float]:
    """An engine with all residents, and the longest slice, milliseconds."""
    engine = Engine(secret=b"passby bench: ids worth nothing")
    store = PostgresStore(url)
    follower = Follower(store, engine, {}, clock_ms=lambda: NOW_MS, write=_nothing)
    longest_s = 0.0

    def take(told: list[ResidentTold]) -> None:
        nonlocal longest_s
        began_s = perf_counter()
        follower.take_residents(told)
        longest_s = max(longest_s, perf_counter() - began_s)

    await store.open()
    try:
        await store.snapshot(now_ms=NOW_MS, take=take)
    finally:
        await store.close()
    return engine, longest_s * 1_000


def _nothing(_: Changes) -> None:
    """Nothing is to be written."""


def measure(url: str, asked: int) -> Measured:
    """Load and decide."""
    gc.collect()
    before_mb = _resident_mb()
    began_s, began_cpu_s = perf_counter(), time.process_time()
    engine, turn_ms = uvloop.run(load(url))
    load_s, cpu_s = perf_counter() - began_s, time.process_time() - began_cpu_s
    with settled_memory():
        held_mb, peak_mb = _resident_mb() - before_mb, _peak_mb() - before_mb
        residents = len(engine.preferences)
        return Measured(
            residents=residents,
            rows=engine.preferences.rows,
            load_s=load_s,
            cpu_s=cpu_s,
            turn_ms=turn_ms,
            held_mb=held_mb,
            peak_mb=peak_mb,
            decisions={
                "decide, warm": _decide(engine, min(WARM, residents), asked),
                "decide, anybody": _decide(engine, residents, asked),
            },
        )


def _decide(engine: Engine, residents: int, asked: int) -> Took:
    """Ask the whole rule about some of the first so many residents."""
    rng = random.Random(5)
    questions = [
        (f"r-{rng.randrange(residents):09}", f"b{rng.randrange(2_000)}", (rng.choice(CATEGORIES),))
        for _ in range(asked)
    ]
    refusal = engine.preferences.offer_refusal
    place = 0
    size = max(1, asked // ROUNDS)

    def some() -> int:
        nonlocal place
        part = questions[place : place + size]
        place = (place + size) % asked
        for resident, brand, categories in part:
            refusal(resident, brand, categories, (), "offers", "push", now_ms=NOW_MS, mono_ms=0)
        return len(part)

    took = in_turns({"decide": some}, ROUNDS)["decide"]
    return Took(min(took), median(took))


def _resident_mb() -> float:
    """Memory of this process now; where the system does not tell, the most so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return _peak_mb()
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure(sys.argv[1], int(sys.argv[2]))))
