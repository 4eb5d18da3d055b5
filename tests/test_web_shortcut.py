"""Plain posts of pings go a way of their own: the same answers, in the same order, always."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.app import clock_ms
from engine.web.connection import REST_SECONDS
from tests.test_web_serving import HeldStore
from tests.web_town import OPERATOR, Town, offer, town

OTHER_WAY = {"Sec-GPC": "0"}
"""Asks for nothing, and sends a request aiohttp's way."""


def request(
    body: bytes, *, key: str = OPERATOR, start: str = "POST /v1/pings", **more: str
) -> bytes:
    """The bytes of a request."""
    headers = {"Host": "here", "Authorization": f"Bearer {key}", "Content-Length": str(len(body))}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{start} HTTP/1.1\r\n{told}\r\n".encode() + body


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, *pieces: bytes) -> None:
        """Send pieces, each on its way before the next."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def hear(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers["Content-Length"]))
        assert first.startswith("HTTP/1.1 "), first
        return int(first.split()[1]), headers, body


@contextlib.asynccontextmanager
async def talk(here: Town) -> AsyncIterator[Talk]:
    """A connection to a town."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def taken(here: Town) -> int:
    """How many requests went the short way."""
    text = (await here.call("GET", "/metrics", key=None)).body
    found = re.search(r"^passby_requests_short (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def _bodies(here: Town) -> dict[str, bytes]:
    """Whatever may come; the residents of pings that are decided are called R."""
    ping = here.ping("R")
    told: dict[str, Any] = {
        "one": ping,
        "one with more": ping | {"id": "p-1", "speed_mps": 1.5, "unknown": [1]},
        "outside": ping | {"lon": 1.0},
        "nobody's": {k: v for k, v in ping.items() if k != "resident"},
        "unknown resident": ping | {"resident": "nobody"},
        "old": ping | {"at_ms": 1},
        "wrong type": ping | {"lat": "north"},
        "no range": ping | {"lat": 91.0},
        "batch": {"pings": [ping, ping | {"lat": "x"}, ping | {"resident": "nobody"}]},
        "empty batch": {"pings": []},
        "more than a slice": {"pings": [ping | {"resident": "nobody"}] * 501},
        "too many": {"pings": [ping] * 1_001},
        "an array": [],
    }
    odd = {
        "empty": b"",
        "no JSON": b'{"resident":',
        "no UTF-8": b'{"resident":"\xff"}',
        "NaN": b'{"resident":"R","at_ms":1,"lat":NaN,"lon":1}',
        "deep": b"[" * 50_000,
        "a request": request(b"{}"),
    }
    return {name: msgspec.json.encode(value) for name, value in told.items()} | odd


def _same(answer: tuple[int, dict[str, str], bytes], name: str) -> Any:
    """An answer without what differs by time and by resident."""
    status, headers, body = answer
    text = body.decode().replace(name, "R")
    headers = {k: re.sub(r";[rt]=\d+", "", v) for k, v in headers.items() if k != "Date"}
    for secret in ("decision", "claim", "code"):
        text = re.sub(rf'"{secret}":"[^"]+"', f'"{secret}":"X"', text)
    return status, list(headers.items()), text


@pytest.mark.parametrize("key", [OPERATOR, "nobody's key", "merchant", "resident"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"requests_per_second_max": 100_000, "cors_origins": "https://a.example"},
        {"cors_origins": "*"},
        {"waiting_max": 0},
    ],
    ids=["as it is", "rates", "origins", "full"],
)
async def test_both_ways_answer_alike(tmp_path: Path, key: str, more: dict[str, Any]) -> None:
    """Status, headers in their order, and body: of good bodies and of each kind of bad one."""
    now_ms = clock_ms()
    more = {"pings_max": 1_000, "slice_pings_max": 500, **more}
    async with town(tmp_path, clock_ms=lambda: now_ms, **more) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        used = await here.key("merchant", brands=["cafe"]) if key == "merchant" else key
        for place, (what, body) in enumerate(_bodies(here).items()):
            before, answers = await taken(here), []
            for way, headers in (("short", {}), ("other", OTHER_WAY)):
                name = f"res-{place}-{way}"
                own = await here.resident(name)
                sent = request(
                    body.replace(b'"R"', f'"{name}"'.encode()),
                    key=own if key == "resident" else used,
                    X_Request_Id="request-0001",
                    **headers,
                )
                async with talk(here) as connection:
                    await connection.say(sent)
                    answers.append(_same(await connection.hear(), name))

            assert answers[0] == answers[1], what
            assert await taken(here) == before + 1, what


PLAIN, OTHER, ELSEWHERE = "plain", "other", "elsewhere"
START = b"POST /v1/pings HTTP/1.1"


def _sent(here: Town, kind: str, number: int) -> bytes:
    """A request whose answer tells its number, and which looks within like another one."""
    called = f"request-{number:04}"
    if kind == ELSEWHERE:
        start = f"GET /healthz HTTP/1.1\r\nX-Note: {START.decode()}\r\nX-Request-Id: {called}\r\n"
        return start.encode() + request(b"").partition(b"\r\n")[2]
    inner = request(b"{}", X_Request_Id="never-sent-1").decode()
    body = msgspec.json.encode(here.ping(f"r{number}", id="p", unknown=inner))
    # In a string of JSON a line's end is escaped; where it is not, the body is none.
    body = body.replace(b"\\r\\n", b"\r\n") if number % 2 else body
    return request(body, X_Request_Id=called, **(OTHER_WAY if kind == OTHER else {}))


