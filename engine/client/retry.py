"""When to try again: exponential back-off with full jitter, and never sooner than asked for.

Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): the wait is drawn evenly
from 0 to the ceiling, so that clients that failed together do not come back together.
"""

from typing import Final

BASE_MS: Final = 1_000
CEILING_MS: Final = 300_000


class Retry:
    """The failures in a row, and the time before which nothing is tried.

    Args:
        base_ms: ceiling of the wait after the first failure; it doubles with each.
        ceiling_ms: highest ceiling.
    """

    def __init__(self, *, base_ms: int = BASE_MS, ceiling_ms: int = CEILING_MS) -> None:
        self._base_ms = base_ms
        self._ceiling_ms = ceiling_ms
        self.failures = 0
        self.not_before_ms = 0

    def failed(self, now_ms: int, *, chance: float, asked_ms: int = 0) -> None:
        """Wait longer than the last time, on average.

        Args:
            now_ms: Unix milliseconds.
            chance: 0 to 1, drawn evenly by the caller.
            asked_ms: what the server asked for; the jitter comes on top of it.
        """
        ceiling_ms = min(self._ceiling_ms, self._base_ms << min(self.failures, 30))
        self.failures += 1
        self.not_before_ms = now_ms + asked_ms + int(chance * ceiling_ms)

    def succeeded(self, now_ms: int, *, asked_ms: int = 0) -> None:
        """Begin anew, after the wait that the answer asked for."""
        self.failures = 0
        self.not_before_ms = now_ms + asked_ms
