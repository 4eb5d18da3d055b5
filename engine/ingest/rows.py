"""Rows of a file to import, one after the other: GeoJSON in three forms, CSV, and JSON lines.

A row is read without looking at what it means. One that can't be read is told in its place and
spoils no other, but for a FeatureCollection: behind the place where its JSON breaks, nobody can
say where the next Feature begins. Of a file no more is held than one row.
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import ijson
import orjson

Form = Literal["collection", "sequence", "lines", "csv"]

FORMS: Final[dict[str, Form]] = {
    "application/geo+json": "collection",
    "application/geo+json-seq": "sequence",
    "application/json-seq": "sequence",
    "application/x-ndjson": "lines",
    "application/x-ldjson": "lines",
    "application/jsonl": "lines",
    "text/csv": "csv",
}
"""Media type -> form; with any other the file's beginning tells."""

COLUMNS: Final = ("id", "brand", "name", "lon", "lat", "radius_m")
REQUIRED: Final = ("id", "lon", "lat", "radius_m")
ROW_BYTES_MAX: Final = 16 * 1024 * 1024
"""Longest row: a polygon of 100,000 corners has 4 MB."""

DEPTH_MAX: Final = 200
"""Deepest nesting of a FeatureCollection, or a little more."""

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_RECORD: Final = b"\x1e"
_HEAD_BYTES: Final = 64 * 1024


class FileRefused(Exception):
    """Nothing of a file can be used; the text says what would be right.

    Its `code` is `malformed_json`, `not_a_collection`, `bad_header` or `body_too_large`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class RowTooLong(Exception):
    """A row has more than ROW_BYTES_MAX bytes."""


class RowRefused(NamedTuple):
    """A row that was left out."""

    row: int
    """From 1; a header is none."""
    code: str
    path: str
    """Where in the row; empty: the row as a whole."""
    detail: str
    id: str | None = None


class Row(NamedTuple):
    """A row that could be read."""

    number: int
    """From 1; a header is none."""
    value: Any
    """As a JSON decoder gives it."""


def form_of(media_type: str | None, head: bytes) -> Form:
    """Which form a file has, by its media type or else by its beginning.

    Args:
        media_type: perhaps with parameters.
        head: the first 64 KiB or so.
    """
    named = FORMS.get((media_type or "").partition(";")[0].strip().lower())
    if named is not None:
        return named
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(_RECORD):
        return "sequence"
    if not text.startswith((b"{", b"[")):
        return "csv"
    first, feed, _ = text.partition(b"\n")
    if not feed:
        return "lines" if _is_feature(first) else "collection"
    try:
        value = orjson.loads(first)
    except orjson.JSONDecodeError:
        return "collection"
    return "lines" if isinstance(value, dict) and value.get("type") == "Feature" else "collection"


def _is_feature(text: bytes) -> bool:
    """Whether the beginning of a long line is that of a Feature, by the first key that tells."""
    with contextlib.suppress(ijson.JSONError, UnicodeDecodeError, OverflowError, FileRefused):
        for path, event, value in ijson.parse(_Bounded(io.BytesIO(text))):
            if path == "type" and event == "string":
                return bool(value == "Feature")
            if event == "map_key" and not path and value in ("features", "geometry", "properties"):
                return bool(value != "features")
    return False


def read_head(file: BinaryIO) -> bytes:
    """The beginning of a file, which is read again afterwards."""
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


def read_rows(file: BinaryIO, form: Form) -> Iterator[Row | RowRefused]:
    """The rows of a file that can be read twice, in their order.

    Raises:
        FileRefused: while they are read.
    """
    if form == "collection":
        return _collection(file)
    if form == "csv":
        return _csv(file)
    return _texts(_split(file) if form == "sequence" else _lines(file))


class _Bounded:
    """A file of JSON that may be read in parts: neither its rows nor its nesting have no end.

    The parser keeps the path to where it is at each level, so that its memory grows with the
    square of the depth: 80 KB of brackets would take 3 GB.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._taken = self._depth = 0
        self._text = b""
        """Stands for the beginning of a string that does not end in what was read."""

    def read(self, size: int = -1) -> bytes:
        """Some bytes. Raises RowTooLong, or FileRefused where they are nested too deeply."""
        part = self._file.read(size)
        self._taken += len(part)
        if self._taken > ROW_BYTES_MAX + 2 * _HEAD_BYTES:  # it is read in parts
            raise RowTooLong
        self._check_depth(part)
        return part

    def _check_depth(self, part: bytes) -> None:
        """Take away what is in strings, and brackets that match, until the depth is left."""
        bare, quote, text = _STRING.sub(b"", self._text + part).partition(b'"')
        escapes = len(text) - len(text.rstrip(b"\\"))
        self._text = quote + b"\\" * (escapes % 2)
        brackets = bare.translate(_BRACKETS, _NO_BRACKETS)
        for _ in range(DEPTH_MAX):
            before, brackets = brackets, brackets.replace(b"[]", b"")
            if brackets == before:
                break
        self._depth += brackets.count(b"[") - brackets.count(b"]")
        if self._depth > DEPTH_MAX or b"[]" in brackets:
            raise FileRefused("malformed_json", "The JSON is nested too deeply.")

    def row_ends(self) -> None:
        """Count from here."""
        self._taken = 0


