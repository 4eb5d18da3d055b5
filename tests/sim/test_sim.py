"""An acknowledged "no" is final in every world that chance can think of.

`pytest tests/sim --sim-seeds 5000` looks at more of them; what fails says how to run it alone.
"""

from collections import Counter
from typing import Final

import pytest

from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.process import Build
from tests.sim.world import World

TRACE_LINES: Final = 300
SEEN: Counter[str] = Counter()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each seed."""
    if "seed" in metafunc.fixturenames:
        one, many = (metafunc.config.getoption(name) for name in ("--sim-seed", "--sim-seeds"))
        metafunc.parametrize("seed", range(many) if one is None else [one])


def live(seed: int, build: Build | None = None) -> World:
    world = World(seed) if build is None else World(seed, build)
    world.live()
    return world


def test_what_was_acknowledged_holds_whatever_happens(seed: int) -> None:
    """No offer leaves that an acknowledged "no" forbids, nobody acts without a lease or without
    what was acknowledged, nothing is widened but from the latest version; and after the storm all
    comes right again.
    """
    books = live(seed).books
    SEEN.update(books.seen)

    if books.broken:
        pytest.fail(
            f"{books.broken[0]}\n\nTo run it alone: pytest tests/sim --sim-seed {seed}\n\n"
            + "\n".join(books.trace[-TRACE_LINES:]),
            pytrace=False,
        )


def test_the_worlds_were_wild(measured: list[str], pytestconfig: pytest.Config) -> None:
    """Else nothing was shown: offers left in every way, and there was a "no" in every trouble."""
    if not SEEN or pytestconfig.getoption("--sim-seed") is not None:
        pytest.skip("the worlds of this run are not looked at together")
    worlds = pytestconfig.getoption("--sim-seeds")
    told = ", ".join(f"{what} {count:,}" for what, count in SEEN.most_common())
    measured.append(f"{worlds} worlds simulated: {told}")
    for what in ("answer", "stream", "events", "till", "off acknowledged", "on acknowledged"):
        assert SEEN[what] > worlds, what
    for what in ("freeze", "kill", "stop", "tear", "still", "stale_version", "not_in_force"):
        assert SEEN[what] > worlds / 4, what
    for what in ("on for a while acknowledged", "merge acknowledged"):
        assert SEEN[what] > worlds / 10, what


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_service_that_lacks_a_rule_is_caught(
    mutant: Mutant, measured: list[str], pytestconfig: pytest.Config
) -> None:
    """By the same worlds, and for the reason that one expects."""
    for seed in range(pytestconfig.getoption("--sim-seeds")):
        broken = live(seed, mutant.build).books.broken
        if any(mutant.caught in sentence for sentence in broken):
            name = next(name for name, other in MUTANTS.items() if other is mutant)
            measured.append(f"{name}: caught in world {seed}: {broken[0]}")
            return
    pytest.fail("nobody noticed")


def test_a_world_is_its_seed() -> None:
    """So that what failed fails again: the same seed is the same world, to the microsecond."""
    once, again = live(7), live(7)

    assert len(once.books.trace) > 50
    assert once.books.trace == again.books.trace
