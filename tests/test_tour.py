"""The tours of the API, with curl and with the client, pasted as a stranger would."""

import re
import sys
from pathlib import Path
from typing import Final

from engine.web.routes import ROUTES
from tests.running import ROOT
from tests.test_readme import blocks, demo, paste

__all__ = ["demo"]

TOUR: Final = "docs/tutorial.md"
CLIENT: Final = "docs/how-to/use-the-client.md"
ELSEWHERE: Final = {"GET /v1/pings/stream": "a WebSocket, which curl does not speak"}


def test_every_section_shows_what_it_says(demo: int, tmp_path: Path) -> None:
    """Block by block, what stands out in each answer."""
    shown = [block.splitlines() for block in paste(TOUR, demo, tmp_path)]

    expect(shown[1], "Café Aino", '"name":"a spare one"', '"next":"', "", '"code":"unknown_key"')
    expect(shown[2], '"id":"aino"', '"id":"aino"', '"code":"foreign_brand"')
    expect(
        shown[3],
        '"radius_m":60',
        '"Polygon"',
        '"width_m":40',
        '"id":"aino-yard"',
        '"items":[{',
        '{"fences":[["aino-door"],["aino-street"],[]]}',
    )
    expect(shown[4], '"path":"geometry.coordinates[0]"')
    expect(shown[5], '"status":412', "")
    expect(shown[6], '"created":1', '"rejected_count":1')
    expect(shown[7], '"status":"live"', '"trigger":"dwell"', '"total":100', '"items":[{', "")
    expect(shown[8], '"created":0,"updated":0')
    expect(shown[9], '"language":"fi"', '"code":"idempotency_key_reused"')
    expect(shown[10], '"per_day":5', '"follows":["aino"]', '"version":0')
    expect(shown[11], '"created":1')
    expect(shown[12], '"status":"no_consent"')
    expect(shown[13], '"version":1', '"offer":"aino-bun"')
    expect(shown[14], '"code":"precondition_required"', '"version":2')
    expect(
        shown[15],
        '"status":"rejected"',
        '"status":"d',
        '"status":"d',
        '"status":"rejected"',
        '"next_fix":{',
    )
    expect(shown[16], '"allowed_by":["', '"allowed_by":[]')
    expect(
        shown[17],
        '"till":"till-1"',
        '"code":"already_redeemed"',
        "",
        '"redemption":"',
        "event: redemption",
        "event: offer",
    )
    expect(shown[18], '"effect":"deny"', '"effect":"withdraw"', '"status":"no_consent"')
    expect(shown[19], '"refused":[{"effect":"grant"', '"path":"changes[0].actions[0]"')
    expect(
        shown[20],
        '"kind":"private"',
        '{"items":[{',
        '"effect":"grant"',
        '"status":"private_zone"',
        '"code":"precondition_required"',
        "",
        '"code":"no_such_zone"',
    )
    expect(shown[21], '"outcome":"deleted"')
    expect(
        shown[22],
        '{"status":"ok"}',
        '{"ready":true,',
        '"residents":',
        "passby_uptime_seconds",
        '{"openapi":"3.1.0"',
        "<!doctype html>",
    )
    assert len(shown) == 23


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
