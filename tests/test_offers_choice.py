"""From the events of one ping through the ladder of gates to at most one offer."""

from typing import Any, Final

import msgspec
import pytest

from engine.changes import ClaimRow
from engine.consent.record import Scope
from engine.consent.sync import marketing
from engine.decision import WITHHELD, Decision, OfferMade
from engine.offers.choice import Candidate, furthest
from engine.offers.gates import Attention
from engine.offers.offer import Brand, BrandCaps, Budget, Offer
from engine.ping import Ping
from engine.pipeline import Engine
from engine.residents import Limits
from geofences.transitions import Transition
from tests.strategies import NOON_MS, UNLIMITED, engine_of, offer, ping, place, say

FOOD: Final = Brand(id="beans", name="Beans", categories=("food",))
NIGHT_S: Final = 10 * 3_600


def enter(engine: Engine, at_s: float = 0.0, **fields: Any) -> Decision:
    """Walk into the cafe, having been away before."""
    (decision,) = engine.decide([ping(at_s=at_s, **fields)])
    return decision


def claimed(offer_id: str, brand: str, made_ms: int) -> ClaimRow:
    """A claim of before."""
    made = OfferMade("c", offer_id, brand, "cafe", "", "", "", made_ms + 1, 1)
    return ClaimRow(resident="ann", decision="d", made=made, made_ms=made_ms)


LADDER: Final[dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]] = {
    # reason: of the offer, of the resident, of the ping
    "not_live": ({"status": "paused"}, {"say": []}, {"late_s": 500}),
    "too_old": ({}, {"say": [marketing(False, ["beans"])]}, {"late_s": 120.001, "mock": True}),
    "mock_position": ({}, {"say": [marketing(False, ["tea"])]}, {"mock": True, "late_s": 120.0}),
    "no_grant": ({"purpose": "loyalty", "channel": "sms"}, {}, {}),
    "channel": ({}, {"channels": ("email",)}, {"at_s": NIGHT_S}),
    "quiet_hours": ({}, {"claims": [claimed("free-cup", "beans", NOON_MS)]}, {"at_s": NIGHT_S}),
    "cool_down": (
        {"caps": {"per_resident_day": 1}},
        {"claims": [claimed("free-cup", "beans", NOON_MS)]},
        {},
    ),
    "cap_resident_day": (
        {"caps": {"per_resident_day": 1, "per_resident_total": 1, "cool_down_s": 0}},
        {"claims": [claimed("free-cup", "beans", NOON_MS)]},
        {},
    ),
    "cap_resident_total": (
        {"caps": {"per_resident_total": 1, "cool_down_s": 0}},
        {"claims": [claimed("free-cup", "beans", NOON_MS)], "brand_per_day": 1},
        {},
    ),
    "cap_brand_day": (
        {},
        {"claims": [claimed("bagel", "beans", NOON_MS)], "brand_per_day": 1, "per_day": 1},
        {},
    ),
    "attention_day": ({}, {"claims": [claimed("x", "tea", NOON_MS)], "per_day": 1}, {}),
    "attention_week": (
        {"budget": {"total": 0}},
        {"claims": [claimed("x", "tea", NOON_MS)], "per_week": 1},
        {},
    ),
    "budget_day": ({"budget": {"total": 0, "per_day": 0}}, {}, {}),
    "budget_total": ({"budget": {"total": 0}}, {}, {}),
}


