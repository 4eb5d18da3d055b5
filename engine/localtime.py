"""A resident's or a shop's own hours and days, cheap enough for every ping.

Zone arithmetic costs microseconds, and every zone's offset changes on a quarter of an hour at the
earliest, so one reckoning serves a whole quarter.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

QUARTER_MS: Final = 15 * 60_000
_EPOCH: Final = date(1970, 1, 1)


class LocalTime(NamedTuple):
    """What a wall clock and a calendar show."""

    hour_of_week: int
    """0 is Monday 00:00 to 00:59, 167 is Sunday 23:00 to 23:59."""
    day: int
    """Days since 1970-01-01 of the local date."""
    day_start_ms: int
    """The instant at which the local day began, Unix milliseconds."""
    week_start_ms: int
    """The instant at which the sixth local day before it began: seven days with today."""


class LocalClock:
    """Tells the local time of one IANA zone.

    Attributes:
        from_ms, until_ms: the quarter of an hour that was asked for last, its end excluded.
        hour_of_week: in that quarter, as `LocalTime` has it.

    Raises:
        KeyError, ValueError: there is no such zone, or that is no name of one (zoneinfo's own).
    """

    __slots__ = ("_cached", "_zone", "from_ms", "hour_of_week", "until_ms")

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self.from_ms = self.until_ms = 0
        self.hour_of_week = 0
        self._cached = LocalTime(0, 0, 0, 0)

    def at(self, now_ms: int) -> LocalTime:
        """The local time at an instant; hours count as the wall clock shows them, folds twice."""
        if not self.from_ms <= now_ms < self.until_ms:
            quarter_ms = now_ms - now_ms % QUARTER_MS
            self._cached = self._reckon(quarter_ms)
            self.hour_of_week = self._cached.hour_of_week
            self.from_ms, self.until_ms = quarter_ms, quarter_ms + QUARTER_MS
        return self._cached

    def _reckon(self, quarter_ms: int) -> LocalTime:
        local = datetime.fromtimestamp(quarter_ms / 1_000, UTC).astimezone(self._zone)
        today = local.date()
        return LocalTime(
            hour_of_week=local.weekday() * 24 + local.hour,
            day=(today - _EPOCH).days,
            day_start_ms=self._midnight_ms(today),
            week_start_ms=self._midnight_ms(today - timedelta(days=6)),
        )

    def _midnight_ms(self, day: date) -> int:
        return int(datetime.combine(day, time(), self._zone).timestamp()) * 1_000


_clocks: dict[str, LocalClock] = {}


def clock_of(zone: str) -> LocalClock:
    """The one clock of a zone; zones are few, so all of them are kept."""
    clock = _clocks.get(zone)
    if clock is None:
        clock = _clocks[zone] = LocalClock(zone)
    return clock
