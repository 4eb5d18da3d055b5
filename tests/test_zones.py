"""Private zones: what is in one is never seen; narrowing always, widening by version."""

from typing import Any, Final

import msgspec
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.changes import ResidentState, StayRow
from engine.consent.protection import UNPROTECTED, Protection
from engine.consent.zones import (
    CORNERS_MAX,
    ZONES_MAX,
    TooManyZones,
    VersionNeeded,
    VersionStale,
    Zone,
    draw,
    drop,
    put,
    read_zone,
    to_document,
    uncovers,
)
from engine.decision import Decision
from engine.ping import Ping
from engine.pipeline import Engine
from geofences.fence import FenceRejected
from geofences.measure import meets
from tests.strategies import TOWN, engine_of, offer, ping, place, town, walks

GEOD: Final = pyproj.Geod(ellps="WGS84")
LOCAL: Final = pyproj.Transformer.from_crs(
    "EPSG:4326", f"+proj=aeqd +lon_0={TOWN[0]} +lat_0={TOWN[1]}", always_xy=True
)


def feature(geometry: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def disc(east_m: float = 0.0, radius_m: float = 100.0, name: str = "home", **more: Any) -> Zone:
    point = {"type": "Point", "coordinates": list(town(east_m))}
    return read_zone(feature(point, radius_m=radius_m, **more), name)


def box(east_m: float = 0.0, half_m: float = 100.0, name: str = "home", **more: Any) -> Zone:
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
    ring = [list(town(east_m + x * half_m, y * half_m)) for x, y in corners]
    return read_zone(feature({"type": "Polygon", "coordinates": [ring]}, **more), name)


def cafe(*zones: Zone) -> Engine:
    """A cafe with a free cup, and ann who lives somewhere."""
    engine = engine_of([place()], [offer()])
    engine.put_protection("ann", Protection(zones))
    return engine


metres = st.floats(-400, 400)


@settings(max_examples=400, deadline=None)
@given(metres, metres, st.floats(20, 150), st.sampled_from([1.0, 9.0, 65.0, 200.0]))
def test_a_fix_whose_circle_touches_a_disc_is_hidden(
    east_m: float, north_m: float, radius_m: float, accuracy_m: float
) -> None:
    """By the geodesic; what is clearly farther is not."""
    lon, lat = town(east_m, north_m)
    drawn = draw([disc(radius_m=radius_m)])
    assert drawn is not None
    away_m = GEOD.inv(*TOWN, lon, lat)[2] - radius_m - accuracy_m

    hidden = drawn.hides(lon, lat, accuracy_m)

    assert hidden if away_m <= 0 else not hidden or away_m < accuracy_m * 0.03 + 3


@settings(max_examples=400, deadline=None)
@given(metres, metres, st.floats(20, 150), st.sampled_from([1.0, 9.0, 65.0, 200.0]))
def test_a_fix_whose_circle_touches_a_polygon_is_hidden(
    east_m: float, north_m: float, half_m: float, accuracy_m: float
) -> None:
    """By the distance on a map of the town; what is clearly farther is not."""
    lon, lat = town(east_m, north_m)
    zone = box(half_m=half_m)
    drawn = draw([zone])
    assert drawn is not None
    ring = [LOCAL.transform(*corner) for corner in zone.geometry["coordinates"][0]]
    distance_m = shapely.Polygon(ring).distance(shapely.Point(LOCAL.transform(lon, lat)))
    away_m = distance_m - accuracy_m

    hidden = drawn.hides(lon, lat, accuracy_m)

    assert hidden if away_m <= 0 else not hidden or away_m < accuracy_m * 0.03 + 3


@pytest.mark.parametrize("zone", [disc(radius_m=80), box(half_m=80)])
@pytest.mark.parametrize("accuracy_m", [None, 0.0, 9.0, 5_000.0])
def test_a_private_ping_leaves_no_trace(zone: Zone, accuracy_m: float | None) -> None:
    """It is answered so before it is matched, and nothing remembers it."""
    engine = cafe(zone)

    (decision,) = engine.decide([ping(60.0, accuracy_m=accuracy_m)])

    assert (decision.status, decision.decision) == ("private_zone", "")
    assert (decision.events, decision.offer, decision.withheld) == ((), None, None)
    assert engine.residents == {}
    assert not engine.take_changes()


def test_unknown_accuracy_counts_as_65_m() -> None:
    """A fix that does not say how sure it is may be that far away."""
    engine = cafe(disc(east_m=500, radius_m=100))

    told = [
        engine.decide([ping(500 - east_m, at_s, accuracy_m=None)])[0].status
        for at_s, east_m in enumerate((160, 170))
    ]

    assert told == ["private_zone", "decided"]


def test_the_first_status_that_applies_is_given() -> None:
    """rejected and no_consent come before private_zone; duplicate and late behind."""
    engine = cafe()
    outside, old = ping(0.0, 100.0), ping(900.0, 0.0)
    assert engine.decide([outside])[0].offer is not None
    engine.put_protection("ann", Protection((disc(), disc(900.0, name="work"))))
    bad = msgspec.structs.replace(outside, lat=91.0)
    nobody = msgspec.structs.replace(outside, resident="bob")

    told = [decision.status for decision in engine.decide([bad, nobody, outside, old])]

    assert told == ["rejected", "no_consent", "private_zone", "private_zone"]


def test_drawing_a_zone_forgets_where_somebody_was() -> None:
    """Fixes go; stays at fences near the zone end in silence, durably; others go on."""
    engine = engine_of([place("cafe"), place("far", 2_000)], [offer()])
    engine.decide([ping(0.0)])
    engine.take_changes()

    engine.put_protection("ann", Protection((disc(radius_m=30),)))

    resident, changes = engine.residents["ann"], engine.take_changes()
    assert [p.stays for p in changes.presences.values()] == [()]
    assert resident.kept == []
    assert resident.newest is not None
    assert (resident.newest.lon, resident.newest.lat) == (0.0, 0.0)
    assert resident.newest.key[2:] == (0.0, 0.0)
    (after,) = engine.decide([ping(2_000.0, 60.0)])
    assert [(e.kind, e.fence) for e in after.events] == [("enter", "far")]
    engine.take_changes()

    engine.put_protection("ann", Protection((disc(radius_m=30), disc(500, name="work"))))

    assert [stay.fence.id for stay in engine.residents["ann"].stays] == ["far"]
    assert not engine.take_changes()
    (still,) = engine.decide([ping(2_000.0, 90.0)])
    assert (still.status, still.events) == ("decided", ())


@pytest.mark.parametrize("zone", [disc(300, 60), box(300, 60)])
def test_no_pass_runs_across_a_zone(zone: Zone) -> None:
    """A way through a private zone tells nothing of the fences on it; another way does."""
    shops = [place("cafe", 150.0), place("bar", 450.0)]
    walk = [ping(0.0), ping(600.0, 60.0)]
    freely, privately = engine_of(shops), engine_of(shops)
    privately.put_protection("ann", Protection((zone,)))

    told = [[e.kind for e in d.events] for d in freely.decide(walk)]
    kept = [[e.kind for e in d.events] for d in privately.decide(walk)]

    assert told == [[], ["pass", "pass"]]
    assert kept == [[], []]


def test_no_pass_is_told_of_a_way_that_was_private_in_between() -> None:
    """The straight line misses the zone, but the walk did not; the next one is told again."""
    engine = engine_of([place("cafe", 150.0)])
    engine.put_protection("ann", Protection((disc(150.0, 60.0, name="home"),)))
    aside = read_zone(
        feature({"type": "Point", "coordinates": list(town(150, 400))}, radius_m=60), "home"
    )
    engine.put_protection("ann", Protection((aside,)))
    there, home, back, again = (
        ping(0.0),
        ping(150.0, 60.0, 400.0),
        ping(300.0, 120.0),
        ping(0.0, 180.0),
    )

    told = [(d.status, [e.kind for e in d.events]) for d in engine.decide([there, home, back])]
    (after,) = engine.decide([again])

    assert told == [("decided", []), ("private_zone", []), ("decided", [])]
    assert [e.kind for e in after.events] == ["pass"]


def test_a_stay_goes_on_where_a_zone_was_entered_in_between() -> None:
    """What happened in the zone is a silence like any other: over 30 min, an assumed exit."""
    engine = engine_of([place("mall", radius_m=200.0)])
    engine.put_protection("ann", Protection((disc(1_000, 100.0),)))

    walk = [ping(0.0), ping(1_000.0, 60.0), ping(0.0, 120.0), ping(1_000.0, 180.0)]
    soon = [[(e.kind, e.assumed) for e in d.events] for d in engine.decide(walk)]
    (later,) = engine.decide([ping(0.0, 4_000.0)])

    assert soon == [[("enter", False)], [], [], []]
    assert [(e.kind, e.assumed) for e in later.events] == [("exit", True), ("enter", False)]


def test_a_doubt_and_a_restart_lose_no_zone() -> None:
    """After a lost commit, and after a start, the zones are asked as before."""
    engine = cafe(disc(1_000.0))
    engine.decide([ping(0.0)])
    private = ping(1_000.0, 60.0)
    engine.forget(["ann"])
    assert engine.decide([private])[0].status == "shed"

    engine.restore([ResidentState(resident="ann")])
    after_doubt = engine.decide([private])[0].status
    engine.restore([ResidentState(resident="ann", stays=(StayRow("cafe", 1, 0),), seen_ms=2)])
    after_start = engine.decide([private])[0].status

    assert (after_doubt, after_start) == ("private_zone", "private_zone")


def test_removing_the_last_zone_shows_the_resident_again() -> None:
    engine = cafe(disc())
    assert engine.decide([ping()])[0].status == "private_zone"

    engine.put_protection("ann", UNPROTECTED)

    assert engine.decide([ping(0.0, 9.0)])[0].status == "decided"


def test_a_zone_that_cannot_be_read_hides_the_whole_world() -> None:
    """Unreadable means no."""
    engine = cafe(msgspec.structs.replace(disc(), radius_m=-1.0))

    assert engine.decide([ping(50_000.0)])[0].status == "private_zone"


def test_a_place_hides_nothing() -> None:
    assert cafe(disc(kind="place")).decide([ping()])[0].offer is not None


@pytest.mark.parametrize("zone", [disc(), box(), disc(kind="place")])
def test_a_zone_reads_back_as_it_was(zone: Zone) -> None:
    assert read_zone(to_document(zone), zone.name) == zone


WRONG: Final = {
    "too large": (
        feature({"type": "Point", "coordinates": list(TOWN)}, radius_m=10_001),
        "too_large",
    ),
    "no radius": (feature({"type": "Point", "coordinates": list(TOWN)}), None),
    "a line": (
        feature({"type": "LineString", "coordinates": [list(TOWN), list(town(50))]}, width_m=9),
        "unsupported_geometry",
    ),
    "a county": (
        feature(
            {"type": "Polygon", "coordinates": [[[24, 60], [25.1, 60], [25.1, 60.5], [24, 60]]]}
        ),
        "too_large",
    ),
    "too many corners": (
        feature(
            {
                "type": "Polygon",
                "coordinates": [
                    [list(c) for c in shapely.Point(24.9, 60.1).buffer(0.01, 200).exterior.coords]
                ],
            }
        ),
        "too_many_corners",
    ),
    "unknown kind": (
        feature({"type": "Point", "coordinates": list(TOWN)}, radius_m=10, kind="secret"),
        "not_one_of",
    ),
    "no Feature": ({"type": "Point", "coordinates": list(TOWN)}, "not_a_feature"),
    "text": ("home", "not_a_feature"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_zone_is_refused(name: str) -> None:
    """With a code, and never with the position that was in it."""
    document, code = WRONG[name]

    with pytest.raises(FenceRejected) as refused:
        read_zone(document, "home")

    assert code is None or [p.code for p in refused.value.problems] == [code]
    assert "24." not in str(refused.value)
    assert CORNERS_MAX == 500


HOLDS: Final = {
    "the same": (disc(), disc(), False),
    "a larger disc": (disc(radius_m=50), disc(radius_m=60), False),
    "a smaller disc": (disc(radius_m=50), disc(radius_m=49), True),
    "a disc moved within": (disc(radius_m=50), disc(10, radius_m=70), False),
    "a disc moved beyond": (disc(radius_m=50), disc(30, radius_m=70), True),
    "a box around a disc": (disc(radius_m=50), box(half_m=60), False),
    "a box within a disc": (disc(radius_m=50), box(half_m=49), True),
    "a disc around a box": (box(half_m=50), disc(radius_m=80), False),
    "a disc that cuts the corners": (box(half_m=50), disc(radius_m=60), True),
    "a larger box": (box(half_m=50), box(half_m=60), False),
    "a box elsewhere": (box(half_m=50), box(500, half_m=60), True),
    "no longer private": (disc(), disc(kind="place"), True),
    "private now": (disc(kind="place"), disc(), False),
    "private now, and elsewhere": (disc(kind="place"), disc(5_000), True),
    "a smaller place": (disc(kind="place"), disc(radius_m=50, kind="place"), True),
    "a larger place": (disc(kind="place"), disc(radius_m=200, kind="place"), False),
}


@pytest.mark.parametrize("name", HOLDS)
def test_what_uncovers_ground_is_a_widening(name: str) -> None:
    old, new, widens = HOLDS[name]

    assert uncovers(old, new) is widens


def test_narrowing_always_works_and_widening_rests_on_a_version() -> None:
    """Drawing and enlarging need nothing; shrinking and removing need the zone's own version."""
    drawn = put((), disc(radius_m=50), version=1, if_match=None)
    larger = put(drawn, disc(radius_m=60), version=2, if_match=(1,))
    assert [(z.radius_m, z.version) for z in larger] == [(60, 2)]
    for if_match, error in ((None, VersionNeeded), ((1,), VersionStale), ((), VersionStale)):
        with pytest.raises(error) as refused:
            put(larger, disc(radius_m=50), version=3, if_match=if_match)
        assert refused.value.current == 2
        with pytest.raises(error):
            drop(larger, "home", if_match=if_match)

    assert drop(larger, "home", if_match=(2,)) == ()
    assert drop(larger, "work", if_match=None) == larger
    assert put(larger, disc(radius_m=50), version=3, if_match=(2, 9))[0].version == 3


def test_zones_are_few() -> None:
    zones: tuple[Zone, ...] = ()
    for number in range(ZONES_MAX):
        zones = put(zones, disc(name=f"z{number}"), version=number + 1, if_match=None)

    with pytest.raises(TooManyZones):
        put(zones, disc(name="one-more"), version=99, if_match=None)
    assert len(put(zones, disc(radius_m=999, name="z3"), version=99, if_match=None)) == ZONES_MAX


@settings(max_examples=150, deadline=None)
@given(walks(pings_max=25), st.integers(-250, 250), st.integers(30, 150))
def test_what_was_private_is_as_if_it_had_never_been_sent(
    walk: list[Ping], east_m: int, radius_m: int
) -> None:
    """All else is answered, kept and remembered as without it; only passes may be missing."""
    shops = [place("cafe", 0.0), place("bar", 200.0, radius_m=80), place("mall", 0.0, radius_m=300)]
    whole, spared = (engine_of(shops, [offer()]) for _ in range(2))
    for engine in (whole, spared):
        engine.put_protection("ann", Protection((disc(east_m, radius_m),)))

    answers = whole.decide(walk)
    seen = [one for one, answer in zip(walk, answers, strict=True) if is_seen(answer.status)]
    others = spared.decide(seen)

    kept = [answer for answer in answers if is_seen(answer.status)]
    assert [without_passes(answer) for answer in kept] == [without_passes(one) for one in others]
    for answer, other in zip(kept, others, strict=True):
        assert passes(answer) <= passes(other)
    assert whole.take_changes().presences == spared.take_changes().presences
    assert stays_of(whole) == stays_of(spared)


def is_seen(status: str) -> bool:
    return status != "private_zone"


def passes(answer: Decision) -> set[str]:
    return {event.fence for event in answer.events if event.kind == "pass"}


def without_passes(answer: Decision) -> Decision:
    events = tuple(event for event in answer.events if event.kind != "pass")
    return msgspec.structs.replace(answer, events=events)


def stays_of(engine: Engine) -> list[tuple[Any, ...]]:
    """All that is remembered of where residents are, but whether a way was private."""
    return [
        (name, resident.kept, resident.base, resident.claims, resident.heard_ms)
        for name, resident in sorted(engine.residents.items())
    ]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([(24.94, 60.17), (179.95, -16.5), (-179.999, 5.0), (10.0, 84.9), (0.0, 0.0)]),
    st.floats(0, 360),
    st.floats(0, 20_000),
    st.floats(1, 12_000),
    st.floats(10, 9_000),
)
def test_what_is_far_is_left_out_and_nothing_else(
    at: tuple[float, float], bearing: float, away_m: float, accuracy_m: float, radius_m: float
) -> None:
    """All over the globe: a circle that reaches the zone is found, and so is a way through it."""
    zone = read_zone(feature({"type": "Point", "coordinates": list(at)}, radius_m=radius_m), "home")
    drawn = draw([zone])
    assert drawn is not None
    lon, lat, _ = GEOD.fwd(*at, bearing, away_m)
    over_lon, over_lat, _ = GEOD.fwd(*at, bearing + 180.0, 1_000.0)

    if away_m <= radius_m + accuracy_m:
        assert drawn.hides(lon, lat, accuracy_m)
    if abs(lat) < 84:
        assert drawn.crossed(lon, lat, over_lon, over_lat) == meets(
            drawn.private[0], lon, lat, over_lon, over_lat
        )
