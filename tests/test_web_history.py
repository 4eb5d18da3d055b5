"""What a resident may look up of what they said and were offered, and how devices hear of it."""

from pathlib import Path
from typing import Any, Final

import pytest

from engine.consent.suspension import suspend
from engine.web.history import in_full
from tests.sse import following
from tests.test_web_preferences import ME, PREFERENCES, USE, change, newcomer, patch
from tests.web_town import Town, offer, town

STREAM: Final = f"{PREFERENCES}/stream"


async def pages(here: Town, path: str, key: str, limit: int) -> list[Any]:
    """All items of a list, by following its cursors."""
    items, cursor = [], ""
    while True:
        page = await here.must("GET", f"{path}?limit={limit}{cursor}", key=key)
        assert 0 < len(page["items"]) <= limit
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = f"&cursor={page['next']}"


async def test_the_history_is_every_record_newest_first(tmp_path: Path) -> None:
    """Whatever the length of a page, and whatever is said between two of them."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        said = [
            receipt
            for seen in range(3)
            for receipt in (await patch(here, key, USE, change("deny"), seen=f'"{seen}"')).body[
                "receipts"
            ]
        ]
        page = await here.must("GET", f"{ME}/history?limit=4", key=key)
        await patch(here, key, change("deny"))
        rest = await here.must("GET", f"{ME}/history?cursor={page['next']}", key=key)

        assert page["items"] + rest["items"] == said[::-1]
        assert rest["next"] is None
        for limit in (1, 3, 7, 8):
            assert (await pages(here, f"{ME}/history", key, limit))[1:] == said[::-1]


@pytest.mark.parametrize("path", [f"{ME}/history", f"{ME}/offers"])
async def test_a_made_up_cursor_is_refused(tmp_path: Path, path: str) -> None:
    async with town(tmp_path) as here:
        key = await newcomer(here)
        for cursor in ("x", "LTE", "MQ", "MSAA", "*", "OTk5OTk5OTk5OTk5OTk5OTk5OTkgYQ"):
            reply = await here.call("GET", f"{path}?cursor={cursor}", key=key)
            if path.endswith("history") and cursor == "MQ":
                assert reply.status == 200  # a place that there is not yet
            else:
                assert (reply.status, reply.code) == (422, "invalid_parameter"), cursor


async def test_a_receipt_has_the_fields_of_the_standard(tmp_path: Path) -> None:
    """With both clocks, its predecessor, and who is responsible."""
    async with town(tmp_path, controller="City of Helsinki") as here:
        digest = await here.notice("offers", "3", "fi")
        key = await newcomer(here)
        await patch(here, key, change("deny"))
        first, second = (
            await patch(
                here,
                key,
                USE,
                change("withdraw"),
                seen='"1"',
                client_ms=1_790_000_000_500,
                notice={"id": "offers", "version": "3", "locale": "fi"},
            )
        ).body["receipts"]
        got = await here.must("GET", f"{ME}/receipts/{first['id']}", key=key)
        after = await here.must("GET", f"{ME}/receipts/{second['id']}", key=key)
        unknown = await here.call("GET", f"{ME}/receipts/{'0' * 32}", key=key)
        other = await here.call("GET", f"{ME}/receipts/{first['id']}", key=await newcomer(here))

        assert (got["id"], got["hash"], got["record"]) == (
            first["id"],
            first["hash"],
            first["record"],
        )
        assert got["schema_version"] == "ISO/IEC TS 27560:2023"
        assert got["pii_controller"] == "City of Helsinki"
        assert got["pii_principal_id"] == first["record"]["subject"]
        assert got["privacy_notice"]["text_hash"] == digest
        assert got["event"]["event_state"] == "dpv:ConsentGiven"
        assert got["event"]["claimed_time"] == "2026-09-21T14:13:20.500000Z"
        assert got["event"]["valid_until"] is not None
        (purpose,) = got["purposes"]
        assert purpose["pii_types"] == {"precise_location": "pd:Location"}
        assert (after["supersedes"], after["event"]["valid_until"]) == (first["id"], None)
        assert after["event"]["event_state"] == "dpv:ConsentWithdrawn"
        assert (unknown.status, unknown.code) == (404, "unknown_receipt")
        assert (other.status, other.code) == (404, "unknown_receipt")


def test_a_receipt_of_the_operator_has_no_purpose() -> None:
    """A suspension is about every grant; a device's clock may claim any instant."""
    told = in_full(suspend("ann", 1, "", because="restored", now_ms=1 << 53), "")

    assert told.purposes == ()
    assert told.event.event_state == "dpv:ConsentInvalidated"
    assert (told.supersedes, told.event.event_time.year) == (None, 9999)


