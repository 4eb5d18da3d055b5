"""The noise table of docs/explanation/transitions.md: how often a phone at rest seems to enter."""

import math
import random
import re
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

import pytest

from geofences.index import FenceIndex
from geofences.transitions import Dwells, Fix, Stays, step
from tests.strategies import place, town

PAGE: Final = Path(__file__).parent.parent / "docs" / "explanation" / "transitions.md"
RADIUS_M: Final = 50.0
FIXES: Final = 8 * 360
"""Eight hours of a fix every ten seconds."""
SEEDS: Final = range(12)


class Case(NamedTuple):
    """Where the phone rests and how noisy its fixes are, as one row of the table."""

    radii: float
    sd_m: float
    memory: float
    """Correlation of one fix's error with that of the next; 0: errors are independent."""


class Means(NamedTuple):
    """Enters in eight hours, on average."""

    ours: float
    naive: float


ROW: Final = re.compile(r"^\| ([\d.]+) R \| (\d+) m \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.M)
TABLE: Final = {
    Case(float(radii), float(sd_m), float(memory)): Means(float(ours), float(naive))
    for radii, sd_m, memory, ours, naive in ROW.findall(PAGE.read_text(encoding="utf-8"))
}


def enters(case: Case, seed: int) -> Means:
    """Enters told by our rule, and by the rule that inside means covered, in eight hours."""
    rng = random.Random(f"{seed} {case}")
    fence = place(radius_m=RADIUS_M)
    index = FenceIndex.load([fence])
    stays: Stays = ()
    east_m, north_m = rng.gauss(0, case.sd_m), rng.gauss(0, case.sd_m)
    fresh = math.sqrt(1 - case.memory**2)
    ours = naive = 0
    was_covered = False
    for number in range(FIXES):
        lon, lat = town(case.radii * RADIUS_M + east_m, north_m)
        fix = Fix(number * 10_000, lon, lat, 1.5 * case.sd_m)
        covering = index.covering(lon, lat)
        stays, told = step(
            stays, None, fix, covering, (), current=index.current, dwells=Dwells(lambda _: ())
        )
        ours += sum(t.kind == "enter" for t in told)
        naive += bool(covering) and not was_covered
        was_covered = bool(covering)
        east_m = case.memory * east_m + fresh * rng.gauss(0, case.sd_m)
        north_m = case.memory * north_m + fresh * rng.gauss(0, case.sd_m)
    return Means(ours, naive)


def test_the_page_has_the_whole_table() -> None:
    """It has a row for both places, both deviations, without and with memory."""
    assert sorted(TABLE) == [
        Case(radii, sd_m, memory)
        for radii in (0.8, 1.3)
        for sd_m in (6.0, 15.0)
        for memory in (0.0, 0.7)
    ]


@pytest.mark.parametrize("case", TABLE, ids=lambda c: f"{c.radii}R-{c.sd_m:.0f}m-{c.memory}")
def test_a_phone_at_rest_hardly_ever_seems_to_enter(case: Case, measured: list[str]) -> None:
    """Our rule and the plain one enter as often as the page says, ours ten times less at least."""
    counts = [enters(case, seed) for seed in SEEDS]
    ours, naive = mean(c.ours for c in counts), mean(c.naive for c in counts)

    measured.append(f"{case}: enters {ours:.2f}, by the plain rule {naive:.1f}")
    assert ours == pytest.approx(TABLE[case].ours, rel=0.02, abs=0.1)
    assert naive == pytest.approx(TABLE[case].naive, rel=0.02)
    assert 10 * ours < naive
