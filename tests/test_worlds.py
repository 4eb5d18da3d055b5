"""In random worlds with lost commits and restarts every promise of the pipeline holds."""

import random
from collections import Counter
from typing import Final

import pytest

from engine.changes import Changes
from engine.decision import encode
from tests.worlds import NAMES, World, live

SEEDS: Final = 200


async def test_no_world_breaks_a_promise() -> None:
    """In 200 random worlds with lost commits and restarts nothing leaves that may not."""
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            seen += (await live(seed)).seen
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}") from broken

    assert {
        *("offer", "duplicate", "late", "no_consent", "decided", "lost", "restart"),
        *("consent_withdrawn", "not_live", "cool_down", "attention_day", "budget_total"),
        *("budget_day", "cap_brand_day", "cap_resident_day", "no_grant", "asked again"),
    } <= seen.keys(), seen
    assert seen["offer"] > 500


@pytest.mark.parametrize("seed", range(30))
def test_a_batch_is_its_pings_one_by_one(seed: int) -> None:
    """However a stream is cut, the bytes of the decisions and the changes are the same."""

    def run(cut: random.Random | None) -> tuple[list[bytes], Changes]:
        world = World(seed)
        for name in NAMES:
            world.speak(name)
        pings = [one for _ in range(30) for one in world.some_pings()]
        out: list[bytes] = []
        while pings:
            size = len(pings) if cut is None else cut.randrange(1, 9)
            out += [encode(d) for d in world.engine.decide(pings[:size])]
            pings = pings[size:]
        return out, world.engine.take_changes()

    whole = run(None)

    assert run(random.Random(seed)) == whole
    assert run(random.Random(seed + 1)) == whole
