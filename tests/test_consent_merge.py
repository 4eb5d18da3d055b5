"""Two residents become one: nothing is allowed that either denied, or that not both granted."""

import random
from collections import Counter
from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.consent.lanes import EVERYTHING, lanes
from engine.consent.merge import merged, parts, windows
from engine.consent.record import ALL, Record, Scope, WeekWindow
from engine.consent.row import week_mask
from engine.consent.standing import standing_of
from engine.consent.suspension import suspend
from engine.consent.sync import Said, resolve, standing
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from tests.consent_oracle import answer
from tests.strategies import NOON_MS
from tests.test_consent_rule import EXPIRIES, ours, record, some_question, some_record

CASES: Final = 1_000
SOON_MS: Final = min(EXPIRIES) - 1


def after(own: list[Record], other: list[Record], now_ms: int) -> list[Record]:
    """All that the one who stays has said after the merge."""
    row = ResidentRow(id="ann", settings=ResidentSettings(), version=1, records=tuple(own))
    said = Said(actor="agent", now_ms=now_ms, if_match=1)
    return [*own, *resolve(row, merged(own, other, now_ms, renamed={}), said).records]


def some(rng: random.Random) -> list[Record]:
    """What somebody may have said, mostly yes."""
    return [some_record(rng) for _ in range(rng.randrange(1, 7))]


def alike(rng: random.Random, own: list[Record]) -> list[Record]:
    """What the other one may have said: much of it the same, so that something is in common."""
    if rng.random() < 0.3:
        return some(rng)
    return rng.sample([*own, some_record(rng), some_record(rng)], len(own) + rng.choice((0, 1)))


def test_nothing_is_allowed_that_not_both_allowed() -> None:
    """By the slow rule, whatever both said and whenever it is asked; and by the index alike."""
    rng = random.Random(20_263)
    answers: Counter[str] = Counter()
    for _ in range(CASES):
        own = some(rng)
        other = alike(rng, own)
        now_ms = rng.choice((SOON_MS, *EXPIRIES))
        together = after(own, other, now_ms)
        for _ in range(8):
            asked = some_question(rng)
            asked = asked._replace(now_ms=max(asked.now_ms, now_ms))
            got = answer(together, asked)
            before = (answer(own, asked), answer(other, asked))
            assert got != "allow" or before == ("allow", "allow"), (own, other, asked)
            assert ("denied" in before) <= (got == "denied"), (own, other, asked)
            answers[got] += 1
        assert ours(together, asked) == got

    assert answers.total() == 8 * CASES
    assert min(answers["allow"], answers["denied"], answers["no_grant"]) > 50


def test_merging_with_oneself_changes_nothing() -> None:
    """What both said alike holds as it did, so that a merge takes away no more than it must."""
    rng = random.Random(20_264)
    allowed = 0
    for _ in range(500):
        own = some(rng)
        together = after(own, own, SOON_MS)
        for _ in range(8):
            asked = some_question(rng)
            before = answer(own, asked)
            assert (answer(together, asked) == "allow") == (before == "allow"), (own, asked)
            allowed += before == "allow"

    assert allowed > 50


def test_it_does_not_matter_who_stays() -> None:
    """Nor does the order in which three become one: what is denied is the same."""
    rng = random.Random(20_265)
    for _ in range(60):
        one, two, three = some(rng), some(rng), some(rng)
        left = after(after(one, two, SOON_MS), three, SOON_MS)
        right = after(one, after(two, three, SOON_MS), SOON_MS)
        for _ in range(8):
            asked = some_question(rng)
            assert (answer(left, asked) == "denied") == (answer(right, asked) == "denied")
            swapped = answer(after(two, one, SOON_MS), asked)
            assert (answer(after(one, two, SOON_MS), asked) == "denied") == (swapped == "denied")


def test_a_suspended_grant_is_none_and_cannot_come_back() -> None:
    """Not even by a confirmation of what was suspended before the merge."""
    yes = record("grant")
    no = suspend("ann", 1, "", because="restored", now_ms=NOON_MS)
    together = after([yes, no], [yes], NOON_MS)
    confirmed = [*together, msgspec.structs.replace(no, effect="confirm")]

    assert standing_of(confirmed) == []
    assert standing(after([yes], [yes, no], NOON_MS), NOON_MS) == []


def test_a_brand_and_its_category_have_nothing_in_common() -> None:
    """The brand may belong to another one tomorrow."""
    one, two = record("grant", scope=Scope(brand="tea")), record("grant", scope=Scope(category="x"))

    assert standing(after([one], [two], NOON_MS), NOON_MS) == []
    (held,) = standing(after([one], [record("grant", scope=ALL)], NOON_MS), NOON_MS)
    assert held.record.scope == Scope(brand="tea")


def test_places_go_by_their_new_names() -> None:
    """Somebody's home is not the other's."""
    one, two = record("grant", places=("home",)), record("grant", places=("home", "gym"))

    (*_, granted) = merged([one], [two], NOON_MS, renamed={"home": "home-2"})

    assert granted.places == ("home", "home-2", "gym")


@given(st.integers(0, (1 << 168) - 1))
def test_hours_come_back_as_windows(mask: int) -> None:
    """Whatever hours of the week there are."""
    assert week_mask(windows(mask)) == mask


def test_equal_days_share_a_window() -> None:
    """So that what is shown to the resident can be read."""
    office = (WeekWindow((1, 2, 3, 4, 5), 9, 17),)

    assert windows(week_mask(office)) == office


@given(st.integers(0, EVERYTHING))
def test_parts_are_the_lanes(said: int) -> None:
    """No more and no less, none of them twice."""
    found = [lanes(purpose, actions, data) for purpose, actions, data in parts(said)]

    assert sum(found) == said
