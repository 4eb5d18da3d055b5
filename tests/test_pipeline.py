"""The whole way of a ping, one promise at a time, in a town with one cafe."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import pytest

from engine.changes import Changes, ClaimRow, ResidentState, StayRow
from engine.consent.record import Scope
from engine.consent.sync import Requested, marketing, stop
from engine.decision import encode
from engine.offers.offer import Brand, Budget
from engine.pipeline import Engine
from tests.strategies import NOON_MS, engine_of, offer, ping, place, say

DAY_MS: Final = 86_400_000


def cafe(**more: Any) -> Engine:
    """A cafe with a free cup for whoever comes in."""
    return engine_of([place()], [offer()], **more)


def state_of(changes: Changes, resident: str = "ann") -> ResidentState:
    """What a store that took these changes knows of a resident."""
    row = changes.presences.get(resident)
    claims = tuple(
        ClaimRow(resident=c.resident, decision=c.decision, made=c.made, made_ms=c.made_ms)
        for c in changes.claims
        if c.resident == resident
    )
    by_offer = Counter(c.made.offer for c in claims)
    return ResidentState(
        resident=resident,
        stays=row.stays if row else (),
        seen_ms=row.seen_ms if row else None,
        claims=claims,
        claims_by_offer=dict(by_offer),
        claims_count=len(claims),
    )


NEVER: Final = [msgspec.structs.replace(one, effect="deny") for one in marketing(True)]


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [marketing(True), stop()],
        [marketing(True), marketing(False)],
        [marketing(True, ["beans"]), NEVER],
        [NEVER, marketing(True, ["beans"])],
    ],
)
def test_no_consent_leaves_no_trace(calls: list[Iterable[Requested]]) -> None:
    """Whoever granted nothing, or took it back, is answered so, and nothing remembers the ping."""
    engine = cafe(residents=())
    say(engine, *calls)

    (known, unknown) = engine.decide([ping(), ping(resident="stranger")])

    assert [d.status for d in (known, unknown)] == ["no_consent", "no_consent"]
    assert [(d.decision, d.events, d.offer, d.withheld) for d in (known, unknown)] == [
        ("", (), None, None)
    ] * 2
    assert engine.residents == {}
    assert not engine.take_changes()


def test_a_withdrawal_deletes_where_somebody_was() -> None:
    """Presence goes in silence, durably, at once; a grant later starts from nothing."""
    engine = cafe()
    engine.decide([ping()])
    engine.take_changes()

    say(engine, marketing(True), stop())

    assert [row.stays for row in engine.take_changes().presences.values()] == [()]
    assert engine.residents["ann"].newest is None
    say(engine, marketing(True))
    (again,) = engine.decide([ping(at_s=10)])
    assert [e.kind for e in again.events] == ["enter"]
    assert again.withheld == "cool_down"


def test_a_grant_that_expires_between_two_pings_ends_the_trace() -> None:
    """The ping after it is answered `no_consent`, and the presence before it is deleted."""
    engine = cafe(residents=())
    say(
        engine,
        [msgspec.structs.replace(o, expires_ms=NOON_MS + 5_000) for o in marketing(True)],
    )

    statuses = [d.status for d in engine.decide([ping(), ping(at_s=4.999), ping(at_s=5)])]

    assert statuses == ["decided", "decided", "no_consent"]
    assert engine.take_changes().presences["ann"].stays == ()
    assert engine.residents["ann"].newest is None


def test_use_withdrawn_from_one_brand_ends_its_stays_in_silence() -> None:
    """The other brand's stay goes on, and no event tells that this one ended."""
    engine = engine_of(
        [place(), place("shop", brand="tea")],
        brands=[Brand(id="beans", name="B"), Brand(id="tea", name="T")],
    )
    engine.decide([ping()])
    engine.take_changes()

    say(engine, marketing(True), marketing(False, ["beans"]))
    told = [d.events for d in engine.decide([ping(at_s=10), ping(500, 20), ping(500, 30)])]

    assert [[(e.kind, e.fence) for e in events] for events in told] == [[], [], [("exit", "shop")]]


