"""Who wrote what, and when, over HTTP."""

from pathlib import Path
from typing import Any

import pytest

from engine.app import clock_ms
from tests.web_town import SECRET_RESIDENT, fence, offer, town


def short(page: Any) -> list[tuple[str, str, str]]:
    """The entries of a page, oldest first."""
    return [(e["kind"], e["id"], e["outcome"]) for e in reversed(page["items"])]


async def test_every_write_of_a_key_is_told(tmp_path: Path) -> None:
    """With the key, the route and the request; a resident's own say is not in it."""
    begun_ms = clock_ms()
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await here.resident()
        await here.must("PUT", "/v1/offers/bun", offer("cafe"), X_Request_Id="till-request-7")
        ping = await here.must("POST", "/v1/pings", here.ping(), key=key)
        code = {"code": ping["offer"]["code"]}
        redeemed = await here.must("POST", "/v1/redemptions", code)
        await here.must("DELETE", f"/v1/redemptions/{redeemed['redemption']}")
        await here.must("PATCH", "/v1/residents/me", {"language": "fi"}, key=key)
        await here.must("PATCH", f"/v1/residents/{SECRET_RESIDENT}", {"language": "sv"})
        await here.must("POST", f"/v1/residents/{SECRET_RESIDENT}/stop")
        await here.must("DELETE", "/v1/offers/bun")
        page = await here.must("GET", "/v1/audit")
        (own,) = (
            k for k in (await here.must("GET", "/v1/keys"))["items"] if k["role"] != "resident"
        )

        keys = [one for one in short(page) if one[0] == "key"]
        assert [one for one in short(page) if one[0] != "key"] == [
            ("brand", "cafe", "created"),
            ("fence", "cafe-1", "created"),
            ("resident", SECRET_RESIDENT, "created"),
            ("offer", "bun", "created"),
            ("redemption", redeemed["redemption"], "deleted"),
            ("resident", SECRET_RESIDENT, "updated"),
            ("resident", SECRET_RESIDENT, "updated"),
            ("offer", "bun", "deleted"),
        ]
        assert [one[2] for one in keys] == ["created"]
        offers = [e for e in page["items"] if e["kind"] == "offer"]
        assert offers[1] == {
            "number": offers[1]["number"],
            "at_ms": offers[1]["at_ms"],
            "key": own["id"],
            "key_name": "operator",
            "role": "operator",
            "action": "PUT /v1/offers/{offer}",
            "request_id": "till-request-7",
            "kind": "offer",
            "id": "bun",
            "brand": "cafe",
            "version": 1,
            "outcome": "created",
        }
        assert begun_ms <= offers[1]["at_ms"] <= here.ctx.clock_ms()
        assert "Today" not in str(page)
        assert code["code"] not in str(page)


async def test_what_was_not_written_is_not_told(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        before = await here.must("GET", "/v1/audit")
        await here.call("PUT", "/v1/fences/cafe-1", fence("cafe"))
        await here.call("PUT", "/v1/fences/cafe-1", fence("cafe", radius_m=9), If_Match='"9"')
        await here.call("PUT", "/v1/offers/bun", offer("nobody"))
        await here.call("DELETE", "/v1/offers/none")

        assert await here.must("GET", "/v1/audit") == before


async def test_the_log_is_read_in_pages_and_by_what_was_written(tmp_path: Path) -> None:
    """Newest first; each entry once, though more is written while one reads."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        for n in range(5):
            await here.must("PUT", f"/v1/fences/f{n}", fence("cafe"))
        whole = (await here.must("GET", "/v1/audit"))["items"]
        seen, cursor = [], ""
        while cursor is not None:
            page = await here.must("GET", f"/v1/audit?limit=2{cursor and '&cursor=' + cursor}")
            seen += page["items"]
            cursor = page["next"]
            await here.must("PUT", "/v1/fences/later", fence("cafe", radius_m=10 + len(seen)))
        fences = await here.must("GET", "/v1/audit?kind=fence&limit=1000")
        one = await here.must("GET", "/v1/audit?kind=fence&id=f3")
        since = await here.must("GET", f"/v1/audit?since_ms={here.ctx.clock_ms() + 60_000}")

        assert seen == whole
        assert [e["number"] for e in seen] == sorted((e["number"] for e in seen), reverse=True)
        assert {e["kind"] for e in fences["items"]} == {"fence"}
        assert [e["id"] for e in one["items"]] == ["f3"]
        assert since == {"items": [], "next": None}


async def test_a_merchant_sees_what_was_done_to_its_brands(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.brand("rival")
        key = await here.key("merchant", brands=["cafe"])
        await here.must("PUT", "/v1/fences/cafe-2", fence("cafe"), key=key)
        await here.resident()
        page = await here.must("GET", "/v1/audit", key=key)

        assert short(page) == [
            ("brand", "cafe", "created"),
            ("fence", "cafe-1", "created"),
            ("fence", "cafe-2", "created"),
        ]
        assert [e["role"] for e in reversed(page["items"])] == ["operator", "operator", "merchant"]


@pytest.mark.parametrize(
    "query", ["kind=ping", "since_ms=-1", "limit=0", "cursor=bm9uZQ", "cursor=%00", "id="]
)
async def test_a_bad_question_is_refused(tmp_path: Path, query: str) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("GET", f"/v1/audit?{query}")

        assert (reply.status, reply.code) == (422, "invalid_parameter")
