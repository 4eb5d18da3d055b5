"""Room on the disk of the database that comes along: waiting for it, and taking little of it."""

import asyncio
import logging
import os
import shutil
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 10_000_000
ROOM_BYTES_MIN: Final = 32 << 20
"""Two segments of the write-ahead log: with less room a server can't recover, however often it is
started."""

_LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)


async def room(folder: Path) -> None:
    """Return when a server can start on a folder's disk; says what to do if it can't yet."""
    if _free_bytes(folder) >= ROOM_BYTES_MIN:
        return
    _log.error(
        "the disk of %s is full: make room there; the database server is started again by itself "
        "as soon as %d MB are free",
        folder,
        ROOM_BYTES_MIN >> 20,
    )
    while _free_bytes(folder) < ROOM_BYTES_MIN:  # noqa: ASYNC110 (a disk wakes nobody)
        await asyncio.sleep(_LOOK_S)


def bound_log(log: Path) -> None:
    """Keep one older log, `.log.1`, and empty this one, which its writer goes on with.

    Where there is no room for the older one, none is kept.
    """
    if log.stat().st_size <= LOG_BYTES_MAX:
        return
    older = log.with_suffix(".log.1")
    try:
        shutil.copyfile(log, older)
        older.chmod(0o600)
    except OSError:
        older.unlink(missing_ok=True)
    os.truncate(log, 0)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
