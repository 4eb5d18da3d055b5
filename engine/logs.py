"""What the log looks like: a line of text, or an object of JSON a line.

A log never holds a position or a resident's id; whoever logs sees to that. Here is only the form.
"""

import logging
from typing import Final

import msgspec

_encode: Final = msgspec.json.Encoder().encode


class JsonLines(logging.Formatter):
    """One JSON object a line: `at_ms`, `level`, `logger`, `message`, and `trace` after a fault."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, without a line break in it."""
        told: dict[str, object] = {
            "at_ms": int(record.created * 1_000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return _encode(told).decode()


def set_up(level: str, form: str) -> None:
    """Send what is logged to stderr, from a level on, as `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines()
        if form == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # A database that is away is told in one line by whoever asks it, not by a trace at each try.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)
