"""One ping a request, batches, lines and messages: equal pings get equal decisions, to the byte.

Four fresh towns with one secret are sent the same recorded stream, each in its own way. The clock
stands still, so that when a ping arrives is no matter of how long the way takes.
"""

import asyncio
import hashlib
import io
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from engine.app import clock_ms
from engine.store.memory import MemoryStore
from loadtest.city import City
from tests.test_web_ndjson import NDJSON
from tests.test_web_socket import connected
from tests.web_town import OPERATOR, Town, daytime_zone, town

SEED: Final = 11
BEFORE_S: Final = 115
AFTER_S: Final = 40
"""From when and until when fixes are taken: neither too old for an offer nor too far ahead."""
RESIDENTS: Final = 60

KEY: Final = {"Authorization": f"Bearer {OPERATOR}"}

Way = Callable[[Town, list[bytes]], Awaitable[list[bytes]]]


async def one_by_one(here: Town, pings: list[bytes]) -> list[bytes]:
    told = []
    for ping in pings:
        async with here.session.post("/v1/pings", data=ping, headers=KEY) as response:
            told.append(await response.read())
    return told


async def in_batches(here: Town, pings: list[bytes]) -> list[bytes]:
    told = []
    for some in batched(pings, 97):
        body = b'{"pings":[' + b",".join(some) + b"]}"
        async with here.session.post("/v1/pings", data=body, headers=KEY) as response:
            rows = msgspec.json.decode(await response.read(), type=dict[str, list[msgspec.Raw]])
            told += [bytes(row) for row in rows["decisions"]]
    return told


async def by_lines(here: Town, pings: list[bytes]) -> list[bytes]:
    headers = KEY | {"Content-Type": NDJSON}
    body = io.BytesIO(b"\n".join(pings))
    async with here.session.post("/v1/pings", data=body, headers=headers) as response:
        return (await response.read()).splitlines()


async def by_messages(here: Town, pings: list[bytes]) -> list[bytes]:
    """Some alone and some as arrays, sent without waiting for the answers."""
    told: list[bytes] = []
    parts = [some[0] if len(some) == 1 else some for some in batched_like(pings, (1, 1, 5, 40))]
    async with connected(here) as socket:

        async def send() -> None:
            for part in parts:
                text = part if isinstance(part, bytes) else b"[" + b",".join(part) + b"]"
                await socket.raw.send_str(text.decode())

        sending = asyncio.create_task(send())
        for part in parts:
            text = (await socket.raw.receive_str()).encode()
            if isinstance(part, bytes):
                told.append(text)
            else:
                rows = msgspec.json.decode(text, type=list[msgspec.Raw])
                told += [bytes(row) for row in rows]
        await sending
    return told


WAYS: Final[dict[str, Way]] = {
    "one by one": one_by_one,
    "batches": in_batches,
    "NDJSON": by_lines,
    "WebSocket": by_messages,
}


def batched(pings: list[bytes], size: int) -> list[list[bytes]]:
    return [pings[start : start + size] for start in range(0, len(pings), size)]


def batched_like(pings: list[bytes], sizes: tuple[int, ...]) -> list[list[bytes]]:
    """Parts of these sizes in turn."""
    each, sized = iter(pings), itertools.cycle(sizes)
    return list(iter(lambda: list(itertools.islice(each, next(sized))), []))


def recording(city: City, now_ms: int) -> list[bytes]:
    """Walks through the city, in the order of their delivery, with bad ones among them."""
    rng, rows = random.Random(SEED), []
    for resident in city.residents:
        start_ms = now_ms - BEFORE_S * 1_000
        walk = city.walk(resident, start_ms, seconds=BEFORE_S + AFTER_S, interval_s=2)
        rows += [(ping["at_ms"], place, ping) for place, ping in enumerate(walk)]
    rows.sort(key=lambda row: (row[2]["at_ms"], row[2]["resident"], row[1]))
    pings: list[dict[str, Any]] = []
    for at_ms, _, ping in rows:
        pings.append(ping)
        if rng.random() < 0.05:
            pings.append(dict(ping))
        if rng.random() < 0.03:
            pings.append(ping | {"at_ms": at_ms - rng.choice((30_000, 100_000, 200_000))})
        if rng.random() < 0.03:
            pings.append(ping | rng.choice(BROKEN))
    return [msgspec.json.encode(ping) for ping in pings]


