"""The advice when to send the next fix: what it says, and that who follows it misses nothing."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import next_fix as simulation
from engine.advice import AFTER_MAX_S, RADIUS_MAX_M, SPEED_MIN_MPS
from engine.consent.sync import marketing
from engine.decision import Decision, NextFix, encode
from engine.offers.offer import Brand
from engine.ping import Ping
from engine.pipeline import Engine
from geofences.fence import Fence
from geofences.globe import GEOD
from geofences.index import FenceIndex
from geofences.measure import depth_m, make_fence
from loadtest.city import City
from tests.strategies import (
    NOON_MS,
    circles,
    corridor,
    engine_of,
    near,
    offer,
    ping,
    place,
    polygon,
    say,
    star,
    stars,
    town,
    wrap,
)

EVERYWHERE_FENCES: Final = ("cafe", "gym", "park", "street", "kiosk")
"""Kinds of fence in the towns of these tests; an offer waits at each."""


def advised(engine: Engine, *pings: Ping) -> NextFix:
    """The advice on the last of some pings."""
    decision = engine.decide(pings)[-1]
    assert decision.status == "decided"
    assert isinstance(decision.next_fix, NextFix)
    return decision.next_fix


def test_the_way_to_the_nearest_fence_with_an_offer_is_told() -> None:
    """450 m to the edge of a circle, a little less; at twice the speed that the phone says."""
    engine = engine_of([place()], [offer()], next_fix=True)
    walking = msgspec.structs.replace(ping(500.0), speed_mps=2.0)

    told = advised(engine, walking)

    assert 0.94 * 450 <= told.radius_m <= 450
    assert told.after_s == told.radius_m // 4


def test_speed_is_what_the_phone_says_or_its_way_shows() -> None:
    """Never less than a run, twice as much where it is faster; a car's where nothing shows it."""
    engine = engine_of([place()], [offer()], next_fix=True)

    first = advised(engine, ping(3_000.0, 0))
    still = advised(engine, ping(3_000.0, 60, ping_id="b"))
    moving = advised(engine, ping(2_400.0, 120, ping_id="c"))
    said = advised(engine, msgspec.structs.replace(ping(2_400.0, 180), speed_mps=1e9))
    odd = advised(engine, msgspec.structs.replace(ping(2_400.0, 240), speed_mps=math.nan))

    assert first.after_s == first.radius_m // 15
    assert still.after_s == min(AFTER_MAX_S, int(still.radius_m / SPEED_MIN_MPS))
    assert moving.after_s == moving.radius_m // 20
    assert said.after_s == said.radius_m // 70
    assert odd.after_s == min(AFTER_MAX_S, int(odd.radius_m / SPEED_MIN_MPS))


@pytest.mark.parametrize(
    ("fences", "offers"),
    [
        ([], []),
        ([place(brand="beans")], []),
        ([place()], [offer(status="paused")]),
        ([place()], [offer(ends_ms=NOON_MS)]),
        ([place()], [offer(fences=("elsewhere",))]),
        ([place(brand="silent")], [offer()]),
    ],
)
def test_where_nothing_can_happen_the_longest_is_told(
    fences: list[Fence], offers: list[object]
) -> None:
    """Nor is a fence of a brand that may not see the position in the way."""
    brands = [Brand(id="beans", name="Beans"), Brand(id="silent", name="Silent")]
    engine = engine_of(fences, offers, brands=brands, residents=(), next_fix=True)  # type: ignore[arg-type]
    say(engine, marketing(opted_in=True, brands=("beans",)))

    assert advised(engine, ping(100.0), ping(100.0, 60)) == NextFix(
        AFTER_MAX_S, int(RADIUS_MAX_M), AFTER_MAX_S
    )


def test_an_offer_that_begins_later_counts_already() -> None:
    """It may begin while the phone follows the advice."""
    engine = engine_of([place()], [offer(starts_ms=NOON_MS + 60_000)], next_fix=True)

    assert advised(engine, ping(500.0)).radius_m < 450


