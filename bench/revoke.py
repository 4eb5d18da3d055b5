"""From a withdrawal to silence: two services on one database, and residents who post to both.

Each resident opts in, walks from offer to offer, and withdraws at one of the two while pings are on
their way to both; then goes on posting, and must get nothing. What is measured is what a phone
sees: from sending the withdrawal to reading that it is in force.

Two things must never be: an offer for a ping that was sent after the acknowledgement was read, and
an offer that left a server after the acknowledgement was given. All clocks are this machine's.
``python -m bench.revoke --no-second-gate`` shows that a service without its second gate is caught.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import uvloop

from bench.leftovers import ended, removed
from bench.table import Row
from bench.timing import percentile, progress, told
from loadtest.city import City

ROOT: Final = Path(__file__).resolve().parent.parent
KEY: Final = "pb_operator_bench"
START_S: Final = 60.0
FENCES: Final = 24
LON: Final = 24.9
LAT: Final = 60.17
STEP_DEG: Final = 0.02
"""Between two fences: 1.1 km."""
PINGS_BEFORE: Final = 4
"""Before a withdrawal, one in four of them to the other server."""
PINGS_AFTER: Final = 3
REST_S: Final = 6.0
"""Longest pause between two pings of a resident; enough for two servers, two cores and us."""
AGAIN_S: Final = 0.1
"""Longest pause before saying again what was refused for the moment."""
BREATH_S: Final = 0.02
"""The same while a withdrawal is on its way."""
AT_A_TIME: Final = 64
"""Calls under way while all is made ready."""
LIFTED: Final = {
    "PASSBY_OPERATOR_KEY": KEY,
    "PASSBY_ATTENTION_PER_DAY": "1000000",
    "PASSBY_ATTENTION_PER_WEEK": "1000000",
    "PASSBY_PORT": "0",
}


class Withdrawal(msgspec.Struct):
    """One that was acknowledged."""

    resident: str
    took_s: float
    """From sending it to reading the acknowledgement."""
    acknowledged_ms: int
    """By the server's clock, Unix."""
    until_ns: int = 1 << 63
    """When the next opt-in was sent, Unix."""


class Found(msgspec.Struct):
    """What a run came to."""

    withdrawals: list[Withdrawal] = []
    asked: int = 0
    """Pings answered while opted in, before the withdrawal was sent."""
    offered: int = 0
    """Those of them that got an offer."""
    refused: int = 0
    """What was answered 503."""
    meanwhile: int = 0
    """Pings sent during a withdrawal that still got an offer, and rightly so."""
    after: int = 0
    """Pings sent after an acknowledgement was read."""
    offered_after: int = 0
    """Those of them that got an offer: there must be none."""
    left_after: int = 0
    """Offers that left after an acknowledgement: there must be none."""
    left: int = 0
    """Offers that left, as the servers wrote down."""


class BadAnswer(Exception):
    """A server answered what it should not."""


