"""A grant that only takes away needs no precondition, and never allows what was not allowed."""

from collections import Counter
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.consent.record import ALL, Record, Scope, WeekWindow
from engine.consent.standing import Told, standing_of
from engine.consent.suspension import suspend
from engine.consent.sync import (
    DAY_MS,
    PreconditionFailed,
    PreconditionRequired,
    Requested,
    Said,
    narrowed,
    resolve,
    stop,
)
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from tests.consent_oracle import Lane, answer
from tests.strategies import NOON_MS, records_of
from tests.test_consent_model import (
    QUESTION_SEEDS,
    QUICK,
    grants,
    noes,
    questions,
    said,
    whereabouts,
)
from tests.test_consent_rule import CHANNELS, EXPIRIES, WEEKS

LATER_MS: Final = NOON_MS + DAY_MS
END_MS: Final = NOON_MS + 60 * DAY_MS
DAYTIME: Final = (WeekWindow((1, 2, 3, 4, 5), 9, 17),)
AROUND_THE_CLOCK: Final = (WeekWindow((1, 2, 3, 4, 5, 6, 7), 0, 24),)


def contact(**fields: Any) -> Requested:
    """A grant to use the location and to contact."""
    given_: dict[str, Any] = {
        "effect": "grant",
        "purpose": "offers",
        "actions": ("use", "contact"),
        "data": ("precise_location", "contact_point"),
        "expires_ms": END_MS,
    }
    return Requested(**{**given_, **fields})


NEVER: Final = Requested(
    effect="deny", purpose="offers", actions=("contact",), data=("contact_point",)
)
STANDING: Final = contact(channels=("push", "email"), places=("gym",))


def kept(*calls: tuple[Requested, ...]) -> ResidentRow:
    """A resident who made these calls."""
    records = records_of(*calls)
    return ResidentRow(id="ann", settings=ResidentSettings(), version=len(calls), records=records)


def unseen(if_match: int | None = None) -> Said:
    """A day later, by a device that saw less than there is."""
    return Said(actor="self", now_ms=LATER_MS, if_match=if_match)


@pytest.mark.parametrize("if_match", [None, 0, 1])
@pytest.mark.parametrize(
    "less",
    [
        {"channels": ("email",)},
        {"week": DAYTIME},
        {"places": ("gym", "home")},
        {"data": ("contact_point",), "week": DAYTIME},
        {"expires_ms": END_MS - 1},
        {"actions": ("use",), "channels": None, "places": (), "expires_ms": END_MS - 1},
    ],
)
def test_a_grant_of_less_is_a_narrowing(less: dict[str, Any], if_match: int | None) -> None:
    """Fewer channels or hours, more places, an earlier end: accepted from any version."""
    change = msgspec.structs.replace(STANDING, **less)

    done = resolve(kept((STANDING,), stop()[1:]), (change,), unseen(if_match))

    assert done.refused == ()
    (record,) = done.records
    assert (record.channels, record.week, record.places) == (
        change.channels,
        change.week,
        change.places,
    )
    assert record.expires_ms == change.expires_ms


@pytest.mark.parametrize(
    "more",
    [
        {"channels": None},
        {"channels": ("push", "sms")},
        {"week": AROUND_THE_CLOCK},
        {"places": ()},
        {"places": ("home",)},
        {"actions": ("use", "contact", "share")},
        {"data": ("precise_location", "contact_point", "profile")},
        {"purpose": "loyalty"},
        {"scope": Scope(brand="beans")},
        {"expires_ms": END_MS + 1},
        {},
        {"expires_ms": None},
        {"data": ("contact_point",)},
        {"actions": ("use",), "channels": None, "places": ()},
    ],
)
def test_a_grant_of_more_or_the_same_is_a_widening(more: dict[str, Any]) -> None:
    """It is refused as before, with the very same errors."""
    change = msgspec.structs.replace(STANDING, **more)
    row = kept((STANDING,), stop()[1:])

    with pytest.raises(PreconditionRequired):
        resolve(row, (change,), unseen())
    with pytest.raises(PreconditionFailed):
        resolve(row, (change,), unseen(1))


def test_a_narrowing_that_names_no_end_renews_nothing() -> None:
    """It ends when the first of those ends that it narrows; from the latest it is a new grant."""
    use = contact(actions=("use",), expires_ms=END_MS + 5)
    change = contact(channels=("push",), places=("gym",), expires_ms=None)
    row = kept((STANDING,), (use,))

    (unseen_,) = resolve(row, (change,), unseen()).records
    (seen,) = resolve(row, (change,), unseen(2)).records

    assert unseen_.expires_ms == END_MS
    assert seen.expires_ms == LATER_MS + 90 * DAY_MS


@pytest.mark.parametrize(
    "after",
    [
        (
            Requested(
                effect="deny", purpose="offers", actions=("contact",), data=("contact_point",)
            ),
        ),
        stop(),
    ],
)
def test_nothing_is_narrowed_that_does_not_stand(after: tuple[Requested, ...]) -> None:
    """After a never or an off that the device did not see, the same grant is a widening."""
    with pytest.raises(PreconditionFailed):
        resolve(kept((STANDING,), after), (STANDING,), unseen(1))


