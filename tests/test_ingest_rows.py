"""Rows of files: every form, told by its name or its beginning, in whatever parts it comes."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ingest import rows as reading
from engine.ingest.rows import FileRefused, Form, Row, RowRefused, column_of, form_of, read_rows

VALUES = st.lists(
    st.dictionaries(st.text(max_size=5), st.none() | st.integers(-9, 9) | st.text(max_size=9)),
    max_size=6,
)


def read(data: bytes, form: Form) -> list[Row | RowRefused]:
    return list(read_rows(io.BytesIO(data), form))


def line(value: Any) -> bytes:
    return json.dumps(value).encode()


WRITERS: dict[Form, Callable[[list[Any]], bytes]] = {
    "collection": lambda rows: line({"type": "FeatureCollection", "features": rows}),
    "sequence": lambda rows: b"".join(b"\x1e" + line(row) + b"\n" for row in rows),
    "lines": lambda rows: b"\r\n\n".join(map(line, rows)),
}


@given(VALUES)
def test_what_is_written_is_read(values: list[Any]) -> None:
    for form, write in WRITERS.items():
        assert read(write(values), form) == [Row(n, value) for n, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("kind", "head", "form"),
    [
        ("application/geo+json; charset=utf-8", b"id,lon", "collection"),
        ("Application/Geo+JSON-Seq", b"{}", "sequence"),
        ("application/x-ndjson", b"", "lines"),
        ("text/csv", b"{}", "csv"),
        (None, b" \n\x1e{}", "sequence"),
        (None, b'\xef\xbb\xbf{"type": "Feature"}\n{', "lines"),
        (None, b'{"type": "Feature", "geom', "lines"),
        (None, b'{"id": 1, "geometry": {"type": "Polygon", "coordin', "lines"),
        (None, b'{"bbox": [1], "type": "FeatureCollection", "fea', "collection"),
        (None, b'{"features": [{"type": "Feature", "geom', "collection"),
        (None, b'{"x": ' + b"[" * 60_000, "collection"),
        ("application/json", b'{"type": "FeatureCollection"}', "collection"),
        ("application/x-www-form-urlencoded", b"[1]", "collection"),
        ("", b"id,lon,lat,radius_m", "csv"),
        (None, b"", "csv"),
    ],
)
def test_the_form_is_told(kind: str | None, head: bytes, form: Form) -> None:
    assert form_of(kind, head) == form


@pytest.mark.parametrize("form", ["lines", "sequence"])
def test_a_row_that_is_too_long_spoils_no_other(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies behind it, and in whatever parts the file is read."""
    monkeypatch.setattr(reading, "ROW_BYTES_MAX", 100)
    for head in (1, 7, 64, 1_000):
        monkeypatch.setattr(reading, "_HEAD_BYTES", head)
        data = WRITERS[form]([1, "x" * 300, 2, "y" * 90, "z" * 101])
        told = [row.value if isinstance(row, Row) else row.code for row in read(data, form)]

        assert told == [1, "row_too_long", 2, "y" * 90, "row_too_long"]


@pytest.mark.parametrize("bad", [b"{", b"nan", b'{"a": NaN}', b"\xff", b"[" * 2_000])
def test_a_broken_text_is_told_in_its_place(bad: bytes) -> None:
    for form, data in (
        ("lines", b"1\n" + bad + b"\n2"),
        ("sequence", b"\x1e1\n\x1e" + bad + b"\n\x1e2\n"),
    ):
        one, broken, two = read(data, form)  # type: ignore[arg-type]
        assert (one, two) == (Row(1, 1), Row(3, 2))
        assert isinstance(broken, RowRefused)
        assert (broken.row, broken.code) == (2, "malformed_json")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"features": [1, ', b'{"features": [nan]}', b'{"features": [1]}x', b"\xff"],
)
def test_a_broken_collection_is_no_file(data: bytes) -> None:
    with pytest.raises(FileRefused) as told:
        read(data, "collection")

    assert told.value.code == "malformed_json"


