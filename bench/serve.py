"""Pings over HTTP: a real `passby serve` in its own process, the load in another, over loopback.

PostgreSQL is the embedded one, with fsync. The calm city is what the bars are for: 96 % of the
residents stand, at home or at work, so that few pings change anything. The walk is the honest
city, in which 65 % walk: what it takes is mostly what PostgreSQL commits.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
import orjson
import uvloop

from bench.city import DWELL_S, make_brands, make_fences, make_offers, opted_in, resident_id
from bench.leftovers import ended, removed
from bench.load import Phase, Plan, Result
from bench.table import Row
from bench.timing import told
from engine.consent.record import record_id
from engine.residents import ResidentSettings
from engine.store.embedded import EmbeddedPostgres
from engine.store.port import FenceRow
from engine.store.postgres import PostgresStore
from engine.store.queries import load_queries
from engine.store.rows import who
from geofences.geojson import to_feature
from loadtest.city import City

ROOT: Final = Path(__file__).resolve().parent.parent
KEY: Final = "pb_operator_bench"
CALM: Final = 0.96
BATCH: Final = 100
WARM_ROUNDS: Final = 3
START_S: Final = 60.0
SETTINGS: Final = {
    "PASSBY_OPERATOR_KEY": KEY,
    "PASSBY_ATTENTION_PER_DAY": "3",
    "PASSBY_ATTENTION_PER_WEEK": "10",
}


class ServerFailed(Exception):
    """The server did not start, or the load did not come through; the text is what was said."""


def phases(residents: int, rounds: int) -> list[Phase]:
    """What is measured, after all residents have been seen where they are, and stayed there.

    Batches run two and three times the rounds, since they take a fifth of the time. They never
    come over so many connections that a resident's next ping could overtake the one before.
    """
    few = max(1, min(8, residents // BATCH // 2))
    return [
        Phase(
            name="warm",
            rounds=WARM_ROUNDS,
            batch=BATCH,
            connections=few,
            standing=CALM,
            step_ms=DWELL_S * 1_000,
        ),
        Phase(name="serve calm, one a request", rounds=rounds, standing=CALM),
        Phase(
            name="serve calm, batches of 100",
            rounds=3 * rounds,
            batch=BATCH,
            connections=few,
            standing=CALM,
        ),
        Phase(name="serve walk, one a request", rounds=rounds),
        Phase(name="serve walk, batches of 100", rounds=2 * rounds, batch=BATCH, connections=few),
    ]


def run(*, fences: int, residents: int, rounds: int) -> list[Row]:
    """Measure at one number of fences."""
    with told(f"serve: {fences:,} fences"):
        results = measure(fences=fences, residents=residents, rounds=rounds)
    return [_row(result, fences) for result in results if result.name != "warm"]


def measure(*, fences: int, residents: int, rounds: int) -> list[Result]:
    """Run a server and the load against it.

    Raises:
        ServerFailed: either did not come through.
    """
    with tempfile.TemporaryDirectory(prefix="passby-bench-") as folder, removed(Path(folder)):
        data = Path(folder)
        uvloop.run(fill(data, fences, residents))
        with server(data) as (pid, port):
            plan = Plan(
                host="127.0.0.1",
                port=port,
                key=KEY,
                residents=residents,
                server_pid=pid,
                phases=phases(residents, rounds),
            )
            return loaded(plan)


async def fill(data: Path, fences: int, residents: int) -> None:
    """Write the city into a new database, as others would have done before the server starts."""
    database = EmbeddedPostgres(data)
    url = await database.start()
    store = PostgresStore(url)
    try:
        await store.open()
        brands = make_brands(fences)
        for brand in brands:
            await store.put_brand(brand)
        for offer in make_offers(brands):
            await store.put_offer(offer)
        rows = [
            FenceRow(id=f.id, brand=f.brand, feature=orjson.dumps(to_feature(f)))
            for f in make_fences(fences)
        ]
        await store.put_fences(rows)
        now_ms = time.time_ns() // 1_000_000
        settings = ResidentSettings(timezone=City.daytime_zone(now_ms))
        names = [resident_id(number) for number in range(residents)]
        await store.create_residents(dict.fromkeys(names, settings))
        await _opt_in(url, names, now_ms)
    finally:
        await store.close()
        await database.stop()


async def _opt_in(url: str, names: list[str], now_ms: int) -> None:
    """Let everybody say yes, with one commit instead of one each."""
    arguments = []
    for name in names:
        said = opted_in(name, now_ms=now_ms)
        versions = [record.version for record in said]
        ids = [record_id(record) for record in said]
        bodies = [msgspec.json.encode(record) for record in said]
        arguments.append((name, 0, versions, ids, bodies, who(None)))
    connection = await asyncpg.connect(url)
    try:
        await connection.executemany(load_queries()["append_records"], arguments)
    finally:
        await connection.close()


@contextmanager
def server(data: Path) -> Iterator[tuple[int, int]]:
    """A server on a free port; its process id and the port."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PASSBY_")}
    said = data / "server.log"
    command = [sys.executable, "-m", "engine.cli", "serve", "--port", "0", "--data", str(data)]
    with ExitStack() as stack:
        log = stack.enter_context(said.open("wb"))
        process = subprocess.Popen(command, cwd=ROOT, env={**kept, **SETTINGS}, stderr=log)
        stack.enter_context(ended(process))
        yield process.pid, _port(process, said)


def _port(process: "subprocess.Popen[bytes]", said: Path) -> int:
    """The port on which the server says that it listens."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        _, found, rest = said.read_text(encoding="utf-8").partition("listening on http://")
        if found and "\n" in rest:
            return int(rest.split("\n")[0].rpartition(":")[2])
        time.sleep(0.05)
    raise ServerFailed(said.read_text(encoding="utf-8")[-2_000:])


def loaded(plan: Plan) -> list[Result]:
    """Run a load in a process of its own; what its phases came to."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with ended(process):
        out, _ = process.communicate(msgspec.json.encode(plan))
    if process.returncode:
        raise ServerFailed("the load did not come through; see above")
    return [msgspec.json.decode(line, type=Result) for line in out.splitlines()]


def _row(result: Result, fences: int) -> Row:
    """A phase as a line of the table."""
    cpu = (
        "" if result.server_cpu is None else f"; the server took {result.server_cpu:.0%} of a core"
    )
    odd = {name: count for name, count in result.statuses.items() if name != "decided"}
    return Row(
        name=result.name,
        fences=fences,
        median_us=result.p50_us,
        p99_us=result.p99_us,
        per_s=result.pings / result.seconds,
        changing=result.changing / result.pings,
        note=f"a request; {result.offers:,} offers{cpu}" + (f"; {json.dumps(odd)}" if odd else ""),
    )