@pytest.mark.parametrize("reason", LADDER)
def test_the_first_gate_that_fails_is_told(reason: str) -> None:
    """Each gate is told even though later ones would fail too."""
    of_offer, of_resident, of_ping = LADDER[reason]
    brand = Brand(
        id="beans",
        name="Beans",
        caps=BrandCaps(per_resident_day=of_resident.get("brand_per_day")),
    )
    engine = engine_of([place()], [offer(**of_offer)], brands=[brand])
    limits = Limits(of_resident.get("per_day"), of_resident.get("per_week"))
    if "channels" in of_resident:
        use, contact = marketing(True)
        narrow = msgspec.structs.replace(contact, channels=of_resident["channels"])
        say(engine, [use, narrow], limits=limits)
    else:
        say(engine, marketing(True), limits=limits)
    enter(engine, at_s=of_ping.get("at_s", 0) - 60.0, resident="bob")
    engine.decide([ping(500, at_s=of_ping.get("at_s", 0) - 60.0)])
    for row in of_resident.get("claims", ()):
        engine.residents["ann"].add_claim(row)

    decision = enter(engine, **of_ping)

    assert [event.kind for event in decision.events] == ["enter"]
    assert (decision.offer, decision.withheld) == (None, reason)


def test_a_brands_fence_is_not_even_seen_without_use() -> None:
    """A denied brand's fence shows no event, so there is nothing to withhold."""
    engine = engine_of([place()], [offer()])
    say(engine, marketing(True), marketing(False, ["beans"]))

    decision = enter(engine)

    assert (decision.status, decision.events, decision.withheld) == ("decided", (), None)


def test_an_assumed_exit_offers_nothing() -> None:
    """Who left during a silence may be anywhere."""
    engine = engine_of([place()], [offer(trigger="exit")])
    enter(engine)

    decision = enter(engine, 4_000, east_m=5_000)

    assert [(e.kind, e.assumed) for e in decision.events] == [("exit", True)]
    assert decision.withheld == "assumed_event"


def test_the_furthest_gate_is_told() -> None:
    """Of all candidates the one that came furthest says why; none, and there is no reason."""
    cafe = place()
    event = Transition(cafe, "enter", 0, 1.0)

    def lost(*reasons: str | None) -> list[Candidate]:
        return [Candidate(offer(), event, reason) for reason in reasons]

    assert furthest([]) is None
    assert furthest(lost("not_live", "budget_day", "channel")) == "budget_day"
    assert all(furthest(lost("not_live", reason)) == reason for reason in WITHHELD)


def test_one_offer_a_ping_the_best_one() -> None:
    """Follow beats priority, priority beats id; the others were outranked and may come later."""
    engine = engine_of(
        [place(), place("shop", brand="tea")],
        [
            offer("b", priority=5),
            offer("a", priority=5),
            offer("t", brand="tea", fences=("shop",), priority=9),
        ],
        brands=[FOOD, Brand(id="tea", name="Tea")],
    )
    say(engine, marketing(True), resident="fan", follows=("beans",))

    ann, fan = engine.decide([ping(), ping(resident="fan")])
    why = [row.why for row in engine.take_changes().claims]

    assert ann.offer is not None
    assert ann.offer.offer == "t"
    assert fan.offer is not None
    assert fan.offer.offer == "a"
    assert all(text.count(b"outranked") == 2 for text in why)


def test_an_offer_waits_for_its_own_dwell() -> None:
    """Each length of stay leads to the offers that wait for it, and to those alone."""
    offers: list[Offer] = [
        offer(f"d{s}", trigger="dwell", dwell_s=s, caps={"cool_down_s": 0}) for s in (60, 120)
    ]
    engine = engine_of([place()], offers)

    made = [enter(engine, at_s).offer for at_s in (0, 59, 60, 119, 120, 500)]

    assert [None if m is None else m.offer for m in made] == [
        None,
        None,
        "d60",
        None,
        "d120",
        None,
    ]


def test_an_offers_own_categories_beat_its_brands_for_grants_but_not_for_denies() -> None:
    """A grant for food covers no book of a food shop; a deny of food covers everything of it."""
    use, contact = marketing(True)

    def made(categories: tuple[str, ...], *scopes: tuple[str, str]) -> str | None:
        engine = engine_of([place()], [offer(categories=categories)], brands=[FOOD])
        calls = [
            [
                msgspec.structs.replace(one, effect=effect, scope=Scope(category=name))
                for one in (use, contact)
            ]
            for effect, name in scopes
        ]
        say(engine, *calls)
        decision = enter(engine)
        return "made" if decision.offer else decision.withheld

    assert made((), ("grant", "food")) == "made"
    assert made(("books",), ("grant", "food")) == "no_grant"
    assert made(("books",), ("grant", "food"), ("grant", "books")) == "made"
    # the fence is seen by a grant of the brand's own category, and a deny of it hides the fence
    assert made(("books",), ("grant", "books"), ("deny", "food")) is None


