"""Late and duplicate fixes: where somebody is does not depend on the order of arrival."""

import random
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.changes import StayRow
from engine.consent.sync import marketing
from engine.decision import Decision
from engine.ping import Ping
from engine.pipeline import Engine
from engine.residents import stay_rows
from geofences.fence import Fence
from tests.strategies import engine_of, offer, ping, place, say, walks

FENCES: Final[tuple[Fence, ...]] = (
    place("a", -100, radius_m=60),
    place("b", -80, 20, radius_m=30),
    place("c", 120, radius_m=120),
    place("d", 125, -10, radius_m=8),
)
OFFERS: Final = (
    offer("dwell-a", fences=("a",), trigger="dwell", dwell_s=60, caps={"cool_down_s": 0}),
    offer("dwell-c", fences=("c",), trigger="dwell", dwell_s=600, caps={"cool_down_s": 0}),
)


def town_engine(**more: Any) -> Engine:
    """A town with four fences, two of which somebody waits at."""
    return engine_of(FENCES, OFFERS, **more)


def presence(engine: Engine, resident: str = "ann") -> tuple[StayRow, ...]:
    """Where a resident is, as far as it would survive."""
    known = engine.residents.get(resident)
    return () if known is None else stay_rows(known.stays)


def received(pings: list[Ping]) -> list[Ping]:
    """The pings stamped with the newest time so far, as if each came when it was sent."""
    newest_ms = 0
    out = []
    for one in pings:
        newest_ms = max(newest_ms, one.at_ms)
        out.append(msgspec.structs.replace(one, received_ms=newest_ms))
    return out


@st.composite
def disorders(draw: st.DrawFn, late_max_s: int = 60) -> tuple[list[Ping], list[Ping]]:
    """A walk, and the same with every fix up to a minute late and some of them sent again."""
    walk = draw(walks(gap_max_s=120))
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    sent = walk + [one for one in walk if rng.random() < 0.3]
    arrival = {id(one): one.at_ms + rng.randrange(late_max_s * 1_000) for one in walk}
    keyed = [
        (arrival[id(one)] + rng.randrange(1_000), number, one) for number, one in enumerate(sent)
    ]
    return walk, [one for _, _, one in sorted(keyed, key=lambda k: k[:2])]


@given(disorders())
@settings(max_examples=300, deadline=None)
def test_presence_does_not_depend_on_the_order_of_arrival(
    case: tuple[list[Ping], list[Ping]],
) -> None:
    """A walk that comes a minute late in places ends where it ends in order, to the dwell."""
    walk, disorder = case
    straight, crooked = town_engine(), town_engine()

    straight.decide(received(walk))
    crooked.decide(received(disorder))

    assert presence(crooked) == presence(straight)


@given(disorders(late_max_s=119))
@settings(max_examples=200, deadline=None)
def test_late_and_duplicate_fixes_are_silent(case: tuple[list[Ping], list[Ping]]) -> None:
    """Each fix is told once: a late one shows nothing, one sent again shows nothing new."""
    _, disorder = case
    seen: set[str] = set()
    newest_ms = 0

    for one, decision in zip(disorder, town_engine().decide(received(disorder)), strict=True):
        assert one.id is not None
        expected = "decided"
        if one.id in seen:
            expected = "duplicate"
        elif one.at_ms < newest_ms:
            expected = "late"
        if expected == "decided" and decision.status == "late":
            assert one.at_ms == newest_ms  # of the same millisecond, ordered by id
        elif expected != "duplicate" or one.at_ms >= newest_ms - 120_000:
            assert decision.status == expected
        if decision.status != "decided":
            assert decision.events == ()
            assert decision.withheld is None
        seen.add(one.id)
        newest_ms = max(newest_ms, one.at_ms)


@given(disorders())
@settings(max_examples=50, deadline=None)
def test_the_same_disorder_gives_the_same_decisions(case: tuple[list[Ping], list[Ping]]) -> None:
    """However crooked a stream, it replays to equal decisions and equal changes."""
    _, disorder = case
    one, other = town_engine(), town_engine()

    assert one.decide(received(disorder)) == other.decide(received(disorder))
    assert one.take_changes() == other.take_changes()


def decided(engine: Engine, *pings: Ping) -> list[Decision]:
    """The decisions on pings that come in this order."""
    return engine.decide(received(list(pings)))


