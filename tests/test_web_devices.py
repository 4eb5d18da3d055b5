"""A resident's devices, and two residents who become one, over real HTTP."""

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from engine.store.memory import MemoryStore
from engine.web.context import PAIRING_BURST_S, PAIRING_TRIES_PER_S
from engine.web.devices import CODE_LENGTH, PAIRING_MS
from tests.test_web_preferences import ME, PREFERENCES, USE, change, newcomer, patch
from tests.web_town import Town, offer, town

HOME: Final = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [25.5, 60.2]},
    "properties": {"radius_m": 150},
}


async def code_of(here: Town, key: str) -> str:
    """A new pairing code."""
    return str((await here.must("POST", f"{ME}/pairings", key=key))["code"])


async def merge(here: Town, key: str, other: str) -> Any:
    """The other resident becomes the first one, by a code that their device shows."""
    body = {"code": await code_of(here, other)}
    return await here.must("POST", f"{ME}/merge", body, key=key)


async def test_a_second_device_joins_by_a_code(tmp_path: Path) -> None:
    """It speaks for the same resident, with a key of its own, however the code was typed."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        code = await code_of(here, key)
        typed = {"code": f" {code.lower().replace('-', ' ')} ", "device": "tablet"}
        joined = await here.must("POST", "/v1/pairings", typed, key=None)
        mine = await here.must("GET", ME, key=key)
        theirs = await here.must("GET", ME, key=joined["key"])
        devices = (await here.must("GET", f"{ME}/devices", key=joined["key"]))["items"]

        assert len(code.replace("-", "")) == CODE_LENGTH
        assert mine == theirs
        assert joined["resident"] == mine["resident"]
        assert {device["name"]: device["current"] for device in devices} == {
            "made with the resident": False,
            "tablet": True,
        }
        assert [one["id"] for one in devices] == sorted(one["id"] for one in devices)


async def test_a_code_is_used_once(tmp_path: Path) -> None:
    """Whoever is second gets nothing, also at the same moment; a made-up one neither."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        body = {"code": await code_of(here, key)}
        calls = [here.call("POST", "/v1/pairings", body, key=None) for _ in range(8)]
        done = await asyncio.gather(*calls)
        made_up = await here.call("POST", "/v1/pairings", {"code": "0" * CODE_LENGTH}, key=None)

        assert sorted(reply.status for reply in done) == [201] + [404] * 7
        assert {reply.code for reply in done if reply.status == 404} == {"unknown_pairing"}
        assert (made_up.status, made_up.code) == (404, "unknown_pairing")


async def test_a_code_ends(tmp_path: Path) -> None:
    """After ten minutes by the service's clock; and it is kept as a hash only."""
    now_ms = 1_790_000_000_000
    async with town(tmp_path, clock_ms=lambda: now_ms) as here:
        key = await newcomer(here)
        made = await here.must("POST", f"{ME}/pairings", key=key)
        assert made["expires_at_ms"] == now_ms + PAIRING_MS
        assert isinstance(here.ctx.store, MemoryStore)
        assert made["code"].replace("-", "") not in str(here.ctx.store.shared.pairings)
        now_ms += PAIRING_MS
        late = await here.call("POST", "/v1/pairings", {"code": made["code"]}, key=None)

        assert (late.status, late.code) == (404, "unknown_pairing")


