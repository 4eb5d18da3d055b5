"""Everything that the API's description allows, and much that it does not, against the service.

Each case that schemathesis makes is sent with every role's key and with none. Whatever it is, the
answer is none of 500, has a status and a content type that the description names, and is of the
shape that it shows.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engine.web.openapi import document
from engine.web.routes import ROUTES
from tests.running import serving
from tests.web_town import LAT, LON, fence, offer

EXAMPLES: Final = 12
"""Cases of each kind for an operation; each is sent once for every role."""
OPERATION_S_MAX: Final = 4.0
"""After so long no new case is made for an operation."""
LEFT_OUT: Final = {
    "GET /v1/pings/stream": "a WebSocket: the messages have tests of their own",
    "GET /v1/events": "a stream without an end",
    "GET /v1/residents/{resident}/offers/stream": "a stream without an end",
    "GET /v1/residents/{resident}/preferences/stream": "a stream without an end",
}
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROLES: Final = ("nobody", "purchaser", "resident", "merchant", "sender", "operator")
QUIET: Final[dict[str, Any]] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}


@schemathesis.serializer(
    "application/x-ndjson", "application/geo+json", "application/geo+json-seq", "text/csv"
)
def _as_lines(ctx: Any, value: Any) -> bytes:
    """Forms of JSON that schemathesis does not know, and a table that is none."""
    del ctx
    return value if isinstance(value, bytes) else msgspec.json.encode(value) + b"\n"


SCHEMA: Final = schemathesis.openapi.from_dict(document(ROUTES))
OPERATIONS: Final[dict[str, Any]] = {
    f"{route.method} {route.path}": SCHEMA[route.path][route.method] for route in ROUTES
}
ASKED: Final = [
    *(name for name in OPERATIONS if name not in LEFT_OUT and not name.startswith("DELETE")),
    *(name for name in OPERATIONS if name not in LEFT_OUT and name.startswith("DELETE")),
]
"""What is deleted is deleted last, so that the others find it."""


@dataclass
class Target:
    """The running service, its keys, and the ids of what is there."""

    url: str
    keys: dict[str, str]
    known: dict[str, str]
    session: requests.Session = field(default_factory=requests.Session)
    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """`passby serve` with PostgreSQL, and a small town in it."""
    data = tmp_path_factory.mktemp("fuzzed") / "data"
    with asyncio.Runner() as loop:
        stack = AsyncExitStack()
        try:
            made = loop.run(_town(stack, data))
            made.session.trust_env = False  # no proxy of the environment is on the way to loopback
            yield made
            made.session.close()
        finally:
            loop.run(stack.aclose())


async def _town(stack: AsyncExitStack, data: Path) -> Target:
    """A brand with a fence, an offer, a resident and a claim, and a key for every role."""
    limits = {"body_seconds_max": 1, "head_seconds_max": 1, "log_level": "warning"}
    service = await stack.enter_async_context(serving(data, **limits))
    brand = {"name": "Aino", "categories": ["cafe"], "timezone": "Europe/Helsinki"}
    await service.must("PUT", "/v1/brands/cafe", brand)
    await service.must("PUT", "/v1/fences/cafe-1", fence("cafe"))
    await service.must("PUT", "/v1/offers/bun", offer("cafe"))
    await service.must("POST", "/v1/residents", {"resident": "r"})
    await service.must("PUT", "/v1/residents/r/preferences/marketing", {"opted_in": True})
    now_ms = time.time_ns() // 1_000_000
    ping = {"resident": "r", "at_ms": now_ms, "lon": LON, "lat": LAT, "accuracy_m": 5}
    decision = (await service.must("POST", "/v1/pings", ping))["decision"]
    keys, spare = {}, ""
    for role, more in (
        ("purchaser", {"purchaser": "buyer"}),
        ("resident", {"resident": "r"}),
        ("merchant", {"brands": ["cafe"]}),
        ("sender", {}),
        ("operator", {}),
    ):
        body = {"role": role, "name": role, **more}
        keys[role] = (await service.must("POST", "/v1/keys", body))["key"]
        spare = (await service.must("POST", "/v1/keys", body))["id"]
    known = {"brand": "cafe", "fence": "cafe-1", "offer": "bun", "resident": "r"}
    return Target(service.url, keys, known | {"decision": decision, "id": spare})


def _kinds() -> Iterator[tuple[str, str]]:
    """What can be asked of each operation."""
    for name in ASKED:
        operation = OPERATIONS[name]
        yield name, "made_up"
        if operation.path_parameters:
            yield name, "known"
        if list(operation.iter_parameters()) or operation.body:
            yield name, "wrong"


@pytest.mark.parametrize(("name", "kind"), list(_kinds()))
def test_whatever_is_asked_is_answered_as_described(target: Target, name: str, kind: str) -> None:
    """With ids that are there, with made-up ones, and with what breaks the description."""
    operation, until_s = OPERATIONS[name], time.monotonic() + OPERATION_S_MAX
    more: dict[str, Any] = {}
    if kind == "known":
        named = {p.name for p in operation.path_parameters}
        more = {"path_parameters": {one: target.known.get(one, "x") for one in named}}
    if kind == "wrong":
        more = {"generation_mode": GenerationMode.NEGATIVE}

    @settings(max_examples=EXAMPLES, **QUIET)
    @given(case=operation.as_strategy(**more))
    def send(case: Any) -> None:
        for role in ROLES:
            if time.monotonic() > until_s:
                return
            key = target.keys.get(role)
            case.headers.pop("Authorization", None)
            told = {"Authorization": f"Bearer {key}"} if key is not None else {}
            answer = case.call(
                base_url=target.url, session=target.session, headers=told, timeout=10
            )
            target.sent[role] += 1
            target.statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

    send()


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/keys"])
def test_an_answer_that_is_not_described_is_found(target: Target, path: str) -> None:
    """Another shape, another content type, another status."""
    answer = target.session.get(f"{target.url}{path}", timeout=10)
    case = OPERATIONS["GET /readyz"].Case()

    with pytest.raises(FailureGroup):
        case.validate_response(answer, checks=CHECKS)


HEADERS: Final = (
    b"Accept",
    b"Authorization",
    b"Content-Encoding",
    b"Content-Length",
    b"Content-Type",
    b"Cookie",
    b"Expect",
    b"Host",
    b"Idempotency-Key",
    b"If-Match",
    b"If-None-Match",
    b"Last-Event-ID",
    b"Origin",
    b"Range",
    b"Transfer-Encoding",
    b"Upgrade",
    b"X-Request-Id",
)
VALUES: Final = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"*", b'"1"', b'W/"1"', b'""', b"0", b"-1", b"+1", b"x" * 9_000]),
    st.sampled_from([b"gzip", b"zstd, gzip", b"chunked", b"100-continue", b"websocket"]),
    st.sampled_from([b"application/x-ndjson", b"multipart/form-data", b"text/plain; charset=x"]),
)
CALLS: Final = (
    (b"POST", b"/v1/pings", b'{"at_ms": 1, "lon": 1, "lat": 1, "resident": "r"}'),
    (b"PUT", b"/v1/brands/cafe", b'{"name": "A", "categories": ["cafe"], "timezone": "UTC"}'),
    (b"GET", b"/v1/fences/cafe-1", b""),
    (b"POST", b"/v1/residents/r/stop", b""),
    (b"GET", b"/", b""),
)


@settings(max_examples=150, **QUIET)
@given(st.sampled_from(CALLS), st.lists(st.tuples(st.sampled_from(HEADERS), VALUES), max_size=3))
def test_no_header_can_break_it(
    target: Target, call: tuple[bytes, bytes, bytes], headers: list[tuple[bytes, bytes]]
) -> None:
    """Whatever stands in them: an answer of HTTP, never a 500, and a problem where it is a no."""
    method, path, body = call
    lines = [b"%s %s HTTP/1.1" % (method, path), b"Host: passby", b"Connection: close"]
    lines += [b"Authorization: Bearer " + target.keys["operator"].encode()]
    lines += [b"Content-Length: %d" % len(body)] if body else []
    lines += [b"%s: %s" % header for header in headers]
    host, _, port = target.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))

    target.sent["bad headers"] += 1
    if not answer:
        return  # a request that was cut off has no answer
    head, _, told = answer.partition(b"\r\n\r\n")
    if head.startswith((b"HTTP/1.1 100", b"HTTP/1.1 101")):
        head, _, told = told.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status < 500, answer
    is_json = b"application/problem+json" in head
    assert status < 400 or (is_json and msgspec.json.decode(told)["status"] == status), answer


def test_what_was_sent_is_told(target: Target, measured: list[str]) -> None:
    """Every operation that is not left out, with every role."""
    roles = ", ".join(f"{role} {target.sent[role]}" for role in (*ROLES, "bad headers"))
    statuses = ", ".join(f"{status} {count}" for status, count in sorted(target.statuses.items()))
    measured.append(f"schemathesis: {len(ASKED)} operations; cases by role: {roles}")
    measured.append(f"schemathesis: answers by status: {statuses}")
    left_out = [f"{name} ({why})" for name, why in LEFT_OUT.items()]
    measured.append(f"schemathesis: left out: {'; '.join(left_out)}")
    assert LEFT_OUT.keys() <= OPERATIONS.keys()
