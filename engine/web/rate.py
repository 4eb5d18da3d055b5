"""How many requests a second a key may make: a token bucket a key, told in RateLimit headers.

Headers after draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy: "key";q=200;w=2` and
`RateLimit: "key";r=17;t=1` (17 left, 1 s until more come).
"""

from dataclasses import dataclass
from typing import Final

BUCKETS_MAX: Final = 100_000
"""Most keys remembered; the fullest bucket says no more than one that was never there."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_ms: int


class RateLimiter:
    """One bucket for each key; it holds `per_second` x `burst_s` and refills at `per_second`.

    Times are of the monotonic clock, so that nobody waits for one that was set back.
    """

    def __init__(self, *, per_second: int, burst_s: int) -> None:
        self._per_ms = per_second / 1_000
        self._full = per_second * max(1, burst_s)
        self._buckets: dict[str, _Bucket] = {}
        self._policy = f'"key";q={self._full};w={max(1, burst_s)}'

    @property
    def on(self) -> bool:
        """Whether there is a limit at all."""
        return self._per_ms > 0

    def take(self, key: str, mono_ms: int, *, tokens: int = 1) -> bool:
        """Take some, into debt if need be; False when the bucket is empty."""
        bucket = self._bucket(key, mono_ms)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= tokens
        return True

    def charge(self, key: str, tokens: int, mono_ms: int) -> None:
        """Take more, once it is known what a request costs; the bucket may go into debt.

        So a batch larger than the bucket is answered, and what follows waits for it.
        """
        self._bucket(key, mono_ms).tokens -= tokens

    def headers(self, key: str, mono_ms: int) -> dict[str, str]:
        """What is left, for the response."""
        tokens = self._bucket(key, mono_ms).tokens
        wait_s = self.wait_s(key, mono_ms)
        left = f'"key";r={max(0, int(tokens))};t={wait_s}'
        return {"RateLimit-Policy": self._policy, "RateLimit": left}

    def wait_s(self, key: str, mono_ms: int) -> int:
        """Whole seconds until one more request is possible, at least 1."""
        missing = 1 - self._bucket(key, mono_ms).tokens
        return max(1, -int(-missing // (self._per_ms * 1_000)))

    def _bucket(self, key: str, mono_ms: int) -> _Bucket:
        """The key's bucket, filled up to now."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= BUCKETS_MAX:
                self._forget_full(mono_ms)
            bucket = self._buckets[key] = _Bucket(self._full, mono_ms)
        elif mono_ms > bucket.at_ms:
            gained = (mono_ms - bucket.at_ms) * self._per_ms
            bucket.tokens, bucket.at_ms = min(self._full, bucket.tokens + gained), mono_ms
        return bucket

    def _forget_full(self, mono_ms: int) -> None:
        """Drop what has filled up again; should nobody have rested, drop all."""
        rested_ms = self._full / self._per_ms
        kept = {k: b for k, b in self._buckets.items() if mono_ms - b.at_ms < rested_ms}
        self._buckets = kept if len(kept) < BUCKETS_MAX else {}