async def test_a_resident_sees_the_offers_they_were_made(tmp_path: Path) -> None:
    """Newest first, each with its code and what became of it."""
    async with town(tmp_path, attention_per_day=9, attention_per_week=9) as here:
        key = await here.resident("r")
        for brand in ("cafe", "pub", "bar"):
            await here.brand(brand)
            await here.must("PUT", f"/v1/offers/{brand}-bun", offer(brand))
        made = []
        for number in range(3):
            ping = here.ping("r", lat=60.1699 + 1e-6 * number)
            made.append((await here.must("POST", "/v1/pings", ping))["offer"])
        made = [one for one in made if one is not None]
        await here.must("POST", "/v1/redemptions", {"code": made[0]["code"]})
        listed = await pages(here, f"{ME}/offers", key, 1)
        again = await here.must("GET", "/v1/residents/r/offers")
        nobody = await here.call("GET", "/v1/residents/nobody/offers")

        assert made
        assert listed == again["items"]
        assert [one["claim"] for one in listed] == [one["claim"] for one in made[::-1]]
        assert {**listed[-1], **made[0]} == listed[-1]
        assert listed[-1]["state"] == "redeemed"
        assert listed[-1]["redeemed_ms"] >= listed[-1]["made_ms"]
        assert (nobody.status, nobody.code) == (404, "unknown_resident")


async def test_every_device_hears_of_every_change(tmp_path: Path) -> None:
    """The version that there is comes first, then each new one, whoever said it."""
    async with town(tmp_path, event_heartbeat_ms=100) as here:
        key = await newcomer(here)
        await newcomer(here)
        resident = (await here.must("GET", ME, key=key))["resident"]
        tablet = await here.key("resident", resident=resident)
        await patch(here, key, change("deny"))
        async with (
            following(here.session, key, STREAM) as phone,
            following(here.session, tablet, STREAM) as other,
        ):
            begun = [await phone.next(), await other.next()]
            await patch(here, key, change("deny"))
            await here.must("POST", f"/v1/residents/{resident}/stop")
            heard = [await phone.take(2), await other.take(2)]
            quiet = await phone.until_quiet()
        async with following(here.session, key, STREAM, after=heard[0][0].id) as back:
            missed = await back.until_quiet()

        assert [told.data["version"] for told in begun] == [1, 1]
        assert {told.name for told in (*begun, *heard[0])} == {"preferences"}
        assert [told.data["version"] for told in heard[0]] == [2, 3]
        assert heard[0] == heard[1]
        assert all(told.data["at_ms"] > 0 for told in heard[0])
        assert quiet == []
        assert [told.data["version"] for told in missed] == [3]


async def test_a_change_right_after_the_first_event_is_not_missed(tmp_path: Path) -> None:
    """However the reading of the version and the coming of events fall together."""
    async with town(tmp_path) as here:
        key = await newcomer(here)
        for version in range(1, 9):
            async with following(here.session, key, STREAM) as events:
                await patch(here, key, change("deny"))
                last = 0
                while last < version:
                    last = (await events.next()).data["version"]
                assert last == version


async def test_nobody_follows_a_resident_who_is_not_there(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("GET", "/v1/residents/nobody/preferences/stream")

        assert (reply.status, reply.code) == (404, "unknown_resident")
