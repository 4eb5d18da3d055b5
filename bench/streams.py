"""Streams and imports over HTTP: a real `passby serve`, and this process as its client.

The client takes part of the machine too, more of it than the load of `serve` does: it reads every
answer by aiohttp. So the figures say what comes out at least, and are for comparing versions.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter, time_ns
from typing import Final, NamedTuple

import aiohttp
import msgspec
import orjson
import uvloop

from bench.city import DWELL_S, STEP_MS, Walk, bodies, make_fences
from bench.leftovers import removed
from bench.serve import CALM, KEY, fill, server
from bench.table import Row
from bench.timing import told as telling
from geofences.geojson import to_feature

CONNECTIONS: Final = 4
ARRAY: Final = 100
"""Pings in a message of the second way over WebSockets."""
IMPORT_SEED: Final = 5
PIECE_LINES: Final = 500
AHEAD_MS: Final = 20_000
"""How far the event time of the last round may be ahead of the clock."""


LOOK_S: Final = 0.05
QUIET_LOOKS: Final = 6
"""So many looks without a new event, and there are no more."""
READ_S: Final = 60.0
NEVER: Final = aiohttp.ClientTimeout(total=None)


class WrongAnswer(Exception):
    """The server answered something else than it had to."""


def run(*, fences: int, residents: int, rounds: int, readers: int, rows: int) -> list[Row]:
    """Measure.

    Args:
        fences: in the city.
        residents: who send pings over 4 connections, each resident's over one of them.
        rounds: of pings, by each of the ways.
        readers: of events, each of which gets all.
        rows: of a file of fences that is imported twice.
    """
    with (
        telling(f"streams: {fences:,} fences"),
        tempfile.TemporaryDirectory(prefix="passby-bench-") as folder,
        removed(Path(folder)),
    ):
        data = Path(folder)
        uvloop.run(fill(data, fences, residents))
        with server(data) as (_, port):
            return uvloop.run(_measure(port, fences, residents, rounds, readers, rows))


async def _measure(
    port: int, fences: int, residents: int, rounds: int, readers: int, rows: int
) -> list[Row]:
    walk = Walk(residents)
    at_ms = time_ns() // 1_000_000 + AHEAD_MS
    at_ms -= 3 * DWELL_S * 1_000 + (3 * rounds + 1) * STEP_MS

    def send(share: float, step_ms: int) -> list[bytes]:
        nonlocal at_ms
        at_ms += step_ms
        return bodies(walk.step(share), at_ms)

    base, head = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(
        base, headers=head, connector=aiohttp.TCPConnector(limit=0), timeout=NEVER
    ) as session:
        for _ in range(3):
            await _over(_lines, session, [send(CALM, DWELL_S * 1_000)])
        found: list[Row] = []
        for name, way in WAYS.items():
            sent = [send(CALM, STEP_MS) for _ in range(rounds)]
            told = await _over(way, session, sent)
            note = "pings" + (f"; {told.shed:,} more were shed" if told.shed else "")
            rate = told.decided / told.seconds
            found.append(Row(name=name, fences=fences, per_s=rate, note=note))
        found.append(await _fan_out(session, send(0.35, STEP_MS), readers, fences))
        found += await _imports(session, rows, fences)
        return found


Way = Callable[[aiohttp.ClientSession, list[bytes]], Awaitable["_Told"]]


class _Told(NamedTuple):
    """What pings came to."""

    decided: int
    shed: int
    """Because the server could not keep up with what it must know first."""
    seconds: float = 0.0


def _told(text: bytes) -> _Told:
    return _Told(text.count(b'"status":"decided"'), text.count(b'"status":"shed"'))


def _sum(parts: list[_Told]) -> _Told:
    return _Told(sum(one.decided for one in parts), sum(one.shed for one in parts))


async def _over(way: Way, session: aiohttp.ClientSession, rounds: list[list[bytes]]) -> _Told:
    """Send rounds of pings over all connections at once.

    Raises:
        WrongAnswer: not every ping was answered.
    """
    # A resident's pings go over one connection, in their order.
    sent = [[ping for one in rounds for ping in one[n::CONNECTIONS]] for n in range(CONNECTIONS)]
    began_s = perf_counter()
    told = _sum(await asyncio.gather(*(way(session, one) for one in sent)))
    if told.decided + told.shed != sum(map(len, sent)):
        raise WrongAnswer(f"of {sum(map(len, sent))} pings came {told}")
    return told._replace(seconds=perf_counter() - began_s)


def _pieces(pings: list[bytes], size: int) -> Iterator[list[bytes]]:
    return (pings[start : start + size] for start in range(0, len(pings), size))


async def _lines(session: aiohttp.ClientSession, pings: list[bytes]) -> _Told:
    """Pings as one body of lines."""

    async def body() -> AsyncIterator[bytes]:
        for some in _pieces(pings, PIECE_LINES):
            yield b"\n".join(some) + b"\n"

    kind = {"Content-Type": "application/x-ndjson"}
    async with session.post("/v1/pings", data=body(), headers=kind) as response:
        return _sum([_told(line) async for line in response.content])


async def _messages(session: aiohttp.ClientSession, pings: list[bytes], size: int) -> _Told:
    """Pings in messages of a WebSocket, each sent before the answers to those before have come."""
    messages = (
        [ping.decode() for ping in pings]
        if size == 1
        else [f"[{b','.join(some).decode()}]" for some in _pieces(pings, size)]
    )
    async with session.ws_connect("/v1/pings/stream", max_msg_size=0) as socket:

        async def send() -> None:
            for message in messages:
                await socket.send_str(message)

        sending = asyncio.create_task(send())
        told = _sum([_told((await socket.receive_str()).encode()) for _ in messages])
        await sending
        return told


WAYS: Final[dict[str, Way]] = {
    "streams calm, lines": _lines,
    "streams calm, a message each": lambda session, pings: _messages(session, pings, 1),
    f"streams calm, messages of {ARRAY}": lambda session, pings: _messages(session, pings, ARRAY),
}


class _Reader:
    """Reads a stream of events; counts those that came whole."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.events = self.last_id = 0
        self.last_s = 0.0

    async def run(self) -> None:
        """Until it is cancelled."""
        rest = b""
        async for part in self._response.content.iter_any():
            whole, end, rest = (rest + part).rpartition(b"\n\n")
            if not end:
                continue
            # A comment that shows life has an id too.
            self.last_id = int(whole.rpartition(b"id: ")[2].partition(b"\n")[0])
            if events := whole.count(b"event: "):
                self.events += events
                self.last_s = perf_counter()


