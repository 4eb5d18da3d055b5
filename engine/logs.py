"""What the log looks like: a line of text, or an object of JSON a line.

A log never holds a position or a resident's id; whoever logs sees to that. Here is only the form.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

LEVELS: Final = ("debug", "info", "warning", "error")
LEVEL_FILE: Final = "log_level"
"""In the data folder: a level that is taken over at SIGHUP, and holds until the next one."""

_encode: Final = msgspec.json.Encoder().encode
_log: Final = logging.getLogger(__name__)


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


def set_level_again(data: Path, setting: str) -> None:
    """Take over the level in the data folder's file, or where there is none that of the settings.

    A word that is no level changes nothing, and the log says so.
    """
    file, level = data / LEVEL_FILE, setting
    try:
        if file.exists():
            level = file.read_text(encoding="utf-8").strip().lower()
    except (OSError, UnicodeDecodeError) as error:
        _log.error("%s can't be read (%s); the level before stays", file, type(error).__name__)
        return
    if level not in LEVELS:
        _log.error("%s must hold one of %s; the level before stays", file, ", ".join(LEVELS))
        return
    root, number = logging.getLogger(), logging.getLevelNamesMapping()[level.upper()]
    if number != root.level:
        root.setLevel(min(number, root.level))
        _log.warning("the log level is now %s", level)
        root.setLevel(number)
