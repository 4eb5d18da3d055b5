"""POST /v1/pings over real HTTP: every refusal, and what an answer rests on."""

from pathlib import Path
from typing import Any

import pytest

from engine.ping import Ping
from engine.store.memory import MemoryStore
from engine.web.pings import PingBody
from tests.web_town import SECRET_RESIDENT, offer, town

HOUR_MS = 3_600_000


async def test_a_ping_gets_its_events_and_at_most_one_offer(tmp_path: Path) -> None:
    """The same fix again is a duplicate with the same claim."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        key = await here.resident()
        ping = here.ping(id="fix-1")
        first = await here.must("POST", "/v1/pings", ping, key=key)
        again = await here.must("POST", "/v1/pings", ping, key=key)

        assert (first["status"], first["withheld"], first["id"]) == ("decided", None, "fix-1")
        assert [(e["fence"], e["kind"]) for e in first["events"]] == [("cafe-1", "enter")]
        assert first["offer"]["offer"] == "bun"
        assert (again["status"], again["events"]) == ("duplicate", [])
        assert again["offer"] == first["offer"]


async def test_a_resident_key_may_leave_the_resident_out(tmp_path: Path) -> None:
    """It is their own ping; anybody else's is 403."""
    async with town(tmp_path) as here:
        key = await here.resident()
        own = here.ping()
        del own["resident"]
        mine = await here.must("POST", "/v1/pings", own, key=key)
        other = await here.call("POST", "/v1/pings", here.ping("somebody"), key=key)

        assert (mine["status"], mine["resident"]) == ("decided", SECRET_RESIDENT)
        assert (other.status, other.code) == (403, "foreign_resident")


