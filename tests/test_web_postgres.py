"""The same service on a real PostgreSQL: the whole way, and what must hold under concurrency."""

import asyncio
from pathlib import Path

from engine.app import running
from engine.config import Config
from tests.web_town import OPERATOR, offer, serving


def _nothing() -> None:
    """What is called when a part fails, which the test sees by itself."""


async def test_the_whole_way_on_postgresql(tmp_path: Path, database_url: str) -> None:
    """From a brand to a redeemed code, then stop; tills and devices all at once."""
    config = Config(data=tmp_path, operator_key=OPERATOR, database_url=database_url)
    async with running(config, _nothing) as ctx, serving(ctx) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe", budget={"total": 1}))
        key = await here.resident()
        made = await here.must("POST", "/v1/pings", here.ping(), key=key)
        code, me = {"code": made["offer"]["code"]}, "/v1/residents/me"
        tills = await asyncio.gather(
            *(here.call("POST", "/v1/redemptions", code) for _ in range(10))
        )
        why = await here.must("GET", f"/v1/decisions/{made['decision']}/why", key=key)
        off = {"opted_in": False}
        devices = await asyncio.gather(
            *(here.call("PUT", f"{me}/preferences/marketing", off, key=key) for _ in range(10))
        )
        stopped = await here.call("POST", f"{me}/stop", key=key)
        after = await here.must("POST", "/v1/pings", here.ping(), key=key)
        fence = await here.call("GET", "/v1/fences/cafe-1")
        gone = await here.call("DELETE", "/v1/fences/cafe-1")
        listed = await here.must("GET", "/v1/fences")
        ready = await here.call("GET", "/readyz", key=None)

        assert sorted(till.status for till in tills) == [201] + [409] * 9
        assert (why["claim"], why["redeemed"]) == (made["offer"]["claim"], True)
        assert [device.status for device in devices] == [200] * 10
        assert len({device.body["version"] for device in devices}) == 10
        assert (stopped.status, after["status"]) == (200, "no_consent")
        assert (fence.status, gone.status, listed["items"]) == (200, 204, [])
        assert ready.body["ready"]
