"""Backups of a real database, put back into others: whole, refused when damaged, and suspended."""

import asyncio
import contextlib
import gzip
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from engine.app import running
from engine.config import Config
from engine.store import backup
from engine.store.backup import BackupRefused, back_up, check, restore, tables_of
from engine.store.migrate import load_migrations, migrate
from tests.conftest import Server
from tests.recordings import lines_of, shared
from tests.running import remove
from tests.running import serving as in_process_of_its_own
from tests.web_town import OPERATOR, Town, offer, serving

ROOT: Final = Path(__file__).resolve().parent.parent
RESIDENTS: Final = [f"r-{n}" for n in range(12)]
NOW_MS: Final = 1_790_000_000_000
BRAND: Final = {"name": "b", "categories": [], "timezone": "UTC"}


@contextlib.asynccontextmanager
async def open_town(url: str, data: Path) -> AsyncIterator[Town]:
    """A service on a database; it lets a resident have many offers."""
    config = Config(
        data=data,
        operator_key=OPERATOR,
        database_url=url,
        attention_per_day=50,
        attention_per_week=50,
    )
    async with running(config, lambda: None) as ctx, serving(ctx) as here:
        yield here


async def pings(here: Town) -> dict[str, Any]:
    """What each resident is answered at the door of the cafe."""
    sent = [here.ping(resident) for resident in RESIDENTS]
    told = await here.must("POST", "/v1/pings", {"pings": sent})
    return {decision["resident"]: decision for decision in told["decisions"]}


