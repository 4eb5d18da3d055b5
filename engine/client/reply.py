"""What a request was answered, and how long it asks to wait."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

WAIT_MAX_MS: Final = 3_600_000
"""The longest wait that an answer may ask for; what asks for more is taken for an error."""

NONE: Final = 0
"""The status where no answer came."""
REFUSED_FOR_GOOD: Final = frozenset({401, 403, 404, 405})
"""The key or the address is wrong: the same request is refused again, however long one waits."""

_LEFT: Final = re.compile(r";\s*r=(\d{1,15})")
_RESET: Final = re.compile(r";\s*t=(\d{1,15})")


class Problem(msgspec.Struct, frozen=True):
    """What a client needs of an RFC 9457 problem; branch on `code`."""

    code: str = ""
    detail: str = ""
    version: int | None = None
    difference: tuple[msgspec.Raw, ...] = ()


class Reply(msgspec.Struct, frozen=True):
    """An answer as it came. Names of headers are in lower case."""

    status: int = NONE
    headers: Mapping[str, str] = {}
    body: bytes = b""

    @property
    def done(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    @property
    def passes(self) -> bool:
        """Whether a refusal may be another answer later: it is none of the request itself."""
        return self.status in (408, 425, 429) or not 400 <= self.status < 500

    def problem(self) -> Problem:
        """The error that it is; without a code where it is not one of Passby's."""
        try:
            return msgspec.json.decode(self.body, type=Problem)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Problem(detail=f"the answer was {self.status or 'none'}")

    def asks_to_wait_ms(self, now_ms: int) -> int:
        """What Retry-After asks for (seconds or a date), or RateLimit when nothing is left."""
        told = self.headers.get("retry-after", "").strip()
        wait_ms = 0
        if told.isascii() and told.isdigit():
            wait_ms = int(told[:15]) * 1_000
        elif told:
            try:
                wait_ms = int(parsedate_to_datetime(told).timestamp() * 1_000) - now_ms
            except (ValueError, OverflowError):
                wait_ms = 0
        if self.left() == 0 and (reset := _RESET.search(self.headers["ratelimit"])):
            wait_ms = max(wait_ms, int(reset[1]) * 1_000)
        return min(max(0, wait_ms), WAIT_MAX_MS)

    def left(self) -> int | None:
        """How many more pings the rate of the key allows now, if the answer says so."""
        found = _LEFT.search(self.headers.get("ratelimit", ""))
        return None if found is None else int(found[1])
