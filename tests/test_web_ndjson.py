"""POST /v1/pings as a stream of lines, over real HTTP."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.changes import Changes
from engine.store.memory import MemoryStore
from engine.store.port import Committed
from engine.web.ndjson import Lines, TooLong
from engine.web.openapi import document
from engine.web.routes import ROUTES
from tests.running import until
from tests.web_town import OPERATOR, SECRET_RESIDENT, Town, offer, town

NDJSON = "application/x-ndjson"


def line(ping: Any) -> bytes:
    return msgspec.json.encode(ping) + b"\n"


async def post(here: Town, data: bytes, *, key: str = OPERATOR, **headers: str) -> list[Any]:
    """All lines of the answer to a body."""
    reply = await here.call(
        "POST", "/v1/pings", data=io.BytesIO(data), key=key, Content_Type=NDJSON, **headers
    )
    assert reply.status == 200, reply
    assert reply.headers["Content-Type"] == NDJSON
    return [msgspec.json.decode(one) for one in reply.body.splitlines()]


class Duplex:
    """A body that goes on while its answer is read."""

    def __init__(self, here: Town, *, key: str = OPERATOR) -> None:
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        self._url = f"http://127.0.0.1:{here.port}/v1/pings"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": NDJSON}
        self._stack = contextlib.AsyncExitStack()
        self.response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> "Duplex":
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _body(self) -> AsyncIterator[bytes]:
        while part := await self._sent.get():
            yield part

    def send(self, data: bytes) -> None:
        self._sent.put_nowait(data)

    async def line(self) -> Any:
        """The next line of the answer; None at its end."""
        if self.response is None:
            self.response = await self._stack.enter_async_context(
                self._session.post(self._url, data=self._body(), headers=self._headers)
            )
        async with asyncio.timeout(10):
            read = await self.response.content.readline()
        return msgspec.json.decode(read) if read else None


async def test_a_line_in_is_a_line_out_while_the_body_goes_on(tmp_path: Path) -> None:
    """Each line is answered before the next one is sent."""
    async with town(tmp_path) as here, Duplex(here) as stream:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        await here.resident()
        stream.send(line(here.ping(id="a")))
        first = await stream.line()
        stream.send(line(here.ping("nobody", id="b")))
        second = await stream.line()
        stream.send(b"")
        end = await stream.line()

        assert (first["id"], first["status"], first["offer"]["offer"]) == ("a", "decided", "bun")
        assert (second["id"], second["status"]) == ("b", "no_consent")
        assert end is None


async def test_a_broken_line_is_rejected_in_its_place(tmp_path: Path) -> None:
    """No JSON, no ping, a broken limit, bytes that are no text; blank lines are skipped."""
    async with town(tmp_path) as here:
        good = line(here.ping("n", id="good"))
        told = await post(
            here,
            good
            + b'{"resident": "n", "at_ms"\n\n \r\n'
            + b'{"resident": 7, "id": "x"}\n'
            + line(here.ping("n", lon=181, id="y"))
            + b"\xff\xfe\n[]\n"
            + b"[" * 50_000
            + b"\n"
            + good.rstrip(),
        )

        codes = [one.get("reject", {}).get("code") for one in told]
        assert codes == [
            None,
            "malformed_json",
            "invalid_ping",
            "lon_out_of_range",
            "malformed_json",
            "invalid_ping",
            "invalid_ping",
            None,
        ]
        described = document(ROUTES)["components"]["schemas"]["Reject"]["properties"]["code"]
        assert set(codes) - {None} <= set(described["enum"])
        assert [one.get("id") for one in told] == [
            *("good", None, "x", "y", None, None, None, "good")
        ]


async def test_an_empty_body_is_an_empty_answer(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        assert await post(here, b"") == []
        assert await post(here, b"\n\n") == []


async def test_a_resident_key_streams_its_own_pings(tmp_path: Path) -> None:
    """Who is left out is the key's resident; somebody else is rejected in their place."""
    async with town(tmp_path) as here:
        key = await here.resident("anna")
        own = here.ping()
        del own["resident"]
        told = await post(here, line(own) + line(here.ping("berta")) + line(own), key=key)

        assert [one["status"] for one in told] == ["decided", "rejected", "duplicate"]
        assert told[0]["resident"] == "anna"
        assert told[1]["reject"]["code"] == "foreign_resident"


