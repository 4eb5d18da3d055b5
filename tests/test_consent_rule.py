"""What records come to, by example; `test_consent_model` holds the whole against an oracle."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.consent.index import PreferenceIndex
from engine.consent.lanes import lane
from engine.consent.record import ALL, Record, Scope, WeekWindow, record_id
from engine.consent.row import compile_row
from engine.consent.standing import standing_of
from engine.consent.sync import marketing, stop
from tests.consent_oracle import OFFER, Asked, answer
from tests.strategies import NOON_MS, records_of

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
SCOPES: Final = (
    ALL,
    Scope(category="food"),
    Scope(category="books"),
    Scope(brand="beans"),
    Scope(brand="tea"),
)
WEEKS: Final = (
    None,
    None,
    (WeekWindow((1, 2, 3, 4, 5, 6, 7), 0, 0),),
    (WeekWindow((5, 6), 20, 4), WeekWindow((2,), 9, 17)),
    (WeekWindow((7,), 22, 24),),
    (),
)
CHANNELS: Final = (None, None, ("push",), ("sms", "email"), ())
ZONES: Final = (
    "UTC",
    "Europe/Helsinki",
    "America/New_York",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Australia/Lord_Howe",
)
LANES: Final = (
    *OFFER,
    ("offers", "use", "profile"),
    ("offers", "contact", "profile"),
    ("loyalty", "use", "precise_location"),
    ("loyalty", "contact", "contact_point"),
)
EXPIRIES: Final = tuple(NOON_MS + hours * HOUR_MS for hours in (-1, 0, 1, 24))


def record(effect: str, **fields: object) -> Record:
    """One thing said, of an offer's use and contact for all unless told otherwise."""
    given_ = {
        "subject": "ann",
        "actor": "self",
        "effect": effect,
        "purpose": "offers",
        "actions": ("use", "contact"),
        "data": ("precise_location", "contact_point"),
        "scope": ALL,
        "version": 1,
        "server_ms": NOON_MS,
    }
    return Record(**{**given_, **fields})  # type: ignore[arg-type]


def some_record(rng: random.Random) -> Record:
    """Anything that a resident may say."""
    effect = rng.choice(("grant", "grant", "grant", "deny", "withdraw"))
    fields: dict[str, object] = {
        "purpose": rng.choice(("offers", "offers", "loyalty")),
        "actions": tuple(rng.sample(("use", "contact"), rng.choice((1, 2, 2)))),
        "data": tuple(rng.sample(("precise_location", "contact_point", "profile"), 2)),
        "scope": rng.choice(SCOPES),
    }
    if effect == "grant":
        fields["expires_ms"] = rng.choice((None, *EXPIRIES))
        fields["channels"] = rng.choice(CHANNELS)
        fields["week"] = rng.choice(WEEKS)
        fields["places"] = rng.choice(((), (), (), (), ("clinic",)))
    return record(effect, **fields)


def some_question(rng: random.Random) -> Asked:
    """Anything that may be asked, mostly for an offer and near an expiry."""
    return Asked(
        lanes=rng.choice((OFFER, OFFER, tuple(rng.sample(LANES, rng.choice((1, 2)))))),
        brand=rng.choice(("beans", "tea", "ink")),
        categories=rng.choice(((), ("food",), ("books",), ("food", "books"))),
        deny_categories=rng.choice(((), ("food",), ("books",))),
        channel=rng.choice(("push", "push", "sms")),
        now_ms=rng.choice(EXPIRIES) + rng.choice((-1, 0, 1, rng.randrange(168 * HOUR_MS))),
        zone=rng.choice(ZONES),
    )


def ours(records: Sequence[Record], asked: Asked) -> str:
    """What the index answers."""
    index = PreferenceIndex()
    index.put("ann", 1, records, asked.zone, now_ms=asked.now_ms)
    return told(index, asked)


def told(index: PreferenceIndex, asked: Asked) -> str:
    """What an index answers that knows the resident."""
    entry = index.entry("ann", asked.now_ms)
    assert entry is not None
    need = 0
    for each in asked.lanes:
        need |= lane(*each)
    hour = entry.clock.at(asked.now_ms).hour_of_week
    return (
        entry.row.refusal(need, asked.brand, asked.categories, asked.deny_categories)
        or entry.row.contact_refusal(need, asked.brand, asked.categories, asked.channel, hour)
        or "allow"
    )


def test_time_passes_in_one_index_as_if_asked_anew() -> None:
    """An entry that lives on through its expiries answers as one that is made at each instant."""
    rng = random.Random(20_262)
    for _ in range(400):
        records = [some_record(rng) for _ in range(rng.randrange(1, 9))]
        questions = sorted((some_question(rng) for _ in range(20)), key=lambda a: a.now_ms)
        index = PreferenceIndex()
        index.put("ann", 1, records, "UTC", now_ms=questions[0].now_ms)
        for asked in questions:
            utc = asked._replace(zone="UTC")
            assert told(index, utc) == answer(records, utc)