async def test_without_a_grant_there_is_no_trace(tmp_path: Path) -> None:
    """Unknown, known without a grant, or withdrawn: all the same."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.must("POST", "/v1/residents", {"resident": "silent"})
        key = await here.resident("stopped")
        await here.must("POST", "/v1/residents/me/stop", key=key)
        for resident in ("unknown", "silent", "stopped"):
            told = await here.must("POST", "/v1/pings", here.ping(resident))

            assert (told["status"], told["decision"], told["events"]) == ("no_consent", "", [])
        assert here.ctx.engine.residents == {}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b'{"resident": "r", "at_ms": 1, "lon": NaN, "lat": 1}', 400, "malformed_json"),
        (b'{"resident": "r", "at_ms": 1, "lon": Infinity, "lat": 1}', 400, "malformed_json"),
        (b'{"resident": "\xff", "at_ms": 1, "lon": 1, "lat": 1}', 400, "malformed_json"),
        (b"[" * 100_000, 400, "malformed_json"),
        (b'{"x":' * 100_000, 400, "malformed_json"),
        (b'{"pings":' + b"[" * 100_000, 400, "malformed_json"),
        (b"[]", 422, "invalid_ping"),
        (b"7", 422, "invalid_ping"),
        (b"{}", 422, "invalid_ping"),
        (b'{"resident": 3, "at_ms": 1, "lon": 1, "lat": 1}', 422, "invalid_ping"),
        (b'{"resident": "r", "at_ms": "now", "lon": 1, "lat": 1}', 422, "invalid_ping"),
        (b'{"resident": "r", "at_ms": 1.5, "lon": 1, "lat": 1}', 422, "invalid_ping"),
        (b'{"resident": "r", "at_ms": 1, "lon": "1", "lat": 1}', 422, "invalid_ping"),
        (b'{"resident": "r", "at_ms": 1, "lat": 1}', 422, "invalid_ping"),
        (b'{"resident": "r", "at_ms": 1, "lon": 1e400, "lat": 1}', 422, "invalid_ping"),
        (b'{"pings": 3}', 422, "invalid_ping"),
    ],
)
async def test_what_is_no_ping_is_refused_whole(
    tmp_path: Path, body: bytes, status: int, code: str
) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("POST", "/v1/pings", data=body)

        assert (reply.status, reply.code) == (status, code)
        if status == 422:
            assert all({"path", "code", "detail"} == set(error) for error in reply.body["errors"])


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ({"lon": 180.1}, "lon_out_of_range"),
        ({"lat": -90.1}, "lat_out_of_range"),
        ({"accuracy_m": -1}, "accuracy_invalid"),
        ({"id": ""}, "id_invalid"),
        ({"resident": "r" * 129}, "resident_invalid"),
    ],
)
async def test_a_ping_that_breaks_a_limit_is_rejected(
    tmp_path: Path, broken: dict[str, Any], code: str
) -> None:
    """The answer says which limit, and does not repeat the value."""
    async with town(tmp_path) as here:
        reply = await here.call("POST", "/v1/pings", here.ping() | broken)

        assert reply.status == 200, reply
        assert (reply.body["status"], reply.body["reject"]["code"]) == ("rejected", code)
        assert "180.1" not in reply.body["reject"]["detail"]


@pytest.mark.parametrize(
    ("later_ms", "status", "code"),
    [
        (50_000, "no_consent", None),
        (70_000, "rejected", "clock_ahead"),
        (-7 * 24 * HOUR_MS + 10_000, "no_consent", None),
        (-7 * 24 * HOUR_MS - 10_000, "rejected", "too_old"),
    ],
)
async def test_clocks_ahead_and_ancient_ones_are_rejected(
    tmp_path: Path, later_ms: int, status: str, code: str | None
) -> None:
    """60 s ahead and 7 days behind are the limits."""
    async with town(tmp_path) as here:
        at_ms = here.ctx.clock_ms() + later_ms
        told = await here.must("POST", "/v1/pings", here.ping("nobody", at_ms=at_ms))

        assert (told["status"], told.get("reject", {}).get("code")) == (status, code)


async def test_a_bad_ping_spoils_no_other(tmp_path: Path) -> None:
    """A batch is answered in the order sent."""
    async with town(tmp_path) as here:
        await here.resident()
        pings = [
            here.ping(id="a"),
            {"resident": 7},
            here.ping(id="b", lat=91),
            "what",
            here.ping("nobody", id="c"),
        ]
        told = await here.must("POST", "/v1/pings", {"pings": pings})

        statuses = [decision["status"] for decision in told["decisions"]]
        assert statuses == ["decided", "rejected", "rejected", "rejected", "no_consent"]
        assert [d.get("id") for d in told["decisions"]] == ["a", None, "b", None, "c"]


async def test_as_many_as_allowed_and_one_more(tmp_path: Path) -> None:
    """10,000 pings are answered, 10,001 are not."""
    async with town(tmp_path) as here:
        ping = {"resident": "n", "at_ms": here.ctx.clock_ms(), "lon": 1, "lat": 1}
        most = await here.must("POST", "/v1/pings", {"pings": [ping] * 10_000})
        more = await here.call("POST", "/v1/pings", {"pings": [ping] * 10_001})
        none = await here.must("POST", "/v1/pings", {"pings": []})

        assert len(most["decisions"]) == 10_000
        assert (more.status, more.code) == (422, "too_many_pings")
        assert none == {"decisions": []}


async def test_what_cannot_be_made_durable_is_not_answered(tmp_path: Path) -> None:
    """503 for one ping and for a batch of which nothing is left; in its place in a mixed one."""
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        await here.brand("cafe")
        await here.resident()
        store.available = False
        one = await here.call("POST", "/v1/pings", here.ping())
        batch = await here.call("POST", "/v1/pings", {"pings": [here.ping()]})
        mixed = await here.call("POST", "/v1/pings", {"pings": [here.ping(), here.ping("nobody")]})

        assert (one.status, one.code, one.headers["Retry-After"]) == (503, "not_durable", "1")
        assert (batch.status, batch.code) == (503, "not_durable")
        assert [d["status"] for d in mixed.body["decisions"]] == ["shed", "no_consent"]


def test_the_description_shows_the_ping_that_is_read() -> None:
    """The documented ping has the fields of the real one, but for our own stamp."""
    assert set(PingBody.__struct_fields__) == set(Ping.__struct_fields__) - {"received_ms"}
