"""What every answer carries: a request's id, what is left of a rate, and what pages may see."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.test_web_ndjson import NDJSON
from tests.web_town import Reply, Town, town

PAGE = "https://app.example"


async def test_a_sane_request_id_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the answer, in the problem, and in the log."""
    async with town(tmp_path) as here:
        with caplog.at_level(logging.INFO):
            good = await here.call("GET", "/v1/brands", X_Request_Id="abc_DEF-123")
            bad = await here.call("GET", "/v1/brands/none", X_Request_Id="abc_DEF-124")

    assert good.headers["X-Request-Id"] == "abc_DEF-123"
    assert bad.headers["X-Request-Id"] == bad.body["request_id"] == "abc_DEF-124"
    assert "abc_DEF-123" in caplog.text
    assert "abc_DEF-124" in caplog.text


@pytest.mark.parametrize("sent", ["short", "x" * 65, "24.9414,60.1699", "with space", "a;b=cdefg"])
async def test_any_other_is_replaced(tmp_path: Path, sent: str) -> None:
    """Also what could be a position, which must not get into a log."""
    async with town(tmp_path) as here:
        replies = [await here.call("GET", "/v1/brands", X_Request_Id=sent) for _ in range(2)]

        assert len({sent, *(reply.headers["X-Request-Id"] for reply in replies)}) == 3


async def test_every_kind_of_answer_has_an_id(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        ping = here.ping("n")
        for method, path, more in (
            ("GET", "/healthz", {}),
            ("GET", "/nothing", {}),
            ("DELETE", "/healthz", {}),
            ("GET", "/v1/brands", {"key": None}),
            ("POST", "/v1/pings", {"body": ping}),
            ("POST", "/v1/pings", {"body": ping, "Content_Type": NDJSON}),
            ("POST", "/v1/pings", {"data": b"{"}),
            ("GET", "/v1/pings/stream", {}),
        ):
            reply = await here.call(method, path, **more)
            assert reply.headers["X-Request-Id"], path
            if reply.status >= 400:
                assert reply.body["request_id"] == reply.headers["X-Request-Id"], path


async def test_every_counted_answer_tells_the_rate(tmp_path: Path) -> None:
    """Success, refusal, a stream of lines; not what nobody counts."""
    async with town(tmp_path, requests_per_second_max=10, rate_burst_s=1) as here:
        frozen_ms = here.ctx.mono_ms()
        here.ctx.mono_ms = lambda: frozen_ms
        replies = [
            await here.call("GET", "/v1/brands"),
            await here.call("GET", "/v1/brands/none"),
            await here.call("POST", "/v1/pings", here.ping("n")),
            await here.call("POST", "/v1/pings", {"pings": [here.ping("n")] * 3}),
            await here.call("POST", "/v1/pings", here.ping("n"), Content_Type=NDJSON),
            await here.call("GET", "/v1/pings/stream"),
        ]
        free = await here.call("GET", "/healthz")

        left = [reply.headers["RateLimit"] for reply in replies]
        assert left == [f'"key";r={n};t=1' for n in (9, 8, 7, 4, 3, 2)]
        assert {reply.headers["RateLimit-Policy"] for reply in replies} == {'"key";q=10;w=1'}
        assert "RateLimit" not in free.headers


async def test_no_page_may_call_by_default(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("GET", "/v1/brands", Origin=PAGE)
        asked = await preflight(here, PAGE)

        assert not allowed(reply.headers)
        assert (asked.status, asked.code) == (405, "method_not_allowed")


async def test_named_origins_may_call(tmp_path: Path) -> None:
    """The browser asks first, is told how, and then the page sees the answer and its headers."""
    async with town(tmp_path, cors_origins=f"{PAGE}, http://localhost:5173") as here:
        asked = await preflight(here, PAGE)
        reply = await here.call("GET", "/v1/brands", Origin=PAGE)
        refused = await here.call("GET", "/v1/brands/none", Origin="http://localhost:5173")
        stream = await here.call(
            "POST", "/v1/pings", here.ping("n"), Origin=PAGE, Content_Type=NDJSON
        )
        lost = await here.call("GET", "/nothing", Origin=PAGE)
        others = await here.call("GET", "/v1/brands", Origin="https://other.example")
        asked_by_others = await preflight(here, "https://other.example")

        assert asked.status == 204
        assert asked.headers["Access-Control-Allow-Methods"] == "GET, HEAD, PUT"
        assert "If-Match" in asked.headers["Access-Control-Allow-Headers"]
        for one in (asked, reply, stream, lost):
            assert one.headers["Access-Control-Allow-Origin"] == PAGE
            assert one.headers["Vary"] == "Origin"
        assert refused.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
        seen = reply.headers["Access-Control-Expose-Headers"]
        assert {"ETag", "RateLimit", "Location", "X-Request-Id"} <= set(seen.split(", "))
        assert not allowed(others.headers)
        assert asked_by_others.status == 405
        assert "Access-Control-Allow-Credentials" not in reply.headers


async def test_all_origins_may_call(tmp_path: Path) -> None:
    async with town(tmp_path, cors_origins="*") as here:
        reply = await here.call("GET", "/v1/brands", Origin=PAGE)
        nowhere = await preflight(here, PAGE, path="/nothing")

        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert nowhere.status == 404


async def preflight(here: Town, origin: str, path: str = "/v1/brands/cafe") -> Reply:
    return await here.call(
        "OPTIONS", path, key=None, Origin=origin, Access_Control_Request_Method="PUT"
    )


def allowed(headers: Mapping[str, str]) -> bool:
    """Whether a page is told that it may."""
    return "Access-Control-Allow-Origin" in headers


@pytest.mark.parametrize("expected", ["100-continue", "100-Continue", "*", "the-moon", ""])
async def test_what_a_client_expects_keeps_it_from_no_answer(tmp_path: Path, expected: str) -> None:
    """It may go on with its body; what else it expects is no reason to refuse it (RFC 9110)."""
    async with town(tmp_path) as here:
        reply = await here.call("POST", "/v1/pings", here.ping("n"), Expect=expected)
        lost = await here.call("GET", "/nothing", Expect=expected)

    assert reply.status == 200
    assert lost.body["code"] == "not_found"