BROKEN: Final[list[dict[str, Any]]] = [
    {"lon": 180.5},
    {"lat": -91},
    {"accuracy_m": -1},
    {"id": ""},
    {"resident": "r" * 200},
    {"at_ms": 1},
    {"at_ms": 1 << 50},
    {"resident": "nobody"},
]


class SameSecret(MemoryStore):
    """Names claims alike in every town."""

    async def secret(self, name: str) -> bytes:
        return name.encode().ljust(32)


@asynccontextmanager
async def city_town(data: Path, city: City, now_ms: int) -> AsyncIterator[Town]:
    """A town that is the city, where time stands still."""
    async with town(data, SameSecret(), attention_per_day=20, attention_per_week=50) as here:
        for brand in city.brands:
            await here.must("PUT", f"/v1/brands/{brand['id']}", without_id(brand))
        for fence in city.fences:
            await here.must("PUT", f"/v1/fences/{fence['id']}", without_id(fence))
        for offer in city.offers:
            await here.must("PUT", f"/v1/offers/{offer['id']}", without_id(offer))
        for resident in city.residents:
            wanted = {"resident": resident.id, "timezone": daytime_zone(now_ms)}
            await here.must("POST", "/v1/residents", wanted)
            if resident.opted_in:
                path = f"/v1/residents/{resident.id}/preferences/marketing"
                brands = {} if resident.brands is None else {"brands": resident.brands}
                await here.must("PUT", path, {"opted_in": True} | brands)
        here.ctx.clock_ms = lambda: now_ms
        yield here


def without_id(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "id"}


async def test_the_four_ways_give_the_same_bytes(tmp_path: Path, measured: list[str]) -> None:
    """Offers, events, late ones, duplicates and rejected ones included."""
    now_ms, hashes, told = clock_ms(), {}, list[bytes]()
    city = City.make(SEED, residents=RESIDENTS, shops=60, timezone=daytime_zone(now_ms))
    for name, way in WAYS.items():
        async with city_town(tmp_path / name, city, now_ms) as here:
            told = await way(here, recording(city, now_ms))
        hashes[name] = hashlib.sha256(b"\n".join(told)).hexdigest()

    kinds = {msgspec.json.decode(one)["status"] for one in told}
    offers = sum(msgspec.json.decode(one)["offer"] is not None for one in told)
    measured += [f"{digest}  {len(told)} decisions, {name}" for name, digest in hashes.items()]
    assert len(set(hashes.values())) == 1, hashes
    assert kinds == {"decided", "late", "duplicate", "rejected", "no_consent"}
    assert offers >= 5


@pytest.mark.parametrize("way", [in_batches, by_lines, by_messages], ids=lambda way: way.__name__)
async def test_what_is_no_ping_is_told_alike_in_its_place(tmp_path: Path, way: Way) -> None:
    """In a batch, a line or an array: the same rejection."""
    rows = [b"7", b"null", b'{"at_ms":"x"}', b'{"resident":"a","at_ms":1.5}', b'{"id":"i"}', b"[]"]
    async with town(tmp_path) as here:
        told = await way(here, rows)

    codes = [msgspec.json.decode(one)["reject"] for one in told]
    assert [code["code"] for code in codes] == ["invalid_ping"] * 6
    assert codes == [
        {"code": "invalid_ping", "detail": detail}
        for detail in (
            "Expected `object`, got `int`.",
            "Expected `object`, got `null`.",
            "at_ms: Expected `int`, got `str`.",
            "at_ms: Expected `int`, got `float`.",
            "Object missing required field `at_ms`.",
            "Expected `object`, got `array`.",
        )
    ]
