"""Compressed bodies: gzip (RFC 1952) and zstd (RFC 8878), opened in small pieces.

Nothing is ever opened whole: a few bytes can stand for gigabytes, so whoever reads counts the
pieces and stops. The window of a zstd frame, which the decoder has to hold, is bounded as RFC 9659
says for HTTP.
"""

import sys
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

from engine.web.problem import Refused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODINGS: Final = ("gzip", "zstd")
PIECE_BYTES_MAX: Final = 64 * 1024
"""Longest piece that comes out at once: about 0.2 ms of work."""

_WINDOW_LOG_MAX: Final = 23
"""8 MiB, the most that RFC 9659 lets a sender ask for."""
_TAKE_BYTES_MAX: Final = 4 * 1024
"""What goes in at once: the rest of it is copied at the end of each member of a body of many."""
_EMPTY_MAX: Final = 16
"""Most members or frames in a row of which nothing comes; they cost time and say nothing."""


class Unreadable(ValueError):
    """The bytes are not in the encoding that the request names."""


class Inflater(Protocol):
    """Opens one body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most PIECE_BYTES_MAX. Raises Unreadable."""

    def end(self) -> None:
        """Refuse a body that stops in the middle. Raises Unreadable."""


class Gzip:
    """Members after members, as gzip allows."""

    def __init__(self) -> None:
        self._one = zlib.decompressobj(wbits=31)
        self._begun = False
        self._empty = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Inflater."""
        for start in range(0, len(data), _TAKE_BYTES_MAX):
            yield from self._open(data[start : start + _TAKE_BYTES_MAX])

    def _open(self, data: bytes) -> Iterator[bytes]:
        self._begun, more = True, True
        while data or more:
            if self._one.eof:
                if not data:
                    return
                self._one = zlib.decompressobj(wbits=31)
            try:
                piece = self._one.decompress(data, PIECE_BYTES_MAX)
            except zlib.error:
                raise Unreadable("no gzip") from None
            self._empty = 0 if piece else self._empty + self._one.eof
            if self._empty > _EMPTY_MAX:
                raise Unreadable("too many empty members")
            data = self._one.unconsumed_tail or self._one.unused_data
            more = len(piece) == PIECE_BYTES_MAX
            if piece:
                yield piece

    def end(self) -> None:
        """See Inflater."""
        if self._begun and not self._one.eof:
            raise Unreadable("gzip that stops in the middle")


class Zstd:
    """Frames after frames, as zstd allows."""

    def __init__(self) -> None:
        self._one = self._decompressor()
        self._begun = False
        self._empty = 0

    @staticmethod
    def _decompressor() -> zstd.ZstdDecompressor:
        limits: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
        return zstd.ZstdDecompressor(options=limits)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Inflater."""
        for start in range(0, len(data), _TAKE_BYTES_MAX):
            yield from self._open(data[start : start + _TAKE_BYTES_MAX])

    def _open(self, data: bytes) -> Iterator[bytes]:
        self._begun = True
        while True:
            if self._one.eof:
                if not data:
                    return
                self._one = self._decompressor()
            try:
                piece = self._one.decompress(data, PIECE_BYTES_MAX)
            except zstd.ZstdError:
                raise Unreadable("no zstd, or of too wide a window") from None
            self._empty = 0 if piece else self._empty + self._one.eof
            if self._empty > _EMPTY_MAX:
                raise Unreadable("too many empty frames")
            if piece:
                yield piece
            if self._one.eof:
                data = self._one.unused_data
            elif self._one.needs_input:
                return
            else:
                data = b""

    def end(self) -> None:
        """See Inflater."""
        if self._begun and not self._one.eof:
            raise Unreadable("zstd that stops in the middle")


def inflater(header: str | None) -> Inflater | None:
    """What opens a body with this Content-Encoding; None: it is not compressed.

    Raises:
        Refused: `unsupported_encoding`.
    """
    named = (header or "identity").strip().lower()
    if named == "identity":
        return None
    if named in ("gzip", "x-gzip"):
        return Gzip()
    if named == "zstd":
        return Zstd()
    raise Refused("unsupported_encoding", headers={"Accept-Encoding": ", ".join(ENCODINGS)})
