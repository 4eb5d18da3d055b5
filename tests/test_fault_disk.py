"""A full disk: what can't be made durable is refused, and all goes on once there is room again."""

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from engine.app import OPERATOR_KEY_FILE, _kept_key
from engine.cli import main
from engine.client import choices, kept, outbox
from engine.client.client import Client
from engine.ping import Ping
from engine.store.backup import BackupRefused, back_up
from engine.store.cluster import Cluster, write_private
from engine.store.postgres import PostgresStore
from engine.store.room import LOG_BYTES_MAX, bound_log
from tests import fault_audit
from tests.fault_crowd import Crowd, Ledger
from tests.fault_disk import SmallDisk, small_disk
from tests.fault_town import Town, opt
from tests.running import Service, remove, serving, until

DISK_MB = 160
FULL_AT = (150, 300)
"""Claims answered when the disk is filled, and filled once more."""
REFUSED = 40
"""Pings refused before there is room again."""
RECOVERY_S_MAX = 20.0


async def resumed(ledger: Ledger) -> float:
    """Wait until claims are made again; seconds."""
    claims = len(ledger.claims)
    return await until(lambda: len(ledger.claims) > claims + 20, within_s=RECOVERY_S_MAX)


async def refuse_preferences(service: Service, resident: str) -> set[tuple[int, bool]]:
    """Say on and off until it is not acknowledged; what may hold then, as `standing` tells it.

    That is what was acknowledged last; or what was refused, if it was kept and there was no room
    for the process to say that it acts on it.
    """
    version, wanted = 1, True
    for _ in range(300):
        path = f"/v1/residents/{resident}/preferences/marketing"
        wanted = not wanted
        reply = await service.call(
            "PUT", path, {"opted_in": wanted}, headers={"If-Match": f'"{version}"'}
        )
        if reply.status == 503:
            assert reply.code == "not_in_force", reply
            assert "Retry-After" in reply.headers
            return {(version, not wanted), (version + 1, wanted)}
        assert reply.status == 200, reply
        version = reply.body["version"]
    raise AssertionError("the disk is full and preferences are kept nevertheless")


async def standing(service: Service, resident: str) -> tuple[int, bool]:
    """A resident's version, and whether anything is granted."""
    told = await service.must("GET", f"/v1/residents/{resident}/preferences")
    return told["version"], bool(told["standing"])


async def no_room_for_rows(
    service: Service, disk: SmallDisk, crowd: Crowd, chooser: str, measured: list[str]
) -> None:
    """The first way in which a disk is full: the server stands and can't make a table larger."""
    ledger = crowd.ledger
    await until(lambda: len(ledger.claims) >= FULL_AT[0], within_s=20)
    disk.fill()
    said = await refuse_preferences(service, chooser)
    await until(lambda: ledger.refused["not_durable"] >= REFUSED, within_s=20)
    assert "the database's disk is full: make room there" in service.stderr
    assert (await service.call("GET", "/healthz")).status == 200
    disk.make_room()
    took_s = await resumed(ledger)
    measured.append(
        f"disk full: {sum(ledger.refused.values())} pings refused; claims are made again "
        f"{took_s:.2f} s after there is room"
    )
    held = await standing(service, chooser)
    assert held in said
    assert await opt(service, chooser, wanted=False) == held[0] + 1
    assert await standing(service, chooser) == (held[0] + 1, False)