async def test_a_line_too_long_is_413_before_any_answer(tmp_path: Path) -> None:
    async with town(tmp_path, body_bytes_max=1_000) as here:
        reply = await here.call("POST", "/v1/pings", data=b"x" * 5_000, Content_Type=NDJSON)

        assert (reply.status, reply.code) == (413, "body_too_large")


@pytest.mark.parametrize("end", [b"", b"\n", b"\nmore"])
async def test_a_line_too_long_ends_the_stream_after_the_answers(
    tmp_path: Path, end: bytes
) -> None:
    """What came before is answered; the last line is a problem, and the connection closes."""
    async with town(tmp_path, body_bytes_max=1_000) as here:
        good = line(here.ping("n"))
        told = await post(here, good * 3 + b"x" * 1_001 + end)

        assert [one["status"] for one in told] == [*["no_consent"] * 3, 413]
        assert told[-1]["code"] == "body_too_large"
        assert told[-1]["request_id"]


async def test_many_lines_are_as_good_as_few(tmp_path: Path) -> None:
    """More than may wait at once, in pieces of any size; in order."""
    async with town(tmp_path, stream_lines_max=100, slice_pings_max=30) as here:
        await here.resident()
        now_ms = here.ctx.clock_ms()
        pings = [here.ping(at_ms=now_ms - 5_000 + n, id=f"p{n}") for n in range(5_000)]
        told = await post(here, b"".join(map(line, pings)))

        assert [one["id"] for one in told] == [ping["id"] for ping in pings]
        assert {one["status"] for one in told} == {"decided"}


class HeldStore(MemoryStore):
    """A store whose commits wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def commit(self, changes: Changes) -> Committed:
        if changes.presences:
            self.asked.set()
        await self.go.wait()
        return await super().commit(changes)


async def test_an_answer_waits_for_its_commit_and_consent_is_asked_after(tmp_path: Path) -> None:
    """A withdrawal while the commit runs withholds the offer; what follows waits in its order."""
    store = HeldStore()
    async with town(tmp_path, store) as here, Duplex(here) as stream:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        key = await here.resident()
        stream.send(line(here.ping()) + line(here.ping("nobody")))
        reading = asyncio.create_task(stream.line())
        await store.asked.wait()
        preferences = here.ctx.engine.preferences
        version = preferences.version(SECRET_RESIDENT)
        stopping = asyncio.create_task(here.must("POST", "/v1/residents/me/stop", key=key))
        await until(lambda: preferences.version(SECRET_RESIDENT) != version, within_s=10)
        assert not reading.done()
        store.go.set()
        await stopping
        first, second = await reading, await stream.line()
        stream.send(b"")

        assert (first["offer"], first["withheld"]) == (None, "consent_withdrawn")
        assert second["status"] == "no_consent"


async def test_a_sender_that_does_not_wait_is_held_up(tmp_path: Path) -> None:
    """With commits held, only so many lines are taken; afterwards all are answered."""
    store = HeldStore()
    async with town(tmp_path, store, stream_lines_max=50, slice_pings_max=10) as here:
        await here.brand("cafe")
        await here.resident()
        decided = here.ctx.metrics.decide_s
        many = 3_000
        now_ms = here.ctx.clock_ms()
        body = b"".join(
            line(here.ping(at_ms=now_ms - many + n, pad="x" * 500)) for n in range(many)
        )
        answering = asyncio.create_task(post(here, body))
        await store.asked.wait()
        await until(lambda: sum(decided.counts) >= 6, within_s=10)
        await here.call("GET", "/healthz")
        held = sum(decided.counts)
        store.go.set()

        assert len(await answering) == many
        assert held == 6, "five slices of ten may wait; the sixth holds up"


async def test_of_many_streams_one_goes_on_in_each_turn(tmp_path: Path) -> None:
    """So that a turn is no longer with 20 streams, and the feed's news no later."""
    async with town(tmp_path) as here:
        loop, turns, slices = asyncio.get_running_loop(), 0, 0

        def tick() -> None:
            nonlocal turns
            turns += 1
            if slices < 1_000:
                loop.call_soon(tick)

        async def stream() -> None:
            nonlocal slices
            for _ in range(50):
                slices += 1
                await here.ctx.answerer.turn()

        loop.call_soon(tick)
        await asyncio.gather(*(stream() for _ in range(20)))

        assert turns > 900