def test_a_brands_new_category_counts_for_those_inside() -> None:
    """Whoever never wants gambling is out of the cafe once it becomes a casino, unheard."""
    engine = cafe(residents=())
    never = [
        msgspec.structs.replace(o, effect="deny", scope=Scope(category="gambling"))
        for o in marketing(True)
    ]
    say(engine, marketing(True), never)
    engine.decide([ping()])
    engine.put_brand(Brand(id="beans", name="Beans", categories=("gambling",)))

    told = [d.events for d in engine.decide([ping(at_s=10), ping(500, 20), ping(500, 30)])]

    assert told == [(), (), ()]
    assert engine.take_changes().presences["ann"].stays == ()


def test_a_withdrawal_before_the_hand_over_recalls_the_claim() -> None:
    """The offer is not given out; its claim is recalled and its cap is free again."""
    engine = cafe()
    (decision,) = engine.decide([ping()])
    claim = engine.take_changes().claims[0]
    engine.settle([claim], {}, [])
    say(engine, marketing(True), stop())

    out = engine.hand_over(decision, now_ms=NOON_MS + 1, mono_ms=0)

    assert decision.offer is not None
    assert out == msgspec.structs.replace(decision, offer=None, withheld="consent_withdrawn")
    recalls = engine.take_changes().recalls
    assert [(r.claim, r.resident) for r in recalls] == [(claim.made.claim, "ann")]
    assert engine.residents["ann"].claims == []


def test_a_lease_that_ran_out_gives_nothing_out() -> None:
    """Without the latest preferences a ping is shed, and an offer on its way is withheld."""
    engine = cafe()
    engine.preferences.lease_until_mono_ms = lambda: 10
    (decision,) = engine.decide([ping()], mono_ms=9)

    (late,) = engine.decide([ping(at_s=5)], mono_ms=10)
    out = engine.hand_over(decision, now_ms=NOON_MS, mono_ms=10)

    assert decision.offer is not None
    assert (late.status, out.offer, out.withheld) == ("shed", None, "stale")


def test_a_deleted_offer_is_not_handed_over() -> None:
    """Nothing tells any more what it needs: recalled if it never left, only not repeated if so."""
    engine = cafe()
    (first,) = engine.decide([ping()])
    (again,) = engine.decide([ping()])
    engine.take_changes()
    engine.drop_offer("free-cup")

    repeated = engine.hand_over(again, now_ms=NOON_MS, mono_ms=0)
    assert (repeated.status, repeated.offer, repeated.withheld) == ("duplicate", None, "not_live")
    assert not engine.take_changes()
    fresh = engine.hand_over(first, now_ms=NOON_MS, mono_ms=0)
    assert (fresh.offer, fresh.withheld) == (None, "not_live")
    assert len(engine.take_changes().recalls) == 1


def restarted(changes: Changes, **more: Any) -> Engine:
    """A second process that knows what the first one made durable."""
    engine = cafe(**more)
    engine.restore([state_of(changes)])
    return engine


def test_nobody_enters_again_after_a_restart() -> None:
    """Inside is inside: no enter at the next fix, and a proper exit later."""
    first = cafe()
    first.decide([ping()])
    second = restarted(first.take_changes())

    told = [d.events for d in second.decide([ping(at_s=10), ping(500, 20), ping(500, 30)])]

    assert [[e.kind for e in events] for events in told] == [[], [], ["exit"]]


@pytest.mark.parametrize("inside", [True, False])
def test_a_ping_sent_again_after_a_restart_finds_its_claim(inside: bool) -> None:
    """The same offer, no event and no second claim, whether or not a stay was durable."""
    first = cafe()
    (before,) = first.decide([ping()])
    changes = first.take_changes()
    if not inside:
        changes.presences.clear()
    second = restarted(changes)
    second.put_offer(offer("other"))

    (again,) = second.decide([ping(late_s=5)])

    assert (again.status, again.events, again.offer) == ("duplicate", (), before.offer)
    assert not second.take_changes()


