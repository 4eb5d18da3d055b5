"""`passby explain`: the same ladder out of the store and out of a service."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec

from engine.app import running
from engine.config import Config
from engine.web.decisions import Why
from tests.web_town import OPERATOR, offer, serving

ROOT: Final = Path(__file__).resolve().parent.parent


async def explain(*flags: str, **settings: str) -> tuple[int, str, str]:
    """The command in a process of its own: exit code, stdout, stderr."""
    environ = {f"PASSBY_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine.cli", "explain", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", **environ},
        cwd=ROOT,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_claim_is_explained(tmp_path: Path, database_url: str) -> None:
    """By its own id or its decision's; the offer that lost has its reason in words."""
    config = Config(data=tmp_path, operator_key=OPERATOR, database_url=database_url)
    async with running(config, lambda: None) as ctx, serving(ctx) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        await here.must("PUT", "/v1/offers/tea", offer("cafe", status="paused"))
        await here.must("PUT", "/v1/offers/pie", offer("cafe", priority=-5))
        made = await here.must("POST", "/v1/pings", here.ping(), key=await here.resident())
        claim, url = made["offer"]["claim"], f"http://127.0.0.1:{here.port}"
        store, service = {"database_url": database_url}, {"operator_key": OPERATOR}
        (code, text, _), by_store, by_service, unknown, stranger, nobody = await asyncio.gather(
            explain(made["decision"], **store),
            explain(claim, "--json", **store),
            explain(claim, "--json", "--url", url, **service),
            explain("nothing", "--url", url, **service),
            explain(claim, "--url", url, operator_key="of somebody else"),
            explain(claim, "--url", "http://127.0.0.1:1", **service),
        )
        asked = await here.must("GET", f"/v1/decisions/{claim}/why")

    why = msgspec.json.decode(by_store[1], type=Why)
    assert by_store == by_service == (0, by_store[1], "")
    assert msgspec.convert(asked, Why) == why
    assert code == 0
    assert f"claim     {claim}\n" in text
    assert "offer     bun of cafe" in text
    assert "\nenter  cafe-1" in text
    assert "not made: not_live" in text
    assert why.allowed_by[0] in text
    assert [one[0] for one in (unknown, stranger, nobody)] == [1, 1, 1]
    assert "there is no claim nothing" in unknown[2]
    assert "401" in stranger[2]
    assert "does not answer" in nobody[2]
    assert "resident-of-the-tests" not in text