async def test_a_full_queue_holds_up_a_stream_that_waits_for_it(tmp_path: Path) -> None:
    """Nothing of it is shed, however few changes may wait."""
    store = HeldStore()
    async with town(tmp_path, store, queue_changes_max=5, slice_pings_max=5) as here:
        await here.brand("cafe")
        names = [f"r{n}" for n in range(40)]
        for name in names:
            await here.resident(name)
        answering = asyncio.create_task(post(here, b"".join(line(here.ping(n)) for n in names)))
        await store.asked.wait()
        await here.call("GET", "/healthz")
        assert not answering.done()
        store.go.set()

        assert [told["status"] for told in await answering] == ["decided"] * 40


async def test_what_cannot_be_made_durable_is_shed(tmp_path: Path) -> None:
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        await here.brand("cafe")
        await here.resident()
        store.available = False
        told = await post(here, line(here.ping()) + line(here.ping("nobody")))

        assert [one["status"] for one in told] == ["shed", "no_consent"]
        assert told[0]["reject"]["code"] == "not_durable"


async def test_a_client_that_goes_away_ends_it(tmp_path: Path) -> None:
    """Nothing of the stream is left, and nothing is logged as a fault."""
    async with town(tmp_path) as here:
        streams = here.ctx.metrics.gauges["passby_streams"][1]
        async with Duplex(here) as stream:
            stream.send(line(here.ping("n")))
            assert (await stream.line())["status"] == "no_consent"
            assert streams() == 1
        await until(lambda: not streams(), within_s=10)


async def test_a_deleted_key_ends_its_streams(tmp_path: Path) -> None:
    """Also one that is silent, within a second or so."""
    async with town(tmp_path) as here:
        made = await here.must("POST", "/v1/keys", {"role": "sender", "name": "gateway"})
        async with Duplex(here, key=made["key"]) as stream:
            stream.send(line(here.ping("n")))
            await stream.line()
            reply = await here.call("DELETE", f"/v1/keys/{made['id']}")
            assert reply.status == 204
            last = await stream.line()

            assert (last["status"], last["code"]) == (401, "unauthenticated")
            assert await stream.line() is None


async def test_a_silent_stream_is_ended(tmp_path: Path) -> None:
    async with town(tmp_path, stream_idle_seconds_max=0) as here, Duplex(here) as stream:
        stream.send(b"\n")

        assert (await stream.line())["code"] == "slow_body"


async def test_a_stop_answers_what_was_read_and_says_so(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as outer, contextlib.AsyncExitStack() as running:
        here = await running.enter_async_context(town(tmp_path))
        stream = await outer.enter_async_context(Duplex(here))
        stream.send(line(here.ping("n")))
        first = await stream.line()
        stopping = asyncio.create_task(running.aclose())
        last = await stream.line()
        end = await stream.line()
        await stopping

    assert first["status"] == "no_consent"
    assert (last["status"], last["code"]) == (503, "stopping")
    assert end is None


async def test_lines_count_for_the_rate(tmp_path: Path) -> None:
    """A ping each; beyond the rate they are shed and told how long to wait."""
    async with town(
        tmp_path, requests_per_second_max=10, rate_burst_s=1, slice_pings_max=4
    ) as here:
        frozen_ms = here.ctx.mono_ms()
        here.ctx.mono_ms = lambda: frozen_ms
        told = await post(here, line(here.ping("n")) * 20)
        after = await here.call("POST", "/v1/pings", here.ping("n"))

        assert [one["status"] for one in told] == [*["no_consent"] * 12, *["shed"] * 8]
        assert told[-1]["reject"]["code"] == "too_many_requests"
        assert after.status == 429


@given(st.lists(st.binary(max_size=6) | st.just(b"\n"), max_size=30), st.integers(1, 12))
def test_lines_are_those_of_the_whole_however_they_are_cut(parts: list[bytes], most: int) -> None:
    """As splitting the whole at once; up to the first that is too long."""
    wanted = list[bytes | None]()
    for one in b"".join(parts).split(b"\n"):
        if len(one) > most:
            wanted.append(None)
            break
        if one.strip(b" \t\r\x0b\x0c"):
            wanted.append(one)

    lines, got = Lines(most), list[bytes | None]()
    try:
        for part in parts:
            for some in lines.feed(part):
                got += some
        for some in lines.end():
            got += some
    except TooLong:
        got.append(None)

    assert got == wanted
