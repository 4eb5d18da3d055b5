"""What residents may ask for at any time, over real HTTP: an export of everything, and erasure."""

import asyncio
from pathlib import Path
from typing import Any, Final

from engine.store.memory import MemoryStore
from engine.store.retention import Retention
from tests.sse import following
from tests.test_web_preferences import ME, PREFERENCES, change, patch
from tests.web_town import OPERATOR, SECRET_RESIDENT, Town, offer, town

HOME: Final = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [25.5, 60.2]},
    "properties": {"radius_m": 150},
}


async def lived(here: Town) -> tuple[str, dict[str, Any]]:
    """A resident of whom there is something everywhere; their key and their offer."""
    await here.brand("cafe")
    await here.must("PUT", "/v1/offers/bun", offer("cafe"))
    key = await here.resident()
    await here.must("PUT", f"{ME}/zones/home", HOME, key=key)
    await here.must("PATCH", f"/v1/residents/{SECRET_RESIDENT}", {"language": "fi"})
    made = (await here.must("POST", "/v1/pings", here.ping()))["offer"]
    await patch(here, key, change("deny", purpose="research"), device="phone")
    return key, made


async def test_an_export_holds_everything(tmp_path: Path) -> None:
    """Each part as its own call tells it, and the same for the operator."""
    async with town(tmp_path, controller="City") as here:
        key, made = await lived(here)
        got = await here.call("GET", f"{ME}/export", key=key)
        settings = await here.must("GET", ME, key=key)
        history = await here.must("GET", f"{ME}/history", key=key)
        zones = await here.must("GET", f"{ME}/zones", key=key)
        offers = await here.must("GET", f"{ME}/offers", key=key)
        again = await here.must("GET", f"/v1/residents/{SECRET_RESIDENT}/export")

        export = got.body
        assert got.headers["Content-Disposition"].startswith("attachment")
        assert export["form"] == "passby-resident-1"
        assert export["controller"] == "City"
        assert export["settings"] == settings
        assert export["records"] == history["items"][::-1]
        assert export["zones"] == zones["items"]
        assert export["offers"] == offers["items"]
        assert [one["claim"] for one in export["offers"]] == [made["claim"]]
        assert [stay["fence"] for stay in export["stays"]] == ["cafe-1"]
        assert export["seen_ms"] > 0
        assert [one["name"] for one in export["devices"]] == ["made with the resident"]
        assert [one["action"] for one in export["written"]] == [
            "PATCH /v1/residents/{resident}",
            "POST /v1/residents",
        ]
        assert {**again, "at_ms": 0} == {**export, "at_ms": 0}
        assert key not in str(export)


async def test_an_erased_resident_is_gone_everywhere(tmp_path: Path) -> None:
    """In the store, in memory of every process, and for every call."""
    store = MemoryStore()
    async with town(tmp_path / "a", store) as here, town(tmp_path / "b", _beside(store)) as beside:
        key, made = await lived(here)
        await beside.ctx.feed.reached((await store.snapshot(now_ms=0)).number)
        async with following(here.session, key, f"{PREFERENCES}/stream") as events:
            await events.next()
            gone = await here.call("DELETE", ME, key=key)
            ended = await events.end()
        answers = [
            await town_.call(method, path, key=asked)
            for town_ in (here, beside)
            for method, path, asked in (
                ("GET", ME, key),
                ("GET", f"/v1/residents/{SECRET_RESIDENT}", OPERATOR),
                ("GET", f"/v1/residents/{SECRET_RESIDENT}/export", OPERATOR),
                ("DELETE", f"/v1/residents/{SECRET_RESIDENT}", OPERATOR),
            )
        ]
        ping = await beside.must("POST", "/v1/pings", beside.ping())
        redeemed = await here.call("POST", "/v1/redemptions", {"code": made["code"]})
        audit = await here.must("GET", "/v1/audit?limit=100")

        assert gone.status == 204
        assert ended == "unauthenticated"
        assert [reply.status for reply in answers] == [401, 404, 404, 404] * 2
        assert ping["status"] == "no_consent"
        assert (redeemed.status, redeemed.code) == (409, "withdrawn")
        assert SECRET_RESIDENT not in str(audit)
        for town_ in (here, beside):
            assert SECRET_RESIDENT not in town_.ctx.engine.residents
            assert town_.ctx.engine.preferences.version(SECRET_RESIDENT) is None
        kept = store.shared
        assert SECRET_RESIDENT not in str(
            [kept.residents, kept.presences, kept.claims, kept.protections, kept.entries]
        )
        assert SECRET_RESIDENT not in str([kept.window.rows, kept.keys, kept.claims_of])
        assert [len(ids) for ids in kept.erased_records.values()] == [3]


