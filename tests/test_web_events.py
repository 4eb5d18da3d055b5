"""Streams of events over real HTTP: who is told what, and nothing twice and nothing missed."""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.changes import Changes, TransitionTold
from engine.consent.record import Record, Scope, record_id
from engine.decision import Event
from engine.store.memory import MemoryStore
from tests.running import until
from tests.sse import Events, Told, following
from tests.web_town import OPERATOR, SECRET_RESIDENT, Town, offer, town

QUIET_MS = 100
MINE = "/v1/residents/me/offers/stream"
LOOSE: Any = {"attention_per_day": 100, "attention_per_week": 100, "event_heartbeat_ms": QUIET_MS}


async def share(here: Town, resident: str, brand: str | None, effect: str = "grant") -> None:
    """The resident lets a brand (None: all) be told of visits, or not any more."""
    (row,) = await here.ctx.store.read_residents([resident])
    record = Record(
        subject=resident,
        actor="self",
        effect=effect,
        purpose="measurement",
        actions=("share",),
        data=("facility_use",),
        scope=Scope(all=True) if brand is None else Scope(brand=brand),
        version=row.version + 1,
        server_ms=here.ctx.clock_ms(),
        supersedes=record_id(row.records[-1]),
    )
    number = await here.ctx.store.append_records(resident, (record,), version_before=row.version)
    assert number is not None
    await here.ctx.feed.reached(number)


async def enter(here: Town, resident: str = SECRET_RESIDENT, **more: Any) -> Any:
    """The resident comes in; the decision."""
    return await here.must("POST", "/v1/pings", here.ping(resident, **more))


def names(told: list[Told]) -> list[tuple[str, str]]:
    """Name and brand of each."""
    return [(one.name, one.data["brand"]) for one in told]


async def shop(here: Town, *brands: str) -> None:
    """Brands, each with a fence and an offer at the same place."""
    for brand in brands:
        await here.brand(brand)
        await here.must("PUT", f"/v1/offers/{brand}-bun", offer(brand))


async def test_an_operator_follows_the_city(tmp_path: Path) -> None:
    """Transitions, the claim without its code, the redemption and that it was taken back."""
    async with town(tmp_path, **LOOSE) as here, following(here.session, OPERATOR) as events:
        await shop(here, "cafe")
        await here.resident()
        made = (await enter(here))["offer"]
        used = await here.must("POST", "/v1/redemptions", {"code": made["code"]})
        await here.must("DELETE", f"/v1/redemptions/{used['redemption']}")
        entered, claimed, redeemed, back = await events.take(4)

        assert events.retry_ms > 0
        assert entered.name == "transition"
        assert entered.data == {
            "fence": "cafe-1",
            "kind": "enter",
            "at_ms": entered.data["at_ms"],
            "confidence": entered.data["confidence"],
            "brand": "cafe",
        }
        assert claimed.name == "offer"
        assert claimed.data == {
            "claim": made["claim"],
            "offer": "cafe-bun",
            "brand": "cafe",
            "at_ms": claimed.data["at_ms"],
            "expires_at_ms": made["expires_at_ms"],
        }
        assert [one.name for one in (redeemed, back)] == ["redemption"] * 2
        assert redeemed.data["redemption"] == back.data["redemption"] == used["redemption"]
        assert (redeemed.data["rolled_back"], back.data["rolled_back"]) == (False, True)
        assert [one.id for one in (entered, claimed, redeemed, back)] == sorted(
            {one.id for one in (entered, claimed, redeemed, back)}
        )


async def test_nobody_learns_who_where_or_the_code(tmp_path: Path) -> None:
    """Not a resident's id, a position or a code in all that operators and merchants get."""
    async with town(tmp_path, **LOOSE) as here:
        await shop(here, "cafe")
        merchant = await here.key("merchant", brands=["cafe"])
        async with (
            following(here.session, OPERATOR) as city,
            following(here.session, merchant) as own,
        ):
            await here.resident()
            await share(here, SECRET_RESIDENT, "cafe")
            made = (await enter(here))["offer"]
            await here.must("POST", "/v1/redemptions", {"code": made["code"]})
            for events in (city, own):
                assert [e.name for e in await events.take(3)] == [
                    "transition",
                    "offer",
                    "redemption",
                ]
                text = bytes(events.raw).decode()
                assert SECRET_RESIDENT not in text
                assert made["code"] not in text
                assert not re.search(r"24\.94|60\.1[67]|\"(lon|lat|position|resident)", text)


