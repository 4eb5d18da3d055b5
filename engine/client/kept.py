"""The file in which a client keeps what waits, so that it outlives the process."""

import os
from pathlib import Path

import msgspec

from engine.client import choices, outbox


class Kept(msgspec.Struct):
    """What the file holds."""

    fixes: outbox.Kept
    choices: choices.Kept


def read(path: Path) -> Kept | None:
    """What was kept; None where nothing was.

    A file that can't be read may have held an "off", so that it is taken for one: unknown is no.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Kept(outbox.Kept(), choices.Kept(off=True))


def write(path: Path, kept: Kept) -> None:
    """Replace the file, so that at any moment the old one or the new one is there, whole.

    Raises:
        OSError: it could not be written, as on a full disk: the old one stays.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        with open(fresh, "wb", opener=_private) as out:
            out.write(msgspec.json.encode(kept))
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read: it holds positions."""
    return os.open(path, flags, 0o600)