def test_a_stay_lasts_to_where_its_exit_begins() -> None:
    """Inside by 40 m, and out by 20 m more; right before the second fix that ends it, every fix."""
    engine = engine_of([place()], [offer()], next_fix=True)

    inside = advised(engine, ping(10.0))
    clear = advised(engine, ping(90.0, 60))

    assert 0.94 * 60 <= inside.radius_m <= 60
    assert clear == NextFix(0, 0, AFTER_MAX_S)


def test_a_stay_that_has_to_last_is_looked_at_when_it_has() -> None:
    """A dwell of two minutes; after it the phone may rest."""
    engine = engine_of([place(radius_m=400)], [offer(trigger="dwell", dwell_s=120)], next_fix=True)

    told = [advised(engine, ping(0.0, at_s, ping_id=f"{at_s}")) for at_s in (0, 50, 119.5, 120)]

    assert [one.latest_s for one in told] == [120, 70, 1, AFTER_MAX_S]
    assert [one.after_s for one in told[:3]] == [28, 70, 1]
    assert told[3].after_s > 100


def test_inside_but_not_surely_every_fix_may_enter() -> None:
    """At the edge, with an error as large as the fence."""
    engine = engine_of([place()], [offer()], next_fix=True)

    assert advised(engine, ping(49.0, accuracy_m=60.0)) == NextFix(0, 0, AFTER_MAX_S)


def test_a_change_of_fences_or_offers_counts_at_the_next_fix() -> None:
    """Whatever had been found before."""
    engine = engine_of([place()], [offer()], next_fix=True)
    before = advised(engine, ping(5_000.0, 0))

    engine.put_fences([place("kiosk", 4_000.0)])
    without_offer = advised(engine, ping(5_000.0, 1))
    engine.put_offer(offer("b", fences=("kiosk",)))
    with_offer = advised(engine, ping(5_000.0, 2))
    engine.drop_offer("b")
    dropped = advised(engine, ping(5_000.0, 3))
    engine.drop_fence("cafe")
    nothing = advised(engine, ping(5_000.0, 4))

    assert before.radius_m == without_offer.radius_m == dropped.radius_m > 4_000
    assert 900 <= with_offer.radius_m <= 950
    assert nothing.radius_m == RADIUS_MAX_M


def test_only_decided_fixes_are_advised_and_only_if_the_city_wants_it() -> None:
    """Late and equal ones, and those without consent, have nothing of it in their bytes."""
    engine = engine_of([place()], [offer()], next_fix=True)
    decisions = engine.decide(
        [ping(500.0, 60), ping(500.0, 60), ping(500.0, 0), ping(500.0, resident="bob")]
    )
    off = engine_of([place()], [offer()]).decide([ping(500.0)])

    assert [isinstance(d.next_fix, NextFix) for d in decisions] == [True, False, False, False]
    assert b'"next_fix":{"after_s":' in encode(decisions[0])
    assert b"next_fix" not in encode(decisions[1]) + encode(off[0])


# A phone that follows the advice against one that sends every fix.

Follows = Callable[[Ping, Ping, NextFix], bool]
"""Whether a phone that was told this at its last sent fix sends this one."""


def away_m(one: Ping, other: Ping) -> float:
    return float(GEOD.inv(one.lon, one.lat, other.lon, other.lat)[2])


def by_time(last: Ping, fix: Ping, told: NextFix) -> bool:
    """As a phone does that can't tell how far it moved without a fix."""
    return fix.at_ms >= last.at_ms + 1_000 * told.after_s


def by_way(last: Ping, fix: Ping, told: NextFix) -> bool:
    """As a phone does that is woken when it has moved so far, or when it is time."""
    return away_m(last, fix) >= told.radius_m or fix.at_ms >= last.at_ms + 1_000 * told.latest_s


def obey(engine: Engine, walk: Sequence[Ping], sends: Follows) -> list[Decision]:
    """The decisions on the fixes that a phone sends."""
    decisions: list[Decision] = []
    last: Ping | None = None
    for fix in walk:
        told = decisions[-1].next_fix if decisions else None
        if last is None or not isinstance(told, NextFix) or sends(last, fix, told):
            decisions += engine.decide([fix])
            last = fix
    return decisions