async def test_a_merchant_gets_its_own_brands_only(tmp_path: Path) -> None:
    """Claims and redemptions of its brands; visits only of who shares them with that brand."""
    async with town(tmp_path, **LOOSE) as here:
        await shop(here, "cafe", "bar")
        await here.resident("sharer")
        await here.resident("other")
        await share(here, "sharer", "bar")
        cafe = await here.key("merchant", brands=["cafe"])
        bar = await here.key("merchant", brands=["bar"])
        async with (
            following(here.session, OPERATOR) as city,
            following(here.session, cafe) as of_cafe,
            following(here.session, bar) as of_bar,
        ):
            made = [(await enter(here, who))["offer"] for who in ("sharer", "other")]
            codes = [await here.must("POST", "/v1/redemptions", {"code": m["code"]}) for m in made]
            everything = await city.take(8)
            claims = [one for one in everything if one.name in ("offer", "redemption")]
            own = {
                brand: [one for one in claims if one.data["brand"] == brand]
                for brand in ("cafe", "bar")
            }
            visits = [one for one in everything if names([one]) == [("transition", "bar")]]
            got_cafe = await of_cafe.until_quiet()
            got_bar = await of_bar.until_quiet()

            assert len(codes) == 2
            assert got_cafe == own["cafe"]
            assert [one for one in got_bar if one.name != "transition"] == own["bar"]
            (visit,) = [one for one in got_bar if one.name == "transition"]
            assert visit.id == visits[0].id
            assert visit.data == {**visits[0].data, "purposes": ["measurement"]}


async def test_a_visit_is_not_told_after_the_no(tmp_path: Path) -> None:
    """Shared when it happened and withdrawn when it is handed over: nothing leaves."""
    async with town(tmp_path, **LOOSE) as here:
        await here.brand("cafe")
        await here.resident()
        await share(here, SECRET_RESIDENT, None)
        merchant = await here.key("merchant", brands=["cafe"])
        async with following(here.session, OPERATOR) as city:
            before = city.last_id
            await enter(here)
            await city.take(1)
        async with following(here.session, merchant, after=before) as own:
            assert names([await own.next()]) == [("transition", "cafe")]
        await here.must("POST", f"/v1/residents/{SECRET_RESIDENT}/stop")
        async with following(here.session, merchant, after=before) as own:
            assert await own.until_quiet() == []
            assert own.last_id > before


async def test_a_resident_follows_their_offers(tmp_path: Path) -> None:
    """The offer as the ping was answered, from a header or the query on; nobody else's."""
    async with town(tmp_path, **LOOSE) as here:
        await shop(here, "cafe")
        key, other = await here.resident(), await here.resident("other")
        async with (
            following(here.session, key, MINE) as mine,
            following(here.session, other, MINE) as others,
        ):
            made = (await enter(here))["offer"]
            told = await mine.next()
            assert (told.name, told.data) == ("offer", made)
            assert await others.until_quiet() == []
        async with following(here.session, key, f"{MINE}?last_event_id={told.id - 1}") as again:
            assert await again.next() == told
        path = f"/v1/residents/{SECRET_RESIDENT}/offers/stream"
        async with following(here.session, OPERATOR, path, after=0) as all_of_it:
            assert await all_of_it.next() == told
        foreign = await here.call("GET", path, key=other)
        assert (foreign.status, foreign.code) == (403, "foreign_resident")
        unknown = await here.call("GET", "/v1/residents/nobody/offers/stream")
        assert (unknown.status, unknown.code) == (404, "unknown_resident")


async def test_withdrawn_between_commit_and_hand_over(tmp_path: Path) -> None:
    """The offer does not leave, its claim is recalled, and the recall of it is not told either."""
    async with town(tmp_path, **LOOSE) as here:
        await shop(here, "cafe")
        key = await here.resident()
        async with following(here.session, OPERATOR) as city:
            made = (await enter(here))["offer"]
            claimed = (await city.take(2))[1]
            await here.must("POST", "/v1/residents/me/stop", key=key)
            async with following(here.session, key, MINE, after=claimed.id - 1) as mine:
                assert await mine.until_quiet() == []
                recalled = await city.next()
                assert (recalled.name, recalled.data["claim"]) == ("recall", made["claim"])
                assert recalled.data["reason"] == "consent_withdrawn"
                while mine.last_id < recalled.id:
                    assert await mine.until_quiet() == []
            async with following(here.session, key, MINE, after=claimed.id) as told_before:
                assert await told_before.next() == recalled
        till = await here.call("POST", "/v1/redemptions", {"code": made["code"]})
        assert (till.status, till.code) == (409, "recalled")