@pytest.mark.parametrize(
    ("gap_s", "kinds"),
    [(1_800, []), (2_400, []), (2_400.001, [("exit", True), ("enter", False)])],
)
def test_silence_after_a_restart_has_ten_minutes_of_slack(
    gap_s: float, kinds: list[tuple[str, bool]]
) -> None:
    """What was durable may be ten minutes behind, so nobody is taken to have left for that."""
    first = cafe()
    first.decide([ping()])
    second = restarted(first.take_changes())

    (told,) = second.decide([ping(at_s=gap_s)])

    assert [(e.kind, e.assumed) for e in told.events] == kinds


def test_a_late_fix_after_a_restart_keeps_the_slack() -> None:
    """Computing again from what the store knew ends no stay that the first fix found going on."""
    first = cafe()
    first.decide([ping()])
    second = restarted(first.take_changes())

    (on_time, late) = second.decide([ping(at_s=2_300), ping(at_s=2_290, late_s=10)])

    assert [(d.status, d.events) for d in (on_time, late)] == [("decided", ()), ("late", ())]
    assert [s.entered_ms for s in second.residents["ann"].stays] == [NOON_MS]


def test_the_slack_ends_with_the_first_fixes_that_are_heard() -> None:
    """Long after a restart a silence of 35 minutes is one, for a late fix behind it as well."""
    first = cafe()
    first.decide([ping()])
    second = restarted(first.take_changes())
    second.decide([ping(at_s=10), ping(at_s=2_110)])

    second.decide([ping(at_s=2_100, late_s=10)])

    assert [s.entered_ms for s in second.residents["ann"].stays] == [NOON_MS + 2_100_000]


def test_a_restart_forgets_where_those_were_who_took_it_back() -> None:
    """Presence that a crash left behind a withdrawal goes when it is read."""
    first = cafe()
    first.decide([ping()])
    changes = first.take_changes()
    second = cafe(residents=())
    say(second, marketing(True), stop())

    second.restore([state_of(changes)])

    assert second.residents["ann"].newest is None
    assert second.take_changes().presences["ann"].stays == ()


def test_stays_in_fences_that_are_gone_are_not_restored() -> None:
    """A fence deleted while the process was down is left in silence."""
    engine = cafe()
    state = ResidentState(resident="ann", stays=(StayRow("gone", NOON_MS, 0),), seen_ms=NOON_MS)
    engine.restore([state])

    assert engine.decide([ping(500, 10)])[0].events == ()
    assert engine.residents["ann"].stays == ()


@pytest.mark.parametrize("reason", ["budget_total", "budget_day", "conflict"])
def test_a_refused_claim_was_never_made(reason: str) -> None:
    """The reservation returns; after a conflict the resident waits to be read again."""
    engine = engine_of([place()], [offer(budget=Budget(total=5, per_day=5))])
    engine.decide([ping()])
    claims = engine.take_changes().claims

    moved = engine.settle(claims, {claims[0].made.claim: reason}, [])

    assert moved == (["ann"] if reason == "conflict" else [])
    assert (
        engine.book.claims("free-cup", None) == engine.book.claims("free-cup", claims[0].day) == 0
    )
    ann = engine.residents["ann"]
    assert (ann.claims, ann.claims_count, ann.by_offer) == ([], 0, {"free-cup": 0})
    (again,) = engine.decide([ping(at_s=5)])
    assert again.status == ("shed" if reason == "conflict" else "decided")


def test_doubt_holds_what_was_reserved_until_it_is_read_again() -> None:
    """A lost commit sheds its residents, and its budget stays taken: never one over."""
    engine = engine_of([place()], [offer(budget=Budget(total=1))], residents=("ann", "bob", "cho"))
    engine.decide([ping()])
    engine.take_changes()

    engine.forget(["ann"])
    shed, other = engine.decide([ping(at_s=1), ping(resident="bob")])
    engine.restore([ResidentState(resident="ann")])
    (free,) = engine.decide([ping(resident="cho")])

    assert (shed.status, other.withheld) == ("shed", "budget_total")
    assert free.offer is not None