async def no_room_for_the_log(
    service: Service, disk: SmallDisk, crowd: Crowd, measured: list[str]
) -> None:
    """The second way: the write-ahead log can't go on, so that the server dies and can't start."""
    ledger = crowd.ledger
    await until(lambda: len(ledger.claims) >= FULL_AT[1], within_s=20)
    async with service.database() as database:
        disk.fill()
        with contextlib.suppress(asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
            await database.execute("select pg_switch_wal()")
    await until(lambda: "is started again by itself as soon as" in service.stderr, within_s=20)
    await until(lambda: not service.children(), within_s=10)
    claims = len(ledger.claims)
    refused = ledger.refused.total()
    await until(lambda: ledger.refused.total() > refused + REFUSED, within_s=10)
    assert len(ledger.claims) == claims
    assert not service.ended
    disk.make_room()
    took_s = await resumed(ledger)
    measured.append(
        f"disk full for the database's log too, and the database gone: claims are made again "
        f"{took_s:.2f} s after there is room"
    )


async def test_the_disk_is_full_under_load(tmp_path: Path, measured: list[str]) -> None:
    """Nothing is told that is not durable, nothing is lost, and the service resumes by itself."""
    data = tmp_path / "data"
    town = Town.of("full", residents=31, fences=36, budget_total=45, budget_day=50, per_day=36)
    crowd = Crowd(town)
    chooser = crowd.walkers.pop().resident
    home = Cluster(data, user="nobody").home
    try:
        with small_disk(home, megabytes=DISK_MB) as disk:
            async with serving(data) as service:
                await town.register(service)
                async with crowd.walking(service):
                    await no_room_for_rows(service, disk, crowd, chooser, measured)
                    await no_room_for_the_log(service, disk, crowd, measured)
                books = await fault_audit.read(service)
                assert fault_audit.faults(books, crowd) == []
    finally:
        remove(data)


# Our own files. A limit on the size of what this process writes is a disk that any user can fill.


@contextlib.contextmanager
def no_room(*, for_bytes: int = 0) -> Iterator[None]:
    """No file may become longer than so many bytes while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (for_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    """Of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_private_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """Neither a new file nor the one before is harmed, and no draft stays behind."""
    with no_room(), pytest.raises(OSError, match="too large"):
        write_private(tmp_path / "new", "a word")
    write_private(tmp_path / "old", "the word before")
    with no_room(), pytest.raises(OSError, match="too large"):
        write_private(tmp_path / "old", "a word")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "old": "the word before\n"
    }


def test_an_operators_key_is_never_half_a_key(tmp_path: Path) -> None:
    """A start that found no room leaves nothing, and an empty file is no key."""
    path = tmp_path / OPERATOR_KEY_FILE
    with no_room(), pytest.raises(OSError, match="too large"):
        _kept_key(path)
    assert list(tmp_path.iterdir()) == []

    path.write_text("\n")
    made = _kept_key(path)
    assert made.startswith("pb_operator_")
    assert _kept_key(path) == made


def test_a_log_that_finds_no_room_for_its_older_part(tmp_path: Path) -> None:
    """It is emptied all the same: that is what makes room."""
    log = tmp_path / "postgres.log"
    with log.open("wb") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    with no_room():
        bound_log(log)

    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [(log.name, 0)]


def test_a_command_on_a_full_disk_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with the place."""
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        disk.fill()
        assert main(["serve", "--port", "0", "--data", str(disk.folder / "data")]) == 1

    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert str(disk.folder / "data") in told
    assert "make room on that disk" in told
    assert "Traceback" not in told


async def test_a_backup_without_room_leaves_no_file(database_url: str, tmp_path: Path) -> None:
    """It says so, and one made in its place later is whole."""
    store = PostgresStore(database_url)
    await store.open()
    await store.close()
    path = tmp_path / "passby.backup"
    with no_room(for_bytes=200), pytest.raises(BackupRefused, match="make room there"):
        await back_up(database_url, path, now_ms=1)

    assert names(tmp_path) == []
    assert (await back_up(database_url, path, now_ms=1)).rows["secrets"] == 0


async def test_a_clients_file_without_room(tmp_path: Path) -> None:
    """The file before stays, it is told once, sending goes on, and it is written once it can be."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    path = tmp_path / "queue.json"
    before = kept.Kept(outbox.Kept(), choices.Kept(known=True))
    kept.write(path, before)

    async with aiohttp.ClientSession() as session:
        client = Client("http://127.0.0.1:1", "key", file=path, session=session)
        with no_room():
            async with client:
                client.fix(Ping(at_ms=1, lon=0.0, lat=0.0))
                client._keep()
                assert client.not_kept is not None
            assert len(client.outbox) == 1
        assert kept.read(path) == before
        client._keep()

    assert [str(path) in context["message"] for context in told] == [True]
    assert "make room there" in told[0]["message"]
    assert client.not_kept is None
    found = kept.read(path)
    assert found is not None
    assert len(found.fixes.pings) == 1
    assert names(tmp_path) == ["queue.json"]
