"""Recorded streams for replays: where they are, and how a neat one becomes a messy one."""

import gzip
import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

HERE: Final = Path(__file__).parents[2] / "shared/data"


def shared(name: str) -> Path:
    """A file of real data, or a skip that says what is missing and where it was looked for."""
    path = Path(os.environ.get("PASSBY_SHARED_DATA", HERE)) / name
    if not path.is_file():
        pytest.skip(f"NOT TESTED ON REAL DATA: there is no {path} (set PASSBY_SHARED_DATA)")
    return path


def lines_of(path: Path) -> list[bytes]:
    """The lines of a gzipped file."""
    with gzip.open(path) as file:
        return file.read().splitlines()


def at_ms(line: bytes) -> int:
    """When a ping was taken."""
    return int(json.loads(line)["at_ms"])


def messy(lines: list[bytes], seed: int, share: float = 0.01) -> list[bytes]:
    """A stream in which some lines come up to 200 s late, some again, and some are broken."""
    rng = random.Random(seed)
    keyed: list[tuple[int, int, bytes]] = []
    for number, line in enumerate(lines):
        now_ms = at_ms(line)
        late_ms = rng.randrange(200_000) if rng.random() < share else 0
        keyed.append((now_ms + late_ms, number, line))
        if rng.random() < share:
            keyed.append((now_ms + rng.randrange(200_000), number, line))
        if rng.random() < share / 10:
            keyed.append((now_ms, number, line[: rng.randrange(len(line))]))
    return [line for _, _, line in sorted(keyed)]


def shuffled(lines: list[bytes], seed: int, late_max_ms: int = 60_000) -> list[bytes]:
    """The stream in the order in which it would come if each line took up to a minute."""
    rng = random.Random(seed)
    keyed = [(at_ms(line) + rng.randrange(late_max_ms), n) for n, line in enumerate(lines)]
    return [lines[n] for _, n in sorted(keyed)]


class StayPoint(NamedTuple):
    """Where somebody stayed for a while."""

    resident: str
    lon: float
    lat: float
    from_ms: int
    until_ms: int


def stay_points(
    lines: list[bytes], *, within_m: float = 200.0, stay_ms: int = 20 * 60_000
) -> Iterator[StayPoint]:
    """Runs of fixes of at least 20 min within 200 m of their first, without a silence."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        fix = json.loads(line)
        run = runs.setdefault(fix["resident"], [])
        near = not run or (
            _metres(run[0], fix) <= within_m and fix["at_ms"] - run[-1]["at_ms"] <= 30 * 60_000
        )
        if not near:
            yield from _stay(run, stay_ms)
            run.clear()
        run.append(fix)
    for run in runs.values():
        yield from _stay(run, stay_ms)


def _stay(run: list[dict[str, Any]], stay_ms: int) -> Iterator[StayPoint]:
    first, last = run[0], run[-1]
    if last["at_ms"] - first["at_ms"] >= stay_ms:
        lon = sum(fix["lon"] for fix in run) / len(run)
        lat = sum(fix["lat"] for fix in run) / len(run)
        yield StayPoint(first["resident"], lon, lat, first["at_ms"], last["at_ms"])


def _metres(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Near enough for a stay: on a plane."""
    east = (one["lon"] - other["lon"]) * 111_320 * math.cos(math.radians(one["lat"]))
    return math.hypot(east, (one["lat"] - other["lat"]) * 110_950)
