"""Residents, their say, the redemption of codes, and why: over real HTTP."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.web_town import OPERATOR, SECRET_RESIDENT, Town, offer, town

ME = "/v1/residents/me"
MARKETING = f"{ME}/preferences/marketing"


async def test_a_resident_is_made_with_a_key(tmp_path: Path) -> None:
    """Settings have defaults, may be changed one by one, and `me` is the key's own resident."""
    async with town(tmp_path, timezone="Europe/Helsinki") as here:
        made = await here.call("POST", "/v1/residents", {"resident": "r-1"})
        key = made.body["key"]
        changed = await here.must(
            "PATCH", ME, {"limits": {"per_day": 5}, "follows": ["cafe"]}, key=key
        )
        again = await here.must("PATCH", ME, {"limits": {"per_week": 9}, "language": "fi"}, key=key)
        reset = await here.must("PATCH", ME, {"limits": {"per_day": None}}, key=key)
        named = await here.must("GET", "/v1/residents/r-1", key=key)
        random = await here.must("POST", "/v1/residents", {})
        twice = await here.call("POST", "/v1/residents", {"resident": "r-1"})

        assert made.status == 201
        assert made.body["timezone"] == "Europe/Helsinki"
        assert key.startswith("pb_resident_")
        assert changed["limits"] == {"per_day": 5}
        assert (again["limits"], again["language"]) == ({"per_day": 5, "per_week": 9}, "fi")
        assert reset["limits"] == {"per_week": 9}
        assert named == reset
        assert named["follows"] == ["cafe"]
        assert random["resident"] not in ("", "r-1")
        assert (twice.status, twice.code) == (409, "resident_exists")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"language": "a language"}, "language"),
        ({"limits": {"per_day": -1}}, "limits.per_day"),
        ({"limits": {"per_month": 1}}, "limits.per_month"),
        ({"resident": "other"}, "resident"),
    ],
)
async def test_bad_settings_are_refused(tmp_path: Path, body: dict[str, Any], path: str) -> None:
    async with town(tmp_path) as here:
        key = await here.resident()
        reply = await here.call("PATCH", ME, body, key=key)

        assert (reply.status, reply.code) == (422, "invalid_body")
        assert reply.body["errors"][0]["path"] == path


async def test_a_resident_key_acts_for_its_own_resident_only(tmp_path: Path) -> None:
    """Others are 403 whether they exist or not; `me` means nothing to other roles."""
    async with town(tmp_path) as here:
        key = await here.resident("r-1")
        await here.resident("r-2")
        for other in ("r-2", "nobody"):
            for method, path, body in (
                ("GET", "", None),
                ("PATCH", "", {}),
                ("GET", "/preferences", None),
                ("PUT", "/preferences/marketing", {"opted_in": False}),
                ("POST", "/stop", None),
            ):
                reply = await here.call(method, f"/v1/residents/{other}{path}", body, key=key)
                assert (reply.status, reply.code) == (403, "foreign_resident"), (method, path)
        me = await here.call("GET", ME)
        unknown = await here.call("GET", "/v1/residents/nobody")

        assert (me.status, me.code) == (403, "foreign_resident")
        assert (unknown.status, unknown.code) == (404, "unknown_resident")


async def test_widening_needs_the_latest_version(tmp_path: Path) -> None:
    """Nothing at version 0; then If-Match, or 428; an old one is 412 with the difference."""
    async with town(tmp_path) as here:
        key = await here.resident()
        read = await here.call("GET", f"{ME}/preferences", key=key)
        off = await here.call("PUT", MARKETING, {"opted_in": False}, key=key)
        missing = await here.call("PUT", MARKETING, {"opted_in": True}, key=key)
        stale = await here.call(
            "PUT", MARKETING, {"opted_in": True}, key=key, If_Match=read.headers["ETag"]
        )
        latest = await here.call(
            "PUT", MARKETING, {"opted_in": True}, key=key, If_Match=off.headers["ETag"]
        )

        assert (read.headers["ETag"], off.headers["ETag"]) == ('"1"', '"2"')
        assert (missing.status, missing.code) == (428, "precondition_required")
        assert (stale.status, stale.code, stale.body["version"]) == (412, "stale_version", 2)
        assert {said["effect"] for said in stale.body["difference"]} == {"withdraw"}
        assert (latest.status, latest.body["version"]) == (200, 3)