async def test_nobody_can_try_codes_for_long(tmp_path: Path) -> None:
    """Wrong ones are counted, whoever sends them; right ones are not."""
    tries = PAIRING_TRIES_PER_S * PAIRING_BURST_S
    async with town(tmp_path) as here:
        key = await newcomer(here)
        for _ in range(tries // 10):
            await here.must("POST", "/v1/pairings", {"code": await code_of(here, key)}, key=None)
        codes = [f"{number:010}" for number in range(tries + 20)]
        calls = [here.call("POST", "/v1/pairings", {"code": code}, key=None) for code in codes]
        done = await asyncio.gather(*calls)
        right = await here.call(
            "POST", "/v1/pairings", {"code": await code_of(here, key)}, key=None
        )

        wrong = sum(reply.status == 404 for reply in done)
        assert tries <= wrong < tries + 20
        assert {reply.status for reply in done} == {404, 429}
        assert (right.status, right.code) == (429, "too_many_requests")
        assert int(right.headers["Retry-After"]) >= 1


async def test_a_lost_device_is_taken_away(tmp_path: Path) -> None:
    """Its key stops working; nobody else's does, and nobody else's can be taken."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        body = {"code": await code_of(here, key), "device": "lost"}
        lost = await here.must("POST", "/v1/pairings", body, key=None)
        other = await newcomer(here)
        (theirs,) = (await here.must("GET", f"{ME}/devices", key=other))["items"]
        foreign = await here.call("DELETE", f"{ME}/devices/{theirs['id']}", key=key)
        gone = await here.call("DELETE", f"{ME}/devices/{lost['id']}", key=key)
        again = await here.call("DELETE", f"{ME}/devices/{lost['id']}", key=key)

        assert (foreign.status, foreign.code) == (404, "unknown_device")
        assert (gone.status, again.code) == (204, "unknown_device")
        assert (await here.call("GET", ME, key=lost["key"])).status == 401
        assert (await here.call("GET", ME, key=key)).status == 200


async def test_merging_keeps_every_no_and_only_common_yes(tmp_path: Path) -> None:
    """With the devices, the zones and the lower limits of both."""
    async with town(tmp_path) as here:
        stays, goes = await newcomer(here), await newcomer(here)
        await patch(here, stays, USE, change("grant"), change("grant", purpose="loyalty"))
        deny = change("deny", purpose="research")
        email = change("grant", channels=["email", "push"])
        await patch(here, goes, change("grant", channels=["sms"]), email, deny)
        await here.must("PATCH", ME, {"limits": {"per_day": 5, "per_week": 9}}, key=stays)
        await here.must("PATCH", ME, {"limits": {"per_day": 2}}, key=goes)
        for key, lon in ((stays, 25.5), (goes, 26.5)):
            zone = {**HOME, "geometry": {"type": "Point", "coordinates": [lon, 60.2]}}
            await here.must("PUT", f"{ME}/zones/home", zone, key=key)
        was = (await here.must("GET", ME, key=goes))["resident"]
        said = (await here.must("GET", f"{ME}/history", key=goes))["items"]

        done = await merge(here, stays, goes)

        now = await here.must("GET", PREFERENCES, key=stays)
        held = {(one["effect"], *one["lanes"]): one["channels"] for one in now["standing"]}
        assert held == {
            ("grant", "offers:contact:contact_point"): ["email", "push"],
            ("deny", "research:contact:contact_point"): None,
        }
        assert (now["version"], done["version"]) == (2, 2)
        settings = await here.must("GET", ME, key=goes)
        assert settings == await here.must("GET", ME, key=stays)
        assert settings["limits"] == {"per_day": 2, "per_week": 9}
        zones = (await here.must("GET", f"{ME}/zones", key=goes))["items"]
        assert [zone["id"] for zone in zones] == ["home", "home-2"]
        old = await here.call("GET", f"/v1/residents/{was}")
        assert (old.status, old.code) == (410, "merged_resident")
        export = await here.must("GET", f"{ME}/export", key=goes)
        assert [one["resident"] for one in export["merged"]] == [was]
        receipt = await here.must("GET", f"{ME}/receipts/{said[0]['id']}", key=stays)
        assert receipt["record"] == said[0]["record"]


async def test_who_was_merged_gets_nothing_any_more(tmp_path: Path) -> None:
    """By whatever call; their claims and codes are the other's, and what it allows."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        stays, goes = await here.resident("stays"), await here.resident("goes")
        made = (await here.must("POST", "/v1/pings", here.ping("goes")))["offer"]
        done = await here.call("POST", "/v1/residents/stays/merge", {"resident": "goes"})
        ping = await here.must("POST", "/v1/pings", here.ping("goes"))
        calls = [
            await here.call(method, f"/v1/residents/goes{path}", body)
            for method, path, body in (
                ("GET", "", None),
                ("PATCH", "", {"language": "fi"}),
                ("GET", "/preferences", None),
                ("PUT", "/preferences/marketing", {"opted_in": False}),
                ("POST", "/stop", None),
                ("GET", "/history", None),
                ("GET", "/export", None),
                ("POST", "/pairings", None),
                ("POST", "/merge", {"resident": "stays"}),
            )
        ]
        offers = (await here.must("GET", f"{ME}/offers", key=goes))["items"]
        redeemed = await here.call("POST", "/v1/redemptions", {"code": made["code"]})
        gone = await here.call("DELETE", ME, key=stays)
        left = await here.call("GET", "/v1/residents/goes")

        assert done.status == 200
        assert ping["status"] == "no_consent"
        assert {(reply.status, reply.code) for reply in calls} == {(410, "merged_resident")}
        assert [one["claim"] for one in offers] == [made["claim"]]
        assert redeemed.status == 201
        assert (gone.status, left.status) == (204, 404)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_body"),
        ({"resident": "a", "code": "b"}, 422, "invalid_body"),
        ({"resident": "stays"}, 422, "invalid_body"),
        ({"resident": "nobody"}, 404, "unknown_resident"),
        ({"code": "0" * CODE_LENGTH}, 404, "unknown_pairing"),
    ],
)
async def test_a_merge_needs_another_who_is_there(
    tmp_path: Path, body: dict[str, str], status: int, code: str
) -> None:
    async with town(tmp_path) as here:
        await here.resident("stays")
        reply = await here.call("POST", "/v1/residents/stays/merge", body)

        assert (reply.status, reply.code) == (status, code)


async def test_a_resident_cannot_take_another_by_name(tmp_path: Path) -> None:
    """Only with a code of theirs; nor can a resident's own code be used on themselves."""
    async with town(tmp_path) as here:
        key, _ = await here.resident("a"), await here.resident("b")
        by_name = await here.call("POST", f"{ME}/merge", {"resident": "b"}, key=key)
        own = await here.call("POST", f"{ME}/merge", {"code": await code_of(here, key)}, key=key)

        assert (by_name.status, by_name.code) == (403, "foreign_resident")
        assert (own.status, own.body["errors"][0]["code"]) == (422, "same_resident")


async def test_what_is_said_during_a_merge_is_in_it(tmp_path: Path) -> None:
    """A "no" of either, said at the same moment, holds afterwards or is told that it does not."""
    async with town(tmp_path) as here:
        stays, goes = await here.resident("stays"), await here.resident("goes")
        no = change("deny", purpose="research")
        code = await code_of(here, goes)
        done = await asyncio.gather(
            here.call("POST", f"{ME}/merge", {"code": code}, key=stays),
            *(patch(here, key, no) for key in (stays, goes) for _ in range(5)),
        )
        now = await here.must("GET", PREFERENCES, key=stays)

        assert done[0].status == 200, done[0]
        assert {reply.status for reply in done[1:]} <= {200, 410}
        assert ("deny", ["research:contact:contact_point"]) in [
            (one["effect"], one["lanes"]) for one in now["standing"]
        ]
