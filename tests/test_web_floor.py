"""What holds whatever a resident grants, the notices, and renewal, over real HTTP."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from engine.consent.lanes import ACTIONS, CATEGORIES, CHANNELS, PURPOSES
from engine.consent.sync import DAY_MS
from engine.store.memory import MemoryStore
from tests.web_town import LAT, LON, SECRET_RESIDENT, Town, fence, offer, town

ME: Final = f"/v1/residents/{SECRET_RESIDENT}"
PREFERENCES: Final = f"{ME}/preferences"
GPC: Final = {"Sec_GPC": "1"}


def share(effect: str = "grant", **scope: Any) -> dict[str, Any]:
    """Sharing of visits, for all or for a brand."""
    return {
        "effect": effect,
        "purpose": "loyalty",
        "actions": ["share"],
        "data": ["facility_use"],
        "scope": scope or {"all": True},
    }


async def version(here: Town, key: str) -> str:
    """The ETag of the latest preferences."""
    return (await here.call("GET", PREFERENCES, key=key)).headers["ETag"]


def clinic_protected(folder: Path) -> Path:
    """A law pack of a city with a clinic where the town is, and no fences around it."""
    clinic = {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [LON, LAT]},
        "properties": {"radius_m": 50},
    }
    near = {"code": "clinic", "source": "by-law 7", "buffer_m": 609.6, "features": [clinic]}
    path = folder / "city.json"
    path.write_text(json.dumps({"id": "city", "title": "City", "places": [near]}))
    return path


async def floor(here: Town) -> Any:
    return await here.must("GET", f"{ME}/floor")


async def test_a_signal_is_kept_once_and_shown_to_be_honoured(tmp_path: Path) -> None:
    """Every answer to it says so, the floor shows it, and its absence later lifts nothing."""
    async with town(tmp_path) as here:
        key = await here.resident()
        assert (await floor(here))["signals"] == []

        first = await here.call("GET", PREFERENCES, key=key, **GPC)
        again = await here.call("GET", f"{ME}/zones", key=key, **GPC)
        without = await here.call("GET", PREFERENCES, key=key)

        assert [r.headers.get("Passby-GPC") for r in (first, again, without)] == [
            "honoured",
            "honoured",
            None,
        ]
        assert first.headers["ETag"] == without.headers["ETag"] == '"2"'
        told = await floor(here)
        assert told["signals"] == ["gpc"]
        assert [rule["code"] for rule in told["rules"]] == ["gpc"]
        history = await here.must("GET", f"{ME}/history?limit=1000")
        by_signal = [
            item["record"] for item in history["items"] if item["record"]["actor"] == "signal"
        ]
        assert len(by_signal) == len(PURPOSES)
        assert {(r["effect"], tuple(r["actions"])) for r in by_signal} == {
            ("deny", ("share", "sell"))
        }


async def test_a_signal_holds_against_grants_until_one_for_all_is_made_on_top(
    tmp_path: Path,
) -> None:
    """A grant for a brand is accepted and counts for nothing; and it is asked for anew first."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await here.resident()
        old = await version(here, key)
        body = {"changes": [share(brand="cafe")]}

        stale = await here.call("PATCH", PREFERENCES, body, key=key, If_Match=old, **GPC)
        assert stale.code == "stale_version"
        assert {one["actor"] for one in stale.body["difference"]} == {"signal"}
        seen = await version(here, key)
        done = await here.call("PATCH", PREFERENCES, body, key=key, If_Match=seen, **GPC)
        assert done.status == 200
        assert (await floor(here))["signals"] == ["gpc"]

        everything = share() | {
            "data": list(CATEGORIES),
            "actions": ["share", "sell"],
            "purpose": "loyalty",
        }
        seen = await version(here, key)
        body = {"changes": [everything]}
        lifted = await here.call("PATCH", PREFERENCES, body, key=key, If_Match=seen, **GPC)
        assert lifted.status == 200
        after = await here.call("GET", PREFERENCES, key=key, **GPC)
        assert "Passby-GPC" not in after.headers  # of loyalty it is lifted: not all is denied now
        assert (await version(here, key)) == after.headers["ETag"]


async def test_a_signal_of_others_is_not_a_residents(tmp_path: Path) -> None:
    """A gateway's header, another value, and no key change nothing."""
    async with town(tmp_path) as here:
        key, sender = await here.resident(), await here.key("sender")

        await here.call("POST", "/v1/pings", here.ping(), key=sender, **GPC)
        await here.call("GET", PREFERENCES, key=key, Sec_GPC="0")
        await here.call("GET", "/healthz", key=None, **GPC)

        assert (await floor(here))["signals"] == []


