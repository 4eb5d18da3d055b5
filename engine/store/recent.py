"""How far back what the store knows of claims is read whole; older ones only count."""

from typing import Final

DAY_MS: Final = 86_400_000

RECENT_CLAIMS_MS: Final = 8 * DAY_MS


def recent_since_ms(now_ms: int) -> int:
    """The instant since which claims are read back whole."""
    return now_ms - RECENT_CLAIMS_MS


def first_open_day(now_ms: int) -> int:
    """The oldest day, since 1970-01-01, that is not over everywhere: UTC-12 is last to end one."""
    return (now_ms - DAY_MS // 2) // DAY_MS
