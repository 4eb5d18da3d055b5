"""Private zones over real HTTP: drawn and live at once, removed only by who saw the latest."""

from pathlib import Path
from typing import Any, Final

import pytest

from engine.store.memory import MemoryStore
from tests.web_town import LAT, LON, SECRET_RESIDENT, Town, offer, town

ZONES: Final = f"/v1/residents/{SECRET_RESIDENT}/zones"


def disc(radius_m: float = 150, *, lon: float = LON, **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [lon, LAT]},
        "properties": {"radius_m": radius_m, **more},
    }


async def open_cafe(here: Town) -> str:
    """A cafe with an offer, and a resident who wants it; their key."""
    await here.brand("cafe")
    await here.must("PUT", "/v1/offers/bun", offer("cafe"))
    return await here.resident()


async def test_a_zone_is_live_in_every_process_once_it_is_answered(tmp_path: Path) -> None:
    """Also in the other process, once it has followed; and in one that starts later."""
    first = MemoryStore()
    async with (
        town(tmp_path / "a", first) as here,
        town(tmp_path / "b", MemoryStore(first.shared)) as other,
    ):
        key = await open_cafe(here)
        made = await here.call("PUT", f"{ZONES}/home", disc(), key=key)
        assert (made.status, made.headers["ETag"]) == (201, '"1"')
        assert made.body["properties"] == {"kind": "private", "radius_m": 150}

        await other.ctx.feed.reached(first.shared.number, timeout_s=5)
        for one in (here, other):
            decision = await one.must("POST", "/v1/pings", one.ping())
            assert decision["status"] == "private_zone"
            assert (decision["events"], decision["offer"]) == ([], None)
    async with town(tmp_path / "c", MemoryStore(first.shared)) as later:
        decision = await later.must("POST", "/v1/pings", later.ping())
        assert decision["status"] == "private_zone"
    assert first.shared.presences == {}
    assert first.shared.claims == {}


async def test_every_way_of_a_ping_drops_it(tmp_path: Path) -> None:
    """Alone, in a batch and as a line."""
    async with town(tmp_path) as here:
        key = await open_cafe(here)
        await here.must("PUT", f"{ZONES}/home", disc(), key=key)
        one = here.ping()
        batch = await here.must("POST", "/v1/pings", {"pings": [one, here.ping(lon=LON + 1)]})
        lines = await here.call(
            "POST",
            "/v1/pings",
            data=b'{"resident":"%s","at_ms":%d,"lon":%f,"lat":%f}\n'
            % (SECRET_RESIDENT.encode(), one["at_ms"], LON, LAT),
            Content_Type="application/x-ndjson",
        )

        assert [d["status"] for d in batch["decisions"]] == ["private_zone", "decided"]
        assert '"status":"private_zone"' in lines.body


async def test_removing_a_zone_needs_the_latest_version(tmp_path: Path) -> None:
    """428 without, 412 with an older one; a zone drawn anew never has an old version."""
    async with town(tmp_path) as here:
        key = await open_cafe(here)
        await here.must("PUT", f"{ZONES}/home", disc(100), key=key)
        larger = await here.call("PUT", f"{ZONES}/home", disc(200), key=key)
        assert (larger.status, larger.headers["ETag"]) == (200, '"2"')
        for path, body, method in (("home", disc(50), "PUT"), ("home", None, "DELETE")):
            without = await here.call(method, f"{ZONES}/{path}", body, key=key)
            any_ = await here.call(method, f"{ZONES}/{path}", body, key=key, If_Match="*")
            stale = await here.call(method, f"{ZONES}/{path}", body, key=key, If_Match='"1"')
            assert [r.code for r in (without, any_)] == ["precondition_required"] * 2
            assert (stale.code, stale.headers["ETag"]) == ("version_moved", '"2"')
            assert stale.body["version"] == 2

        gone = await here.call("DELETE", f"{ZONES}/home", key=key, If_Match='"2"')
        assert gone.status == 204
        assert (await here.must("POST", "/v1/pings", here.ping()))["status"] == "decided"
        again = await here.call("PUT", f"{ZONES}/home", disc(), key=key)
        assert (again.status, again.headers["ETag"]) == (201, '"4"')
        old = await here.call("DELETE", f"{ZONES}/home", key=key, If_Match='"2"')
        assert old.code == "version_moved"


