"""The service over real HTTP: what runs it, and what it does when pushed."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.changes import Changes
from engine.store.memory import MemoryStore
from engine.store.port import Committed
from tests.web_town import OPERATOR, SECRET_RESIDENT, offer, raw, town


async def test_it_says_that_it_is_alive_and_ready(tmp_path: Path) -> None:
    """Health needs nothing; readiness names its checks."""
    async with town(tmp_path) as here:
        alive = await here.call("GET", "/healthz", key=None)
        ready = await here.call("GET", "/readyz", key=None)

        assert (alive.status, alive.body) == (200, {"status": "ok"})
        assert ready.status == 200
        assert set(ready.body["checks"]) == {"store", "feed", "journal", "canary"}
        assert all(check["ok"] for check in ready.body["checks"].values())


async def test_it_is_not_ready_without_its_store(tmp_path: Path) -> None:
    """The check that fails is the one that says so; other calls are 503 with Retry-After."""
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        store.available = False
        ready = await here.call("GET", "/readyz", key=None)
        read = await here.call("GET", "/v1/brands/cafe")

        assert (ready.status, ready.body["ready"]) == (503, False)
        assert not ready.body["checks"]["store"]["ok"]
        assert (read.status, read.code, read.headers["Retry-After"]) == (
            503,
            "store_unavailable",
            "1",
        )


async def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """It links to the description and shows the counts."""
    async with town(tmp_path) as here:
        page = await here.call("GET", "/", key=None)
        counts = await here.call("GET", "/v1/counts", key=None)

        assert page.headers["Content-Type"].startswith("text/html")
        assert "/openapi.json" in page.body
        assert "src=" not in page.body
        assert page.body.count("://") == page.body.count("://www.w3.org/2000/svg")
        assert all(
            f'data-count="{name}"' in page.body for name in counts.body if name != "uptime_s"
        )
        assert all(isinstance(value, int) for value in counts.body.values())


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("POST", "/v1/brands/cafe", 405, "method_not_allowed"),
        ("GET", "/v1/pings", 405, "method_not_allowed"),
    ],
)
async def test_other_addresses_are_problems_too(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    """A wrong path is 404; a wrong method is 405 and says which are right."""
    async with town(tmp_path) as here:
        reply = await here.call(method, path)

        assert (reply.status, reply.code) == (status, code)
        assert ("Allow" in reply.headers) == (status == 405)


async def test_head_is_get_without_a_body(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("HEAD", "/healthz", key=None)

        assert (reply.status, reply.body) == (200, "")


async def test_a_huge_body_is_refused_by_its_length(tmp_path: Path) -> None:
    """413 before anything of it is read."""
    async with town(tmp_path, body_bytes_max=1_000) as here:
        reply = await here.call("POST", "/v1/pings", data=b"x" * 1_001)

        assert (reply.status, reply.code) == (413, "body_too_large")


async def test_a_huge_body_without_a_length_is_refused(tmp_path: Path) -> None:
    """Chunks are counted as they come."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 100
            await asyncio.sleep(0)

    async with town(tmp_path, body_bytes_max=1_000) as here:
        reply = await here.call("POST", "/v1/pings", data=chunks())

        assert (reply.status, reply.code) == (413, "body_too_large")