@pytest.mark.parametrize(("late_s", "inside"), [(120, ["b"]), (120.001, [])])
def test_two_minutes_late_still_corrects_and_later_does_not(
    late_s: float, inside: list[str]
) -> None:
    """A fix in a fence changes presence up to 120 s late, a millisecond more nothing."""
    engine = town_engine()
    decided(engine, ping(2_000, -600), ping(-80, 1_000, 20, accuracy_m=200.0))

    (decision,) = decided(engine, ping(-80, 1_000 - late_s, 20))

    assert (decision.status, decision.events) == ("late", ())
    assert [row.fence for row in presence(engine) if row.fence == "b"] == inside


def test_a_correction_is_made_durable() -> None:
    """What a late fix changes of the presence is written, though nobody hears of it."""
    engine = town_engine()
    decided(engine, ping(-100, 60, accuracy_m=200.0))
    assert not engine.take_changes()

    (late,) = decided(engine, ping(-100, 0))

    assert late.events == ()
    assert [row.stays for row in engine.take_changes().presences.values()] == [
        (StayRow("a", ping(at_s=0).at_ms, 60),)
    ]


def test_only_so_many_fixes_are_kept() -> None:
    """Beyond the most that is kept the oldest settle early: a fix before them changes nothing."""
    short, long = town_engine(kept_fixes_max=5), town_engine()
    walk = [ping(2_000, 10 * n, accuracy_m=5_000.0) for n in range(10)] + [
        ping(-80, 100, 20, accuracy_m=200.0)
    ]
    for engine in (short, long):
        decided(engine, *walk, ping(-80, 35, 20))
        assert len(engine.residents["ann"].kept) <= engine.settings.kept_fixes_max

    assert presence(short) == ()
    assert presence(long) != ()


def test_memory_of_fixes_is_bounded_in_time() -> None:
    """Of a long walk the fixes of two minutes are kept and one before them."""
    engine = town_engine()
    decided(engine, *(ping(0, n) for n in range(1_000)))

    kept = engine.residents["ann"].kept
    assert (kept[0].at_ms, len(kept)) == (ping(at_s=879).at_ms, 121)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ping(ping_id="a"), ping(ping_id="b")),
        (ping(), ping(ping_id="a")),
        (ping(), ping(1)),
        (ping(), ping(0, 0.001)),
    ],
)
def test_fixes_differ_in_time_id_or_place(first: Ping, second: Ping) -> None:
    """Two fixes that differ in any part of their key are two, in either order of arrival."""
    assert [d.status for d in decided(town_engine(), first, second)] == ["decided", "decided"]
    assert decided(town_engine(), second, first)[1].status == "late"


@pytest.mark.parametrize(
    "again",
    [
        ping(accuracy_m=50.0),
        msgspec.structs.replace(ping(), speed_mps=3.0, heading_deg=2.0, mock=True),
    ],
)
def test_what_is_no_part_of_the_key_makes_no_other_fix(again: Ping) -> None:
    """The same time, id and place is the same fix, whatever else is said of it."""
    assert [d.status for d in decided(town_engine(), ping(), again)] == ["decided", "duplicate"]


def test_zero_has_no_sign() -> None:
    """A fix on the equator sent with -0.0 is the one sent with 0.0: same decision, no event."""
    null_island = msgspec.structs.replace(ping(), lon=0.0, lat=-0.0)
    again = msgspec.structs.replace(ping(), lon=-0.0, lat=0.0)

    first, second = decided(town_engine(), null_island, again)

    assert second.status == "duplicate"
    assert first.decision == second.decision


def test_a_duplicate_repeats_the_offer_while_it_is_valid() -> None:
    """The very same offer comes again until it expires, kept fix or not, late or not."""
    engine = engine_of([place()], [offer(claim_ttl_s=600)])
    (first,) = decided(engine, ping())
    assert first.offer is not None

    (soon,) = engine.decide([ping(late_s=599.999)])
    decided(engine, ping(0, 400))
    (long_after,) = engine.decide([ping(late_s=599.999)])
    (expired,) = engine.decide([ping(late_s=600)])

    assert soon.offer == long_after.offer == first.offer
    assert [d.status for d in (soon, long_after)] == ["duplicate", "duplicate"]
    assert expired.offer is None
    assert len(engine.take_changes().claims) == 1


def test_a_change_of_ones_say_settles_the_fixes_before_it() -> None:
    """What was decided under another say is not computed again under this one."""
    engine = town_engine()
    decided(engine, ping(2_000, 0), ping(2_000, 100))
    say(engine, marketing(True), marketing(False, ["tea"]))

    (late,) = decided(engine, ping(-100, 50))
    (again,) = decided(engine, ping(2_000, 100))

    assert (late.status, presence(engine)) == ("late", ())
    assert again.status == "duplicate"