def test_changes_of_one_call_commute_where_they_do_not_speak_of_the_same() -> None:
    """Grants and denies of different scopes give one row in whatever order they are listed."""
    rng = random.Random(20_265)
    for _ in range(1_000):
        before = [some_record(rng) for _ in range(rng.randrange(3))]
        made = [r for r in (some_record(rng) for _ in range(12)) if r.effect != "withdraw"]
        call = list({r.scope: r for r in made}.values())
        rows = [
            compile_row(standing_of([*before, *rng.sample(call, len(call))]), NOON_MS)
            for _ in range(3)
        ]

        assert rows[0] == rows[1] == rows[2]


def test_residents_who_say_the_same_share_a_row() -> None:
    """A million who opted in are one row; whoever says more has another."""
    index = PreferenceIndex()
    everybody = [
        index.put(name, 1, records_of(marketing(opted_in=True), resident=name), "UTC", now_ms=0)
        for name in ("ann", "bob", "cho")
    ]
    other = index.put(
        "dee", 2, records_of(marketing(True), marketing(False, ["tea"])), "UTC", now_ms=0
    )

    assert len({id(entry.row) for entry in everybody}) == 1
    assert other.row is not everybody[0].row


FOLDS: Final = {
    "nothing said": ([], "beans", "no_grant"),
    "opted in to all": ([marketing(True)], "beans", "allow"),
    "opted in to one": ([marketing(True, ["beans"])], "beans", "allow"),
    "opted in to another": ([marketing(True, ["tea"])], "beans", "no_grant"),
    "opting out takes every grant": (
        [marketing(True), marketing(True, ["beans"]), marketing(False)],
        "beans",
        "no_grant",
    ),
    "one brand out beats all in": (
        [marketing(True), marketing(False, ["beans"])],
        "beans",
        "denied",
    ),
    "and holds when all opt in later": (
        [marketing(False, ["beans"]), marketing(True)],
        "beans",
        "denied",
    ),
    "others stay in": ([marketing(True), marketing(False, ["beans"])], "tea", "allow"),
    "a grant lifts the deny of its scope": (
        [marketing(True), marketing(False, ["beans"]), marketing(True, ["beans"])],
        "beans",
        "allow",
    ),
    "opting out lifts no deny": (
        [marketing(False, ["beans"]), marketing(False), marketing(True)],
        "beans",
        "denied",
    ),
    "stop takes every grant": (
        [marketing(True), marketing(True, ["beans"]), stop()],
        "beans",
        "no_grant",
    ),
    "stop lifts no deny": (
        [marketing(False, ["beans"]), stop(), marketing(True)],
        "beans",
        "denied",
    ),
}


@pytest.mark.parametrize("name", FOLDS)
def test_what_was_said_comes_to(name: str) -> None:
    """The last word of each scope counts, and no withdrawal lifts a deny."""
    calls, brand, expected = FOLDS[name]
    records = records_of(*calls)
    asked = Asked(OFFER, brand, now_ms=NOON_MS)

    assert (ours(records, asked), answer(records, asked)) == (expected, expected)


def test_a_grant_ends_to_the_millisecond() -> None:
    """It holds up to the instant before it expires, in an index that was made long before."""
    index = PreferenceIndex()
    index.put("ann", 1, [record("grant", expires_ms=NOON_MS)], "UTC", now_ms=0)
    asked = Asked(OFFER, "beans")

    assert told(index, asked._replace(now_ms=NOON_MS - 1)) == "allow"
    assert told(index, asked._replace(now_ms=NOON_MS)) == "no_grant"
    assert told(index, asked._replace(now_ms=NOON_MS - 1)) == "no_grant"  # clocks that step back
    said = [record("grant", expires_ms=NOON_MS), record("deny", scope=Scope(brand="other"))]
    index.put("ann", 2, said, "UTC", now_ms=NOON_MS - 1)
    assert told(index, asked._replace(now_ms=NOON_MS - 1)) == "no_grant"  # whatever is said then


def test_an_expired_grant_is_no_reason() -> None:
    """Only grants that hold are named as what allowed an offer."""
    old = record("grant", expires_ms=NOON_MS, scope=Scope(brand="beans"))
    good = record("grant")
    index = PreferenceIndex()
    index.put("ann", 1, [old, good], "UTC", now_ms=0)
    need = lane(*OFFER[0]) | lane(*OFFER[1])

    before = index.allowing("ann", need, "beans", (), now_ms=NOON_MS - 1)
    after = index.allowing("ann", need, "beans", (), now_ms=NOON_MS)

    assert before == sorted([record_id(old), record_id(good)])
    assert after == [record_id(good)]
    assert index.allowing("bob", need, "beans", (), now_ms=NOON_MS) == []


