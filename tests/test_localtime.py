"""Local days and hours of every zone, against a reckoning without the shortcut."""

import random
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

import pytest

from engine.localtime import QUARTER_MS, LocalClock, LocalTime, clock_of

HOUR_MS: Final = 3_600_000
FROM_MS: Final = round(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000
YEARS: Final = 10
EPOCH: Final = date(1970, 1, 1)


def wall(zone: ZoneInfo, now_ms: int) -> datetime:
    """What the clock on the wall shows."""
    return datetime.fromtimestamp(now_ms / 1_000, UTC).astimezone(zone)


def first_instant_ms(zone: ZoneInfo, day: date, near_ms: int) -> int:
    """When a local date begins, by halving an interval in which it does; to the second."""
    before_s, after_s = near_ms // 1_000 - 9 * 86_400, near_ms // 1_000
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if wall(zone, middle_s * 1_000).date() < day:
            before_s = middle_s
        else:
            after_s = middle_s
    return after_s * 1_000


def slowly(zone: ZoneInfo, now_ms: int) -> LocalTime:
    """The local time at an instant, without quarters and without midnights by arithmetic."""
    local = wall(zone, now_ms)
    today = local.date()
    return LocalTime(
        local.weekday() * 24 + local.hour,
        (today - EPOCH).days,
        first_instant_ms(zone, today, now_ms),
        first_instant_ms(zone, today - timedelta(days=6), now_ms),
    )


def turns(zone: ZoneInfo) -> list[int]:
    """The instants of ten years at which the zone's offset changes, Unix milliseconds."""
    found = []
    at_s = FROM_MS // 1_000
    for day in range(YEARS * 366):
        low, high = at_s + day * 86_400, at_s + (day + 1) * 86_400
        if wall(zone, low * 1_000).utcoffset() == wall(zone, high * 1_000).utcoffset():
            continue
        while high - low > 1:
            middle = (low + high) // 2
            same = wall(zone, middle * 1_000).utcoffset() == wall(zone, low * 1_000).utcoffset()
            low, high = (middle, high) if same else (low, middle)
        found.append(high * 1_000)
    return found


ZONES: Final = sorted(available_timezones() - {"localtime", "Factory"})
TURNING: Final = (
    "Europe/Helsinki",
    "America/Santiago",  # its day begins at 01:00 when summer time begins
    "America/Havana",  # midnight comes twice
    "Africa/Cairo",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Scoresbysund",
)


@pytest.mark.parametrize("name", TURNING)
def test_days_and_hours_are_right_around_every_turn(name: str) -> None:
    """Around each change of the offset, a week before and after, local time is the slow one's."""
    zone, clock = ZoneInfo(name), LocalClock(name)
    checked = 0
    for turn_ms in turns(zone)[:6] or [FROM_MS]:
        hours = (*range(-30, 31), *range(-24 * 8, 24 * 8, 23))
        for now_ms in [turn_ms + h * HOUR_MS + d for h in hours for d in (-1, 0, QUARTER_MS - 1)]:
            assert clock.at(now_ms) == slowly(zone, now_ms), now_ms
            checked += 1
    assert checked > 200


def test_no_zone_turns_within_a_quarter() -> None:
    """What one reckoning for a quarter of an hour rests on, for a sample of all zones."""
    for name in random.Random(1).sample(ZONES, 60):
        zone = ZoneInfo(name)
        assert all(turn_ms % QUARTER_MS == 0 for turn_ms in turns(zone)[:4]), name
        assert all(
            (wall(zone, FROM_MS + month * 30 * 24 * HOUR_MS).utcoffset() or timedelta())
            % timedelta(minutes=15)
            == timedelta()
            for month in range(12)
        )


def test_every_zone_has_a_day_and_an_hour() -> None:
    """Random instants in all zones are as the slow reckoning has them."""
    rng = random.Random(2)
    for name in ZONES:
        now_ms = FROM_MS + rng.randrange(YEARS * 365 * 24 * HOUR_MS)
        assert clock_of(name).at(now_ms) == slowly(ZoneInfo(name), now_ms), (name, now_ms)


def test_a_clock_of_an_unknown_zone_is_refused() -> None:
    """There is no default zone to fall into."""
    with pytest.raises(KeyError, match="Utopia"):
        clock_of("Mars/Utopia")
    with pytest.raises(ValueError, match="subdirectories"):
        clock_of("../zone")


def test_one_zone_is_one_clock() -> None:
    """Clocks are shared, and going back in time gives what was."""
    clock = clock_of("Europe/Helsinki")
    now, later = clock.at(FROM_MS), clock.at(FROM_MS + 24 * HOUR_MS)

    assert clock_of("Europe/Helsinki") is clock
    assert clock.at(FROM_MS) == now != later
