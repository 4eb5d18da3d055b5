"""Preferences in all their detail, over real HTTP."""

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from engine.consent.record import Record, record_hash
from engine.consent.sync import DAY_MS
from engine.web.change import CHANGES_MAX, Change
from tests.web_town import Town, offer, raw, town

ME: Final = "/v1/residents/me"
PREFERENCES: Final = f"{ME}/preferences"


def change(effect: str, **more: Any) -> dict[str, Any]:
    """A change of one lane for all."""
    told = {"purpose": "offers", "actions": ["contact"], "data": ["contact_point"]}
    return {"effect": effect, **told, "scope": {"all": True}, **more}


USE: Final = change("grant", actions=["use"], data=["precise_location"])


def hours(first: int, last: int) -> dict[str, Any]:
    """A window on Mondays."""
    return {"days": [1], "from_hour": first, "to_hour": last}


async def newcomer(here: Town) -> str:
    """Key of a resident who never said anything."""
    return str((await here.must("POST", "/v1/residents", {}))["key"])


HOME: Final = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [24.9, 60.2]},
    "properties": {"radius_m": 90, "kind": "place"},
}


async def patch(here: Town, key: str, *changes: Any, **more: Any) -> Any:
    """The reply to a PATCH."""
    headers = {"If_Match": more.pop("seen")} if "seen" in more else {}
    return await here.call("PATCH", PREFERENCES, {"changes": changes, **more}, key=key, **headers)


async def test_a_patch_is_kept_as_it_was_said(tmp_path: Path) -> None:
    """Each change becomes a record with its circumstances, and stands as it was narrowed down."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        digest = await here.notice("offers", "3", "sv-FI")
        key = await newcomer(here)
        zone = "/v1/residents/me/zones/home"
        await here.must("PUT", zone, HOME, key=key)
        week = [{"days": [5, 1, 5], "from_hour": 22, "to_hour": 2}]
        asked = change(
            "grant", scope={"category": "cafe"}, channels=["push"], week=week, places=["home"]
        )
        done = await patch(
            here,
            key,
            USE | {"expires_at": "2100-01-01T00:00:00+02:00"},
            asked,
            change("deny", scope={"brand": "unheard-of"}),
            notice={"id": "offers", "version": "3", "locale": "sv-FI"},
            device="phone",
            client_ms=5,
        )
        read = await here.must("GET", PREFERENCES, key=key)

        assert (done.status, done.headers["ETag"], done.body["refused"]) == (200, '"1"', [])
        records = [receipt["record"] for receipt in done.body["receipts"]]
        assert [record["effect"] for record in records] == ["grant", "grant", "deny"]
        assert {(r["device"], r["client_ms"], r["actor"]) for r in records} == {
            ("phone", 5, "self")
        }
        shown = {"id": "offers", "version": "3", "locale": "sv-FI", "text_hash": digest}
        assert records[0]["notice"] == shown
        assert records[0]["expires_ms"] == records[0]["server_ms"] + 90 * DAY_MS
        held = read["standing"][1]
        assert held["scope"] == {"category": "cafe"}
        assert held["week"] == [{"days": [1, 5], "from_hour": 22, "to_hour": 2}]
        assert (held["channels"], held["places"]) == (["push"], ["home"])
        assert read["version"] == 1


async def test_a_grant_by_patch_brings_offers_and_a_deny_ends_them(tmp_path: Path) -> None:
    """The hot path goes by it from the answer on, and so does the till."""
    always = {"week": [{"days": [1, 2, 3, 4, 5, 6, 7], "from_hour": 0, "to_hour": 24}]}
    wanted = (USE, change("grant", scope={"category": "cafe"}, **always))
    never = change("deny", scope={"brand": "cafe"})
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        told = {}
        for resident, changes in (("on", wanted), ("off", (*wanted, never))):
            made = await here.must("POST", "/v1/residents", {"resident": resident})
            assert (await patch(here, made["key"], *changes)).status == 200
            told[resident] = await here.must("POST", "/v1/pings", here.ping(resident))
            await patch(here, made["key"], never)
        code = told["on"]["offer"]["code"]
        redeemed = await here.call("POST", "/v1/redemptions", {"code": code})

        assert (told["off"]["offer"], told["off"]["withheld"]) == (None, "denied")
        assert (redeemed.status, redeemed.code) == (409, "withdrawn")


async def test_what_turns_off_is_never_refused_for_its_version(tmp_path: Path) -> None:
    """However old the view is, and whatever the header says; what turns on comes back."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        await patch(here, key, USE)
        deny, grant = change("deny", purpose="loyalty"), change("grant")
        for seen in ('"0"', '"7"', "*", "no etag"):
            mixed = await patch(here, key, grant, deny, seen=seen)
            assert mixed.status == 200, seen
            assert [said["effect"] for said in mixed.body["changes"]] == ["deny"]
            assert [said["effect"] for said in mixed.body["refused"]] == ["grant"]
        missing = await patch(here, key, grant)
        stale = await patch(here, key, grant, seen='"4"')
        latest = await patch(here, key, grant, deny, seen='"5"')

        assert (missing.status, missing.code) == (428, "precondition_required")
        assert missing.headers["ETag"] == '"5"'
        assert (stale.status, stale.body["version"]) == (412, 5)
        assert [said["version"] for said in stale.body["difference"]] == [5]
        assert (latest.status, latest.body["version"], latest.body["refused"]) == (200, 6, [])


