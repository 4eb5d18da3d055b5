"""Brands, fences, offers and keys over real HTTP."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.web.auth import key_hash
from tests.web_town import LAT, LON, OPERATOR, fence, offer, town

BRAND = {"name": "Café", "categories": ["cafe"], "timezone": "Europe/Helsinki"}


async def test_a_brand_is_written_and_read(tmp_path: Path) -> None:
    """201, then 200 with the next version; what is read can be written again."""
    async with town(tmp_path) as here:
        made = await here.call("PUT", "/v1/brands/cafe", BRAND)
        again = await here.call("PUT", "/v1/brands/cafe", made.body | {"name": "Aino"})
        read = await here.call("GET", "/v1/brands/cafe")
        known = await here.call("GET", "/v1/brands/cafe", If_None_Match=read.headers["ETag"])

        assert (made.status, again.status) == (201, 200)
        assert read.body == again.body == {"id": "cafe", **BRAND, "name": "Aino", "caps": {}}
        assert read.headers["ETag"] == again.headers["ETag"] == '"2"'
        assert (known.status, known.body) == (304, "")


@pytest.mark.parametrize(
    ("change", "path", "code"),
    [
        ({"name": None}, "name", "wrong_type"),
        ({"name": ""}, "name", "out_of_range"),
        ({"colour": "red"}, "colour", "unknown_field"),
        ({"timezone": "Mars/Olympus"}, "timezone", "not_one_of"),
        ({"categories": ["a", 3]}, "categories[1]", "wrong_type"),
        ({"caps": {"per_resident_day": 0}}, "caps.per_resident_day", "out_of_range"),
        ({"caps": {"per_week": 1}}, "caps.per_week", "unknown_field"),
        ({"id": "other"}, "id", "id_mismatch"),
    ],
)
async def test_a_bad_brand_is_refused_with_its_path(
    tmp_path: Path, change: dict[str, Any], path: str, code: str
) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("PUT", "/v1/brands/cafe", BRAND | change)

        assert (reply.status, reply.code) == (422, "invalid_body")
        (error,) = reply.body["errors"]
        assert (error["path"], error["code"]) == (path, code)


@pytest.mark.parametrize("bad", ["a%20b", "%C3%A4", "a%0A", "a%2Fb", "x" * 129])
async def test_ids_are_plain(tmp_path: Path, bad: str) -> None:
    """1 to 128 of a few characters, nothing after them."""
    async with town(tmp_path) as here:
        reply = await here.call("PUT", f"/v1/brands/{bad}", BRAND)

        assert (reply.status, reply.code) == (422, "invalid_parameter")
        assert reply.body["errors"][0]["path"] == "brand"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b'{"name": ', 400, "malformed_json"),
        (b"[" * 100_000, 400, "malformed_json"),
        (b'{"name":' * 100_000, 400, "malformed_json"),
        (b"[]", 422, "invalid_body"),
        (b"null", 422, "invalid_body"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/brands/cafe", "/v1/offers/bun"])
async def test_what_is_no_body_is_refused(
    tmp_path: Path, path: str, data: bytes, status: int, code: str
) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("PUT", path, data=data)

        assert (reply.status, reply.code) == (status, code)


async def test_a_fence_is_live_when_it_is_answered(tmp_path: Path) -> None:
    """Written, listed, found by position, unchanged when written again, and deleted."""
    async with town(tmp_path) as here:
        await here.must("PUT", "/v1/brands/cafe", BRAND)
        made = await here.call("PUT", "/v1/fences/cafe-1", fence("cafe"))
        again = await here.call("PUT", "/v1/fences/cafe-1", made.body)
        found = await here.must("POST", "/v1/fences/covering", {"positions": [[LON, LAT], [0, 0]]})
        gone = await here.call("DELETE", "/v1/fences/cafe-1")
        after = await here.must("POST", "/v1/fences/covering", {"positions": [[LON, LAT]]})
        read = await here.call("GET", "/v1/fences/cafe-1")

        assert (made.status, again.status, gone.status) == (201, 200, 204)
        assert again.headers["ETag"] == made.headers["ETag"] == '"1"'
        assert found == {"fences": [["cafe-1"], []]}
        assert after == {"fences": [[]]}
        assert (read.status, read.code) == (404, "no_such_fence")


async def test_a_large_fence_is_read_too(tmp_path: Path) -> None:
    """5,000 corners, more than are read on the loop."""
    ring = [[20 + i / 5_000, 60 + (i % 2) / 10_000] for i in range(5_000)]
    ring += [[21.0, 61.0], [20.0, 61.0], ring[0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"brand": "cafe"},
    }
    async with town(tmp_path) as here:
        await here.must("PUT", "/v1/brands/cafe", BRAND)
        assert len(msgspec.json.encode(feature)) > 64 * 1024
        made = await here.call("PUT", "/v1/fences/large", feature)
        found = await here.must("POST", "/v1/fences/covering", {"positions": [[20.5, 60.5]]})

        assert made.status == 201
        assert found == {"fences": [["large"]]}


@pytest.mark.parametrize(
    ("feature", "code"),
    [
        ({"type": "Point"}, "not_a_feature"),
        (fence("cafe") | {"geometry": None}, "geometry_missing"),
        (fence("cafe", lon=181), "out_of_range"),
        (fence("cafe", radius_m=0), "radius_out_of_range"),
        (fence("cafe") | {"geometry": {"type": "MultiPoint"}}, "type_not_supported"),
    ],
)
async def test_a_bad_fence_is_refused_with_its_paths(
    tmp_path: Path, feature: Any, code: str
) -> None:
    async with town(tmp_path) as here:
        await here.must("PUT", "/v1/brands/cafe", BRAND)
        reply = await here.call("PUT", "/v1/fences/f", feature)

        assert (reply.status, reply.code) == (422, "invalid_fence")
        assert reply.body["errors"][0]["code"] == code


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'{"type": NaN}'])
async def test_a_fence_that_is_no_json_is_malformed(tmp_path: Path, data: bytes) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("PUT", "/v1/fences/f", data=data)

        assert (reply.status, reply.code) == (400, "malformed_json")


async def test_a_fence_needs_a_brand_that_is_there(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("PUT", "/v1/fences/f", fence("nobody"))

        assert (reply.status, reply.code) == (422, "unknown_brand")


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    """Every fence exactly once, whatever the limit; a box leaves out what is elsewhere."""
    async with town(tmp_path) as here:
        await here.must("PUT", "/v1/brands/cafe", BRAND)
        for n in range(7):
            await here.must("PUT", f"/v1/fences/f{n}", fence("cafe", lon=10 + n))
        seen, cursor, pages = [], "", 0
        while cursor is not None:
            told = f"&cursor={cursor}" if cursor else ""
            page = await here.must("GET", f"/v1/fences?limit=3{told}")
            seen += [feature["id"] for feature in page["items"]]
            cursor, pages = page["next"], pages + 1
        boxed = await here.must("GET", "/v1/fences?bbox=11.5,60,13.5,61")
        over_the_seam = await here.must("GET", "/v1/fences?bbox=15.5,60,10.5,61")

        assert (seen, pages) == ([f"f{n}" for n in range(7)], 3)
        assert [feature["id"] for feature in boxed["items"]] == ["f2", "f3"]
        assert [feature["id"] for feature in over_the_seam["items"]] == ["f0", "f6"]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("cursor=%00", "cursor"),
        ("cursor=_w", "cursor"),
        ("bbox=1,2,3", "bbox"),
        ("bbox=1,2,3,nan", "bbox"),
        ("bbox=1,9,3,2", "bbox"),
    ],
)
async def test_bad_queries_are_refused(tmp_path: Path, query: str, path: str) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("GET", f"/v1/fences?{query}")

        assert (reply.status, reply.code) == (422, "invalid_parameter")
        assert reply.body["errors"][0]["path"] == path


async def test_an_offer_is_written_and_read(tmp_path: Path) -> None:
    """Instants come back in the offer's zone, defaults from its brand; a copy can be written."""
    async with town(tmp_path) as here:
        await here.brand("cafe", categories=("cafe", "bakery"))
        wanted = offer("cafe", starts_at="2026-05-01T00:00:00Z", ends_at="2026-06-01T00:00:00Z")
        made = await here.call("PUT", "/v1/offers/bun", wanted)
        again = await here.call("PUT", "/v1/offers/bun", made.body)
        listed = await here.must("GET", "/v1/offers")
        read = await here.call("GET", "/v1/offers/bun")
        gone = await here.call("DELETE", "/v1/offers/bun")
        after = await here.call("GET", "/v1/offers/bun")

        assert (made.status, again.status, gone.status) == (201, 200, 204)
        assert made.body["starts_at"] == "2026-05-01T03:00:00+03:00"
        assert made.body["categories"] == ["cafe", "bakery"]
        assert made.body["timezone"] == "Europe/Helsinki"
        assert read.body == again.body == made.body == listed["items"][0]
        assert (after.status, after.code) == (404, "no_such_offer")


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"schedule": "Mo-Fr 09:00-17:00"}, "not_supported", "schedule"),
        ({"money": {}}, "not_supported", "money"),
        ({"stock": 3}, "not_supported", "stock"),
        ({"value": "10%"}, "not_supported", "value"),
        ({"colour": "red"}, "invalid_body", "colour"),
        ({"trigger": "leave"}, "invalid_body", "trigger"),
        ({"status": "done"}, "invalid_body", "status"),
        ({"ends_at": "tomorrow"}, "invalid_body", "ends_at"),
        ({"ends_at": "2026-06-01T00:00:00"}, "invalid_body", "ends_at"),
        ({"priority": 1 << 70}, "invalid_body", "priority"),
        ({"claim_ttl_s": 0}, "invalid_body", "claim_ttl_s"),
        ({"budget": {"total": 0}}, "invalid_body", "budget.total"),
        ({"fences": []}, "invalid_offer", "fences"),
        ({"tags": ["center"]}, "invalid_offer", "fences"),
        ({"trigger": "dwell"}, "invalid_offer", "dwell_s"),
        ({"dwell_s": 60}, "invalid_offer", "dwell_s"),
        ({"channel": "pigeon"}, "invalid_offer", "channel"),
        ({"purpose": "fun"}, "invalid_offer", "purpose"),
        ({"timezone": "Mars/Olympus"}, "invalid_offer", "timezone"),
        (
            {"starts_at": "2026-06-01T00:00:00Z", "ends_at": "2026-06-01T00:00:00Z"},
            "invalid_offer",
            "ends_at",
        ),
        ({"fences": ["cafe-1", "nowhere"]}, "unknown_fence", "fences[1]"),
        ({"fences": ["cafe-1", "rival-1"]}, "foreign_fence", "fences[1]"),
        ({"brand": "nobody"}, "unknown_brand", "brand"),
    ],
)
async def test_a_bad_offer_is_refused_with_its_path(
    tmp_path: Path, change: dict[str, Any], code: str, path: str
) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.brand("rival")
        reply = await here.call("PUT", "/v1/offers/bun", offer("cafe") | change)

        assert (reply.status, reply.code) == (422, code)
        assert reply.body["errors"][0]["path"] == path