def names(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


def decided(answers: dict[str, Any]) -> set[str]:
    """Residents whose pings were used."""
    return {who for who, told in answers.items() if told["status"] == "decided"}


async def live(here: Town) -> dict[str, str]:
    """A town in which all have opted in and got an offer; their codes."""
    await here.brand("cafe")
    await here.must("PUT", "/v1/offers/bun", offer("cafe"))
    for resident in RESIDENTS:
        await here.resident(resident)
    return {who: told["offer"]["code"] for who, told in (await pings(here)).items()}


@pytest.fixture
def other_url(database_server: Server) -> Iterator[str]:
    """A second database, which is empty."""
    with database_server.database(empty=True) as url:
        yield url


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection of our own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def contents(url: str) -> dict[str, list[Any]]:
    """All rows of all tables."""
    async with connected(url) as connection:
        return {
            table: sorted(map(tuple, await connection.fetch(f"select * from {table}")), key=repr)
            for table in tables_of(load_migrations())
        }


async def passby(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """The command in a process of its own: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"} | {f"PASSBY_{n.upper()}": v for n, v in settings.items()},
        cwd=ROOT,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_no_withdrawn_grant_comes_back(
    tmp_path: Path, database_url: str, other_url: str
) -> None:
    """Half of a town withdraws after the backup; after the restore nobody gets anything.

    Then one opts in anew and gets an offer, alone; another one kept the receipts of their "no"; and
    at last the operator confirms all, but who brought that back.
    """
    file = tmp_path / "town.backup"
    async with open_town(database_url, tmp_path) as here:
        codes = await live(here)
        header = await back_up(database_url, file, now_ms=NOW_MS)
        stopped = {
            resident: await here.must("POST", f"/v1/residents/{resident}/stop")
            for resident in RESIDENTS[::2]
        }
        await here.must("POST", "/v1/redemptions", {"code": codes["r-1"]})

    done = await restore(other_url, file, force=False, now_ms=NOW_MS, say=lambda _: None)
    assert (done.suspended, done.codes_ended, done.deleted) == (12, 12, {})
    assert done.rows == header.rows
    marketing = "/v1/residents/r-0/preferences/marketing"
    async with open_town(other_url, tmp_path) as here:
        answers = await pings(here)
        assert {told["status"] for told in answers.values()} == {"no_consent"}
        redeemed = [
            await here.call("POST", "/v1/redemptions", {"code": code}) for code in codes.values()
        ]
        assert {reply.status for reply in redeemed} == {409}
        blind = await here.call("PUT", marketing, {"opted_in": True})
        lost = await here.call("PUT", marketing, {"opted_in": True}, If_Match='"2"')
        held = await here.call("GET", "/v1/residents/r-0/preferences")
        assert (blind.status, lost.status, held.body["standing"]) == (428, 412, [])
        etag = held.headers["ETag"]
        await here.must("PUT", marketing, {"opted_in": True}, If_Match=etag)
        answers = await pings(here)
        assert decided(answers) == {"r-0"}

        receipts = {"receipts": stopped["r-4"]["receipts"]}
        brought = await here.must("POST", "/v1/residents/r-4/receipts", receipts)
        assert {(one["effect"], one["purpose"]) for one in brought["changes"]} == {
            ("withdraw", "offers")
        }
        held_now = await here.must("GET", "/v1/residents/r-4/preferences")
        assert (held_now["standing"], held_now["suspended"]) == ([], [])

        reconfirm = ("reconfirm", "--because", "Asked by letter.", "--database-url", other_url)
        assert (await passby(*reconfirm))[0] == 1
        unknown = await passby(*reconfirm, "r-1", "nobody")
        assert unknown[:2] == (1, "confirmed 1\n")
        assert "not known: nobody" in unknown[2]
        answers = await pings(here)
        assert {who for who, told in answers.items() if told["status"] == "decided"} == {
            "r-0",
            "r-1",
        }
        assert (await passby(*reconfirm, "--all"))[:2] == (0, "confirmed 9\n")
        answers = await pings(here)
        assert decided(answers) == set(RESIDENTS) - {"r-4"}


async def test_everything_comes_back_as_it_was(
    tmp_path: Path, database_url: str, other_url: str
) -> None:
    """Row for row, but for what a restore adds; and again into the same database, by force."""
    file = tmp_path / "town.backup"
    async with open_town(database_url, tmp_path) as here:
        await live(here)
    before = await contents(database_url)
    header = await back_up(database_url, file, now_ms=NOW_MS)
    await restore(other_url, file, force=False, now_ms=NOW_MS, say=lambda _: None)
    after = await contents(other_url)

    assert header.rows == {table: len(rows) for table, rows in before.items()}
    assert file.stat().st_mode & 0o777 == 0o600
    window = {"events", "event_batches", "event_window"}
    touched = {"changes", "residents", "consent_records", "claims"} | window
    assert {table for table in before if before[table] != after[table]} == touched
    assert len(after["changes"]) == 1
    assert after["changes"][0][0] > 1_000_000_000
    assert set(before["consent_records"]) < set(after["consent_records"])

    with pytest.raises(BackupRefused, match=r"1 brands, 1 fences.*--force deletes them"):
        await restore(other_url, file, force=False, now_ms=NOW_MS, say=lambda _: None)
    assert await contents(other_url) == after
    done = await restore(other_url, file, force=True, now_ms=NOW_MS + 1, say=lambda _: None)
    again = await contents(other_url)
    assert done.deleted["brands"] == 1
    assert again["changes"][0][0] > after["changes"][0][0]
    moved = {table for table in again if again[table] != after[table]}
    assert moved == {"changes", "consent_records", "claims", "event_window"}
    async with connected(other_url) as connection:
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute("delete from consent_records")


async def test_a_damaged_file_changes_nothing(
    tmp_path: Path, database_url: str, other_url: str
) -> None:
    """Cut short, a bit turned, a line gone, the packing broken, or something else altogether."""
    file, bad = tmp_path / "town.backup", tmp_path / "bad.backup"
    async with open_town(database_url, tmp_path) as here:
        await here.brand("cafe")
    await back_up(database_url, file, now_ms=NOW_MS)
    packed, lines = file.read_bytes(), gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    header = json.loads(lines[0])
    newer = {**header, "migrations": [*header["migrations"], "0" * 64]}
    other = {**header, "migrations": ["0" * 64]}
    middle = len(lines) // 2
    damages = {
        "damaged": [
            packed[:-200],
            packed[:100] + bytes([packed[100] ^ 1]) + packed[101:],
            gzip.compress(b"".join(lines[:-1])),
            gzip.compress(b"".join(lines[:middle] + lines[middle + 1 :])),
            gzip.compress(b"".join(lines).replace(b"cafe", b"cafu")),
            b"hello",
            b"",
            gzip.compress(b"hello\n"),
        ],
        "newer version": [gzip.compress(b'{"passby_backup": 2}\n')],
        "this code knows": [gzip.compress(json.dumps(newer).encode() + b"\n")],
        "another code": [gzip.compress(json.dumps(other).encode() + b"\n")],
    }
    for told, variants in damages.items():
        for variant in variants:
            bad.write_bytes(variant)
            with pytest.raises(BackupRefused, match=told):
                await restore(other_url, bad, force=True, now_ms=NOW_MS, say=lambda _: None)
    async with connected(other_url) as connection:
        assert await connection.fetchval("select to_regclass('brands')") is None
    assert check(file).rows["brands"] == 1


async def test_a_backup_is_of_one_instant(
    tmp_path: Path, database_url: str, other_url: str
) -> None:
    """What is written while it is made is in it whole or not at all."""
    file = tmp_path / "town.backup"
    async with open_town(database_url, tmp_path) as here:
        writing = asyncio.create_task(_write_until_cancelled(here))
        await here.brand("first")
        header = await back_up(database_url, file, now_ms=NOW_MS)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
    await restore(other_url, file, force=False, now_ms=NOW_MS, say=lambda _: None)
    found = await contents(other_url)

    assert header.rows["residents"] == len(found["residents"])
    assert {row[0] for row in found["residents"]} == {row[0] for row in found["consent_records"]}


async def _write_until_cancelled(here: Town) -> None:
    for number in range(100_000):
        await here.must(
            "PUT", f"/v1/brands/b{number}", {"name": "b", "categories": [], "timezone": "UTC"}
        )


async def test_an_older_backup_is_brought_up_to_date(
    tmp_path: Path, empty_database_url: str, other_url: str
) -> None:
    """Into a new database; one that is ahead of the backup is refused."""
    file = tmp_path / "old.backup"
    known = load_migrations()
    async with connected(empty_database_url) as connection:
        await migrate(connection, known[:1])
        await connection.execute("insert into brands values ('b', '{}', 1)")
    header = await back_up(empty_database_url, file, now_ms=NOW_MS)
    assert len(header.migrations) == 1
    await restore(other_url, file, force=False, now_ms=NOW_MS, say=lambda _: None)
    async with connected(other_url) as connection:
        assert await migrate(connection, known) == 0
        assert await connection.fetchval("select count(*) from brands") == 1
    with pytest.raises(BackupRefused, match="into a new one"):
        await restore(other_url, file, force=True, now_ms=NOW_MS, say=lambda _: None)


async def test_what_stands_in_the_way_is_told(tmp_path: Path, empty_database_url: str) -> None:
    """An empty database, a file that is there, a service that runs, a server that does not."""
    file = tmp_path / "town.backup"
    with pytest.raises(BackupRefused, match="nothing to back up"):
        await back_up(empty_database_url, file, now_ms=NOW_MS)
    assert names(tmp_path) == set()
    async with open_town(empty_database_url, tmp_path / "data"):
        await back_up(empty_database_url, file, now_ms=NOW_MS)
        with pytest.raises(BackupRefused, match="there already"):
            await back_up(empty_database_url, file, now_ms=NOW_MS)
        with pytest.raises(BackupRefused, match="a service uses the database"):
            await restore(empty_database_url, file, force=True, now_ms=NOW_MS, say=lambda _: None)
    assert names(tmp_path) == {"data", "town.backup"}


async def test_residents_are_suspended_in_slices(
    tmp_path: Path, database_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, however many go at once."""
    file = tmp_path / "town.backup"
    async with open_town(database_url, tmp_path) as here:
        await live(here)
    await back_up(database_url, file, now_ms=NOW_MS)
    monkeypatch.setattr(backup, "RESIDENTS_AT_ONCE", 5)
    done = await restore(other_url, file, force=False, now_ms=NOW_MS, say=lambda _: None)

    assert done.suspended == 12
    async with connected(other_url) as connection:
        assert await connection.fetchval("select min(version) from residents") > 100_000


async def test_the_commands_on_the_servers_that_come_along(tmp_path: Path) -> None:
    """Back up a running service, then restore into a new data folder, and look."""
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "town.backup"
    try:
        async with in_process_of_its_own(old) as service:
            await service.must(
                "PUT", "/v1/brands/b", {"name": "b", "categories": [], "timezone": "UTC"}
            )
            code, out, err = await passby("backup", str(file), "--data", str(old))
            assert (code, err) == (0, "")
            assert "brands               1\n" in out
            code, out, err = await passby("restore", str(file), "--data", str(old))
            assert code == 1
            assert "stop it first" in err
        code, out, err = await passby("backup", "--check", "--json", str(file))
        assert (code, json.loads(out)["rows"]["brands"]) == (0, 1)
        code, out, err = await passby("restore", str(file), "--data", str(new))
        assert code == 0, err
        assert "every grant of 0 residents is suspended" in err
        async with in_process_of_its_own(new) as service:
            assert (await service.must("GET", "/readyz", key=None))["ready"]
            found = await service.call("GET", "/v1/brands/b")
            assert found.status in (200, 405)
    finally:
        remove(old)
        remove(new)


async def test_real_places_and_tracks_come_back(
    tmp_path: Path, database_url: str, other_url: str, measured: list[str]
) -> None:
    """Chicago's places and some hours of its shuttles: the export is the same to the byte, and once
    all are confirmed, the rest of their way is decided on as if nothing had been restored.

    Those who were inside enter again: while nothing of theirs was granted, that was forgotten.
    """
    file, places = tmp_path / "chicago.backup", shared("fences_chicago.geojson.gz").read_bytes()
    track = recent(lines_of(shared("pings_chicago_shuttle.jsonl.gz"))[:3_000])
    before, after = track[:1_000], track[1_000:]
    async with open_town(database_url, tmp_path) as here:
        await here.brand("city")
        gzipped = {"Authorization": f"Bearer {OPERATOR}", "Content-Encoding": "gzip"}
        path = "/v1/fences/import?brand=city"
        async with here.session.post(path, data=places, headers=gzipped) as answer:
            assert (await answer.json())["created"] > 1_500
        for resident in sorted({p["resident"] for p in track}):
            await here.resident(resident)
        await answered(here, before)
        exported = await export(here)
        header = await back_up(database_url, file, now_ms=NOW_MS)
        wanted = await answered(here, after)

    done = await restore(other_url, file, force=False, now_ms=NOW_MS, say=lambda _: None)
    async with open_town(other_url, tmp_path) as here:
        assert await export(here) == exported
        assert {told["status"] for told in await answered(here, after)} == {"no_consent"}
        reconfirm = ("reconfirm", "--all", "--because", "A test.", "--database-url", other_url)
        assert (await passby(*reconfirm))[::2] == (0, "")
        got = await answered(here, after)

    assert [(one["decision"], one["status"]) for one in got] == [
        (one["decision"], one["status"]) for one in wanted
    ]
    enters = sum(told["kind"] == "enter" for one in got for told in one["events"])
    assert enters > 20
    measured.append(
        f"backup and restore of real data: {done.rows['fences']:,} fences, {done.suspended} "
        f"residents, {sum(header.rows.values()):,} rows, "
        f"{file.stat().st_size / 1e6:.1f} MB"
    )


def recent(lines: list[bytes]) -> list[dict[str, Any]]:
    """Recorded pings as if the last of them was taken just now, each with an id."""
    taken = [json.loads(line) for line in lines]
    later_ms = int(time.time() * 1_000) - taken[-1]["at_ms"]
    return [{**one, "at_ms": one["at_ms"] + later_ms, "id": str(n)} for n, one in enumerate(taken)]


async def answered(here: Town, sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The decisions of pings."""
    told = await here.must("POST", "/v1/pings", {"pings": sent})
    decisions: list[dict[str, Any]] = told["decisions"]
    return decisions


async def export(here: Town) -> bytes:
    """All that is the city's."""
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with here.session.get("/v1/brands/city/export", headers=headers) as answer:
        return await answer.read()