def test_a_withdrawal_in_doubt_is_not_undone_by_reading_again() -> None:
    """What is read back of somebody who said stop in the meantime is deleted, not taken over."""
    engine = cafe()
    engine.decide([ping()])
    state = state_of(engine.take_changes())
    engine.forget(["ann"])
    say(engine, marketing(True), stop())

    engine.restore([state])

    assert engine.residents["ann"].newest is None
    assert engine.take_changes().presences["ann"].stays == ()


def test_a_resident_who_is_gone_is_nobody() -> None:
    """After erasure their pings are those of a stranger."""
    engine = cafe()
    engine.decide([ping()])
    engine.drop_resident("ann")

    assert engine.decide([ping(at_s=5)])[0].status == "no_consent"
    assert engine.residents == {}


BAD: Final = [
    ({"lon": 180.1}, "lon_out_of_range"),
    ({"lon": float("nan")}, "not_finite"),
    ({"lat": -90.1}, "lat_out_of_range"),
    ({"lat": float("inf")}, "not_finite"),
    ({"resident": ""}, "resident_invalid"),
    ({"resident": "x" * 129}, "resident_invalid"),
    ({"resident": "a\nb"}, "resident_invalid"),
    ({"resident": "\ud800"}, "resident_invalid"),
    ({"id": ""}, "id_invalid"),
    ({"id": "x" * 129}, "id_invalid"),
    ({"id": "\udfff"}, "id_invalid"),
    ({"id": "\0"}, "id_invalid"),
    ({"accuracy_m": -1.0}, "accuracy_invalid"),
    ({"accuracy_m": float("nan")}, "accuracy_invalid"),
    ({"accuracy_m": float("inf")}, "accuracy_invalid"),
    ({"at_ms": -1}, "at_ms_invalid"),
    ({"at_ms": 1 << 47}, "at_ms_invalid"),
    ({"at_ms": 10**400}, "at_ms_invalid"),
    ({"at_ms": NOON_MS + 60_001}, "clock_ahead"),
    ({"at_ms": NOON_MS - 7 * DAY_MS - 1}, "too_old"),
]


@pytest.mark.parametrize(("wrong", "code"), BAD)
def test_a_bad_ping_is_refused_and_spoils_no_other(wrong: dict[str, Any], code: str) -> None:
    """It is answered in its place, in bytes, leaves nothing behind, and its neighbours go on."""
    bad = msgspec.structs.replace(ping(), received_ms=NOON_MS, **wrong)
    engine = cafe()

    before, refused, after = engine.decide([ping(), bad, ping(at_s=1)])

    assert (refused.status, refused.events, refused.offer) == ("rejected", (), None)
    assert isinstance(refused.reject, msgspec.Struct)
    assert refused.reject.code == code
    assert [before.status, after.status] == ["decided", "decided"]
    assert b'"rejected"' in encode(refused)
    assert set(engine.residents) == {"ann"}


@pytest.mark.parametrize(
    "edge",
    [
        {"lon": 180.0, "lat": 90.0},
        {"lon": -180.0, "lat": -90.0},
        {"resident": "ann", "id": "x" * 128},
        {"at_ms": NOON_MS + 60_000},
        {"at_ms": NOON_MS - 7 * DAY_MS},
        {"accuracy_m": 0.0},
        {"accuracy_m": 1e300},
        {"lon": -0.0, "lat": -0.0},
        {"lon": 5e-324},
    ],
)
def test_the_edges_are_inside(edge: dict[str, Any]) -> None:
    """Every limit is itself allowed."""
    one = msgspec.structs.replace(ping(), received_ms=NOON_MS, **edge)

    assert cafe().decide([one])[0].status == "decided"
