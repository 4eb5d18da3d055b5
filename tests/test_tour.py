"""The tours of the API, with curl and with the client, pasted as a stranger would."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from engine.web.routes import ROUTES
from tests.running import ROOT
from tests.test_readme import blocks, demo, paste

__all__ = ["demo"]

TOUR: Final = "docs/tutorial.md"
CLIENT: Final = "docs/how-to/use-the-client.md"
ELSEWHERE: Final = {"GET /v1/pings/stream": "a WebSocket, which curl does not speak"}


SHOWN: Final = (
    ("Café Aino", '"name":"a spare one"', '"next":"', "", '"code":"unknown_key"'),
    ('"id":"aino"', '"id":"aino"', '"code":"foreign_brand"'),
    (
        '"radius_m":60',
        '"Polygon"',
        '"width_m":40',
        '"id":"aino-yard"',
        '"items":[{',
        '{"fences":[["aino-door"],["aino-street"],[]]}',
    ),
    ('"path":"geometry.coordinates[0]"',),
    ('"status":412', ""),
    ('"created":1', '"rejected_count":1'),
    ('"status":"live"', '"trigger":"dwell"', '"total":100', '"items":[{', ""),
    ('"created":0,"updated":0',),
    ('"language":"fi"', '"code":"idempotency_key_reused"'),
    ('"per_day":5', '"follows":["aino"]', '"version":0'),
    ('"created":1',),
    ('"status":"no_consent"',),
    ('"version":1', '"offer":"aino-bun"'),
    ('"code":"precondition_required"', '"version":2'),
    ('"status":"rejected"', '"status":"d', '"status":"d', '"status":"rejected"', '"next_fix":{'),
    ('"allowed_by":["', '"allowed_by":[]'),
    (
        '"till":"till-1"',
        '"code":"already_redeemed"',
        "",
        '"redemption":"',
        "event: redemption",
        "event: offer",
    ),
    ('"effect":"deny"', '"effect":"withdraw"', '"status":"no_consent"'),
    ('"refused":[{"effect":"grant"', '"path":"changes[0].actions[0]"'),
    (
        '"kind":"private"',
        '{"items":[{',
        '"effect":"grant"',
        '"status":"private_zone"',
        '"code":"precondition_required"',
        "",
        '"code":"no_such_zone"',
    ),
    (
        '"dpv:PersonalisedAdvertising"',
        '"text_hash":"',
        '"text":"Aino may',
        '{"items":[{"id":"offers"',
        '"change":{"effect":"grant"',
    ),
    ("passby-gpc: honoured", '"signals":["gpc"]', '"age_band":"16_17"'),
    (
        '"items":[{"id":"',
        '"schema_version":"ISO/IEC TS 27560:2023"',
        '"changes":[],"receipts":[]',
        '"offer":"aino-bun"',
        "event: preferences",
    ),
    ('"name":"tablet"', "", '"effect":"withdraw"', '"code":"merged_resident"'),
    ('"form":"passby-resident-1"', "", '"code":"unauthenticated"'),
    ('"outcome":"deleted"',),
    (
        '{"status":"ok"}',
        '{"ready":true,',
        '"residents":',
        "passby_uptime_seconds",
        '{"openapi":"3.1.0"',
        "<!doctype html>",
    ),
)
"""What stands out in the answers of each block, after the first, which shows none."""


def test_every_section_shows_what_it_says(demo: int, tmp_path: Path) -> None:
    """Block by block, what stands out in each answer."""
    first, *shown = [block.splitlines() for block in paste(TOUR, demo, tmp_path)]

    for lines, wanted in zip(shown, SHOWN, strict=True):
        expect(lines, *wanted)
    assert first == []


def expect(lines: list[str], *wanted: str) -> None:
    """Each line holds what is wanted of it, in this order."""
    assert len(lines) == len(wanted), lines
    for line, one in zip(lines, wanted, strict=True):
        assert one.lower() in line.lower(), lines


def test_every_call_is_on_the_tour() -> None:
    """Whatever route there is stands in some block, but for those named."""
    text = "\n".join(blocks(TOUR))
    missing = []
    for route in ROUTES:
        path = re.sub(r"\\{\w+\\}", r"[^\\s'/?]+", re.escape(route.path))
        called = rf"(api {route.method} '?{path}['?\s]|curl -sS [\"]?\$URL{path}[\"; ])"
        if not re.search(called, text.replace('$(echo "$DONE" | pick redemption)', "$DONE")):
            missing.append(route.name)

    assert missing == list(ELSEWHERE)


def test_the_page_of_the_client_works(demo: int, tmp_path: Path) -> None:
    """Its phone gets the offer that it passes, and is off at the end."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / CLIENT).read_text("utf-8"), re.DOTALL)
    (tmp_path / "phone.py").write_text(program, encoding="utf-8")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (shown,) = paste(CLIENT, demo, tmp_path)

    told = shown.splitlines()[-3:]
    assert told[0] == "version 0, positions may be used: False"
    assert told[1].startswith("Cardamom bun: ")
    assert told[2] == "off: True"


@pytest.mark.parametrize(("kept", "on"), [('{"known":true}', "True"), (None, "None")])
def test_the_phone_on_the_page_starts_without_a_network(
    tmp_path: Path, kept: str | None, on: str
) -> None:
    """It goes by what it knew, and waits for somebody to say its "no" to."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / CLIENT).read_text("utf-8"), re.DOTALL)
    if kept is not None:
        (tmp_path / "phone.json").write_text(f'{{"fixes":{{}},"choices":{kept}}}', "utf-8")
    env = {"PYTHONPATH": str(ROOT), "URL": "http://127.0.0.1:1", "ME": "key"}
    with subprocess.Popen(
        [sys.executable, "-uc", program], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    ) as phone:
        assert phone.stdout is not None
        told = phone.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            phone.wait(0.5)
        phone.terminate()

    assert told == f"no network; positions may be used, as far as is known: {on}\n"