async def test_a_no_said_twice_is_a_record_each_but_sent_twice_is_one(tmp_path: Path) -> None:
    """So that nobody turns on what was turned off since they looked, and a retry costs nothing."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        deny = {"changes": [change("deny")]}
        first = await here.must("PATCH", PREFERENCES, deny, key=key, Idempotency_Key="one")
        again = await here.call("PATCH", PREFERENCES, deny, key=key, Idempotency_Key="one")
        second = await here.must("PATCH", PREFERENCES, deny, key=key, Idempotency_Key="two")
        unseen = await patch(here, key, change("grant"), seen='"1"')

        assert (again.headers["Idempotent-Replay"], again.body) == ("true", first)
        assert (first["version"], second["version"]) == (1, 2)
        assert unseen.status == 412


@pytest.mark.parametrize(
    ("wrong", "path", "code"),
    [
        ({"purpose": "fun"}, "purpose", "unknown_purpose"),
        ({"actions": ["use", "peek"]}, "actions[1]", "unknown_action"),
        ({"data": ["shoe_size"]}, "data[0]", "unknown_data"),
        ({"channels": ["pigeon"]}, "channels[0]", "unknown_channel"),
        ({"channels": []}, "channels", "empty_channels"),
        ({"scope": {}}, "scope", "invalid_scope"),
        ({"scope": {"all": True, "brand": "cafe"}}, "scope", "invalid_scope"),
        ({"scope": {"brand": "x"}}, "scope.brand", "unknown_brand"),
        ({"scope": {"category": "x"}}, "scope.category", "unknown_category"),
        ({"week": []}, "week", "empty_week"),
        ({"week": [{"days": [], "from_hour": 1, "to_hour": 2}]}, "week[0].days", "empty_window"),
        (
            {"week": [{"days": [1], "from_hour": 9, "to_hour": 9}]},
            "week[0].to_hour",
            "empty_window",
        ),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "in_the_past"),
        (
            {"actions": ["use"], "week": [hours(1, 2)]},
            "week",
            "only_for_contact",
        ),
        ({"effect": "deny", "channels": ["sms"]}, "channels", "only_for_grants"),
        (
            {"effect": "withdraw", "expires_at": "2100-01-01T00:00:00Z"},
            "expires_at",
            "only_for_grants",
        ),
    ],
)
async def test_a_wrong_change_is_refused_with_what_would_be_right(
    tmp_path: Path, wrong: dict[str, Any], path: str, code: str
) -> None:
    """The whole call is, and nothing of it is kept: neither what was right in it."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await newcomer(here)
        reply = await patch(here, key, change("deny"), change("grant") | wrong)
        read = await here.must("GET", PREFERENCES, key=key)

        assert (reply.status, reply.code) == (422, "invalid_preferences")
        (error,) = reply.body["errors"]
        assert (error["path"], error["code"]) == (f"changes[1].{path}", code)
        assert error["detail"].endswith(".")
        assert read["version"] == 0


async def test_a_grant_needs_a_text_that_is_kept(tmp_path: Path) -> None:
    """The one that the resident was shown; a "no" needs none."""
    kept = {"id": "offers", "version": "3", "locale": "fi"}
    async with town(tmp_path) as here:
        digest = await here.notice(**{"id_" if k == "id" else k: v for k, v in kept.items()})
        key = await newcomer(here)
        for notice, code in (
            (kept | {"version": "4"}, "unknown_notice"),
            (kept | {"locale": "sv"}, "unknown_notice"),
            (kept | {"text_hash": "0" * 64}, "notice_differs"),
        ):
            for reply in (
                await patch(here, key, change("grant"), notice=notice),
                await here.call(
                    "PUT", f"{PREFERENCES}/marketing", {"opted_in": True, "notice": notice}, key=key
                ),
            ):
                assert (reply.status, reply.code) == (422, "invalid_preferences")
                assert [(e["path"], e["code"]) for e in reply.body["errors"]] == [("notice", code)]
            off = await patch(here, key, change("deny"), notice=notice)
            assert off.body["receipts"][0]["record"]["notice"]["version"] == notice["version"]
        on = await patch(
            here, key, change("grant"), notice=kept | {"text_hash": digest.upper()}, seen='"3"'
        )

        assert on.body["receipts"][0]["record"]["notice"]["text_hash"] == digest


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"changes": []}, "changes"),
        ({"changes": [change("pause")]}, "changes[0].effect"),
        (
            {"changes": [change("deny", week=[{"days": [8], "from_hour": 1, "to_hour": 2}])]},
            "changes[0].week[0].days[0]",
        ),
        ({"notice": {"id": "n", "version": "1", "locale": "in Finnish"}}, "notice.locale"),
        ({"changes": [change("deny", scope="all")]}, "changes[0].scope"),
        ({"changes": [change("grant", expires_at="tomorrow")]}, "changes[0].expires_at"),
        ({"changes": [change("deny")], "hurry": True}, "hurry"),
    ],
)
async def test_a_body_of_another_shape_is_refused(
    tmp_path: Path, wrong: dict[str, Any], path: str
) -> None:
    async with town(tmp_path) as here:
        key = await newcomer(here)
        reply = await here.call(
            "PATCH", PREFERENCES, {"changes": [change("deny")]} | wrong, key=key
        )

        assert (reply.status, reply.code) == (422, "invalid_body")
        assert reply.body["errors"][0]["path"] == path


