"""`passby import fences`: every form of file, by the same readers as over HTTP."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.commands.terminal import tell_refused
from engine.importing import import_fences, import_residents
from engine.ingest.rows import RowRefused
from engine.replay import InputRefused
from engine.store.audit import AuditFilter, Author
from engine.store.memory import MemoryStore
from engine.store.postgres import PostgresStore
from tests.contract_store import BRAND
from tests.web_town import fence

BY = Author(at_ms=1, key="", name="passby", role="host", action="passby import fences")


def feature(name: str | None, brand: str | None = "cafe", **more: Any) -> dict[str, Any]:
    told = dict(fence("cafe"))
    told["properties"] = {**told["properties"], **more}
    if brand is None:
        del told["properties"]["brand"]
    else:
        told["properties"]["brand"] = brand
    return told if name is None else told | {"id": name}


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    await store.put_brand(BRAND)
    yield store
    await store.close()


def written(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


COLLECTION = json.dumps({"type": "FeatureCollection", "features": [feature("a"), feature("b")]})
PRETTY = json.dumps(json.loads(COLLECTION), indent=1)
LINES = "\n".join(json.dumps(feature(name)) for name in "ab")
SEQUENCE = "".join(f"\x1e{json.dumps(feature(name))}\n" for name in "ab")
TABLE = "id,brand,name,lon,lat,radius_m\na,cafe,cafe,24.9,60.1,9\nb,cafe,cafe,24.9,60.1,9\n"


@pytest.mark.parametrize("text", [COLLECTION, PRETTY, LINES, SEQUENCE, TABLE])
@pytest.mark.parametrize("name", ["fences", "fences.gz"])
async def test_every_form_is_told_by_its_beginning(
    store: MemoryStore, tmp_path: Path, text: str, name: str
) -> None:
    path = written(tmp_path / name, text)
    planned = await import_fences(store, path, rows_max=9, dry_run=True, by=BY)
    nothing = await store.audit(AuditFilter(), limit=9)
    done = await import_fences(store, path, rows_max=9, dry_run=False, by=BY)
    again = await import_fences(store, path, rows_max=9, dry_run=False, by=BY)

    assert planned == done == (2, 0, 0, (), 0)
    assert again == (0, 0, 2, (), 0)
    assert nothing == []
    entries = await store.audit(AuditFilter(), limit=9)
    assert {(e.id, e.author) for e in entries} == {("a", BY), ("b", BY)}


async def test_brands_come_from_a_property(store: MemoryStore, tmp_path: Path) -> None:
    """They are made with the fences, and the text is a tag too."""
    rows = [feature(None, None, kind="Old town"), feature("x", tags=["t"]), feature("y", "none")]
    path = written(tmp_path / "f", "\n".join(map(json.dumps, rows)))
    done = await import_fences(store, path, brand_by="kind", rows_max=9, dry_run=False, by=BY)

    assert done[:3] == (3, 0, 0)
    assert list(store.shared.brands) == ["cafe", "Old_town", "none"]
    (made,) = await store.read_fences(["f1"])
    assert json.loads(made.feature)["properties"]["tags"] == ["Old town"]
    assert made.brand == "Old_town"


async def test_rows_are_rejected_with_their_reason(store: MemoryStore, tmp_path: Path) -> None:
    rows = [feature("a"), feature("b", "none"), feature("c", None), feature("a"), feature(None)]
    path = written(tmp_path / "f", "\n".join(map(json.dumps, rows)) + "\n{")
    done = await import_fences(store, path, brand="cafe", rows_max=9, dry_run=False, by=BY)

    assert done[:3] == (2, 0, 0)
    assert [(row.row, row.code, row.id) for row in done.rejected] == [
        (2, "unknown_brand", "b"),
        (4, "duplicate_id", "a"),
        (5, "id_missing", None),
        (6, "malformed_json", None),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "FeatureCollection"),
        ("[]", "FeatureCollection"),
        (COLLECTION[:-1], "breaks"),
        ("", "columns"),
        ("a,b\n", "columns"),
        (LINES + "\n" + LINES, "at most"),
    ],
)
async def test_a_file_that_cannot_be_used_writes_nothing(
    store: MemoryStore, tmp_path: Path, text: str, told: str
) -> None:
    path = written(tmp_path / "f", text)
    with pytest.raises(InputRefused, match=told):
        await import_fences(store, path, rows_max=3, dry_run=False, by=BY)

    assert store.shared.fences == {}


def test_all_that_was_rejected_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """The first rows by name, and how many more there were, kept or not."""
    kept = [RowRefused(n, "brand_missing", "brand", "None.") for n in range(1, 26)]
    for count in (20, 25, 12_345):
        tell_refused(kept[:count], count)
    lines = capsys.readouterr().err.splitlines()

    assert [line for line in lines if "more" in line] == [
        "... and 5 more rows",
        "... and 12,325 more rows",
    ]
    assert lines[0] == "row 1 left out: brand_missing: brand: None."


def test_the_command(tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A table on stdout, or JSON; 1 when no row was good."""
    path = written(tmp_path / "f.csv.gz", TABLE.replace("24.9", "far", 1))
    flags = ["--database-url", database_url, "--data", str(tmp_path)]
    none = main(["import", "fences", str(path), "--json", *flags])
    told = json.loads(capsys.readouterr().out)
    good = written(tmp_path / "f.json", json.dumps(feature("a", None, kind="cafe")))
    alone = main(["import", "fences", str(good), *flags])
    hint = capsys.readouterr().err.splitlines()[-1]
    done = main(["import", "fences", str(good), "--brand-by", "kind", *flags])
    shown = capsys.readouterr().out
    broken = main(["import", "fences", str(written(tmp_path / "x", "[]")), *flags])
    said = capsys.readouterr().err

    assert (none, alone, done, broken) == (1, 1, 0, 1)
    assert "--brand BRAND, or --brand-by PROPERTY" in hint
    assert (told["created"], told["rejected_count"]) == (0, 2)
    assert {row["code"] for row in told["rejected"]} == {"not_a_number", "unknown_brand"}
    assert shown.split() == ["created", "1", "updated", "0", "unchanged", "0", "rejected", "0"]
    assert "FeatureCollection" in said
    assert "Traceback" not in said