async def test_an_offer_waits_while_nobody_knows_what_is_allowed(tmp_path: Path) -> None:
    """The lease has run out: nothing leaves; when it is renewed, the offer does."""
    async with town(tmp_path, **LOOSE) as here:
        await shop(here, "cafe")
        key = await here.resident()
        made = (await enter(here))["offer"]
        preferences = here.ctx.engine.preferences
        lease, preferences.lease_until_mono_ms = preferences.lease_until_mono_ms, lambda: 0
        async with following(here.session, key, MINE, after=0) as mine:
            assert await mine.until_quiet() == []
            assert mine.last_id == 2
            preferences.lease_until_mono_ms = lease
            assert (await mine.next()).data == made


async def test_an_offer_whose_time_is_over_is_not_told(tmp_path: Path) -> None:
    async with town(tmp_path, **LOOSE) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe", claim_ttl_s=1))
        key = await here.resident()
        made = (await enter(here))["offer"]
        await until(lambda: here.ctx.clock_ms() >= made["expires_at_ms"], within_s=5)
        async with following(here.session, key, MINE, after=0) as mine:
            assert await mine.until_quiet() == []


async def test_a_gap_is_told(tmp_path: Path) -> None:
    """Whoever comes back too late is told, and goes on with what there is."""
    async with town(tmp_path, **LOOSE) as here:
        await shop(here, "cafe")
        await here.resident()
        await enter(here)
        await here.ctx.store.prune_events(age_max_ms=3_600_000, events_max=1)
        newest = await here.ctx.store.number_events()
        for after, goes_on in ((0, newest - 1), (newest + 7, newest)):
            async with following(here.session, OPERATOR, after=after) as events:
                gap = await events.next()
                assert gap == Told("gap", goes_on, {"last_event_id": after, "goes_on": goes_on})
                if goes_on < newest:
                    assert (await events.next()).name == "offer"


async def test_silence_is_broken_by_comments(tmp_path: Path) -> None:
    """They move the place to go on from, too."""
    async with town(tmp_path, **LOOSE) as here:
        key = await here.resident()
        async with following(here.session, key, MINE) as mine:
            began = mine.last_id
            await here.ctx.store.commit(transitions(5))
            while mine.last_id < began + 5:
                assert await mine.until_quiet() == []
            assert set(mine.comments) == {"still here"}


@pytest.mark.parametrize("path", ["/v1/events", MINE, "/v1/residents/me/preferences/stream"])
@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "\u0663", str(2**62 + 1), "9" * 6_000])
async def test_an_id_that_is_none_is_refused(tmp_path: Path, path: str, bad: str) -> None:
    """By the name under which it was sent: as a header, or in the query."""
    async with town(tmp_path) as here:
        key = OPERATOR if path == "/v1/events" else await here.resident()
        by_header = await here.call("GET", path, key=key, Last_Event_ID=bad)
        by_query = await here.call("GET", f"{path}?last_event_id={bad}", key=key)
        assert (by_header.status, by_header.code) == (422, "invalid_parameter")
        assert [e["path"] for e in by_header.body["errors"]] == ["Last-Event-ID"]
        assert [e["path"] for e in by_query.body["errors"]] == ["last_event_id"]


async def test_a_deleted_key_ends_its_streams(tmp_path: Path) -> None:
    """And so does one that was given other brands; others go on."""
    async with town(tmp_path, **LOOSE) as here:
        await here.brand("cafe")
        made = await here.must(
            "POST", "/v1/keys", {"role": "merchant", "name": "m", "brands": ["cafe"]}
        )
        async with (
            following(here.session, OPERATOR) as city,
            following(here.session, made["key"]) as own,
        ):
            await here.must("DELETE", f"/v1/keys/{made['id']}")
            assert await own.end() == "unauthenticated"
            await here.ctx.store.commit(transitions(1))
            assert (await city.next()).name == "transition"


