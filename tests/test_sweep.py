"""What is remembered of residents who fell silent is let go of, and what counts is not."""

from engine.changes import PresenceRow
from engine.consent.sync import Said, marketing, resolve
from engine.offers.offer import Brand, Offer
from engine.ping import Ping
from engine.pipeline import Engine
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from geofences.fence import Circle
from geofences.measure import make_fence

NOON_MS = 1_790_000_000_000 // 86_400_000 * 86_400_000 + 12 * 3_600_000
HOUR_MS = 3_600_000


def engine_with_door(*, offers: bool) -> Engine:
    """One fence of 50 m at 24.94, 60.17, perhaps with an offer, and one resident opted in."""
    engine = Engine(secret=b"a secret for the tests")
    engine.put_brand(Brand(id="b", name="B"))
    engine.put_fences([make_fence("door", "b", "Door", (), Circle(24.94, 60.17, 50.0))])
    if offers:
        engine.put_offer(
            Offer(
                id="o",
                brand="b",
                title="T",
                body="B",
                trigger="enter",
                fences=("door",),
                status="live",
            )
        )
    row = ResidentRow(id="r", settings=ResidentSettings())
    said = Said(actor="self", now_ms=NOON_MS)
    records = resolve(row, marketing(opted_in=True), said).records
    engine.put_resident("r", row.settings, 1, records, now_ms=NOON_MS)
    return engine


def ping(lon: float, at_ms: int = NOON_MS) -> Ping:
    return Ping(resident="r", at_ms=at_ms, lon=lon, lat=60.17, accuracy_m=5.0, received_ms=at_ms)


def test_who_is_nowhere_is_forgotten_after_two_hours() -> None:
    """A resident without stays and claims takes no memory once their fixes can't matter."""
    engine = engine_with_door(offers=False)
    engine.decide([ping(25.0)])

    engine.sweep(["r"], NOON_MS + 2 * HOUR_MS - 1)
    assert list(engine.residents) == ["r"]
    engine.sweep(["r"], NOON_MS + 2 * HOUR_MS)
    assert not engine.residents


def test_a_stay_outlives_its_fixes_and_ends_after_seven_days() -> None:
    """The stay is kept without the fixes before it, then deleted in silence."""
    engine = engine_with_door(offers=False)
    engine.decide([ping(24.94)])
    engine.take_changes()

    engine.sweep(["r"], NOON_MS + 3 * HOUR_MS)
    (kept,) = engine.residents.values()
    assert [stay.fence.id for stay in kept.stays] == ["door"]
    assert kept.kept == []
    assert not engine.take_changes()
    engine.sweep(["r"], NOON_MS + 7 * 24 * HOUR_MS)
    assert not engine.residents
    assert engine.take_changes().presences == {"r": PresenceRow("r", (), 0)}


def test_claims_count_for_ever() -> None:
    """Who had an offer is remembered without their fixes, so that caps hold."""
    engine = engine_with_door(offers=True)
    (decision,) = engine.decide([ping(24.94)])
    assert decision.offer is not None

    engine.sweep(["r"], NOON_MS + 30 * 24 * HOUR_MS)
    (kept,) = engine.residents.values()
    assert (kept.newest, kept.claims_count, kept.by_offer) == (None, 1, {"o": 1})


def test_without_consent_stays_are_swept_at_once() -> None:
    """A stay read back at a start, of somebody who agrees to nothing, does not wait for a ping."""
    engine = engine_with_door(offers=False)
    engine.decide([ping(24.94)])
    engine.take_changes()
    engine.preferences.drop("r")

    engine.sweep(["r"], NOON_MS)
    assert not engine.residents
    assert engine.take_changes().presences == {"r": PresenceRow("r", (), 0)}
