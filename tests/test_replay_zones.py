"""A replay drops what is in residents' own zones, and says so when a file of zones is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.decision import Decision
from engine.ping import Ping
from engine.replay import InputRefused, Replay, read_own_zones
from tests.strategies import offer, ping, place, town


def feature(resident: str, east_m: float, name: str = "home", **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": name,
        "geometry": {"type": "Point", "coordinates": list(town(east_m))},
        "properties": {"resident": resident, "radius_m": 100, **more},
    }


def line(one: Ping) -> bytes:
    told = {name: getattr(one, name) for name in ("resident", "at_ms", "lon", "lat", "accuracy_m")}
    return json.dumps(told).encode()


def run(zones: Path | None, batch: int) -> tuple[list[Decision], str]:
    """Ann and Bob walk by the cafe, at which Ann lives."""
    replay = Replay(
        fences=[place()],
        brands=(),
        offers=[offer()],
        opted_in=lambda _: True,
        timezone="Europe/Helsinki",
        protections=None if zones is None else read_own_zones(zones),
    )
    walk = [
        ping(east_m, at_s, resident=who)
        for at_s, east_m in enumerate((-300.0, -50.0, 0.0, 50.0, 300.0))
        for who in ("ann", "bob")
    ]
    decided = [d for part in replay.run(map(line, walk), batch=batch) for d in part]
    return decided, replay.decisions_hash()


def test_a_zone_hides_its_resident_alone(tmp_path: Path) -> None:
    """Whatever the batch, and with the same hash."""
    path = tmp_path / "zones.jsonl"
    path.write_text(json.dumps(feature("ann", 0.0)) + "\n")

    decided, hash_ = run(path, 1)

    told = {who: [d.status for d in decided if d.resident == who] for who in ("ann", "bob")}
    assert told["bob"] == ["decided"] * 5
    assert told["ann"] == ["decided", *["private_zone"] * 3, "decided"]
    assert [d for d in decided if d.resident == "ann" and (d.events or d.offer)] == []
    assert any(d.offer for d in decided)
    assert run(path, 7)[1] == hash_
    assert run(None, 1)[1] != hash_


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"type": "Feature"}),
        json.dumps(feature("ann", 0.0, radius_m=50_000)),
        json.dumps(feature("ann", 0.0, kind="secret")),
    ],
)
def test_a_line_that_is_no_zone_is_named(tmp_path: Path, text: str) -> None:
    """By its number, and never with the position that was in it."""
    path = tmp_path / "zones.jsonl"
    path.write_text(f"{json.dumps(feature('bob', 0.0))}\n{text}\n")

    with pytest.raises(InputRefused, match="zone 2") as refused:
        read_own_zones(path)

    assert "24.9" not in str(refused.value)