def seen(decisions: Iterable[Decision]) -> list[tuple[str, str, int]]:
    """Enters, dwells and exits, each with the fix that showed it."""
    return [
        (event.fence, event.kind, event.at_ms)
        for decision in decisions
        for event in decision.events
        if event.kind != "pass"
    ]


def the_town() -> list[Fence]:
    """A cafe, a gym that overlaps it, a park with a pond, a street and a kiosk."""
    pond = star(*town(400.0, 300.0), [30.0] * 8)
    shapes = {
        "park": polygon(star(*town(400.0, 300.0), [180.0, 120.0] * 5), pond),
        "street": corridor([town(-500.0, -100.0), town(-100.0, -150.0), town(300.0, -400.0)], 24.0),
    }
    named = [make_fence(name, "beans", name, (), made.shape) for name, made in shapes.items()]
    return [
        place(),
        place("gym", 70.0, 10.0, radius_m=40.0),
        place("kiosk", -350.0, 250.0, radius_m=15.0),
        *named,
    ]


def town_engine(*, next_fix: bool = True) -> Engine:
    offers = [offer(f"at-{name}", fences=(name,)) for name in EVERYWHERE_FENCES]
    offers += [
        offer(f"in-{name}-{dwell_s}", fences=(name,), trigger="dwell", dwell_s=dwell_s)
        for name, dwell_s in (("cafe", 60), ("park", 45), ("park", 200))
    ]
    return engine_of(the_town(), offers, next_fix=next_fix)


@st.composite
def strolls(draw: st.DrawFn) -> list[Ping]:
    """Fixes without noise, 5 to 15 s apart, below 3 m/s: straight, in turns, with rests."""
    east, north = draw(st.floats(-700, 700)), draw(st.floats(-500, 500))
    step_s = draw(st.sampled_from([5, 10, 15]))
    bearing = draw(st.floats(0, 2 * math.pi))
    legs = draw(
        st.lists(
            st.tuples(st.integers(1, 60), st.floats(0.0, 2.9), st.floats(-math.pi, math.pi)),
            min_size=1,
            max_size=6,
        )
    )
    fixes, at_s = [], 0
    for steps, speed_mps, turn in legs:
        bearing += turn
        for _ in range(steps):
            at_s += step_s
            east += step_s * speed_mps * math.sin(bearing)
            north += step_s * speed_mps * math.cos(bearing)
            fixes.append(ping(east, at_s, north, accuracy_m=5.0, ping_id=f"{at_s:05}"))
    return fixes


@pytest.mark.parametrize("sends", [by_way, by_time])
@given(walk=strolls())
@settings(max_examples=150, deadline=None)
def test_who_follows_the_advice_enters_and_leaves_as_who_sends_every_fix(
    sends: Follows, walk: list[Ping]
) -> None:
    """The same fences by the same fixes. By time alone, for a phone no faster than a run."""
    if sends is by_time:
        walk = [msgspec.structs.replace(fix, speed_mps=1.4) for fix in walk]

    every = seen(town_engine(next_fix=False).decide(walk))
    sent = obey(town_engine(), walk, sends)

    assert seen(sent) == every
    assert len(sent) <= len(walk)


@st.composite
def jumps(draw: st.DrawFn) -> list[Ping]:
    """Fixes without noise anywhere in the town, as of somebody who takes trams."""
    places = st.tuples(st.floats(-900, 900), st.floats(-700, 700), st.integers(1, 400))
    fixes, at_s = [], 0
    for east, north, gap_s in draw(st.lists(places, min_size=2, max_size=25)):
        at_s += gap_s
        fixes.append(ping(east, at_s, north, accuracy_m=5.0, ping_id=f"{at_s:05}"))
    return fixes


@given(walk=jumps())
@settings(max_examples=150, deadline=None)
def test_who_goes_by_the_way_misses_nothing_however_fast(walk: list[Ping]) -> None:
    """The radius holds at any speed."""
    every = seen(town_engine(next_fix=False).decide(walk))

    assert seen(obey(town_engine(), walk, by_way)) == every


