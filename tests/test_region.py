"""What is settled around somebody who stands is what would be found at each fix."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decision import Decision
from engine.pipeline import Engine
from geofences.index import FenceIndex
from geofences.measure import covers, meets
from geofences.region import DOUBTFUL_MAX
from tests.strategies import circle, engine_of, offer, ping, place
from tests.test_cells import M_PER_DEG, PLACES, fence_at


@pytest.mark.parametrize("at", PLACES)
@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_region_says_what_the_exact_questions_say(at: tuple[float, float], seed: int) -> None:
    """At its corners and anywhere in it, for every fence of a world of up to twelve."""
    rng = random.Random(seed)
    fences = [fence_at(rng, *at, f"f{n:02}") for n in range(rng.randint(0, 12))]
    index = FenceIndex.load(fences)
    shrink = max(0.01, math.cos(math.radians(at[1])))
    for _ in range(12):
        away = [rng.uniform(-200.0, 200.0) / M_PER_DEG for _ in range(2)]
        region = index.region(at[0] + away[0] / shrink, at[1] + away[1])
        if region is None:
            continue
        assert 2 * 10.0 < (region.north - region.south) * M_PER_DEG < 2 * 30.0
        assert 2 * 10.0 < (region.east - region.west) * M_PER_DEG * shrink < 2 * 30.0
        corners = list(itertools.product((region.west, region.east), (region.south, region.north)))
        inside = [
            (rng.uniform(region.west, region.east), rng.uniform(region.south, region.north))
            for _ in range(8)
        ]
        for start, end in itertools.pairwise(rng.sample(corners, 4) + inside):
            left = tuple(f for f in fences if covers(f, *start))
            covering = tuple(f for f in fences if covers(f, *end))
            met = tuple(
                f for f in fences if f not in covering and f not in left and meets(f, *start, *end)
            )
            assert region.along(*start, *end, left) == (covering, met)


@pytest.mark.parametrize("at", [(13.4, 52.5), (-70.0, -33.0), (0.0, 0.0)])
def test_there_is_a_region_wherever_few_boundaries_are_near(at: tuple[float, float]) -> None:
    """Eight are asked; a ninth makes it none, and so do the seam and the poles."""
    rims = [circle(*at, 20.0 + n, f"f{n:02}") for n in range(DOUBTFUL_MAX)]

    few = FenceIndex.load(rims).region(at[0], at[1] + 20.0 / M_PER_DEG)
    more = FenceIndex.load([*rims, circle(*at, 29.0)]).region(at[0], at[1] + 20.0 / M_PER_DEG)

    assert few is not None
    assert (few.covering, few.doubtful) == ((), tuple(rims))
    assert more is None
    assert FenceIndex.load(rims).region(180.0, 0.0) is None
    assert FenceIndex.load(rims).region(0.0, 86.0) is None


def test_deep_in_a_country_and_far_from_a_shop_nothing_is_asked() -> None:
    """The country covers all of the box; the shop, 60 m away, none of it."""
    country, shop = circle(13.4, 52.5, 300_000.0, "country"), circle(13.4, 52.5, 50.0, "shop")

    region = FenceIndex.load([country, shop]).region(13.4, 52.5 + 110.0 / M_PER_DEG)

    assert region is not None
    assert (region.covering, region.doubtful) == ((country,), ())


def stood() -> Engine:
    """Ann stands 300 m from the cafe for a minute."""
    engine = engine_of([place()], [offer()])
    for at_s in (0, 15, 30, 45):
        engine.decide([ping(300.0, at_s=at_s)])
    assert engine.residents["ann"].region is not None
    return engine


def told(decision: Decision) -> list[tuple[str, str]]:
    return [(event.kind, event.fence) for event in decision.events]


def test_a_fence_that_comes_to_where_somebody_stands_is_entered() -> None:
    """What was settled holds as long as no fence comes, changes or goes."""
    engine = stood()

    engine.put_fences([place("kiosk", 300.0)])
    (entered,) = engine.decide([ping(300.0, at_s=60)])
    engine.put_fences([place("kiosk", 900.0)])
    (moved,) = engine.decide([ping(300.0, at_s=75)])
    (gone,) = engine.decide([ping(300.0, at_s=90)])

    assert told(entered) == [("enter", "kiosk")]
    assert told(moved) == told(gone) == []
    assert engine.residents["ann"].newest is not None
    assert engine.residents["ann"].newest.stays == ()


def test_who_goes_from_where_they_stood_is_seen_on_the_way() -> None:
    """Out of the box and into a cafe, and out of it past another."""
    engine = stood()
    engine.put_fences([place("kiosk", 900.0)])
    engine.decide([ping(300.0, at_s=60)])

    (entered,) = engine.decide([ping(0.0, at_s=75)])
    (passed,) = engine.decide([ping(1_500.0, at_s=90)])

    assert told(entered) == [("enter", "cafe")]
    assert told(passed) == [("pass", "kiosk")]


def test_a_region_is_forgotten_with_the_fixes() -> None:
    """It tells where somebody was, so it goes when that goes."""
    engine = stood()
    resident = engine.residents["ann"]
    region = resident.region

    resident.forget_fixes(())
    after_fixes, resident.region = resident.region, region
    resident.forget_presence()

    assert (region is None, after_fixes, resident.region) == (False, None, None)
