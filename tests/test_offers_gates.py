"""The gates behind consent: dates, cool-down, caps, attention, budgets; each to the millisecond."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest

from engine.changes import ClaimRow, OfferCount
from engine.decision import OfferMade
from engine.localtime import clock_of
from engine.offers.book import OfferBook
from engine.offers.gates import (
    Attention,
    attention_of,
    attention_refusal,
    budget_refusal,
    cap_refusal,
    date_refusal,
    offer_day,
    rank,
)
from engine.offers.offer import Budget, Offer, OfferCaps
from engine.residents import Limits
from tests.strategies import NOON_MS, offer, place

HOUR_MS: Final = 3_600_000
FREE: Final = OfferCaps(cool_down_s=0)


def ms(text: str) -> int:
    """Unix milliseconds of a time in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def claim(made_ms: int, offer_id: str = "free-cup", brand: str = "beans") -> ClaimRow:
    """A claim that stands."""
    made = OfferMade(
        claim=f"c{made_ms}",
        offer=offer_id,
        brand=brand,
        fence="cafe",
        title="",
        body="",
        code="",
        expires_at_ms=made_ms + HOUR_MS,
        consent_version=1,
    )
    return ClaimRow(resident="ann", decision=f"d{made_ms}", made=made, made_ms=made_ms)


def capped(
    caps: OfferCaps,
    claims: list[ClaimRow],
    now_ms: int,
    *,
    brand_per_day: int | None = None,
    made_ever: int | None = None,
    older_ms: int | None = None,
    zone: str = "UTC",
) -> str | None:
    """What the caps say of the free cup."""
    ever = len(claims) if made_ever is None else made_ever
    local = clock_of(zone).at(now_ms)
    return cap_refusal(offer(caps=caps), brand_per_day, claims, ever, older_ms, now_ms, local)


@pytest.mark.parametrize(
    ("fields", "now_ms", "live"),
    [
        ({}, 0, True),
        ({"status": "draft"}, NOON_MS, False),
        ({"status": "paused"}, NOON_MS, False),
        ({"status": "ended"}, NOON_MS, False),
        ({"starts_ms": NOON_MS}, NOON_MS - 1, False),
        ({"starts_ms": NOON_MS}, NOON_MS, True),
        ({"ends_ms": NOON_MS}, NOON_MS - 1, True),
        ({"ends_ms": NOON_MS}, NOON_MS, False),
    ],
)
def test_an_offer_lives_from_its_start_until_its_end(
    fields: dict[str, Any], now_ms: int, live: bool
) -> None:
    """The start is included, the end is not, and the merchant must have set it live."""
    assert date_refusal(offer(**fields), now_ms) == (None if live else "not_live")


@pytest.mark.parametrize("cool_down_s", [1, 6 * 3_600, 30 * 24 * 3_600])
def test_cool_down_is_over_to_the_millisecond(cool_down_s: int) -> None:
    """At made + c it may be made again, a millisecond sooner not; an old claim counts as well."""
    caps = OfferCaps(cool_down_s=cool_down_s)
    over_ms = NOON_MS + cool_down_s * 1_000

    given: dict[str, Any]
    for given in ({"claims": [claim(NOON_MS)]}, {"claims": [], "older_ms": NOON_MS}):
        assert capped(caps, now_ms=over_ms - 1, **given) == "cool_down"
        assert capped(caps, now_ms=over_ms, **given) is None


def test_cool_down_is_of_one_offer() -> None:
    """Another offer of the brand, or a brand with an offer of the same name, cools nothing."""
    claims = [claim(NOON_MS, "bagel"), claim(NOON_MS, brand="tea")]

    assert capped(OfferCaps(), claims, NOON_MS + 1) is None