async def test_a_merchant_has_its_own_brands_only(tmp_path: Path) -> None:
    """Another brand, its fences and its offers are 403; lists and answers leave them out."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.brand("rival")
        await here.must("PUT", "/v1/offers/rival-bun", offer("rival"))
        key = await here.key("merchant", brands=["cafe"])
        for method, path, body in (
            ("GET", "/v1/brands/rival", None),
            ("PUT", "/v1/brands/rival", BRAND),
            ("PUT", "/v1/fences/cafe-2", fence("rival")),
            ("PUT", "/v1/fences/rival-1", fence("cafe")),
            ("GET", "/v1/fences/rival-1", None),
            ("DELETE", "/v1/fences/rival-1", None),
            ("PUT", "/v1/offers/cafe-bun", offer("rival")),
            ("PUT", "/v1/offers/rival-bun", offer("cafe")),
            ("GET", "/v1/offers/rival-bun", None),
            ("DELETE", "/v1/offers/rival-bun", None),
        ):
            reply = await here.call(method, path, body, key=key)
            assert (reply.status, reply.code) == (403, "foreign_brand"), (method, path)
        foreign = await here.call("PUT", "/v1/offers/o", offer("cafe", fences=["rival-1"]), key=key)
        own = await here.call("PUT", "/v1/offers/own", offer("cafe"), key=key)
        brands = await here.must("GET", "/v1/brands", key=key)
        fences = await here.must("GET", "/v1/fences", key=key)
        offers = await here.must("GET", "/v1/offers", key=key)
        wanted = {"positions": [[LON, LAT]]}
        covering = await here.must("POST", "/v1/fences/covering", wanted, key=key)

        assert (foreign.status, foreign.code, own.status) == (422, "foreign_fence", 201)
        assert [brand["id"] for brand in brands["items"]] == ["cafe"]
        assert [feature["id"] for feature in fences["items"]] == ["cafe-1"]
        assert [one["id"] for one in offers["items"]] == ["own"]
        assert covering == {"fences": [["cafe-1"]]}


async def test_a_key_is_shown_once_and_works_until_it_is_deleted(tmp_path: Path) -> None:
    """It is kept hashed, and deleting it is felt at once."""
    async with town(tmp_path) as here:
        made = await here.call("POST", "/v1/keys", {"role": "sender", "name": "gateway"})
        key, key_id = made.body["key"], made.body["id"]
        works = await here.call("POST", "/v1/pings", here.ping(), key=key)
        read = await here.must("GET", f"/v1/keys/{key_id}")
        listed = await here.must("GET", "/v1/keys")
        gone = await here.call("DELETE", f"/v1/keys/{key_id}")
        after = await here.call("POST", "/v1/pings", here.ping(), key=key)
        twice = await here.call("DELETE", f"/v1/keys/{key_id}")

        assert key.startswith("pb_sender_")
        assert len(key) == len("pb_sender_") + 43
        assert "key" not in read
        assert key_hash(key) not in str(listed)
        assert key_id in [one["id"] for one in listed["items"]]
        assert (made.status, works.status, gone.status, after.status) == (201, 200, 204, 401)
        assert (twice.status, twice.code) == (404, "unknown_key")


async def test_the_last_operator_key_stays(tmp_path: Path) -> None:
    """Nobody locks everybody out."""
    async with town(tmp_path) as here:
        (own,) = (await here.must("GET", "/v1/keys"))["items"]
        kept = await here.call("DELETE", f"/v1/keys/{own['id']}")
        other = await here.key("operator")
        gone = await here.call("DELETE", f"/v1/keys/{own['id']}", key=other)

        assert (kept.status, kept.code) == (409, "last_operator_key")
        assert gone.status == 204


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"role": "mayor", "name": "x"}, 422, "invalid_body"),
        ({"role": "merchant", "name": "x"}, 422, "invalid_body"),
        ({"role": "merchant", "name": "x", "brands": ["nobody"]}, 422, "unknown_brand"),
        ({"role": "resident", "name": "x"}, 422, "invalid_body"),
        ({"role": "resident", "name": "x", "resident": "nobody"}, 404, "unknown_resident"),
        ({"role": "purchaser", "name": "x"}, 422, "invalid_body"),
        ({"role": "sender", "name": "x", "resident": "r"}, 422, "invalid_body"),
    ],
)
async def test_a_key_has_what_its_role_has(
    tmp_path: Path, body: dict[str, Any], status: int, code: str
) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("POST", "/v1/keys", body)

        assert (reply.status, reply.code) == (status, code)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {OPERATOR}",
        OPERATOR,
        f"Bearer {OPERATOR}x",
        f"Bearer {OPERATOR} x",
        "Bearer \u00e9",
    ],
)
async def test_without_a_good_key_it_is_401(tmp_path: Path, header: str | None) -> None:
    async with town(tmp_path) as here:
        told = {} if header is None else {"Authorization": header}
        reply = await here.call("GET", "/v1/brands", key=None, **told)

        assert (reply.status, reply.code) == (401, "unauthenticated")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
