"""The limits of the service on one page: those that a setting holds, and those that are fixed."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from engine.commands.terminal import REJECTED_SHOWN_MAX
from engine.config import PREFIX, Config
from engine.consent.sync import GRANT_LIFE_MS, PRECISE_LIFE_MS
from engine.offers.choice import AGE_FOR_OFFER_MAX_MS
from engine.ping import AGE_MAX_MS, CLOCK_AHEAD_MAX_MS
from engine.presence import FIXES_LIFE_MS, PRESENCE_LIFE_MS
from engine.residents import LATE_MAX_MS
from engine.store.embedded import RESTARTS_MAX, STOP_S
from engine.store.recent import RECENT_CLAIMS_MS
from engine.store.room import LOG_BYTES_MAX, ROOM_BYTES_MIN
from engine.web.fences import POSITIONS_MAX
from engine.web.rate import BUCKETS_MAX
from geofences.cells import CELLS_BYTES_MAX
from geofences.corridor import WIDTH_MAX_M
from geofences.transitions import ENTER_ACCURACY_MAX_M, SILENCE_MAX_MS

MADE: Final = (
    "<!-- Made by `passby settings --limits > docs/reference/limits.md`; do not edit. -->\n"
)
_MINUTE: Final = 60_000
_DAY: Final = 86_400_000

FIXED: Final = (
    ("A fix ahead of our clock", f"{CLOCK_AHEAD_MAX_MS // 1_000} s", "is `rejected`"),
    ("A fix behind our clock", f"{AGE_MAX_MS // _DAY} days", "is `rejected`"),
    (
        "A fix late behind a newer one",
        f"{LATE_MAX_MS // 1_000} s",
        "changes nothing; up to then it corrects the presence",
    ),
    ("A fix for which an offer is made", f"{AGE_FOR_OFFER_MAX_MS // 1_000} s old", "`too_old`"),
    ("Accuracy of a fix that enters", f"{ENTER_ACCURACY_MAX_M:.0f} m", "enters nothing"),
    ("Silence of a resident", f"{SILENCE_MAX_MS // _MINUTE} min", "an assumed exit"),
    ("Fixes of a silent resident", f"{FIXES_LIFE_MS // 3_600_000} h", "forgotten"),
    ("Presence of a silent resident", f"{PRESENCE_LIFE_MS // _DAY} days", "ends in silence"),
    ("A grant", f"{GRANT_LIFE_MS // _DAY} days", "expires"),
    ("A grant on precise location", f"{PRECISE_LIFE_MS // _DAY} days", "expires"),
    ("Claims that are held whole in memory", f"{RECENT_CLAIMS_MS // _DAY} days", "only counted"),
    ("Width of a corridor", f"{WIDTH_MAX_M:,.0f} m", "is refused"),
    ("Positions of a covering question", f"{POSITIONS_MAX:,}", "is refused"),
    ("Memory of the cells around fences", f"{CELLS_BYTES_MAX >> 20} MiB", "the oldest make room"),
    ("Keys whose rate is remembered", f"{BUCKETS_MAX:,}", "the fullest are forgotten"),
    ("Log of the embedded database", f"{LOG_BYTES_MAX // 1_000_000} MB, twice", "is emptied"),
    ("Restarts of the embedded database in a row", f"{RESTARTS_MAX}", "it is left alone"),
    (
        "Room on its disk for it to be started again",
        f"{ROOM_BYTES_MIN >> 20} MiB",
        "with less it is waited for",
    ),
    ("Each of three ways to stop it", f"{STOP_S:.0f} s", "the next, harder one"),
    ("Refused rows that a command shows", f"{REJECTED_SHOWN_MAX}", "are counted"),
)
"""What, its limit, and what becomes of more."""


def page() -> str:
    """The reference of the limits, in Markdown."""
    return "\n".join(
        [
            "# Limits\n",
            MADE,
            "Everything that can grow has an end. What a body's fields may hold stands with each "
            "in `GET /openapi.json`.\n",
            "## Those that you can set\n",
            "| variable | default | what it is |",
            "|---|---|---|",
            *_set(),
            "\n## Those that are fixed\n",
            "| what | limit | beyond it |",
            "|---|---|---|",
            *(f"| {what} | {limit} | {beyond} |" for what, limit, beyond in FIXED),
            "",
        ]
    )


def _set() -> Iterator[str]:
    """A line for each setting whose name says that it is a limit."""
    for field in fields(Config):
        if field.name.endswith("_max"):
            name, text = PREFIX + field.name.upper(), field.metadata["text"]
            yield f"| `{name}` | {field.default:,} | {text} |"