class Walker:
    """One resident."""

    def __init__(
        self, name: str, sessions: list[aiohttp.ClientSession], found: Found, rest_s: float
    ) -> None:
        self.name = name
        self._rest_s = rest_s
        self._sessions = sessions
        self._found = found
        self._chance = random.Random(name)
        self._version = 0
        self._place = self._chance.randrange(FENCES)
        self._at_ms = 0

    async def settle(self, zone: str) -> None:
        """Be known, and want as many offers as there are."""
        session = self._sessions[0]
        await call(session, "POST", "/v1/residents", {"resident": self.name, "timezone": zone})

    async def go(self, rounds: int) -> None:
        """Opt in, walk and withdraw, so many times."""
        withdrawn: Withdrawal | None = None
        await asyncio.sleep(self._chance.uniform(0, self._rest_s))
        for turn in range(rounds):
            here, there = self._sessions[turn % 2], self._sessions[1 - turn % 2]
            says = self._sessions[turn // 2 % 2]
            if withdrawn is not None:
                withdrawn.until_ns = time.time_ns()
            await self._say(here, wanted=True)
            for number in range(PINGS_BEFORE):
                offer = await self._ping(there if number % 4 == 3 else here)
                self._found.asked += 1
                self._found.offered += bool(offer)
                await asyncio.sleep(self._chance.uniform(0, self._rest_s))
            done = asyncio.Event()
            going_on = [asyncio.create_task(self._go_on(one, done)) for one in (here, there)]
            withdrawn = await self._withdraw(says)
            done.set()
            for number in range(PINGS_AFTER):
                offer = await self._ping(self._sessions[number % 2])
                self._found.after += 1
                self._found.offered_after += bool(offer)
            self._found.meanwhile += sum(await asyncio.gather(*going_on))

    async def _go_on(self, session: aiohttp.ClientSession, done: asyncio.Event) -> int:
        """Post while the withdrawal is on its way; how many offers came."""
        offers = 0
        while not done.is_set():
            offers += bool(await self._ping(session))
            await asyncio.sleep(self._chance.uniform(0, BREATH_S))
        return offers

    async def _withdraw(self, session: aiohttp.ClientSession) -> Withdrawal:
        began_s = time.perf_counter()
        told = await self._say(session, wanted=False)
        took_s = time.perf_counter() - began_s
        done = Withdrawal(self.name, took_s, told["acknowledged_ms"])
        self._found.withdrawals.append(done)
        return done

    async def _say(self, session: aiohttp.ClientSession, *, wanted: bool) -> Any:
        marketing = f"/v1/residents/{self.name}/preferences/marketing"
        headers = {"If-Match": f'"{self._version}"'} if wanted and self._version else {}
        while True:
            body = {"opted_in": wanted}
            told = await call(session, "PUT", marketing, body, but=503, headers=headers)
            if told is not None:
                self._version = told["version"]
                return told
            self._found.refused += 1
            await asyncio.sleep(self._chance.uniform(0, AGAIN_S))

    async def _ping(self, session: aiohttp.ClientSession) -> Any:
        """Be in the next fence; the offer, if any."""
        self._place = (self._place + 1) % FENCES
        self._at_ms = max(self._at_ms + 1, time.time_ns() // 1_000_000)
        lon = LON + STEP_DEG * self._place
        ping = {"resident": self.name, "at_ms": self._at_ms, "lon": lon, "lat": LAT}
        told = await call(session, "POST", "/v1/pings", ping | {"accuracy_m": 5.0}, but=503)
        self._found.refused += told is None
        return told and told["offer"]


async def call(
    session: aiohttp.ClientSession, method: str, path: str, body: Any, *, but: int = 0, **more: Any
) -> Any:
    """The body of an answer; None for the one status that may also be.

    Raises:
        BadAnswer: it is another one.
    """
    data = msgspec.json.encode(body)
    async with session.request(method, path, data=data, **more) as answer:
        raw = await answer.read()
        if answer.status == but:
            return None
        if answer.status >= 300:
            raise BadAnswer(f"{method} {path}: {answer.status} {raw.decode()}")
        return msgspec.json.decode(raw)


def run(*, residents: int, withdrawals: int) -> list[Row]:
    """Measure; raises where anything left that should not.

    Raises:
        BadAnswer: it did.
    """
    with told(f"revoke: {withdrawals:,} withdrawals of {residents:,} residents"):
        found = measure(residents=residents, withdrawals=withdrawals)
    if found.offered_after or found.left_after:
        raise BadAnswer(f"a withdrawal was not final: {summary(found)}")
    took_us = [1e6 * withdrawal.took_s for withdrawal in found.withdrawals]
    return [
        Row(
            name="revoke to silence",
            fences=FENCES,
            least_us=min(took_us),
            median_us=percentile(took_us, 0.5),
            p99_us=percentile(took_us, 0.99),
            note=summary(found),
        )
    ]


def summary(found: Found) -> str:
    """What was seen, in a sentence."""
    return (
        f"two servers; {len(found.withdrawals):,} withdrawals; {found.offered / found.asked:.0%} "
        f"of {found.asked:,} pings before them got an offer, {found.offered_after:,} of "
        f"{found.after:,} after them; {found.left_after:,} of {found.left:,} offers left after one"
    )


def measure(
    *, residents: int, withdrawals: int, rest_s: float = REST_S, second_gate: bool = True
) -> Found:
    """Run two services and the residents.

    Args:
        residents: who walk at the same time.
        withdrawals: of all of them together, at least.
        rest_s: longest pause between two pings of a resident.
        second_gate: False: without the gate at which they are asked once more.
    """
    with tempfile.TemporaryDirectory(prefix="passby-bench-") as folder, ExitStack() as stack:
        data, gate = Path(folder), () if second_gate else ("--no-second-gate",)
        one, other, stamps = data / "one", data / "other", [data / "s1", data / "s2"]
        stack.enter_context(removed(one))
        found = Found()
        with ExitStack() as servers:
            urls = [servers.enter_context(_server(one, stamps[0], *gate))]
            database = (one / "database.url").read_text(encoding="utf-8").strip()
            urls.append(servers.enter_context(_server(other, stamps[1], *gate, database=database)))
            rounds = -(-withdrawals // residents)
            names = [f"walker-{number:04}" for number in range(residents)]
            uvloop.run(_walk(urls, found, names, rounds, rest_s))
        lines = [line for path in stamps for line in path.read_text().splitlines()]
    _hold_against(found, lines)
    return found


def _hold_against(found: Found, stamps: Iterable[str]) -> None:
    """Count the offers that left while their resident had withdrawn."""
    silent: dict[str, list[Withdrawal]] = defaultdict(list)
    for withdrawal in found.withdrawals:
        silent[withdrawal.resident].append(withdrawal)
    for line in stamps:
        resident, at_ns = line.split()
        found.left += 1
        found.left_after += any(
            one.acknowledged_ms < int(at_ns) // 1_000_000 and int(at_ns) < one.until_ns
            for one in silent[resident]
        )


@contextmanager
def _server(data: Path, stamps: Path, *flags: str, database: str = "") -> Iterator[str]:
    """A service on a free port; its address."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PASSBY_")}
    data.mkdir(parents=True, exist_ok=True)
    said = data / "server.log"
    command = [sys.executable, "-m", "bench.revoke_server", "--data", str(data)]
    command += ["--stamps", str(stamps), *flags]
    environ = {**kept, **LIFTED} | ({"PASSBY_DATABASE_URL": database} if database else {})
    with said.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log)
        with ended(process):
            until_s = time.monotonic() + START_S
            while time.monotonic() < until_s and process.poll() is None:
                _, there, rest = said.read_text(encoding="utf-8").partition("listening on ")
                if there and "\n" in rest:
                    yield rest.split("\n")[0]
                    return
                time.sleep(0.05)
            raise BadAnswer(said.read_text(encoding="utf-8")[-2_000:])


async def _walk(
    urls: list[str], found: Found, names: list[str], rounds: int, rest_s: float
) -> None:
    """Make all ready, and have the residents walk."""
    sessions = [
        aiohttp.ClientSession(
            url,
            headers={"Authorization": f"Bearer {KEY}"},
            connector=aiohttp.TCPConnector(limit=0),
        )
        for url in urls
    ]
    try:
        zone = City.daytime_zone(time.time_ns() // 1_000_000)
        for kind in ("brands", "fences", "offers"):
            paths = (f"/v1/{kind}/{kind[0]}-{n}" for n in range(FENCES))
            bodies = (_body(kind, n, zone) for n in range(FENCES))
            await _side_by_side(
                call(sessions[0], "PUT", path, body)
                for path, body in zip(paths, bodies, strict=True)
            )
        walkers = [Walker(name, sessions, found, rest_s) for name in names]
        await _side_by_side(walker.settle(zone) for walker in walkers)
        await asyncio.gather(*(walker.go(rounds) for walker in walkers))
    finally:
        for session in sessions:
            await session.close()


def _body(kind: str, number: int, zone: str) -> dict[str, Any]:
    """A brand, its fence and its offer, of which everybody may have any number."""
    if kind == "brands":
        return {"name": "A café", "categories": ["cafe"], "timezone": zone}
    if kind == "fences":
        at = {"type": "Point", "coordinates": [LON + STEP_DEG * number, LAT]}
        told = {"brand": f"b-{number}", "name": "A door", "radius_m": 60.0}
        return {"type": "Feature", "geometry": at, "properties": told}
    return {
        "brand": f"b-{number}",
        "title": "A bun",
        "body": "With any coffee.",
        "fences": [f"f-{number}"],
        "trigger": "enter",
        "status": "live",
        "caps": {"cool_down_s": 0},
    }


async def _side_by_side(calls: Iterable[Awaitable[object]]) -> None:
    """Run calls, a bounded number of them at a time."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def one(work: Awaitable[object]) -> None:
        async with places:
            await work

    await asyncio.gather(*map(one, calls))


def main(argv: list[str] | None = None) -> int:
    """Measure alone; 1 if anything left that should not have."""
    parser = argparse.ArgumentParser(prog="python -m bench.revoke", description=__doc__)
    parser.add_argument("--residents", type=int, default=200)
    parser.add_argument("--withdrawals", type=int, default=1_200)
    parser.add_argument("--no-second-gate", action="store_true", help="to see that it is missed")
    arguments = parser.parse_args(argv)
    found = measure(
        residents=arguments.residents,
        withdrawals=arguments.withdrawals,
        second_gate=not arguments.no_second_gate,
    )
    took_ms = [1e3 * withdrawal.took_s for withdrawal in found.withdrawals]
    progress(summary(found))
    progress(f"{found.meanwhile:,} of those sent meanwhile were in time, {found.refused:,} refused")
    p50_ms, p99_ms = percentile(took_ms, 0.5), percentile(took_ms, 0.99)
    print(f"revoke to silence: p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms")
    return 1 if found.offered_after or found.left_after else 0


if __name__ == "__main__":
    sys.exit(main())