@given(
    st.integers(0, 400), st.sampled_from(['"]"', '"\\""', '"[["', '"\\\\"', "1"]), st.integers(1, 9)
)
def test_a_collection_may_be_nested_only_so_deeply(depth: int, told: str, size: int) -> None:
    """Whatever stands in its strings, and in whatever parts it is read."""
    nested = f"[{told}," * depth + told + "]" * depth
    data = f'{{"type": "FeatureCollection", "features": [{nested}]}}'.encode()
    file = reading._Bounded(io.BytesIO(data))
    try:
        while file.read(size):
            pass
        refused = False
    except FileRefused:
        refused = True

    assert refused == (depth + 2 > reading.DEPTH_MAX)
    if not refused:
        assert file._depth == 0
        assert len(read(data, "collection")) == 1


def test_brackets_cost_no_memory() -> None:
    """The parser alone would take 1 GB for 20,000 of them, and 100 times that for all of these."""
    for deep in (b"[" * 200_000, b'{"a":' * 200_000, b"[" * 200_000 + b"]" * 200_000 + b"]}"):
        with pytest.raises(FileRefused, match="nested too deeply"):
            read(b'{"type":"FeatureCollection","features":[' + deep, "collection")


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b'"' + b"x" * 2_000 + b'"'), (b"1,", b"[" + b"1," * 2_000 + b"1]")],
)
def test_a_feature_that_is_too_long_is_no_file(
    before: bytes, after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ROW_BYTES_MAX", 1_000)
    monkeypatch.setattr(reading, "_HEAD_BYTES", 100)
    data = b'{"type": "FeatureCollection", "features": [' + before + after + b"]}"
    with pytest.raises(FileRefused) as told:
        read(data, "collection")

    assert told.value.code == "body_too_large"


def test_a_line_of_a_table_that_is_too_long_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does a row of many lines; what is too long is never held whole."""
    monkeypatch.setattr(reading, "ROW_BYTES_MAX", 100)
    good = b"y,1,2,3\n"
    for bad in (b"x" * 99 + b"\n", b"x" * 100 + b"\n", b"x" * 450 + b"\n", b'"' + b"x\n" * 60):
        rows = read(b"id,lon,lat,radius_m\n" + good + bad + good, "csv")
        codes = [row.code if isinstance(row, RowRefused) else "good" for row in rows]

        assert codes[:2] == ["good", "wrong_cells" if len(bad) == 100 else "row_too_long"]
        assert codes[-1] == "good"


@pytest.mark.parametrize("data", [b"1", b"[]", b'{"type": "Feature"}', b'{"features": 1}'])
def test_what_is_no_collection_is_told(data: bytes) -> None:
    with pytest.raises(FileRefused) as told:
        read(data, "collection")

    assert told.value.code == "not_a_collection"


def test_a_table_may_be_of_any_make() -> None:
    """Line ends of three kinds, a mark at the beginning, columns in any order, cells in quotes."""
    for end in ("\n", "\r\n"):
        text = end.join(
            ("\ufeffradius_m, lon,lat,id,name", '9,1e0,"2",x,"a ""b"",\nc"', "", "8,3,4,y,")
        )
        first, second = read(text.encode(), "csv")
        assert isinstance(first, Row)
        assert first.value == {
            "type": "Feature",
            "id": "x",
            "geometry": {"type": "Point", "coordinates": [1.0, 2.0]},
            "properties": {"radius_m": 9.0, "name": 'a "b",\nc'},
        }
        assert isinstance(second, Row)
        assert second.value["properties"] == {"radius_m": 8.0}


@pytest.mark.parametrize(
    ("cells", "code", "path"),
    [
        (b"x,1,2", "wrong_cells", ""),
        (b"x,1,2,3,4", "wrong_cells", ""),
        (b"x,1,2,", "not_a_number", "radius_m"),
        (b"x,1;5,2,3", "not_a_number", "lon"),
        (b"\xff,1,2,3", "not_utf8", ""),
        (b'"x"y,1,2,3', "malformed_csv", ""),
    ],
)
def test_a_bad_line_of_a_table_is_told(cells: bytes, code: str, path: str) -> None:
    bad, good = read(b"id,lon,lat,radius_m\n" + cells + b"\ny,1,2,3\n", "csv")

    assert isinstance(bad, RowRefused)
    assert (bad.row, bad.code, bad.path) == (1, code, path)
    assert isinstance(good, Row)
    assert good.number == 2


def test_paths_are_told_as_columns() -> None:
    assert [
        column_of(path)
        for path in (
            "geometry.coordinates[0]",
            "geometry.coordinates[1]",
            "properties.radius_m",
            "id",
        )
    ] == ["lon", "lat", "radius_m", "id"]