async def test_a_million_changes_are_refused_cleanly(tmp_path: Path) -> None:
    """Before they are read where they are too many bytes, and in whole where they are not."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        one = msgspec.json.encode(change("deny"))
        many = b'{"changes":[' + b",".join([one] * (CHANGES_MAX + 1)) + b"]}"
        head = (
            f"PATCH {PREFERENCES} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Length: {1_000_000 * len(one)}\r\n\r\n"
        )
        few = await here.call("PATCH", PREFERENCES, key=key, data=many)
        large = await raw(here.port, head.encode(), many)
        after = await here.must("GET", PREFERENCES, key=key)

        assert (few.status, few.body["errors"][0]["path"]) == (422, "changes")
        assert large.startswith(b"HTTP/1.1 413")
        assert after["version"] == 0


async def test_two_devices_at_once_lose_nothing(tmp_path: Path) -> None:
    """Of widenings from one version one is made; narrowings all are, each with its own version."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        await patch(here, key, USE)
        purposes = ("loyalty", "measurement", "research", "service", "security", "advertising")
        done = await asyncio.gather(
            *(patch(here, key, change("grant", purpose=one), seen='"1"') for one in purposes),
            *(patch(here, key, change("deny", purpose=one)) for one in purposes),
        )
        read = await here.must("GET", PREFERENCES, key=key)

        made = [reply for reply in done if reply.status == 200]
        assert [reply.status for reply in done[6:]] == [200] * 6
        assert sum(reply.status == 200 for reply in done[:6]) <= 1
        assert sorted(r.body["version"] for r in made) == list(range(2, len(made) + 2))
        assert read["version"] == len(made) + 1
        denied = [held for held in read["standing"] if held["effect"] == "deny"]
        assert len(denied) == 6


async def test_a_receipt_can_be_checked_by_whoever_holds_it(tmp_path: Path) -> None:
    """The hash is of the record as it was answered, with a salt of its own."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        done = (await patch(here, key, USE, change("grant"))).body["receipts"]

        for receipt in done:
            record = msgspec.convert(receipt["record"], Record)
            assert receipt["hash"] == record_hash(record)
        assert len({receipt["record"]["salt"] for receipt in done}) == 2


def test_the_effects_of_a_change_are_those_that_residents_say() -> None:
    """The operator's own are none of them."""
    told = msgspec.json.schema(Change)["$defs"]["Change"]["properties"]["effect"]["enum"]

    assert sorted(told) == ["deny", "grant", "withdraw"]


async def test_only_turning_off_works_beyond_the_limit_of_records(tmp_path: Path) -> None:
    """It is acknowledged as ever, and said again leaves no more records."""
    async with town(tmp_path, records_max=2) as here:
        key = await newcomer(here)
        on = await patch(here, key, USE, change("grant"))
        more = await patch(here, key, change("grant", purpose="loyalty"), seen='"1"')
        less = await patch(here, key, change("grant", channels=["push"]))
        off = await here.call("POST", f"{ME}/stop", key=key)
        again = await here.call("POST", f"{ME}/stop", key=key)
        read = await here.must("GET", PREFERENCES, key=key)

    assert on.status == 200
    assert (more.status, more.code, more.headers["ETag"]) == (409, "too_many_records", '"1"')
    assert [r["record"]["channels"] for r in less.body["receipts"]] == [["push"]]
    assert (off.status, off.body["version"], len(off.body["receipts"])) == (200, 3, 1)
    assert (again.status, again.headers["ETag"], again.body["receipts"]) == (200, '"3"', [])
    assert (read["version"], read["standing"]) == (3, [])