async def test_a_command_is_in_the_audit_log(tmp_path: Path, database_url: str) -> None:
    store = PostgresStore(database_url)
    await store.open()
    await store.put_brand(BRAND)
    path = written(tmp_path / "f", LINES)
    await import_fences(store, path, rows_max=9, dry_run=False, by=BY)
    entries = await store.audit(AuditFilter(), limit=9)
    await store.close()

    assert [(e.id, e.author.action) for e in entries] == [("b", BY.action), ("a", BY.action)]


def resident(name: str, brand: str = "cafe", **more: Any) -> str:
    told = {"marketing": {"opted_in": True, "brands": [brand]}, "proof": PROOF}
    return json.dumps({"resident": name, **told, **more})


PROOF = {"source": "portal", "reference": "form 7"}


async def test_residents_come_in_as_over_http(store: MemoryStore, tmp_path: Path) -> None:
    """With their proof; a file again changes nothing, and progress is told."""
    lines = [
        resident("r1"),
        resident("r2", "none"),
        resident("r3", proof=None),
        "{",
        resident("r1"),
    ]
    path = written(tmp_path / "residents.gz", "\n".join([*lines, '{"resident": "r4"}']))
    rows: list[int] = []

    async def take(*, dry_run: bool) -> Any:
        return await import_residents(
            store,
            path,
            zone="Europe/Helsinki",
            now_ms=1_790_000_000_000,
            rows_max=9,
            dry_run=dry_run,
            by=BY,
            tell=rows.append,
        )

    planned = await take(dry_run=True)
    nothing = await store.read_residents(["r1", "r4"])
    done = await take(dry_run=False)
    again = await take(dry_run=False)
    first, last = await store.read_residents(["r1", "r4"])

    assert nothing == []
    assert planned == done
    assert done[:3] == (2, 0, 0)
    assert again == done._replace(created=0, unchanged=2)
    assert [(row.row, row.code, row.path) for row in done.rejected] == [
        (2, "unknown_brand", "marketing.brands[0]"),
        (3, "missing_field", "proof"),
        (4, "malformed_json", ""),
        (5, "duplicate_id", "id"),
    ]
    assert [record.proof for record in first.records] == [
        json.dumps(PROOF, separators=(",", ":"))
    ] * 2
    assert (last.settings.timezone, last.version, last.records) == ("Europe/Helsinki", 0, ())


async def test_a_name_tells_the_form(store: MemoryStore, tmp_path: Path) -> None:
    """So that a first row that is broken spoils no other."""
    path = written(tmp_path / "f.ndjson.gz", "{broken\n" + LINES)
    done = await import_fences(store, path, rows_max=9, dry_run=False, by=BY)

    assert done[:3] == (2, 0, 0)
    assert [(row.row, row.code) for row in done.rejected] == [(1, "malformed_json")]


def test_the_command_for_residents(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "r.ndjson", resident("r1", "none") + '\n{"resident": "r2"}\n')
    flags = ["--database-url", database_url, "--data", str(tmp_path)]
    planned = main(["import", "residents", str(path), "--dry-run", "--json", *flags])
    told = json.loads(capsys.readouterr().out)
    done = main(["import", "residents", str(path), *flags])
    shown = capsys.readouterr()
    missing = main(["import", "residents", str(tmp_path / "none"), *flags])

    assert (planned, done, missing) == (0, 0, 1)
    assert (told["created"], told["rejected_count"]) == (1, 1)
    assert shown.out.split() == ["created", "1", "updated", "0", "unchanged", "0", "rejected", "1"]
    assert (
        "row 1 left out: unknown_brand: marketing.brands[0]: There is no such brand." in shown.err
    )