def _collection(file: BinaryIO) -> Iterator[Row | RowRefused]:
    """Features of a FeatureCollection."""
    number = 0
    file.seek(_mark_size(file))
    bounded = _Bounded(file)
    try:
        for value in ijson.items(bounded, "features.item", use_float=True):
            number += 1
            bounded.row_ends()
            yield Row(number, value)
        if number == 0:
            file.seek(_mark_size(file))
            kinds = list(ijson.items(_Bounded(file), "type"))
            if kinds != ["FeatureCollection"]:
                raise FileRefused(
                    "not_a_collection", 'Must be {"type": "FeatureCollection", "features": [...]}.'
                )
    except (ijson.JSONError, UnicodeDecodeError, OverflowError):
        where = f"behind Feature {number}" if number else "before its first Feature"
        raise FileRefused(
            "malformed_json", f"The JSON breaks {where}; nothing was written."
        ) from None
    except RowTooLong:
        told = f"More than {ROW_BYTES_MAX} bytes follow Feature {number} without another one"
        raise FileRefused("body_too_large", f"{told}; nothing was written.") from None


def _mark_size(file: BinaryIO) -> int:
    """How long the byte order mark of a file is."""
    file.seek(0)
    return 3 if file.read(3) == b"\xef\xbb\xbf" else 0


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one that is too long."""
    while line := file.readline(ROW_BYTES_MAX + 1):
        if len(line) > ROW_BYTES_MAX and not line.endswith(b"\n"):
            while (rest := file.readline(ROW_BYTES_MAX)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif text := line.strip():
            yield text


def _split(file: BinaryIO) -> Iterator[bytes | None]:
    """Texts of a JSON text sequence (RFC 8142): what stands between record separators."""
    kept, is_long = b"", False
    while part := file.read(_HEAD_BYTES):
        *texts, rest = part.split(_RECORD)
        for text in texts:
            if is_long:
                yield None
            elif whole := (kept + text).strip():
                yield whole
            kept, is_long = b"", False
        if len(kept) + len(rest) > ROW_BYTES_MAX:
            kept, is_long = b"", True
        elif not is_long:
            kept += rest
    if is_long:
        yield None
    elif whole := kept.strip():
        yield whole


def _texts(texts: Iterable[bytes | None]) -> Iterator[Row | RowRefused]:
    """JSON values of texts."""
    for number, text in enumerate(texts, 1):
        if text is None or len(text) > ROW_BYTES_MAX:
            yield _too_long(number)
            continue
        try:
            yield Row(number, orjson.loads(text))
        except orjson.JSONDecodeError:
            yield RowRefused(number, "malformed_json", "", "The row must be JSON text (RFC 8259).")


def _too_long(number: int) -> RowRefused:
    return RowRefused(number, "row_too_long", "", f"A row may have {ROW_BYTES_MAX} bytes at most.")


def _csv(file: BinaryIO) -> Iterator[Row | RowRefused]:
    """Lines of a table (RFC 4180) as Features of circles."""
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        bounded = _BoundedLines(text)
        lines = csv.reader(bounded, strict=True)
        header = _header(lines)
        number = 0
        while True:
            bounded.row_ends()
            try:
                cells = _next(lines)
            except csv.Error:
                number += 1
                yield RowRefused(number, "malformed_csv", "", "The row must be as RFC 4180 says.")
                continue
            except RowTooLong:
                number += 1
                yield _too_long(number)
                continue
            if cells is None:
                return
            if cells:
                number += 1
                yield _circle(number, header, cells)
    finally:
        text.detach()


class _BoundedLines:
    """Lines of a table, whose rows may have several; none is held that is too long."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._taken = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """A line. Raises RowTooLong, behind the line that is too much."""
        line = self._text.readline(ROW_BYTES_MAX)
        if not line:
            raise StopIteration
        self._taken += len(line)
        part = line
        while part and not part.endswith("\n") and len(part) == ROW_BYTES_MAX:
            part = self._text.readline(ROW_BYTES_MAX)
        if part is not line or self._taken > ROW_BYTES_MAX:
            raise RowTooLong
        return line

    def row_ends(self) -> None:
        """Count from here."""
        self._taken = 0


def _next(lines: Iterator[list[str]]) -> list[str] | None:
    return next(lines, None)


def _header(lines: Iterator[list[str]]) -> list[str]:
    """The columns of a table."""
    try:
        header = [name.strip() for name in _next(lines) or ()]
    except (csv.Error, RowTooLong):
        header = []
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown or len(set(header)) < len(header):
        raise FileRefused(
            "bad_header", f"The first line must name the columns {','.join(COLUMNS)}, each once."
        )
    return header


def _circle(number: int, header: list[str], cells: list[str]) -> Row | RowRefused:
    """A line of a table as the Feature that it means."""
    if len(cells) != len(header):
        told = f"Must have {len(header)} cells, as the header has; it has {len(cells)}."
        return RowRefused(number, "wrong_cells", "", told)
    if any("\udc80" <= char <= "\udcff" for cell in cells for char in cell):
        return RowRefused(number, "not_utf8", "", "The file must be UTF-8.")
    given = dict(zip(header, cells, strict=True))
    numbers: dict[str, float] = {}
    for name in ("lon", "lat", "radius_m"):
        try:
            numbers[name] = float(given[name])
        except ValueError:
            known = given["id"] or None
            return RowRefused(number, "not_a_number", name, "Must be a number.", known)
    properties: dict[str, Any] = {"radius_m": numbers["radius_m"]}
    properties |= {name: given[name] for name in ("brand", "name") if given.get(name)}
    geometry = {"type": "Point", "coordinates": [numbers["lon"], numbers["lat"]]}
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    return Row(number, feature | ({"id": given["id"]} if given["id"] else {}))


def column_of(path: str) -> str:
    """The column that a path in a Feature made of a table's line means."""
    named = {"geometry.coordinates[0]": "lon", "geometry.coordinates[1]": "lat"}
    return named.get(path, path.removeprefix("properties."))