async def test_zones_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    """One by one and as a list by name; only by the resident and the operator."""
    async with town(tmp_path) as here:
        key, sender = await open_cafe(here), await here.key("sender")
        for name in ("work", "home"):
            await here.must("PUT", f"{ZONES}/{name}", disc(90, kind="place"), key=key)

        listed = await here.must("GET", ZONES, key=key)
        one = await here.call("GET", f"{ZONES}/home")

        assert [item["id"] for item in listed["items"]] == ["home", "work"]
        assert listed["items"][0] == one.body
        assert (one.headers["ETag"], one.body["geometry"]) == ('"2"', disc()["geometry"])
        assert (await here.call("GET", ZONES, key=sender)).code == "wrong_role"
        assert (await here.call("GET", f"{ZONES}/gym", key=key)).code == "no_such_zone"
        stranger = await here.call("GET", "/v1/residents/nobody/zones")
        assert stranger.code == "unknown_resident"
        entries = await here.must("GET", "/v1/audit?kind=protection")
        assert entries["items"] == []  # what residents do is theirs
        await here.must("PUT", f"{ZONES}/gym", disc(90))
        entries = await here.must("GET", "/v1/audit?kind=protection")
        assert [item["id"] for item in entries["items"]] == [SECRET_RESIDENT]


async def test_a_place_that_a_grant_names_stays(tmp_path: Path) -> None:
    """Removed and drawn anew it would turn the grant on again, unseen by other devices."""
    async with town(tmp_path) as here:
        key = await open_cafe(here)
        await here.must("PUT", f"{ZONES}/gym", disc(90, kind="place"), key=key)
        grant = {
            "effect": "grant",
            "purpose": "offers",
            "actions": ["contact"],
            "data": ["contact_point"],
            "scope": {"all": True},
            "places": ["gym"],
        }
        path = f"/v1/residents/{SECRET_RESIDENT}/preferences"
        nowhere = {**grant, "places": ["gym", "attic"]}
        refused = await here.call("PATCH", path, {"changes": [nowhere]}, key=key, If_Match='"1"')
        assert [(e["path"], e["code"]) for e in refused.body["errors"]] == [
            ("changes[0].places[1]", "unknown_place")
        ]
        said = await here.call("PATCH", path, {"changes": [grant]}, key=key, If_Match='"1"')
        assert said.status == 200

        kept = await here.call("DELETE", f"{ZONES}/gym", key=key, If_Match='"1"')

        assert kept.code == "zone_in_use"
        inside = await here.must("POST", "/v1/pings", here.ping())
        assert (inside["offer"], inside["withheld"]) == (None, "place")
        outside = await here.must("POST", "/v1/pings", here.ping(lon=LON + 0.1))
        assert outside["status"] == "decided"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (disc(20_000), "invalid_zone"),
        (disc(kind="secret"), "invalid_zone"),
        ({"type": "Point", "coordinates": [LON, LAT]}, "invalid_zone"),
        ([], "invalid_zone"),
    ],
)
async def test_what_is_no_zone_is_refused(tmp_path: Path, body: Any, code: str) -> None:
    """And says nothing of where it was."""
    async with town(tmp_path) as here:
        key = await open_cafe(here)

        refused = await here.call("PUT", f"{ZONES}/home", body, key=key)

        assert (refused.code, len(refused.body["errors"]) > 0) == (code, True)
        assert "24.9" not in str(refused.body)


async def test_zones_are_few(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        key = await open_cafe(here)
        for number in range(10):
            await here.must("PUT", f"{ZONES}/z{number}", disc(9, lon=LON + 0.1), key=key)

        refused = await here.call("PUT", f"{ZONES}/z10", disc(9), key=key)

        assert refused.code == "too_many_zones"