@given(walk=strolls(), size=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_the_advice_is_the_same_in_batches(walk: list[Ping], size: int) -> None:
    """Byte for byte."""
    one_by_one, in_batches = town_engine(), town_engine()
    single = [encode(one_by_one.decide([fix])[0]) for fix in walk]

    batches = [walk[start : start + size] for start in range(0, len(walk), size)]
    assert [encode(d) for batch in batches for d in in_batches.decide(batch)] == single


def test_a_walk_past_the_town_sends_a_few_of_its_fixes() -> None:
    """Towards it from 3 km away, through it and away."""
    walk = [
        ping(-3_000.0 + 1.4 * at_s, at_s, 20.0, accuracy_m=5.0, ping_id=f"{at_s:05}")
        for at_s in range(0, 4_300, 10)
    ]

    sent = obey(town_engine(), walk, by_way)

    assert seen(sent) == seen(town_engine(next_fix=False).decide(walk))
    assert len(sent) < len(walk) / 4
    assert all(one.at_ms < other.at_ms for one, other in pairwise(sent))


# How far it is to the nearest fence.


@given(st.data(), st.lists(circles() | stars(largest_m=5_000.0), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
@example(data=None, fences=[]).via("an empty index")
def test_clearance_is_never_more_than_the_way_to_the_nearest_fence(
    data: st.DataObject | None, fences: list[Fence]
) -> None:
    """Anywhere on the globe, across the seam; and little less, but near the poles."""
    if data is None:
        assert FenceIndex().clearance_m(24.9, 60.2, lambda _: True, most_m=777.0) == 777.0
        return
    made = [make_fence(f"f{n}", "b", "", (), fence.shape) for n, fence in enumerate(fences)]
    index = FenceIndex.load(made)
    lon, lat = data.draw(near(data.draw(st.sampled_from(made))))
    lon = wrap(lon + data.draw(st.floats(-0.05, 0.05)))
    lat = max(-90.0, min(90.0, lat + data.draw(st.floats(-0.05, 0.05))))
    wanted = {fence.id for fence in made if data.draw(st.booleans())}

    found_m = index.clearance_m(lon, lat, lambda fence: fence.id in wanted, most_m=8_000.0)

    truth_m = min((-depth_m(f, lon, lat) for f in made if f.id in wanted), default=math.inf)
    truth_m = max(0.0, min(truth_m, 8_000.0))
    assert 0.0 <= found_m <= truth_m
    if abs(lat) <= 85.0:
        assert found_m >= 0.95 * truth_m - 1.0


def test_clearance_of_a_dense_town_is_bounded_work() -> None:
    """Where hundreds of fences that do not count are near, it says only as far as it looked."""
    crowd = [place(f"f{n:04}", 7.0 * (n % 40), 7.0 * (n // 40), radius_m=3.0) for n in range(1_600)]
    far = place("far", 3_000.0)
    index = FenceIndex.load([*crowd, far])
    asked = []

    def counts(fence: Fence) -> bool:
        asked.append(fence.id)
        return fence.id == "far"

    found_m = index.clearance_m(*town(140.0, 140.0), counts, most_m=10_000.0)

    assert 64.0 <= found_m <= 2_810.0
    assert len(asked) == len(set(asked)) <= 400


def test_the_simulation_saves_pings_and_misses_no_stay() -> None:
    """In the made-up city, with the noise of phones; a small one of its runs."""
    city = City.make(1, residents=12, shops=30)
    every, way, late = (
        simulation.walk(city, [r for r in city.residents if r.opted_in], 3_600, sends)
        for sends in (simulation.every, simulation.by_way, simulation.by_time)
    )

    stays = ("enter", "dwell", "exit")
    assert sum(map(len, every.events.values())) > 50
    assert way.pings < 0.7 * every.pings
    assert late.pings < every.pings
    for seen in (way, late):
        off = simulation.compare(every, seen, stays)
        assert (off.missed, off.more, off.late_s) == (0, 0, 0.0)
    assert all(row.note for row in simulation.run(residents=5, shops=20, seconds=600))
