"""The whole model of consent against a second one, and the laws that it keeps, by Hypothesis.

A case is one question to one resident. Records, rules of law and where the resident is are drawn by
Hypothesis, so that what fails shrinks; the questions come from a number that it draws, because a
case must be cheap.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.consent.index import PreferenceIndex
from engine.consent.lanes import lane
from engine.consent.law import AGE_BANDS, Laws, Pack, Rule
from engine.consent.record import ALL, Notice, Record
from engine.consent.row import Row, compile_row
from engine.consent.standing import standing_of
from engine.localtime import clock_of
from geofences.fence import Fence
from geofences.zones import Drawn, Whereabouts
from tests.consent_oracle import OFFER, Asked, answer
from tests.strategies import NOON_MS, place, town
from tests.test_consent_rule import CHANNELS, EXPIRIES, HOUR_MS, LANES, SCOPES, WEEKS, ZONES

RESIDENTS: Final = 2_200
QUESTIONS: Final = 25
QUICK: Final[dict[str, Any]] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.generate, Phase.shrink),
}

CLINIC: Final = place("clinic", 0.0, radius_m=60)
GYM: Final = place("gym", 1_000.0, radius_m=60)
NOTICES: Final = (
    None,
    Notice("offers", "1", "fi", "ab" * 32),
    Notice("offers", "2", "fi", "cd" * 32),
)

scopes = st.sampled_from((ALL, ALL, *SCOPES))
BOTH: Final = ("precise_location", "contact_point")
common: Final[dict[str, Any]] = {
    "subject": st.just("ann"),
    "version": st.just(1),
    "server_ms": st.just(NOON_MS),
    "purpose": st.sampled_from(("offers", "offers", "offers", "loyalty")),
    "data": st.sampled_from((BOTH, BOTH, (*BOTH, "profile"), BOTH[:1], BOTH[1:], ("profile",))),
    "notice": st.sampled_from(NOTICES),
}
people = st.sampled_from(("self", "guardian", "agent"))
uses = st.sampled_from((("use", "contact"),) * 4 + (("use",), ("contact",), ("share", "use")))
grants = st.builds(
    Record,
    actor=people,
    effect=st.just("grant"),
    scope=scopes,
    actions=uses,
    expires_ms=st.sampled_from((None, None, *EXPIRIES)),
    channels=st.sampled_from(CHANNELS),
    week=st.sampled_from(WEEKS),
    places=st.sampled_from(((), (), (), ("clinic",), ("gym", "clinic"), ("attic",))),
    **common,
)
noes = st.builds(
    Record,
    actor=people,
    effect=st.sampled_from(("deny", "withdraw")),
    scope=st.sampled_from(SCOPES),
    actions=uses,
    **common,
)
signals = st.builds(
    Record,
    actor=st.just("signal"),
    effect=st.just("deny"),
    scope=st.just(ALL),
    actions=st.sampled_from((("share",), ("contact",))),
    **common,
)


@st.composite
def sayings(draw: st.DrawFn) -> list[Record]:
    """What a resident says: mostly yes, in any order."""
    records = draw(st.lists(grants, min_size=1, max_size=4))
    for no in draw(st.lists(noes, max_size=2)) + draw(st.lists(signals, max_size=1)):
        records.insert(draw(st.integers(0, len(records))), no)
    return records


said = sayings()
rules = st.lists(
    st.builds(
        Rule,
        code=st.sampled_from(("a", "b")),
        source=st.just("a test"),
        purposes=st.sampled_from((None, ("loyalty",), ("offers",))),
        actions=st.sampled_from((("share",), ("contact",), ("use", "sell"))),
        data=st.sampled_from((None, ("profile",), ("contact_point", "purchase"))),
        ages=st.sampled_from((None, ("13_to_15", "16_17"), ("16_17",), ("adult",))),
    ),
    max_size=1,
).map(tuple)
ages = st.sampled_from((None, None, None, *AGE_BANDS))


class Place(NamedTuple):
    """Where the resident is, as the engine and as the oracle have it."""

    at: Whereabouts | None
    outside: tuple[str, ...] | None


def _at(east_m: float, accuracy_m: float, zones: tuple[Fence, ...], *outside: str) -> Place:
    drawn = Drawn((), {zone.id: zone for zone in zones}) if zones else None
    lon, lat = town(east_m)
    return Place(Whereabouts(drawn, lon, lat, accuracy_m), outside)


PLACES: Final = {
    "nobody can tell": Place(None, None),
    "no zones drawn": _at(5_000.0, 9.0, ()),
    "far from all": _at(5_000.0, 9.0, (CLINIC, GYM), "clinic", "gym"),
    "in the clinic": _at(20.0, 9.0, (CLINIC, GYM), "gym"),
    "perhaps in the gym": _at(900.0, 60.0, (CLINIC, GYM), "clinic"),
    "in either, perhaps": _at(500.0, 800.0, (CLINIC, GYM)),
    "the gym is gone": _at(5_000.0, 9.0, (CLINIC,), "clinic"),
}
whereabouts = st.sampled_from(sorted(PLACES))


def questions(seed: int, where: str, age: str | None, law: tuple[Rule, ...]) -> list[Asked]:
    """Whatever may be asked, mostly for an offer and near an expiry, in the order of time."""
    rng = random.Random(seed)
    asked = [
        Asked(
            lanes=rng.choice((OFFER, OFFER, tuple(rng.sample(LANES, rng.choice((1, 2)))))),
            brand=rng.choice(("beans", "tea", "ink")),
            categories=rng.choice(((), ("food",), ("books",), ("food", "books"))),
            deny_categories=rng.choice(((), ("food",), ("books",))),
            channel=rng.choice(("push", "push", "sms")),
            now_ms=rng.choice(EXPIRIES) + rng.choice((-1, 0, 1, rng.randrange(168 * HOUR_MS))),
            zone=rng.choice(ZONES),
            outside=PLACES[where].outside,
            age=age,
            rules=law,
        )
        for _ in range(QUESTIONS)
    ]
    return sorted(asked, key=lambda one: one.now_ms)


def told(row: Row, asked: Asked, where: str) -> str:
    """What a row answers."""
    need = 0
    for each in asked.lanes:
        need |= lane(*each)
    hour = clock_of(asked.zone).at(asked.now_ms).hour_of_week
    return (
        row.refusal(need, asked.brand, asked.categories, asked.deny_categories)
        or row.contact_refusal(
            need, asked.brand, asked.categories, asked.channel, hour, PLACES[where].at
        )
        or "allow"
    )


def offer_told(index: PreferenceIndex, asked: Asked) -> str:
    """What an index answers whoever wants to make the resident of that zone an offer."""
    why = index.offer_refusal(
        asked.zone,
        asked.brand,
        asked.categories,
        asked.deny_categories,
        "offers",
        asked.channel,
        now_ms=asked.now_ms,
        mono_ms=0,
    )
    return why or "allow"


def floor_of(law: tuple[Rule, ...], age: str | None) -> int:
    """The lanes that these rules deny, beside those that are always on."""
    return Laws([Pack(id="t", title="t", rules=law)]).floor(age)


def row_of(records: Sequence[Record], now_ms: int, floor: int) -> Row:
    """What records come to."""
    row, _ = compile_row(standing_of(records), now_ms, floor)
    return row


ALWAYS_ON: Final = Laws().rules
QUESTION_SEEDS: Final = st.integers(0, 2**32)


def test_the_model_is_the_one_described(measured: list[str]) -> None:
    """At least 50,000 questions have the answers of the slow rule, and each reason is met often."""
    cases: Counter[str] = Counter()

    @settings(max_examples=RESIDENTS, **QUICK)
    @given(said, whereabouts, ages, rules, QUESTION_SEEDS)
    def ask(
        records: list[Record], where: str, age: str | None, law: tuple[Rule, ...], seed: int
    ) -> None:
        index, wanted = PreferenceIndex(), questions(seed, where, age, (*ALWAYS_ON, *law))
        index.whereabouts = lambda _: PLACES[where].at
        first_ms = wanted[0].now_ms
        for zone in {asked.zone for asked in wanted}:
            index.put(zone, 1, records, zone, now_ms=first_ms, floor=floor_of(law, age))
        for asked in wanted:
            expected = answer(records, asked)
            if asked.lanes == OFFER:
                assert offer_told(index, asked) == expected
            entry = index.entry(asked.zone, asked.now_ms)
            assert entry is not None
            assert told(entry.row, asked, where) == expected
            cases[expected] += 1

    ask()

    met = ", ".join(f"{reason} {count:,}" for reason, count in cases.most_common())
    measured.append(f"consent: {cases.total():,} cases against the oracle: {met}")
    assert cases.total() >= 50_000
    assert set(cases) == {"allow", "law", "denied", "no_grant", "channel", "place", "quiet_hours"}
    assert min(cases.values()) > 500


@settings(max_examples=700, **QUICK)
@given(said, st.randoms(use_true_random=False), QUESTION_SEEDS, whereabouts)
def test_order_never_matters_and_less_is_never_more(
    records: list[Record], rng: random.Random, seed: int, where: str
) -> None:
    """What stands gives one row in any order; without one of its grants it allows nothing more."""
    standing = standing_of(records)
    row, until_ms = compile_row(standing, NOON_MS)
    assert compile_row(rng.sample(standing, len(standing)), NOON_MS) == (row, until_ms)
    asked = [one._replace(now_ms=NOON_MS) for one in questions(seed, where, None, ())]
    for gone in [held for held in standing if held.record.effect == "grant"]:
        less, _ = compile_row([held for held in standing if held is not gone], NOON_MS)
        for one in asked:
            assert told(less, one, where) != "allow" or told(row, one, where) == "allow"


@settings(max_examples=500, **QUICK)
@given(said, noes | signals, QUESTION_SEEDS, whereabouts, ages, rules)
def test_a_no_more_never_allows(
    records: list[Record],
    no: Record,
    seed: int,
    where: str,
    age: str | None,
    law: tuple[Rule, ...],
) -> None:
    """A deny, a withdrawal, a signal, a rule of law, or being nearer to a place: no yes of a no."""
    wanted = questions(seed, where, age, law)
    now_ms, floor = wanted[0].now_ms, floor_of(law, age)
    row = row_of(records, now_ms, 0)
    denied, unlawful = row_of([*records, no], now_ms, 0), row_of(records, now_ms, floor)
    for asked in (one._replace(now_ms=now_ms) for one in wanted):
        if told(row, asked, where) != "allow":
            assert told(denied, asked, where) != "allow"
            assert told(unlawful, asked, where) != "allow"
            assert told(row, asked, "nobody can tell") != "allow"


@settings(max_examples=300, **QUICK)
@given(said, st.lists(st.sampled_from(NOTICES), min_size=8, max_size=8), QUESTION_SEEDS)
def test_the_text_that_was_shown_changes_no_answer(
    records: list[Record], shown: list[Notice | None], seed: int
) -> None:
    """A grant stands by its lanes: a new text widens none, and takes none away."""
    others = [
        msgspec.structs.replace(record, notice=notice)
        for record, notice in zip(records, shown, strict=False)
    ]
    for now_ms in {asked.now_ms for asked in questions(seed, "far from all", None, ())}:
        assert row_of(records, now_ms, 0) == row_of(others, now_ms, 0)
