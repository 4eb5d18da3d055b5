"""How a command talks to whoever runs it: exit codes, progress, and flags that many share."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from engine.ingest.rows import RowRefused

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
REJECTED_SHOWN_MAX: Final = 20


class WorkFailed(Exception):
    """The work can't be done; the text says why and what to do."""


def say(text: str) -> None:
    """Tell a person about progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def tell_refused(refused: Sequence[RowRefused], count: int | None = None) -> None:
    """Tell which rows of a file were left out, the first of them; `count`: how many there were."""
    for row in refused[:REJECTED_SHOWN_MAX]:
        place = f"{row.path}: " if row.path else ""
        say(f"row {row.row} left out: {row.code}: {place}{row.detail}")
    more = (len(refused) if count is None else count) - REJECTED_SHOWN_MAX
    if more > 0:
        say(f"... and {more:,} more rows")


def every(seconds: float) -> Callable[[], bool]:
    """A question that is answered yes once in so many seconds."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds:
            return False
        last = now
        return True

    return due


def add_data(parser: argparse.ArgumentParser) -> None:
    """Flags that say where the data is."""
    parser.add_argument("--data", type=Path, help="folder of the database (default .passby)")
    parser.add_argument("--database-url", help="a PostgreSQL to use instead of the embedded one")