async def test_streams_end_when_the_service_stops(tmp_path: Path) -> None:
    """With a word, so that the reader connects again elsewhere."""
    async with aiohttp.ClientSession() as session:
        async with town(tmp_path) as here:
            url = f"http://127.0.0.1:{here.port}/v1/events"
            headers = {"Authorization": f"Bearer {OPERATOR}"}
            response = await session.get(url, headers=headers)
            events = Events(response)
            await events.block()
        assert await events.end() == "stopping"


async def test_there_are_only_so_many(tmp_path: Path) -> None:
    async with town(tmp_path, event_streams_max=1) as here:
        async with following(here.session, OPERATOR):
            reply = await here.call("GET", "/v1/events")
            assert (reply.status, reply.code, reply.headers["Retry-After"]) == (
                503,
                "overloaded",
                "1",
            )
        await until(lambda: not len(here.ctx.tail), within_s=5)
        async with following(here.session, OPERATOR):
            pass


def transitions(count: int, brand: str = "cafe") -> Changes:
    """So many of them, of nobody."""
    event = Event("cafe-1", "enter", 1_790_000_000_000, 0.9)
    return Changes(told=[TransitionTold("r", brand, event, False)] * count)


async def silent(port: int) -> asyncio.StreamWriter:
    """A reader that reads the head and then nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
    head = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\n\r\n"
    writer.write(head.encode())
    await reader.readuntil(b"\n\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


def used_mb() -> float:
    """Memory that this process has, client and server together; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def test_readers_that_read_nothing_cost_little_and_are_cut_off(
    tmp_path: Path, measured: list[str]
) -> None:
    """What waits for each is bounded; another reader is told everything meanwhile."""
    total, slow, queue_max = 60_000, 20, 100
    async with (
        town(tmp_path, stalled_seconds_max=1, event_queue_max=queue_max, **LOOSE) as here,
        following(here.session, OPERATOR) as good,
    ):
        store, tail = here.ctx.store, here.ctx.tail
        writers = [await silent(here.port) for _ in range(slow)]
        before_mb, most = used_mb(), 0
        for _ in range(total // 1_000):
            await store.commit(transitions(1_000))
            told = await good.take(1_000)
            good.raw.clear()
            await store.prune_events(age_max_ms=3_600_000, events_max=2_000)
            most = max(most, *(len(one.queue) for one in tail._following))
        more_mb = used_mb() - before_mb
        assert told[-1].id == total
        assert most <= queue_max
        assert more_mb < slow
        await until(lambda: len(tail) == 1, within_s=10)
        for writer in writers:
            writer.transport.abort()
    measured.append(
        f"events: {slow} readers that read nothing while another was told {total:,}: "
        f"{more_mb:.1f} MB more in use, then cut off"
    )


@pytest.mark.parametrize("subscribers", [1, 100])
async def test_how_many_events_leave_in_a_second(
    tmp_path: Path, measured: list[str], subscribers: int
) -> None:
    """All of them to each, through HTTP, in this process together with its readers."""
    store = MemoryStore()
    total = 20_000 if subscribers == 1 else 1_000

    async def read(session: aiohttp.ClientSession, after: int) -> int:
        """Count the events in the bytes, which costs the reader little."""
        headers = {"Authorization": f"Bearer {OPERATOR}", "Last-Event-ID": str(after)}
        seen, tail = 0, b""
        async with session.get("/v1/events", headers=headers) as response:
            while seen < total:
                piece = tail + await response.content.readany()
                seen += piece.count(b"\ndata:")
                tail = piece[-5:] if not piece.endswith(b"\n\n") else b""
                tail = b"" if b"\ndata:" in tail else tail
        return seen

    async with town(tmp_path, store, event_queue_max=total) as here:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{here.port}", connector=connector
        ) as session:
            readers = [asyncio.create_task(read(session, 0)) for _ in range(subscribers)]
            await until(lambda: len(here.ctx.tail) == subscribers, within_s=10)
            began_s = time.perf_counter()
            for _ in range(total // 500):
                await store.commit(transitions(500))
                await asyncio.sleep(0)
            seen = await asyncio.gather(*readers)
            took_s = time.perf_counter() - began_s
    assert min(seen) >= total
    measured.append(
        f"events: {total / took_s:,.0f}/s to {subscribers} streams, "
        f"{total * subscribers / took_s:,.0f} told/s"
    )