async def test_a_ping_with_the_signal_is_answered_all_the_same(tmp_path: Path) -> None:
    """The signal is about sharing and selling: offers that were granted still come."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        key = await here.resident()

        reply = await here.call("POST", "/v1/pings", here.ping(), key=key, **GPC)

        assert reply.body["offer"]["offer"] == "bun"
        assert reply.headers["Passby-GPC"] == "honoured"


async def test_a_stream_shows_that_the_signal_is_honoured(tmp_path: Path) -> None:
    """An answer in parts says so at its beginning, like every other."""
    async with town(tmp_path) as here:
        headers = {"Authorization": f"Bearer {await here.resident()}", "Sec-GPC": "1"}

        async with here.session.get("/v1/residents/me/offers/stream", headers=headers) as reply:
            assert reply.headers["Passby-GPC"] == "honoured"

        assert (await floor(here))["signals"] == ["gpc"]


async def test_an_age_band_is_in_force_in_every_process(tmp_path: Path) -> None:
    """Set by an operator; a child's pings are no longer used, here and elsewhere."""
    first = MemoryStore()
    async with (
        town(tmp_path / "a", first) as here,
        town(tmp_path / "b", MemoryStore(first.shared)) as other,
    ):
        await here.brand("cafe")
        key = await here.resident()
        assert (await here.call("PUT", f"{ME}/age", {}, key=key)).code == "wrong_role"

        set_ = await here.call("PUT", f"{ME}/age", {"age_band": "under_13"})
        assert (set_.status, set_.headers["ETag"]) == (200, '"1"')
        assert "minors-under-13" in {rule["code"] for rule in set_.body["rules"]}
        await other.ctx.feed.reached(first.shared.number, timeout_s=5)
        for one in (here, other):
            assert (await one.must("POST", "/v1/pings", one.ping()))["status"] == "no_consent"

        older = {"age_band": None}
        assert (await here.call("PUT", f"{ME}/age", older)).code == "precondition_required"
        assert (await here.call("PUT", f"{ME}/age", older, If_Match='"7"')).code == "version_moved"
        done = await here.call("PUT", f"{ME}/age", older, If_Match='"1"')
        assert (done.status, done.body["age_band"]) == (200, None)
        assert (await here.must("POST", "/v1/pings", here.ping()))["status"] == "decided"
        stranger = await here.call("PUT", "/v1/residents/nobody/age", older)
        assert stranger.code == "unknown_resident"


async def test_a_notice_never_changes_and_a_grant_names_one_that_is_there(tmp_path: Path) -> None:
    """The text once and for all; another text is another version, and widens no grant."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await here.resident()
        text = "Kahvila saa lähettää tarjouksia."
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = "/v1/notices/offers/1/fi"

        made = await here.call("PUT", path, {"text": text, "text_hash": digest.upper()})
        same = await here.call("PUT", path, {"text": text})
        other = await here.call("PUT", path, {"text": "Kaikki saavat."})
        wrong = await here.call(
            "PUT", "/v1/notices/offers/2/fi", {"text": "x", "text_hash": digest}
        )

        assert (made.status, same.status, other.code) == (201, 200, "notice_exists")
        assert wrong.body["errors"][0]["code"] == "hash_differs"
        got = await here.call("GET", path, key=None)
        assert (got.body["text"], got.body["text_hash"]) == (text, digest)
        assert (
            await here.call("GET", "/v1/notices/offers/9/fi", key=None)
        ).code == "no_such_notice"

        named = {"id": "offers", "version": "1", "locale": "fi"}
        seen = await version(here, key)
        body: dict[str, Any] = {"changes": [share(brand="cafe")], "notice": named}
        done = await here.call("PATCH", PREFERENCES, body, key=key, If_Match=seen)
        assert done.body["receipts"][0]["record"]["notice"] == {**named, "text_hash": digest}
        body["notice"] = {**named, "version": "2"}
        refused = await here.call("PATCH", PREFERENCES, body, key=key, If_Match='"2"')
        assert refused.body["errors"][0]["code"] == "unknown_notice"

        before = await here.must("GET", PREFERENCES, key=key)
        await here.must("PUT", "/v1/notices/offers/2/fi", {"text": "Kaikki saavat kaiken."})
        assert await here.must("GET", PREFERENCES, key=key) == before
        listed = await here.must("GET", "/v1/notices?notice=offers", key=None)
        assert {(n["version"], n.get("text")) for n in listed["items"]} == {
            ("1", None),
            ("2", None),
        }


async def test_a_grant_is_renewed_by_the_change_that_is_listed(tmp_path: Path) -> None:
    """Listed when it ends soon; sent back as it is, from the latest version, it holds anew."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await here.resident()
        assert (await here.must("GET", f"{ME}/renewals", key=key))["items"] == []

        due = await here.call("GET", f"{ME}/renewals?within_days=100", key=key)
        first = due.body["items"][0]
        assert first["expires_ms"] <= here.ctx.clock_ms() + 100 * DAY_MS
        assert [item["change"]["data"] for item in due.body["items"]] == [["precise_location"]]
        body = {"changes": [item["change"] for item in due.body["items"]]}

        no_version = await here.call("PATCH", PREFERENCES, body, key=key)
        renewed = await here.call("PATCH", PREFERENCES, body, key=key, If_Match=due.headers["ETag"])

        assert no_version.code == "precondition_required"
        assert renewed.status == 200
        after = await here.must("GET", f"{ME}/renewals?within_days=100", key=key)
        assert after["items"][0]["receipt"] != first["receipt"]
        assert after["items"][0]["expires_ms"] >= first["expires_ms"]
        contact = await here.must("GET", f"{ME}/renewals?within_days=366", key=key)
        assert len(contact["items"]) == 2