@pytest.mark.parametrize("if_match", ["*", '"x"', '"1", "2"', "-1", '""'])
async def test_an_if_match_names_one_version(tmp_path: Path, if_match: str) -> None:
    """What turns off is accepted whatever the header says."""
    async with town(tmp_path) as here:
        key = await here.resident()
        on = await here.call("PUT", MARKETING, {"opted_in": True}, key=key, If_Match=if_match)
        off = await here.call("PUT", MARKETING, {"opted_in": False}, key=key, If_Match=if_match)

        assert (on.status, on.code) == (422, "invalid_parameter")
        assert off.status == 200


async def test_receipts_are_the_records(tmp_path: Path) -> None:
    """Each change comes back with a receipt that what stands now refers to."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.notice("offers", "3", "fi")
        made = await here.must("POST", "/v1/residents", {})
        wanted = {
            "opted_in": True,
            "brands": ["cafe"],
            "device": "phone",
            "notice": {"id": "offers", "version": "3", "locale": "fi"},
        }
        done = await here.must("PUT", MARKETING, wanted, key=made["key"])
        read = await here.must("GET", f"{ME}/preferences", key=made["key"])

        assert [(c["effect"], c["actions"], c["scope"]) for c in done["changes"]] == [
            ("grant", ["use"], {"brand": "cafe"}),
            ("grant", ["contact"], {"brand": "cafe"}),
        ]
        assert [receipt["id"] for receipt in done["receipts"]] == [
            held["receipt"] for held in read["standing"]
        ]
        assert [held["lanes"] for held in read["standing"]] == [
            ["offers:use:precise_location"],
            ["offers:contact:contact_point"],
        ]
        for receipt in done["receipts"]:
            record = receipt["record"]
            assert receipt["hash"].startswith(receipt["id"])
            assert (record["actor"], record["device"]) == ("self", "phone")
            assert record["notice"]["version"] == "3"
        assert done["receipts"][1]["record"]["supersedes"] == done["receipts"][0]["id"]
        assert done["acknowledged_ms"] >= done["receipts"][0]["record"]["server_ms"]


async def test_an_unknown_brand_can_be_left_but_not_joined(tmp_path: Path) -> None:
    """A no never fails on what it names."""
    async with town(tmp_path) as here:
        made = await here.must("POST", "/v1/residents", {})
        on = await here.call("PUT", MARKETING, {"opted_in": True, "brands": ["x"]}, key=made["key"])
        off = await here.call(
            "PUT", MARKETING, {"opted_in": False, "brands": ["x"]}, key=made["key"]
        )

        assert (on.status, on.code) == (422, "unknown_brand")
        assert off.status == 200


async def test_turning_off_wins_every_race(tmp_path: Path) -> None:
    """Twenty devices say no at once: all are acknowledged, each with a version of its own."""
    async with town(tmp_path) as here:
        key = await here.resident()
        replies = await asyncio.gather(
            *(here.call("PUT", MARKETING, {"opted_in": False}, key=key) for _ in range(20))
        )
        ping = await here.must("POST", "/v1/pings", here.ping(), key=key)

        assert {reply.status for reply in replies} == {200}
        assert sorted(reply.body["version"] for reply in replies) == list(range(2, 22))
        assert ping["status"] == "no_consent"


async def _claim(here: Town, **more: Any) -> tuple[str, dict[str, Any]]:
    """A resident's key and the offer that their ping was answered with."""
    await here.brand("cafe")
    await here.must("PUT", "/v1/offers/bun", offer("cafe", **more))
    key = await here.resident()
    made = await here.must("POST", "/v1/pings", here.ping(), key=key)
    return key, made["offer"]