async def test_a_slow_body_is_given_up(tmp_path: Path) -> None:
    """408 when the body has not come in time, and the connection ends."""
    async with town(tmp_path, body_seconds_max=0) as here:
        head = (
            f"POST /v1/pings HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {OPERATOR}\r\n"
            "Content-Length: 100\r\n\r\n"
        )
        answer = await raw(here.port, head.encode(), b'{"resident":')

        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"slow_body"' in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"what is this\r\n\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b'GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n{"resident":"r","lon":24.9414}\r\n\r\n',
    ],
)
async def test_what_is_no_http_is_a_problem_that_quotes_nothing(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the answer nor a log line repeats bytes that could be a position."""
    async with town(tmp_path) as here:
        with caplog.at_level(logging.DEBUG):
            answer = await raw(here.port, sent)

    assert b'"unreadable_request"' in answer
    assert b"24.9414" not in answer
    assert "24.9414" not in caplog.text


async def test_a_body_in_a_broken_encoding_is_unreadable(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("POST", "/v1/pings", data=b"no gzip", Content_Encoding="gzip")

        assert (reply.status, reply.code) == (400, "unreadable_request")


async def test_a_key_has_its_rate(tmp_path: Path) -> None:
    """The bucket empties, 429 says how long to wait, and time fills it again."""
    async with town(tmp_path, requests_per_second_max=2, rate_burst_s=2) as here:
        frozen_ms = here.ctx.mono_ms()
        here.ctx.mono_ms = lambda: frozen_ms
        replies = [await here.call("GET", "/v1/brands") for _ in range(5)]
        frozen_ms += 1_000
        later = await here.call("GET", "/v1/brands")
        nobody = await here.call("GET", "/v1/brands", key="wrong")

        assert [r.status for r in replies] == [200, 200, 200, 200, 429]
        assert replies[0].headers["RateLimit-Policy"] == '"key";q=4;w=2'
        assert replies[0].headers["RateLimit"] == '"key";r=3;t=1'
        assert (replies[4].code, replies[4].headers["Retry-After"]) == ("too_many_requests", "1")
        assert replies[4].headers["RateLimit"] == '"key";r=0;t=1'
        assert (later.status, nobody.status) == (200, 401)


async def test_pings_of_a_batch_count_one_each(tmp_path: Path) -> None:
    """A batch larger than the bucket is answered, and what follows waits for it."""
    async with town(tmp_path, requests_per_second_max=10, rate_burst_s=1) as here:
        frozen_ms = here.ctx.mono_ms()
        here.ctx.mono_ms = lambda: frozen_ms
        first = await here.call("POST", "/v1/pings", {"pings": [here.ping()] * 30})
        second = await here.call("POST", "/v1/pings", here.ping())

        assert (first.status, second.status) == (200, 429)
        assert second.headers["Retry-After"] == "3"


async def test_more_than_may_wait_are_shed(tmp_path: Path) -> None:
    """With no place to wait in, a ping is 503 with Retry-After; administration goes on."""
    async with town(tmp_path, waiting_max=0) as here:
        reply = await here.call("POST", "/v1/pings", here.ping())
        brands = await here.call("GET", "/v1/brands")

        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "overloaded", "1")
        assert brands.status == 200


async def test_a_fault_is_500_and_quotes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says where and which kind; never what was sent."""

    def broken() -> int:
        raise ValueError(SECRET_RESIDENT)

    async with town(tmp_path) as here:
        here.ctx.clock_ms = broken
        reply = await here.call("POST", "/v1/pings", here_ping := {"resident": SECRET_RESIDENT})

    assert (reply.status, reply.code) == (500, "internal")
    assert "POST /v1/pings failed with ValueError" in caplog.text
    assert here_ping["resident"] not in caplog.text


async def test_who_hangs_up_within_a_body_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log stays empty, whatever clients on bad lines do."""
    async with town(tmp_path) as here:
        head = (
            f"POST /v1/pings HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {OPERATOR}\r\n"
            'Content-Length: 100\r\n\r\n{"resident":'
        )
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(head.encode())
        while "passby_waiting 1.0" not in (await here.call("GET", "/metrics", key=None)).body:
            pass
        writer.close()
        while "passby_waiting 0.0" not in (await here.call("GET", "/metrics", key=None)).body:
            pass

    assert caplog.text == ""


async def test_neither_logs_nor_metrics_tell_on_anybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a day in town, at the finest level: no position, no resident's id, no code."""
    with caplog.at_level(logging.DEBUG):
        async with town(tmp_path) as here:
            await here.brand("cafe")
            await here.must("PUT", "/v1/offers/bun", offer("cafe"))
            key = await here.resident()
            made = await here.must("POST", "/v1/pings", here.ping(), key=key)
            await here.call("POST", "/v1/pings", here.ping(at_ms=1), key=key)
            await here.call("POST", "/v1/pings", here.ping(lon="24.9414"), key=key)
            await here.call("GET", f"/v1/residents/{SECRET_RESIDENT}")
            await here.call("GET", f"/v1/residents/{SECRET_RESIDENT}x")
            await here.must("POST", "/v1/redemptions", {"code": made["offer"]["code"]})
            metrics = await here.call("GET", "/metrics", key=None)

    told = caplog.text + metrics.body
    assert "PUT /v1/brands/{brand} 201" in caplog.text
    for secret in (SECRET_RESIDENT, "24.94", "60.16", made["offer"]["code"], OPERATOR, key):
        assert secret not in told


async def test_metrics_count_what_happened(tmp_path: Path) -> None:
    """Prometheus can read them, and they add up."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        await here.resident()
        await here.must("POST", "/v1/pings", {"pings": [here.ping(), here.ping("unknown")]})
        text = (await here.call("GET", "/metrics", key=None)).body

    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["passby_pings_total", "decided"] == 1
    assert found["passby_pings_total", "no_consent"] == 1
    assert found["passby_events_total", "enter"] == 1
    assert found["passby_offers_made_total",] == 1
    assert found["passby_requests_total", "POST", "/v1/pings", "200"] == 1
    assert found["passby_answer_seconds_count",] == 1
    assert found["passby_fences",] == 1
    assert found["passby_residents",] == 1
    assert found["passby_feed_stale",] == 0


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


async def test_stopping_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """A ping that waits for its commit is answered with it; a new connection is not taken."""
    store = HeldStore()
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(town(tmp_path, store))
        await here.brand("cafe")
        await here.resident()
        body = msgspec.json.encode(here.ping())
        head = (
            f"POST /v1/pings HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {OPERATOR}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        answering = asyncio.create_task(raw(here.port, head.encode() + body))
        await store.asked.wait()
        stopping = asyncio.create_task(stack.aclose())
        while await _accepts(here.port):
            pass
        assert not answering.done()
        store.go.set()
        answer = await answering
        await stopping

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"enter"' in answer


async def _accepts(port: int) -> bool:
    """Whether somebody still listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True
