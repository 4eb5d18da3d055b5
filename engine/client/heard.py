"""Server-Sent Events as they come in parts: the versions of the settings that devices are told."""

from typing import Final

import msgspec

LINE_BYTES_MAX: Final = 65_536
"""Longest line that is kept; of a longer one the rest is dropped, and it tells nothing."""


class Version(msgspec.Struct, frozen=True):
    """What an event of preferences tells."""

    version: int


class Heard:
    """Takes the bytes of a stream, in whatever parts, and gives the versions told in them."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._name = b""
        self._data = b""

    def feed(self, part: bytes) -> list[int]:
        """The versions of all events that end in this part, in their order."""
        told: list[int] = []
        *lines, rest = part.split(b"\n")
        for line in lines:
            self._add(line)
            whole, self._line = bytes(self._line).removesuffix(b"\r"), bytearray()
            if (version := self._take(whole)) is not None:
                told.append(version)
        self._add(rest)
        return told

    def _add(self, part: bytes) -> None:
        self._line += part[: LINE_BYTES_MAX - len(self._line)]

    def _take(self, line: bytes) -> int | None:
        """A whole line; the version, if it ends an event that tells one."""
        if line:
            field, _, value = line.partition(b":")
            if field == b"event":
                self._name = value.strip()
            elif field == b"data":
                self._data = value.strip()
            return None
        name, data, self._name, self._data = self._name, self._data, b"", b""
        if name != b"preferences":
            return None
        try:
            return msgspec.json.decode(data, type=Version).version
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