@given(
    kinds=st.lists(st.sampled_from([PLAIN, OTHER, ELSEWHERE]), min_size=1, max_size=5),
    cuts=st.lists(st.floats(0, 1), max_size=5),
    starts=st.lists(st.integers(0, 9), max_size=3),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_however_it_is_cut_each_request_is_answered_once_and_in_its_turn(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[str],
    cuts: list[float],
    starts: list[int],
) -> None:
    """Requests of every kind on one connection, in pieces that end anywhere.

    Or just before what looks like the beginning of a request.
    """

    async def run() -> list[tuple[str, int]]:
        async with town(tmp_path_factory.mktemp("town")) as here, talk(here) as connection:
            whole = b"".join(_sent(here, kind, n) for n, kind in enumerate(kinds))
            found = [match.start() for match in re.finditer(re.escape(START), whole)]
            places = {int(cut * len(whole)) for cut in cuts}
            places |= {found[start % len(found)] for start in starts}
            places |= {0, len(whole)}
            await connection.say(*(whole[a:b] for a, b in itertools.pairwise(sorted(places))))
            heard = [await connection.hear() for _ in kinds]
            connection.writer.write_eof()
            assert await connection.reader.read() == b""
            return [(headers["X-Request-Id"], status) for status, headers, _ in heard]

    assert asyncio.run(run()) == [
        (f"request-{n:04}", 400 if n % 2 and kind != ELSEWHERE else 200)
        for n, kind in enumerate(kinds)
    ]


async def test_a_body_behind_its_head_takes_the_short_way(tmp_path: Path) -> None:
    """As many clients send it; one that is long in coming is aiohttp's, which waits longer."""
    async with town(tmp_path) as here, talk(here) as connection:
        head, end, body = request(msgspec.json.encode(here.ping())).partition(b"\r\n\r\n")
        await connection.say(head + end)
        assert await taken(here) == 0
        await connection.say(body)
        assert (await connection.hear())[0] == 200
        assert await taken(here) == 1
        await connection.say(head + end)
        await asyncio.sleep(1.5 * REST_SECONDS)
        await connection.say(body)
        assert (await connection.hear())[0] == 200
        await connection.say(head + end + body)
        assert (await connection.hear())[0] == 200
        assert await taken(here) == 2


async def test_a_connection_that_is_cut_within_a_body_takes_the_short_way_again(
    tmp_path: Path,
) -> None:
    """What comes in pieces is aiohttp's; where it ends is known, so the next one is not."""
    async with town(tmp_path) as here, talk(here) as connection:
        whole = request(msgspec.json.encode(here.ping()))
        await connection.say(whole)
        await connection.hear()
        await connection.say(whole[:-9])
        assert await taken(here) == 1
        await connection.say(whole[-9:])
        await connection.hear()
        assert await taken(here) == 1
        await connection.say(whole)
        await connection.hear()
        assert await taken(here) == 2


@pytest.mark.parametrize("together", [True, False])
async def test_nobody_overtakes_an_answer_that_waits(tmp_path: Path, together: bool) -> None:
    """What comes behind a ping that waits for its commit is answered behind it, of either way."""
    store = HeldStore()
    async with town(tmp_path, store) as here, talk(here) as connection:
        await here.brand("cafe")
        await here.resident()
        waits = request(msgspec.json.encode(here.ping()), X_Request_Id="request-wait")
        behind = [_sent(here, kind, n) for n, kind in enumerate((PLAIN, ELSEWHERE, OTHER), 1)]
        await connection.say(b"".join((waits, *behind)) if together else waits)
        await store.asked.wait()
        if not together:
            await connection.say(*behind)
        assert "passby_waiting 1.0" in (await here.call("GET", "/metrics", key=None)).body
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.reader.readexactly(1)
        store.go.set()
        heard = [await connection.hear() for _ in range(4)]

        assert [headers["X-Request-Id"] for _, headers, _ in heard] == [
            "request-wait",
            *(f"request-{n:04}" for n in (1, 2, 3)),
        ]
        assert b'"enter"' in heard[0][2]


async def test_who_hangs_up_while_an_answer_waits_takes_nobody_along(tmp_path: Path) -> None:
    """The ping counts all the same, and the service goes on."""
    store = HeldStore()
    async with town(tmp_path, store) as here:
        await here.brand("cafe")
        await here.resident()
        ping = here.ping()
        async with talk(here) as connection:
            await connection.say(request(msgspec.json.encode(ping)))
            await store.asked.wait()
        store.go.set()
        again = await here.must("POST", "/v1/pings", ping)

        assert again["status"] == "duplicate"
        assert "passby_waiting 0.0" in (await here.call("GET", "/metrics", key=None)).body


async def test_a_client_that_reads_nothing_is_held_up_and_cut_off(tmp_path: Path) -> None:
    """Its answers don't pile up with us."""
    async with town(tmp_path, stalled_seconds_max=1) as here, talk(here) as connection:
        whole = request(msgspec.json.encode({"pings": [here.ping("nobody")] * 200}))
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(_say_for_ever(connection, whole), 30)

        text = (await here.call("GET", "/metrics", key=None)).body
        assert "passby_connections_stalled 1.0" in text


async def _say_for_ever(connection: Talk, whole: bytes) -> None:
    while True:
        await connection.say(whole)


async def test_the_last_answer_of_a_connection_says_so(tmp_path: Path) -> None:
    """A service that stops tells each client with its next answer, and ends the connection."""
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(town(tmp_path, drain_seconds=5))
        async with talk(here) as connection:
            whole = request(msgspec.json.encode(here.ping("nobody")))
            first = last = await _answer(connection, whole)
            ending = asyncio.create_task(stack.aclose())
            while "Connection" not in last[1]:
                last = await _answer(connection, whole)
            left = await connection.reader.read()
            await ending

    assert "Connection" not in first[1]
    assert (last[0], last[1]["Connection"], left) == (200, "close", b"")


async def _answer(connection: Talk, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    await connection.say(sent)
    return await connection.hear()