async def test_the_words_are_all_told_with_their_terms(tmp_path: Path) -> None:
    """8 purposes, 4 actions, 8 kinds of data with IRIs of DPV; and the laws that are on."""
    async with town(tmp_path, law_packs="us-ca-ccpa,us-wa-mhmda") as here:
        told = await here.must("GET", "/v1/vocabulary", key=None)

        assert [term["name"] for term in told["purposes"]] == list(PURPOSES)
        assert [term["name"] for term in told["actions"]] == list(ACTIONS)
        assert [term["name"] for term in told["data"]] == list(CATEGORIES)
        assert [word["name"] for word in told["channels"]] == list(CHANNELS)
        assert told["data"][0]["iri"] == "https://w3id.org/dpv/pd#Location"
        assert told["actions"][3]["iri"] == "https://w3id.org/dpv#SellDataToThirdParties"
        assert (told["grant_days"], told["grant_precise_location_days"]) == (365, 90)
        assert (told["quiet_from_hour"], told["quiet_until_hour"]) == (21, 8)
        codes = {law["code"]: law for law in told["laws"]}
        assert {"gpc", "minors-sale", "ccpa-minors", "mhmda-geofence"} <= set(codes)
        assert codes["mhmda-geofence"]["buffer_m"] == 609.6


async def test_a_fence_near_a_protected_place_is_refused(tmp_path: Path) -> None:
    """With the rule and its source; farther away it is taken."""
    path = clinic_protected(tmp_path)
    async with town(tmp_path / "data", law_packs=str(path)) as here:
        await here.must("PUT", "/v1/brands/cafe", {"name": "Cafe", "timezone": "UTC"})

        refused = await here.call("PUT", "/v1/fences/door", fence("cafe"))
        taken = await here.call("PUT", "/v1/fences/door", fence("cafe", lat=LAT + 0.02))

        assert refused.code == "forbidden_by_law"
        assert refused.body["errors"] == [
            {"path": "geometry", "code": "law:clinic", "detail": "by-law 7"}
        ]
        assert taken.status == 201


async def test_a_start_knows_the_ages_and_the_laws(tmp_path: Path) -> None:
    """A process that starts later, with a law for everybody: both are in force from the start."""
    ban = {"code": "no-sale", "source": "by-law 8", "actions": ["contact"], "ages": None}
    path = tmp_path / "city.json"
    path.write_text(json.dumps({"id": "city", "title": "City", "rules": [ban]}))
    first = MemoryStore()
    async with town(tmp_path / "a", first) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        await here.resident("child")
        await here.resident("adult")
        await here.must("PUT", "/v1/residents/child/age", {"age_band": "under_13"})
    same = MemoryStore(first.shared)
    async with town(tmp_path / "b", same, law_packs=str(path)) as later:
        told = [await later.must("POST", "/v1/pings", later.ping(n)) for n in ("child", "adult")]

    assert [one["status"] for one in told] == ["no_consent", "decided"]
    assert told[1]["withheld"] == "law"


async def test_an_import_leaves_out_what_is_near_a_protected_place(tmp_path: Path) -> None:
    """In every form, row by row; what is farther away goes live."""
    path = clinic_protected(tmp_path)
    rows = [fence("cafe") | {"id": "door"}, fence("cafe", lat=LAT + 0.02) | {"id": "far"}]
    lines = b"\n".join(json.dumps(row).encode() for row in rows)
    whole = b"\n".join(json.dumps({"fence": row}).encode() for row in rows)
    async with town(tmp_path / "data", law_packs=str(path)) as here:
        await here.must("PUT", "/v1/brands/cafe", {"name": "Cafe", "timezone": "UTC"})
        told = await here.must("POST", "/v1/fences/import", data=lines)
        again = await here.must("POST", "/v1/brands/cafe/import", data=whole)
        there = await here.must("GET", "/v1/fences")

    assert (told["created"], again["unchanged"]) == (1, 1)
    assert [(row["id"], row["code"]) for row in (*told["rejected"], *again["rejected"])] == [
        ("door", "forbidden_by_law")
    ] * 2
    assert "by-law 7" in told["rejected"][0]["detail"]
    assert [one["id"] for one in there["items"]] == ["far"]
