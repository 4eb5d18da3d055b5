"""`passby explain`: the same ladder out of the store and out of a service."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import msgspec

from engine.app import running
from engine.config import Config
from engine.web.decisions import Why
from tests.web_town import OPERATOR, offer, serving

ROOT: Final = Path(__file__).resolve().parent.parent


COMMANDS: Final = """
import contextlib, io, json, os, sys
from engine.cli import main

answers = []
for flags, settings in json.loads(sys.argv[1]):
    os.environ.update(settings)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["explain", *flags])
    for name in settings:
        del os.environ[name]
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""
"""One process for all of them: most of what a command takes is to load itself."""


async def explain(*calls: tuple[tuple[str, ...], dict[str, str]]) -> list[tuple[int, str, str]]:
    """The command by its flags and settings, in another process: exit code, stdout, stderr."""
    told = [
        (flags, {f"PASSBY_{name.upper()}": value for name, value in settings.items()})
        for flags, settings in calls
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMANDS, json.dumps(told)),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"},
        cwd=ROOT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [(code, text, error) for code, text, error in json.loads(out)]


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
        (code, text, _), by_store, by_service, unknown, stranger, nobody = await explain(
            ((made["decision"],), store),
            ((claim, "--json"), store),
            ((claim, "--json", "--url", url), service),
            (("nothing", "--url", url), service),
            ((claim, "--url", url), {"operator_key": "of somebody else"}),
            ((claim, "--url", "http://127.0.0.1:1"), service),
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