async def test_a_code_is_redeemed_once(tmp_path: Path) -> None:
    """However it is typed, by the brand's merchant alone; rolled back it is good again."""
    async with town(tmp_path) as here:
        _, made = await _claim(here)
        await here.brand("rival")
        merchant = await here.key("merchant", brands=["cafe"])
        rival = await here.key("merchant", brands=["rival"])
        typed = {"code": f" {made['code'].lower().replace('-', ' ')} ", "till": "2"}
        foreign = await here.call("POST", "/v1/redemptions", typed, key=rival)
        first = await here.call("POST", "/v1/redemptions", typed, key=merchant)
        second = await here.call("POST", "/v1/redemptions", typed, key=merchant)
        path = f"/v1/redemptions/{first.body['redemption']}"
        not_theirs = await here.call("DELETE", path, key=rival)
        back = await here.call("DELETE", path, key=merchant)
        twice = await here.call("DELETE", path, key=merchant)
        third = await here.call("POST", "/v1/redemptions", typed, key=merchant)

        assert (foreign.status, foreign.code) == (404, "unknown_code")
        assert (first.status, first.body["claim"]) == (201, made["claim"])
        assert (second.status, second.code) == (409, "already_redeemed")
        assert (not_theirs.status, not_theirs.code) == (404, "unknown_redemption")
        assert (back.status, twice.status, third.status) == (204, 404, 201)


async def test_ten_tills_at_once_redeem_one(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        _, made = await _claim(here)
        code = {"code": made["code"]}
        replies = await asyncio.gather(
            *(here.call("POST", "/v1/redemptions", code) for _ in range(10))
        )

        assert sorted(reply.status for reply in replies) == [201] + [409] * 9


async def test_a_code_dies_with_its_time(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        _, made = await _claim(here, claim_ttl_s=60)
        here.ctx.clock_ms = lambda: int(made["expires_at_ms"]) + 1
        reply = await here.call("POST", "/v1/redemptions", {"code": made["code"]})

        assert (reply.status, reply.code) == (409, "expired")


async def test_a_code_dies_with_the_consent(tmp_path: Path) -> None:
    """Stop means stop, at the till too."""
    async with town(tmp_path) as here:
        key, made = await _claim(here)
        await here.must("POST", f"{ME}/stop", key=key)
        reply = await here.call("POST", "/v1/redemptions", {"code": made["code"]})

        assert reply.status == 409
        assert reply.code in ("withdrawn", "recalled")


@pytest.mark.parametrize("code", ["x", "AAAA-AAAA-AAAA", "0000-0000-0000", "é"])
async def test_an_unknown_code_is_404(tmp_path: Path, code: str) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("POST", "/v1/redemptions", {"code": code})

        assert (reply.status, reply.code) == (404, "unknown_code")


async def test_why_shows_each_role_its_own(tmp_path: Path) -> None:
    """All to the operator and the resident, its own candidates to a merchant, 404 to others."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.brand("rival")
        await here.must("PUT", "/v1/offers/bun", offer("cafe", priority=1))
        await here.must("PUT", "/v1/offers/cake", offer("cafe"))
        await here.must("PUT", "/v1/offers/tea", offer("rival"))
        key = await here.resident()
        made = await here.must("POST", "/v1/pings", here.ping(), key=key)
        merchant = await here.key("merchant", brands=["cafe"])
        rival = await here.key("merchant", brands=["rival"])
        other = await here.resident("r-2")
        path = f"/v1/decisions/{made['offer']['claim']}/why"
        full = await here.must("GET", path)
        by_decision = await here.must("GET", f"/v1/decisions/{made['decision']}/why")
        own = await here.must("GET", path, key=key)
        redacted = await here.must("GET", path, key=merchant)

        assert full == by_decision == own
        withheld = {gate["offer"]: gate["withheld"] for gate in full["candidates"]}
        assert withheld == {"bun": None, "cake": "outranked", "tea": "outranked"}
        assert len(full["allowed_by"]) == 2
        assert {gate["offer"] for gate in redacted["candidates"]} == {"bun", "cake"}
        assert (redacted["allowed_by"], redacted["consent_version"]) == ([], None)
        assert SECRET_RESIDENT not in str(full)
        for stranger in (rival, other):
            reply = await here.call("GET", path, key=stranger)
            assert (reply.status, reply.code) == (404, "unknown_decision")
        assert (await here.call("GET", "/v1/decisions/nothing/why", key=OPERATOR)).status == 404
