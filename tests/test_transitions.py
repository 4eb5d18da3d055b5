"""The rule of enter, dwell, exit and pass: tables of fixes, and what always holds."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings

from engine.ping import Ping
from geofences.fence import Fence
from geofences.index import FenceIndex
from geofences.transitions import (
    Dwells,
    Fix,
    Stays,
    Transition,
    accuracy_or_default,
    assumed_exit_ms,
    noise_sd_m,
    probability_inside,
    step,
)
from tests.strategies import NOON_MS, place, town, walks

DWELLS_S: Final = (60, 120)


class Told(NamedTuple):
    """What a fix showed, without its confidence; the time is in seconds after the start."""

    at_s: float
    kind: str
    fence: str = "cafe"
    dwell_s: int | None = None
    assumed: bool = False


class Walker:
    """One phone in front of some fences, which may change as it walks."""

    def __init__(self, *fences: Fence, dwells_s: Sequence[int] = DWELLS_S) -> None:
        self.index = FenceIndex.load(fences)
        self.dwells = Dwells(lambda _: dwells_s)
        self.stays: Stays = ()
        self.before: Fix | None = None

    def go(
        self, at_s: float, east_m: float, accuracy_m: float | None = 9.0, north_m: float = 0.0
    ) -> tuple[Transition, ...]:
        """Take one fix."""
        lon, lat = town(east_m, north_m)
        return self.take(Fix(round(at_s * 1_000), lon, lat, accuracy_or_default(accuracy_m)))

    def take(self, fix: Fix) -> tuple[Transition, ...]:
        """Take one fix."""
        before = self.before
        over_ms = None if before is None else assumed_exit_ms(before.at_ms, fix.at_ms)
        if before is None or over_ms is not None:
            covering: tuple[Fence, ...] = self.index.covering(fix.lon, fix.lat)
            met: tuple[Fence, ...] = ()
        else:
            covering, met = self.index.along(before.lon, before.lat, fix.lon, fix.lat)
        self.stays, told = step(
            self.stays,
            before,
            fix,
            covering,
            met,
            over_ms=over_ms,
            current=self.index.current,
            dwells=self.dwells,
        )
        self.before = fix
        return told

    def inside(self) -> list[str]:
        """Where the phone is."""
        return [stay.fence.id for stay in self.stays]


def plain(transitions: Sequence[Transition]) -> list[Told]:
    """Transitions without their confidence."""
    return [Told(t.at_ms / 1_000, t.kind, t.fence.id, t.dwell_s, t.assumed) for t in transitions]


Steps = list[tuple[float, float] | tuple[float, float, float | None]]

TABLE: Final[dict[str, tuple[Steps, list[Told], bool]]] = {
    # name: (seconds, metres east of the middle of a circle of 50 m, accuracy), events, inside
    "enter on one sure fix": ([(0, 0)], [Told(0, "enter")], True),
    "no enter outside": ([(0, 51)], [], False),
    "no enter near the rim": ([(0, 47)], [], False),
    "enter where P is 0.75": ([(0, 45.9)], [Told(0, "enter")], True),
    "no enter where P is 0.7475": ([(0, 46.0)], [], False),
    "unknown accuracy enters in the middle": ([(0, 0, None)], [Told(0, "enter")], True),
    "unknown accuracy counts as 65 m: sd is capped at 25 m": ([(0, 34, None)], [], False),
    "zero accuracy counts as unknown": ([(0, 34, 0.0)], [], False),
    "150 m may enter": ([(0, 0, 150.0)], [Told(0, "enter")], True),
    "over 150 m may not": ([(0, 0, 150.1)], [], False),
    "over 150 m keeps a stay": ([(0, 0), (10, 30, 900.0)], [Told(0, "enter")], True),
    "one clear fix is no exit": ([(0, 0), (10, 200)], [Told(0, "enter")], True),
    "two clear fixes are one": (
        [(0, 0), (10, 200), (20, 200)],
        [Told(0, "enter"), Told(20, "exit")],
        False,
    ),
    "clear means beyond error circle and margin of 20 m": (
        [(0, 0), (10, 78), (20, 78), (30, 78)],
        [Told(0, "enter")],
        True,
    ),
    "and a metre more is clear": (
        [(0, 0), (10, 80), (20, 80)],
        [Told(0, "enter"), Told(20, "exit")],
        False,
    ),
    "the two must follow each other: a vague one between": (
        [(0, 0), (10, 200), (20, 200, 400.0), (30, 200), (40, 200)],
        [Told(0, "enter"), Told(40, "exit")],
        False,
    ),
    "the two must follow each other: one inside between": (
        [(0, 0), (10, 200), (20, 0), (30, 200), (40, 200)],
        [Told(0, "enter"), Told(40, "exit")],
        False,
    ),
    "unknown accuracy leaves from 135 m": (
        [(0, 0), (10, 136, None), (20, 136, None)],
        [Told(0, "enter"), Told(20, "exit")],
        False,
    ),
    "a dwell is told once": (
        [(0, 0), (59.999, 0), (60, 0), (90, 0)],
        [Told(0, "enter"), Told(60, "dwell", dwell_s=60)],
        True,
    ),
    "dwells due at once come in their order": (
        [(0, 0), (500, 0)],
        [Told(0, "enter"), Told(500, "dwell", dwell_s=60), Told(500, "dwell", dwell_s=120)],
        True,
    ),
    "no dwell on a clear fix, but on the next that is not": (
        [(0, 0), (70, 200), (80, 0)],
        [Told(0, "enter"), Told(80, "dwell", dwell_s=60)],
        True,
    ),
    "half an hour of silence is none": (
        [(0, 0), (1_800, 200)],
        [Told(0, "enter")],
        True,
    ),
    "a millisecond more is an assumed exit, dated half an hour after the last fix": (
        [(0, 0), (10, 0), (1_810.001, 2_000)],
        [Told(0, "enter"), Told(1_810, "exit", assumed=True)],
        False,
    ),
    "who is there again enters again": (
        [(0, 0), (4_000, 0)],
        [Told(0, "enter"), Told(1_800, "exit", assumed=True), Told(4_000, "enter")],
        True,
    ),
    "a pass": ([(0, -200), (10, 200)], [Told(10, "pass")], False),
    "a way that ends inside is no pass": ([(0, -200), (10, 0)], [Told(10, "enter")], True),
    "a way that ends on the rim inside is none": ([(0, -200), (10, 49)], [], False),
    "a way that begins inside is none": ([(0, 48), (10, 200)], [], False),
    "who leaves does not pass": (
        [(0, 0), (10, -200), (20, 200), (30, 200)],
        [Told(0, "enter"), Told(20, "exit")],
        False,
    ),
    "nobody passes in a silence": ([(0, -200), (1_801, 200)], [], False),
    "a vague end is too vague to pass by": ([(0, -400, 151.0), (10, 400)], [], False),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_way_shows_what_the_table_says(name: str) -> None:
    """Fix by fix, the rule shows these events and no others."""
    steps, expected, inside = TABLE[name]
    walker = Walker(place())

    told = [t for fix in steps for t in plain(walker.go(*fix))]

    assert told == expected
    assert walker.inside() == (["cafe"] if inside else [])


@pytest.mark.parametrize(("east_m", "inside"), [(1_107, ["mall"]), (1_111, [])])
def test_a_large_fence_has_a_large_margin(east_m: float, inside: list[str]) -> None:
    """Clear of a circle of 1,000 m means a tenth of that beyond it, and the error circle."""
    walker = Walker(place("mall", radius_m=1_000))
    for at_s, metres in ((0, 0.0), (10, east_m), (20, east_m)):
        walker.go(at_s, metres)

    assert walker.inside() == inside


def test_the_whole_of_an_event() -> None:
    """An event carries its fence, its time and how sure it is, to four decimals."""
    cafe = place()
    walker = Walker(cafe)

    (enter,) = walker.go(0, 40)
    walker.go(10, 200)
    (leave,) = walker.go(20, 82)

    # 10 m deep and 32 m away, with a deviation of 9 / 1.5 = 6 m
    assert enter == Transition(cafe, "enter", 0, 0.9522)
    assert leave == Transition(cafe, "exit", 20_000, 1.0)


@pytest.mark.parametrize(
    ("accuracy_m", "inradius_m", "expected"),
    [
        (15.0, 50.0, 10.0),
        (3.0, 50.0, 5.0),  # no phone is better than 5 m in a street
        (300.0, 50.0, 25.0),  # a small fence can be entered
        (3.0, 8.0, 4.0),  # the cap beats the floor
        (7.5, 10.0, 5.0),
    ],
)
def test_deviation_has_a_floor_and_a_cap(
    accuracy_m: float, inradius_m: float, expected: float
) -> None:
    """Noise is accuracy / 1.5, at least 5 m, at most half the inradius, whichever is least."""
    assert noise_sd_m(accuracy_m, inradius_m) == expected


def test_a_fence_without_width_divides_by_nothing() -> None:
    """Even an inradius lost in rounding gives a probability."""
    sd = noise_sd_m(10.0, 0.0)

    assert [probability_inside(d, sd) for d in (-1.0, 0.0, 1.0)] == [0.0, 0.5, 1.0]


def test_probability_is_that_of_the_normal() -> None:
    """Phi at the quartiles and two deviations, by its known values."""
    assert [probability_inside(d, 2.0) for d in (-4.0, 0.0, 1.34898, 4.0)] == [
        0.0228,
        0.5,
        0.75,
        0.9772,
    ]


def test_events_of_one_fix_have_one_order() -> None:
    """Exits come first, then enters, dwells and passes, each by fence id."""
    walker = Walker(
        place("z"),
        place("y"),
        place("b", 400),
        place("a", 400),
        place("m", 0, 0, radius_m=3_000),
        place("p", 200, radius_m=20),
        place("o", 205, radius_m=20),
    )

    walker.go(0, 0)
    walker.go(50, 130)
    told = plain(walker.go(60, 400))

    assert told == [
        Told(60, "exit", "y"),
        Told(60, "exit", "z"),
        Told(60, "enter", "a"),
        Told(60, "enter", "b"),
        Told(60, "dwell", "m", dwell_s=60),
        Told(60, "pass", "o"),
        Told(60, "pass", "p"),
    ]


def test_a_deleted_fence_is_left_in_silence() -> None:
    """Whoever is inside is nowhere at the next fix, and no event says so; nor after a silence."""
    for next_s in (10, 4_000):
        walker = Walker(place())
        walker.go(0, 0)
        walker.index.remove("cafe")

        assert (plain(walker.go(next_s, 0)), walker.inside()) == ([], [])


@pytest.mark.parametrize(
    ("edited", "east_m", "inside"),
    [
        (place(radius_m=60), 0, True),
        (place(radius_m=10), 20, True),  # outside, but not clear of it: noise is no end
        (place(radius_m=10), 45, False),  # clear of it
        (place(brand="tea"), 0, True),
        (place(brand="tea"), 55, False),  # another brand may not keep what it does not cover
    ],
)
def test_an_edit_is_silent(edited: Fence, east_m: float, inside: bool) -> None:
    """A stay goes on in the new shape unless the fix is clear of it; no event either way."""
    walker = Walker(place())
    walker.go(0, 0)
    walker.index.replace(edited)

    told = plain(walker.go(10, east_m))

    assert (told, walker.inside()) == ([], ["cafe"] if inside else [])
    assert all(stay.fence is edited for stay in walker.stays)


def test_an_edit_starts_the_count_of_clear_fixes_anew() -> None:
    """One clear fix of the old shape and one of the new are no exit together."""
    walker = Walker(place())
    walker.go(0, 0)
    walker.go(10, 85)
    walker.index.replace(place(radius_m=80))

    assert plain(walker.go(20, 95)) == []
    assert [stay.clear_fixes for stay in walker.stays] == [0]


def test_nothing_happens_without_fences() -> None:
    """A phone in the open costs nothing and shows nothing."""
    before: Stays = ()
    fix = Fix(0, *town(0), 9.0)

    stays, told = step(
        before, None, fix, (), (), current=lambda _: None, dwells=Dwells(lambda _: ())
    )

    assert stays is before
    assert told == ()


FENCES: Final = (
    place("a", -100, radius_m=60),
    place("b", -80, 20, radius_m=30),
    place("c", 120, radius_m=120),
    place("d", 125, -10, radius_m=8),
)
ORDER: Final = ("exit", "enter", "dwell", "pass")


def followed(walk: list[Ping]) -> tuple[list[tuple[Transition, ...]], Walker]:
    """What each fix of a walk shows, and where it ends."""
    walker = Walker(*FENCES, dwells_s=(60, 300))
    fixes = [Fix(p.at_ms - NOON_MS, p.lon, p.lat, accuracy_or_default(p.accuracy_m)) for p in walk]
    return [walker.take(fix) for fix in fixes], walker


@given(walks())
@settings(max_examples=300, deadline=None)
def test_enters_and_exits_balance(walk: list[Ping]) -> None:
    """Whatever the walk, a fence is left exactly as often as entered, less where one still is."""
    told, walker = followed(walk)

    balance = Counter(t.fence.id for fix in told for t in fix if t.kind == "enter")
    balance.subtract(Counter(t.fence.id for fix in told for t in fix if t.kind == "exit"))

    assert sorted(balance.elements()) == walker.inside()


@given(walks())
@settings(max_examples=300, deadline=None)
def test_events_keep_their_order_and_come_once(walk: list[Ping]) -> None:
    """Within a fix events are sorted by kind and fence; no event is ever told twice."""
    told, _ = followed(walk)

    for fix in told:
        keys = [(ORDER.index(t.kind), t.fence.id, t.dwell_s or 0) for t in fix]
        assert keys == sorted(keys)
        assert all(0.0 <= t.confidence <= 1.0 for t in fix)
    stays = Counter(t.fence.id for fix in told for t in fix if t.kind == "enter")
    for fence in FENCES:
        dwells = Counter(
            t.dwell_s for fix in told for t in fix if t.kind == "dwell" and t.fence is fence
        )
        assert all(count <= stays[fence.id] for count in dwells.values())


@given(walks())
@settings(max_examples=200, deadline=None)
def test_nobody_enters_unsure_or_leaves_at_once(walk: list[Ping]) -> None:
    """Each enter is at least 0.75 sure and precise; each exit heard has a clear fix before it."""
    told, _ = followed(walk)

    for number, fix in enumerate(told):
        for t in fix:
            if t.kind == "enter":
                assert t.confidence >= 0.75
                assert accuracy_or_default(walk[number].accuracy_m) <= 150.0
            if t.kind == "exit" and not t.assumed:
                assert number >= 2
                assert not any(t.fence is e.fence and e.kind == "enter" for e in told[number - 1])