def test_a_brands_channel_is_its_own() -> None:
    """What one brand may use neither narrows nor widens what another may."""
    records = [record("grant"), record("grant", scope=Scope(brand="tea"), channels=("email",))]
    asked = Asked(OFFER, "beans", now_ms=NOON_MS)

    assert ours(records, asked) == "allow"
    assert ours(records, asked._replace(brand="tea", channel="email")) == "allow"
    assert ours(records[1:], asked._replace(brand="tea")) == "channel"


QUIET: Final = [
    # zone, instant (UTC), allowed: the clock goes on or back in between
    ("Europe/Helsinki", "2026-03-29T04:59:59.999", False),  # 07:59 after the gap
    ("Europe/Helsinki", "2026-03-29T05:00", True),
    ("Europe/Helsinki", "2026-03-28T05:59:59.999", False),
    ("Europe/Helsinki", "2026-03-28T06:00", True),
    ("Europe/Helsinki", "2026-10-24T17:59:59.999", True),  # 20:59 in summer
    ("Europe/Helsinki", "2026-10-24T18:00", False),
    ("Europe/Helsinki", "2026-10-25T18:59:59.999", True),  # 20:59 in winter
    ("Europe/Helsinki", "2026-10-25T19:00", False),
    ("America/New_York", "2026-11-01T12:59:59.999", False),
    ("America/New_York", "2026-11-01T13:00", True),
    ("Asia/Kathmandu", "2026-06-01T02:14:59.999", False),  # a quarter from the hour
    ("Asia/Kathmandu", "2026-06-01T02:15", True),
    ("Australia/Lord_Howe", "2026-04-04T21:29:59.999", False),  # half an hour of summer time
    ("Australia/Lord_Howe", "2026-04-04T21:30", True),
]


@pytest.mark.parametrize(("zone", "instant", "allowed"), QUIET)
def test_quiet_hours_follow_the_wall_clock(zone: str, instant: str, allowed: bool) -> None:
    """Nobody is reached from 21:00 to 08:00 of their own clock, whatever it does in the night."""
    now_ms = round(datetime.fromisoformat(instant).replace(tzinfo=UTC).timestamp() * 1_000)
    asked = Asked(OFFER, "beans", now_ms=now_ms, zone=zone)

    assert ours([record("grant")], asked) == ("allow" if allowed else "quiet_hours")


@given(
    days=st.lists(st.integers(1, 7), max_size=3, unique=True),
    from_hour=st.integers(0, 23),
    to_hour=st.integers(0, 24),
    hour=st.integers(0, 167),
)
@settings(deadline=None)
def test_week_windows_wrap(days: list[int], from_hour: int, to_hour: int, hour: int) -> None:
    """An overnight window belongs to the day on which it begins, Sunday's ends on Monday."""
    window = WeekWindow(tuple(days), from_hour, to_hour)
    monday_ms = 1_790_035_200_000 - 24 * HOUR_MS
    asked = Asked(OFFER, "beans", now_ms=monday_ms + hour * HOUR_MS)
    records = [record("grant", week=(window,))]

    assert ours(records, asked) == answer(records, asked)


def test_the_lease_and_the_unknown_mean_no() -> None:
    """Whoever is not known gets nothing, and nobody does when the lease has run out."""
    index = PreferenceIndex()
    index.put("ann", 1, [record("grant")], "UTC", now_ms=0)
    index.lease_until_mono_ms = lambda: 1_000

    def asked(resident: str, mono_ms: int) -> list[str | None]:
        return [
            index.offer_refusal(
                resident, "beans", (), (), "offers", "push", now_ms=NOON_MS, mono_ms=mono_ms
            ),
            index.redeemable(resident, "beans", (), NOON_MS, mono_ms),
        ]

    assert asked("ann", 999) == [None, None]
    assert asked("ann", 1_000) == ["stale", "stale"]
    assert asked("bob", 999) == ["no_record", "no_record"]
    index.drop("ann")
    assert asked("ann", 999) == ["no_record", "no_record"]


def test_redeeming_asks_for_the_offers_own_purpose() -> None:
    """A code of a loyalty offer needs the lanes of loyalty, and a deny of any category counts."""
    index = PreferenceIndex()
    index.put(
        "ann",
        1,
        [record("grant"), record("deny", scope=Scope(category="food"))],
        "UTC",
        now_ms=0,
    )

    def asked(**more: object) -> str | None:
        return index.redeemable("ann", "beans", (), NOON_MS, 0, **more)  # type: ignore[arg-type]

    assert asked() is None
    assert asked(purpose="loyalty") == "no_grant"
    assert asked(deny_categories=("food",)) == "denied"