def walk_in_and_out(count: int, gap_s: float, start_s: float = 0.0) -> list[Ping]:
    """Enter the cafe again and again."""
    pings = []
    for number in range(count):
        at_s = start_s + number * gap_s
        pings += [ping(0, at_s), ping(500, at_s + 30), ping(500, at_s + 40)]
    return pings


def test_a_deny_of_the_brands_category_counts_for_offers_of_another() -> None:
    """Who is never to be contacted by food shops is not contacted about a food shop's books."""
    engine = engine_of([place()], [offer(categories=("books",))], brands=[FOOD])
    _, contact = marketing(True)
    never = msgspec.structs.replace(contact, effect="deny", scope=Scope(category="food"))
    say(engine, marketing(True), [never])

    decision = enter(engine)

    assert ([e.kind for e in decision.events], decision.withheld) == (["enter"], "denied")


def test_attention_holds_over_all_brands_and_days() -> None:
    """Of ten visits a day for a fortnight, one a day and three in any seven days make an offer."""
    engine = engine_of(
        [place()],
        [offer(f"o{n}", caps={"cool_down_s": 0}) for n in range(3)],
        attention=Attention(1, 3),
    )
    pings = [
        p for day in range(14) for p in walk_in_and_out(8, 3_600, day * 86_400 - 4 * 3_600 + 60)
    ]

    made = [p.at_ms for p, d in zip(pings, engine.decide(pings), strict=True) if d.offer]

    days = [(at_ms - NOON_MS + 43_200_000) // 86_400_000 for at_ms in made]
    assert days == [0, 1, 2, 7, 8, 9]


def test_a_cool_down_of_a_month_outlives_what_is_remembered_whole() -> None:
    """Daily visits make the offer on day 0 and on day 30, although claims are kept for 8 days."""
    caps = {"cool_down_s": 30 * 86_400}
    engine = engine_of(
        [place()],
        [offer(caps=caps), offer("filler", priority=-1, caps={"cool_down_s": 0})],
        attention=UNLIMITED,
    )
    pings = [p for day in range(40) for p in walk_in_and_out(1, 0, day * 86_400)]

    made = [d.offer.offer for d in engine.decide(pings) if d.offer]

    assert [day for day, name in enumerate(made) if name == "free-cup"] == [0, 30]


def test_a_budget_runs_out_in_the_middle_of_a_batch() -> None:
    """A hundred residents at once, forty cups: forty offers, and sixty told that it is spent."""
    names = [f"r{n:03}" for n in range(100)]
    engine = engine_of([place()], [offer(budget=Budget(total=40))], residents=names)

    decisions = engine.decide([ping(resident=name) for name in names])

    assert [d.offer is not None for d in decisions] == [True] * 40 + [False] * 60
    assert {d.withheld for d in decisions[40:]} == {"budget_total"}


def test_a_daily_budget_comes_back_at_the_offers_midnight() -> None:
    """One cup a day of Helsinki's; its midnight is at 21:00 UTC."""
    cup = offer(budget=Budget(per_day=1), timezone="Europe/Helsinki", caps={"cool_down_s": 0})
    engine = engine_of([place()], [cup])
    for name in ("ann", "bob", "cho"):
        say(engine, marketing(True), resident=name, timezone="America/New_York")

    decisions = engine.decide(
        [
            ping(at_s=9 * 3_600 - 2, resident="ann"),
            ping(at_s=9 * 3_600 - 0.001, resident="bob"),
            ping(at_s=9 * 3_600, resident="cho"),
        ]
    )

    assert [d.withheld for d in decisions] == [None, "budget_day", None]