@pytest.mark.parametrize(
    ("caps", "more", "expected"),
    [
        (OfferCaps(per_resident_day=2, cool_down_s=0), {}, "cap_resident_day"),
        (OfferCaps(per_resident_day=3, cool_down_s=0), {}, None),
        (OfferCaps(per_resident_total=2, cool_down_s=0), {}, "cap_resident_total"),
        (OfferCaps(per_resident_total=5, cool_down_s=0), {"made_ever": 5}, "cap_resident_total"),
        (OfferCaps(per_resident_total=5, cool_down_s=0), {"made_ever": 4}, None),
        (FREE, {"brand_per_day": 3}, "cap_brand_day"),
        (FREE, {"brand_per_day": 4}, None),
        (OfferCaps(per_resident_day=0, cool_down_s=0), {}, "cap_resident_day"),
        (OfferCaps(2, 2, 0), {"brand_per_day": 1}, "cap_resident_day"),
    ],
)
def test_caps_of_one_resident(caps: OfferCaps, more: dict[str, Any], expected: str | None) -> None:
    """Twice today the cup and once a bagel: the first cap that is reached is told."""
    claims = [claim(NOON_MS - 2), claim(NOON_MS - 1), claim(NOON_MS - 1, "bagel")]
    made_ever = more.pop("made_ever", 2)

    assert capped(caps, claims, NOON_MS, made_ever=made_ever, **more) == expected


DAYS: Final = [
    # zone, made, now, same day of the resident
    ("UTC", "2026-09-22T00:00", "2026-09-22T23:59:59.999", True),
    ("UTC", "2026-09-21T23:59:59.999", "2026-09-22T00:00", False),
    ("Europe/Helsinki", "2026-09-21T21:00", "2026-09-22T20:59:59.999", True),
    ("Europe/Helsinki", "2026-09-21T20:59:59.999", "2026-09-21T21:00", False),
    # the day of 23 hours, and that of 25
    ("Europe/Helsinki", "2026-03-28T22:00", "2026-03-29T20:59:59.999", True),
    ("Europe/Helsinki", "2026-03-28T22:00", "2026-03-29T21:00", False),
    ("Europe/Helsinki", "2026-10-24T21:00", "2026-10-25T21:59:59.999", True),
    ("Europe/Helsinki", "2026-10-24T21:00", "2026-10-25T22:00", False),
    # a day that begins at one o'clock, and one with two midnights
    ("America/Santiago", "2026-09-06T03:59:59.999", "2026-09-06T04:00", False),
    ("America/Santiago", "2026-09-06T04:00", "2026-09-07T02:59:59.999", True),
    ("America/Havana", "2026-11-01T04:00", "2026-11-01T05:00", True),
    ("America/Havana", "2026-11-01T03:59:59.999", "2026-11-01T05:00", False),
]


@pytest.mark.parametrize(("zone", "made", "now", "same"), DAYS)
def test_a_day_is_the_residents_own(zone: str, made: str, now: str, same: bool) -> None:
    """Caps and attention of a day count from the first instant of the local date."""
    claims, local = [claim(ms(made))], clock_of(zone).at(ms(now))
    caps = OfferCaps(per_resident_day=1, cool_down_s=0)

    assert capped(caps, claims, ms(now), zone=zone) == ("cap_resident_day" if same else None)
    assert attention_refusal(claims, Attention(1, 9), local) == ("attention_day" if same else None)
    assert capped(FREE, claims, ms(now), zone=zone, brand_per_day=1) == (
        "cap_brand_day" if same else None
    )


WEEKS: Final = [
    # zone, made, now, within seven days of the resident, today included
    ("UTC", "2026-09-16T00:00", "2026-09-22T23:59:59.999", True),
    ("UTC", "2026-09-15T23:59:59.999", "2026-09-22T00:00", False),
    ("Europe/Helsinki", "2026-03-22T22:00", "2026-03-29T20:59:59.999", True),
    ("Europe/Helsinki", "2026-03-22T21:59:59.999", "2026-03-28T22:00", False),
    ("Europe/Helsinki", "2026-10-18T21:00", "2026-10-25T21:59:59.999", True),
    ("Europe/Helsinki", "2026-10-18T20:59:59.999", "2026-10-25T21:59:59.999", False),
    ("America/Havana", "2026-10-26T04:00", "2026-11-02T04:59:59.999", True),
    ("America/Havana", "2026-10-26T04:00", "2026-11-02T05:00", False),
]


@pytest.mark.parametrize(("zone", "made", "now", "within"), WEEKS)
def test_a_week_is_seven_rolling_days(zone: str, made: str, now: str, within: bool) -> None:
    """A claim counts against the week until the seventh local midnight after it."""
    refused = attention_refusal([claim(ms(made))], Attention(9, 1), clock_of(zone).at(ms(now)))

    assert refused == ("attention_week" if within else None)


