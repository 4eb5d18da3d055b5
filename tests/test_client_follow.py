"""A phone hears what is said on the tablet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.choices import Preferences
from engine.client.client import Client, now_ms
from engine.client.errors import NotSaid, Stopped
from engine.client.follow import follow, versions
from engine.client.heard import LINE_BYTES_MAX, Heard
from engine.ping import Ping
from tests.running import until
from tests.sse import following
from tests.test_web_preferences import ME
from tests.web_town import LAT, LON, Town, town

WITHIN_S = 20.0
STREAM = (
    b'retry: 2000\nid: 7\n\nevent: preferences\ndata: {"version":3}\n\n: still here\nid: 9\n\n'
    b'event: gap\nid: 10\ndata: {"last_event_id":1,"goes_on":10}\n\n'
    b'event: preferences\r\nid: 11\r\ndata: {"version":4,"at_ms":5}\r\n\r\n'
    b'event: preferences\ndata: no json\n\ndata: {"version":5}\n\n'
    b'event: preferences\ndata: {"version":6}\n'
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_is_read_in_whatever_parts(cuts: list[int]) -> None:
    """Comments, other events, and what has not ended yet tell nothing."""
    edges = [0, *sorted(cuts), len(STREAM)]
    heard, told = Heard(), list[int]()
    for start, end in pairwise(edges):
        told += heard.feed(STREAM[start:end])

    assert told == [3, 4]


def test_a_line_without_an_end_is_not_kept() -> None:
    """However much comes."""
    heard = Heard()
    for _ in range(100):
        assert heard.feed(b"data: " + b"x" * 10_000) == []
    assert len(heard._line) == LINE_BYTES_MAX
    assert heard.feed(b'\n\nevent: preferences\ndata: {"version":1}\n\n') == [1]


@contextlib.asynccontextmanager
async def phone_of(here: Town, key: str) -> AsyncIterator[tuple[Client, list[Preferences]]]:
    """A phone that follows, from the first settings on, and what it was told."""
    seen: list[Preferences] = []
    async with Client(f"http://127.0.0.1:{here.port}", key) as phone:
        await phone.preferences()
        following_ = asyncio.create_task(follow(phone, seen.append))
        try:
            yield phone, seen
        finally:
            following_.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following_


def fix() -> Ping:
    """Somewhere."""
    return Ping(at_ms=now_ms(), lon=LON, lat=LAT, accuracy_m=5.0)


async def test_an_off_elsewhere_holds_here(tmp_path: Path) -> None:
    """No fix is taken from then on; an "on" elsewhere waits until it was shown here."""
    async with town(tmp_path) as here:
        key = await here.resident()
        async with phone_of(here, key) as (phone, seen):
            await until(lambda: len(seen) == 1, within_s=WITHIN_S)
            assert phone.fix(fix())
            await here.must("POST", f"{ME}/stop", key=key)
            await until(lambda: phone.choices.off, within_s=WITHIN_S)
            assert not phone.fix(fix())
            assert phone.choices.version == 1, "nobody was shown what was heard"
            with pytest.raises(NotSaid, match="stale_version"):
                await phone.opt_in()
            marketing = f"{ME}/preferences/marketing"
            await here.must("PUT", marketing, {"opted_in": True}, key=key, If_Match='"2"')
            await until(lambda: seen[-1].version == 3, within_s=WITHIN_S)
            assert not phone.fix(fix())
            assert (await phone.preferences()).located
            assert phone.fix(fix())

    assert [one.located for one in seen] == [True, False, True]


async def test_it_comes_back_to_a_service_that_had_no_room(tmp_path: Path) -> None:
    """And hears at once what was said meanwhile."""
    async with town(tmp_path, event_streams_max=1) as here:
        key = await here.resident()
        async with following(here.session, key, f"{ME}/preferences/stream"):
            async with Client(f"http://127.0.0.1:{here.port}", key) as other:
                with pytest.raises(NotSaid, match="overloaded"):
                    await anext(versions(other))
            waiting = phone_of(here, key)
            phone, seen = await waiting.__aenter__()
            await here.must("POST", f"{ME}/stop", key=key)
            assert not phone.choices.off
        await until(lambda: phone.choices.off, within_s=WITHIN_S)
        await waiting.__aexit__(None, None, None)

    assert seen[0].version == 2


async def test_it_ends_with_the_key(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        key = await here.resident()
        async with Client(f"http://127.0.0.1:{here.port}", key) as phone:
            await here.must("DELETE", ME, key=key)
            with pytest.raises(Stopped, match="unauthenticated"):
                await follow(phone)