def _beside(store: MemoryStore) -> MemoryStore:
    """Another process on the same database."""
    return MemoryStore(store.shared)


async def test_an_operator_erases_and_the_log_says_so_without_a_name(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await lived(here)
        gone = await here.call("DELETE", f"/v1/residents/{SECRET_RESIDENT}")
        (entry, *_) = (await here.must("GET", "/v1/audit?kind=resident"))["items"]

        assert gone.status == 204
        assert (entry["action"], entry["outcome"]) == ("DELETE /v1/residents/{resident}", "deleted")
        assert entry["id"].startswith("erased-")


async def test_a_ping_under_way_leaves_nothing_of_an_erased_resident(tmp_path: Path) -> None:
    """Pings and the erasure at the same time, and the job after it."""
    async with town(tmp_path) as here:
        key, _ = await lived(here)
        store = here.ctx.store
        assert isinstance(store, MemoryStore)
        pings = [here.ping(lat=60.1699 + 1e-7 * place) for place in range(200)]

        async def post(ping: dict[str, Any]) -> None:
            await here.must("POST", "/v1/pings", ping)

        async with asyncio.TaskGroup() as group:
            for place, ping in enumerate(pings):
                group.create_task(post(ping))
                if place == 100:
                    group.create_task(here.call("DELETE", ME, key=key))
        await here.ctx.journal.drain()
        retention = Retention(store, presence_ms=1, claims_ms=1 << 60, clock_ms=lambda: 1)
        await retention.retain()

        assert SECRET_RESIDENT not in str([store.shared.presences, store.shared.claims])
        assert SECRET_RESIDENT not in str(store.shared.window.rows)


async def test_the_job_forgets_until_nothing_is_too_old(tmp_path: Path) -> None:
    """And counts what it forgot, for the metrics."""
    async with town(tmp_path) as here:
        await lived(here)
        later_ms = here.ctx.clock_ms() + 8 * 86_400_000
        week_ms, year_ms = 7 * 86_400_000, 365 * 86_400_000
        job = Retention(
            here.ctx.store, presence_ms=week_ms, claims_ms=year_ms, clock_ms=lambda: later_ms
        )
        await job.retain()
        metrics = await here.must("GET", "/metrics", key=None)
        (state,) = await here.ctx.store.read_states([SECRET_RESIDENT], now_ms=later_ms)

        assert (job.presences, job.claims) == (1, 0)
        assert state.stays == ()
        assert len(await here.ctx.store.claims_of(SECRET_RESIDENT, limit=9)) == 1
        assert "passby_presences_forgotten 0" in metrics
        assert "passby_claims_anonymised 0" in metrics


async def test_another_residents_key_erases_nobody_else(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        key, _ = await lived(here)
        other = await here.resident("other")
        reply = await here.call("DELETE", f"/v1/residents/{SECRET_RESIDENT}", key=other)

        assert (reply.status, reply.code) == (403, "foreign_resident")
        assert (await here.call("GET", ME, key=key)).status == 200


async def test_an_erasure_that_may_not_have_happened_says_so(tmp_path: Path) -> None:
    """The store is away: nothing may be assumed, and it can be asked for again."""
    async with town(tmp_path) as here:
        key, _ = await lived(here)
        assert isinstance(here.ctx.store, MemoryStore)
        here.ctx.store.available = False
        away = await here.call("DELETE", ME, key=key)
        here.ctx.store.available = True
        done = await here.call("DELETE", ME, key=key)

        assert (away.status, away.code) == (503, "not_in_force")
        assert done.status == 204
