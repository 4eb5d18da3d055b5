"""The body of an import: kept in a file while it comes, so that no memory holds it whole."""

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from aiohttp import web

from engine.config import Config
from engine.ingest.rows import Form, form_of, read_head
from engine.web.body import pieces
from engine.web.problem import Refused

_WRITE_BYTES: Final = 256 * 1024


@dataclass(slots=True)
class Upload:
    """A body that has come whole."""

    file: BinaryIO
    """At its beginning. Has no name on the disk, and is gone when the request is answered."""
    media_type: str | None
    digest: bytes
    """SHA-256 of all of it, opened where it was compressed."""

    async def form(self) -> Form:
        """Which form of rows it has."""
        return form_of(self.media_type, await asyncio.to_thread(read_head, self.file))


@contextlib.asynccontextmanager
async def uploaded(request: web.Request, config: Config) -> AsyncIterator[Upload]:
    """Take a body in.

    Raises:
        Refused: `body_too_large`, `slow_body`, `unreadable_request`, `unsupported_encoding`, or
            `overloaded` when the disk is full.
    """
    length = request.content_length
    if length is not None and length > config.import_bytes_max:
        raise _too_large(config)
    with tempfile.TemporaryFile() as file:
        digest, waiting, taken = hashlib.sha256(), bytearray(), 0
        try:
            async with contextlib.aclosing(pieces(request, config.body_seconds_max)) as parts:
                async for part in parts:
                    taken += len(part)
                    if taken > config.import_bytes_max:
                        raise _too_large(config)
                    waiting += part
                    if len(waiting) >= _WRITE_BYTES:
                        await asyncio.to_thread(_keep, file, digest, bytes(waiting))
                        waiting.clear()
            await asyncio.to_thread(_keep, file, digest, bytes(waiting))
            file.seek(0)
        except ConnectionError:
            raise
        except OSError:
            raise Refused("overloaded", "There is no room for the body here.") from None
        media_type = request.headers.get("Content-Type")
        yield Upload(file, media_type, digest.digest())


def _keep(file: BinaryIO, digest: "hashlib._Hash", part: bytes) -> None:
    """Write a part; in a thread, because a disk may be slow."""
    digest.update(part)
    file.write(part)


def _too_large(config: Config) -> Refused:
    told = f"The body of an import may have {config.import_bytes_max} bytes at most."
    return Refused("body_too_large", told)