def test_what_is_suspended_or_has_ended_is_not_narrowed() -> None:
    """Since neither allows anything, a grant in its place would."""
    row = kept((STANDING,))
    pause = suspend("ann", 1, "", because="a test", now_ms=NOON_MS)
    paused = msgspec.structs.replace(row, version=pause.version, records=(*row.records, pause))

    with pytest.raises(PreconditionRequired):
        resolve(paused, (STANDING,), unseen())
    assert narrowed(standing_of(row.records), contact(expires_ms=None), END_MS) is None
    sooner = msgspec.structs.replace(STANDING, expires_ms=END_MS - 1)
    assert narrowed(standing_of(row.records), sooner, END_MS) is None
    assert narrowed(standing_of(row.records), sooner, END_MS - 1) == sooner


def test_one_call_is_read_in_its_order() -> None:
    """What a call took away is not there any more for the rest of it to narrow."""
    off = msgspec.structs.replace(STANDING, effect="withdraw", channels=None, places=())
    less = msgspec.structs.replace(STANDING, channels=("push",))
    back = msgspec.structs.replace(STANDING, channels=("email",))

    done = resolve(kept((STANDING,), stop()[1:]), (less, back, off, less), unseen())

    assert [r.effect for r in done.records] == ["grant", "withdraw"]
    assert done.refused == (back, less)


@st.composite
def changes(draw: st.DrawFn, records: list[Record]) -> Requested:
    """A grant like one that was said, in some ways more, less, or other."""
    old = draw(st.sampled_from([r for r in records if r.effect == "grant"] or [draw(grants)]))
    one = Requested(
        effect="grant",
        purpose=old.purpose,
        actions=old.actions,
        data=old.data,
        scope=old.scope,
        channels=old.channels,
        week=old.week,
        places=old.places,
        expires_ms=old.expires_ms,
    )
    other: dict[str, st.SearchStrategy[Any]] = {
        "actions": st.sampled_from((("use",), ("contact",), ("use", "contact"))),
        "data": st.sampled_from((("contact_point",), ("precise_location", "contact_point"))),
        "channels": st.sampled_from(CHANNELS),
        "week": st.sampled_from((*WEEKS, AROUND_THE_CLOCK)),
        "places": st.sampled_from(((), ("clinic",), ("gym", "clinic"))),
        "expires_ms": st.sampled_from((None, *EXPIRIES)),
        "scope": st.just(ALL),
    }
    less: dict[str, Any] = {
        "channels": old.channels[:1] if old.channels else ("push",),
        "week": DAYTIME if old.week is None else old.week[:1],
        "places": (*old.places, "attic"),
        "expires_ms": NOON_MS + 1 if old.expires_ms is None else old.expires_ms - 1,
    }
    if draw(st.integers(0, 2)):
        names = draw(st.lists(st.sampled_from(sorted(less)), max_size=3, unique=True))
        return msgspec.structs.replace(one, **{name: less[name] for name in names})
    names = draw(st.lists(st.sampled_from(sorted(other)), max_size=2, unique=True))
    return msgspec.structs.replace(one, **{name: draw(other[name]) for name in names})


def test_a_narrowing_never_allows_what_was_not_allowed(measured: list[str]) -> None:
    """By the slow rule, now and later, and whatever is said after it."""
    met: Counter[str] = Counter()
    tails = st.lists(grants | noes, max_size=2)

    @settings(max_examples=500, **QUICK)
    @given(said, st.data(), tails, QUESTION_SEEDS, whereabouts)
    def ask(
        records: list[Record], data: st.DataObject, tail: list[Record], seed: int, where: str
    ) -> None:
        change = data.draw(changes(records))
        less = narrowed(Told(records).of(change.scope), change, NOON_MS)
        taken = msgspec.structs.replace(
            records[0],
            **msgspec.structs.asdict(change if less is None else less),
            actor="self",
        )
        before, after = [*records, *tail], [*records, taken, *tail]
        more = [
            asked
            for asked in questions(seed, where, None, ())
            if answer(after, asked) == "allow" and answer(before, asked) != "allow"
        ]
        if less is not None:
            assert more == []
            met["narrowings"] += 1
        else:
            met["widenings that allow more" if more else "others"] += 1

    ask()

    measured.append(f"consent: grants in place of others, by the oracle: {dict(met)}")
    assert met["narrowings"] > 100
    assert met["widenings that allow more"] > 5


def test_what_stands_is_found_in_the_time_that_there_is() -> None:
    """Of 20,000 records for as many brands, which took a minute when each looked at all others."""
    lane: Lane = ("offers", "use", "precise_location")
    noes_ = tuple(
        Requested(
            effect="deny",
            purpose=lane[0],
            actions=(lane[1],),
            data=(lane[2],),
            scope=Scope(brand=f"b{number}"),
        )
        for number in range(20_000)
    )
    records = records_of(noes_, stop())

    assert [held.record for held in standing_of(records)] == list(records[:20_000])