def test_attention_is_the_residents_choice() -> None:
    """What they chose beats the city's default, each number on its own; zero means none at all."""
    city = Attention(1, 3)
    local = clock_of("UTC").at(NOON_MS)

    assert attention_of(Limits(), city) == Attention(1, 3)
    assert attention_of(Limits(per_day=5), city) == Attention(5, 3)
    assert attention_of(Limits(per_week=0), city) == Attention(1, 0)
    assert attention_refusal([], Attention(0, 3), local) == "attention_day"
    assert attention_refusal([], Attention(1, 0), local) == "attention_week"
    assert attention_refusal([], Attention(1, 1), local) is None


def test_budgets_count_what_is_reserved_and_what_is_durable() -> None:
    """A budget is spent by either, in all and on the day, and comes back with a release."""
    book = OfferBook()
    cup = offer(budget=Budget(total=3, per_day=2))

    def spent(day: int) -> str | None:
        return budget_refusal(cup, book, day)

    assert spent(10) is None
    book.reserve("free-cup", 10)
    book.set_counts([OfferCount("free-cup", None, 1), OfferCount("free-cup", 10, 1)])
    assert [spent(10), spent(11)] == ["budget_day", None]
    book.reserve("free-cup", 11)
    assert spent(11) == "budget_total"
    book.reserve("free-cup", 10, -1)
    assert [spent(10), spent(11)] == [None, None]
    assert [book.claims("free-cup", d) for d in (None, 10, 11, 12)] == [2, 1, 1, 0]


@pytest.mark.parametrize("budget", [Budget(total=0), Budget(per_day=0)])
def test_a_budget_of_nothing_is_spent(budget: Budget) -> None:
    """Zero is a budget, not the absence of one."""
    assert budget_refusal(offer(budget=budget), OfferBook(), 0) is not None
    assert budget_refusal(offer(), OfferBook(), 0) is None


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        ("Pacific/Kiritimati", "2026-09-22T09:59:59.999", "2026-09-22T10:00"),
        ("America/New_York", "2026-09-22T03:59:59.999", "2026-09-22T04:00"),
        ("America/New_York", "2026-11-02T04:59:59.999", "2026-11-02T05:00"),
    ],
)
def test_the_day_of_a_budget_is_the_offers_own(zone: str, before: str, after: str) -> None:
    """It turns at midnight of the offer's zone, wherever the resident is."""
    cup = offer(timezone=zone)

    assert offer_day(cup, ms(after)) == offer_day(cup, ms(before)) + 1


def test_rank_is_follow_then_priority_then_id() -> None:
    """Money never outranks what the resident follows, and ties go by id."""
    offers = [
        offer("a", brand="tea", priority=5),
        offer("b", brand="tea", priority=9),
        offer("d", brand="beans", priority=0),
        offer("c", brand="beans", priority=0),
        offer("e", brand="tea", priority=9),
    ]

    def ranked(follows: tuple[str, ...]) -> str:
        return "".join(o.id for o in sorted(offers, key=lambda o: rank(o, follows)))

    assert ranked(()) == "beacd"
    assert ranked(("beans",)) == "cdbea"
    assert ranked(("beans", "tea")) == "beacd"


def test_a_book_gives_what_waits_at_a_fence() -> None:
    """By fence id or by tag of the same brand, by trigger, by id; edits count at once."""
    book = OfferBook()
    cafe, stall = place(tags=("coffee", "x")), place("stall", brand="tea", tags=("coffee",))
    dwell = offer("dwell", trigger="dwell", dwell_s=60)
    for each in (
        offer("z"),
        offer("a", tags=("coffee",)),
        offer("b", tags=("milk",)),
        dwell,
        offer("draft", trigger="dwell", dwell_s=90, status="draft"),
    ):
        book.put_offer(each)

    def waiting(trigger: str) -> list[str]:
        return [o.id for o in book.waiting(cafe, trigger)]

    assert waiting("enter") == ["a", "z"]
    assert waiting("dwell") == ["draft", "dwell"]
    assert list(book.dwells_s(cafe)) == [60]
    assert book.waiting(stall, "enter") == ()
    book.put_offer(msgspec.structs.replace(dwell, dwell_s=30))
    book.drop_offer("z")
    book.drop_offer("unknown")
    assert (waiting("enter"), list(book.dwells_s(cafe))) == (["a"], [30])
    book.put_offer(offer("a", brand="tea", tags=("coffee",)))
    assert waiting("enter") == []
    assert isinstance(book.waiting(stall, "enter")[0], Offer)