async def _fan_out(
    session: aiohttp.ClientSession, pings: list[bytes], count: int, fences: int
) -> Row:
    """Everybody reads all events while a round of the walk makes them."""
    await _until_read(session, [])  # what earlier rounds made is no event of this one
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(session.get("/v1/events", timeout=NEVER))
            for _ in range(count)
        ]
        readers = [_Reader(one) for one in opened]
        reading = [asyncio.create_task(reader.run()) for reader in readers]
        began_s = perf_counter()
        try:
            await _over(_lines, session, [pings])
            await _until_read(session, readers)
        finally:
            for task in reading:
                task.cancel()
    events = readers[0].events
    if not events or {reader.events for reader in readers} != {events}:
        raise WrongAnswer(f"readers got {sorted({reader.events for reader in readers})} events")
    seconds = max(reader.last_s for reader in readers) - began_s
    note = f"events handed over; {count} readers, {events:,} events to each"
    return Row(name="streams, events", fences=fences, per_s=events * count / seconds, note=note)


async def _until_read(session: aiohttp.ClientSession, readers: list[_Reader]) -> None:
    """Wait until no more events come, and everybody has the last one.

    Raises:
        TimeoutError: somebody does not get it.
    """
    newest, quiet = -1, 0
    async with asyncio.timeout(READ_S):
        while quiet < QUIET_LOOKS or any(reader.last_id < newest for reader in readers):
            await asyncio.sleep(LOOK_S)
            async with session.get("/metrics") as response:
                _, _, after = (await response.text()).rpartition("\npassby_event_number ")
            number = int(float(after.partition("\n")[0]))
            newest, quiet = number, quiet + 1 if number == newest else 0


async def _imports(session: aiohttp.ClientSession, count: int, fences: int) -> list[Row]:
    """The same file of fences twice: all of them new, and none."""
    features = [to_feature(fence) for fence in make_fences(count, IMPORT_SEED)]
    for number, feature in enumerate(features):
        feature["id"] = f"import-{number}"
        feature["properties"]["brand"] = "import"
    data = b"\n".join(map(orjson.dumps, features))
    async with session.put("/v1/brands/import", json={"name": "Import"}) as response:
        response.raise_for_status()
    rows = []
    for name, wanted in (("new", "created"), ("as they are", "unchanged")):
        began_s = perf_counter()
        kind = {"Content-Type": "application/x-ndjson"}
        async with session.post("/v1/fences/import", data=data, headers=kind) as response:
            told = msgspec.json.decode(await response.read())
        seconds = perf_counter() - began_s
        if told.get(wanted) != count:
            raise WrongAnswer(f"{told.get(wanted)} of {count} fences were {wanted}")
        note = f"fences, until they are live; {len(data) / count:,.0f} bytes each"
        rows.append(Row(name=f"import, {name}", fences=fences, per_s=count / seconds, note=note))
    return rows
