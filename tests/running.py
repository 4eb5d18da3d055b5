"""A real `passby serve` in a process of its own: started, talked to over HTTP, and always ended."""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import msgspec

from engine.store.cluster import Cluster
from engine.web.listening import FIRST_FILE
from tests.clusters import lay

ROOT: Final = Path(__file__).resolve().parent.parent
OPERATOR: Final = "pb_operator_of_the_running_tests"
LISTENING: Final = "listening on "
START_S: Final = 60.0
STOP_S: Final = 30.0
CALL_S: Final = 30.0
LOOK_S: Final = 0.01
"""Between two looks at a condition that is waited for."""

_PR_SET_PDEATHSIG: Final = 1
_prctl: Final = getattr(ctypes.CDLL(None), "prctl", None)


class NotYet(AssertionError):
    """Something that was waited for did not come in time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str:
        """Of the problem that it is."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        assert self.body["status"] == self.status, self
        return str(self.body["code"])


class Service:
    """One running `passby serve`.

    Attributes:
        data: its data folder.
        log: a folder in there with what this process said, in the files `stdout` and `stderr`.
        url: where it listens.
        start_s: from the start of its process to the line that says that it is ready.
    """

    def __init__(self, data: Path, log: Path, process: asyncio.subprocess.Process) -> None:
        self.data = data
        self.log = log
        self.url = ""
        self.start_s = 0.0
        self._process = process
        self._session: aiohttp.ClientSession | None = None

    @property
    def pid(self) -> int:
        """Of the service's own process."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """All that it said so far."""
        return (self.log / "stderr").read_text(encoding="utf-8")

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.returncode is not None

    async def ready(self) -> None:
        """Wait until it listens, and connect."""
        began_s = time.monotonic()

        def address() -> str:
            assert not self.ended, f"it ended with {self._process.returncode}: {self.stderr}"
            lines = [line for line in self.stderr.splitlines() if line.startswith(LISTENING)]
            return lines[-1].removeprefix(LISTENING) if lines else ""

        await until(address, within_s=START_S)
        self.start_s = time.monotonic() - began_s
        self.url = address()
        self._session = aiohttp.ClientSession(
            self.url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=CALL_S),
        )

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = OPERATOR, **more: Any
    ) -> Reply:
        """One request; `body` goes as JSON, `data` as it is.

        Raises:
            aiohttp.ClientError, TimeoutError: no whole answer was read.
        """
        assert self._session is not None
        headers: dict[str, str] = dict(more.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        if body is not None:
            more["data"] = msgspec.json.encode(body)
        async with self._session.request(method, path, headers=headers, **more) as answer:
            raw = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            value = msgspec.json.decode(raw) if raw and is_json else raw.decode()
            return Reply(answer.status, dict(answer.headers), value)

    async def must(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """A request that has to succeed; its answer's body."""
        reply = await self.call(method, path, body, **more)
        assert reply.status < 300, reply
        return reply.body

    @property
    def database_url(self) -> str:
        """Of the embedded database, for a process that wants to join."""
        return (self.data / "database.url").read_text(encoding="utf-8").strip()

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection of our own to the embedded database."""
        connection = await asyncpg.connect(self.database_url, timeout=CALL_S)
        try:
            yield connection
        finally:
            await connection.close()

    def children(self) -> list[int]:
        """Processes of the embedded server: the postmaster first, then its own children."""
        masters = _children(self.pid)
        return [*masters, *(child for master in masters for child in _children(master))]

    def signal(self, number: signal.Signals) -> None:
        """Send the service's own process a signal."""
        self._process.send_signal(number)

    async def wait(self, within_s: float = STOP_S) -> int:
        """Wait until the process is gone; its exit code."""
        return await asyncio.wait_for(self._process.wait(), within_s)

    async def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._process.kill()
        await self.wait()

    async def end(self) -> None:
        """Stop it however it is, and give back the connections."""
        if self._session is not None:
            await self._session.close()
        if self.ended:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            await self.wait()
        except TimeoutError:
            await self.kill()


@contextlib.asynccontextmanager
async def serving(data: Path, **settings: Any) -> AsyncIterator[Service]:
    """A service on a free port that has said that it listens; ended with the block.

    Args:
        data: its data folder; kept, so that it can be started again.
        settings: more settings by their names, such as ``log_level="debug"``.
    """
    service = await launch(data, **settings)
    try:
        await service.ready()
        yield service
    finally:
        await service.end()


async def launch(data: Path, *, handed: socket.socket | None = None, **settings: object) -> Service:
    """Start a service, without waiting until it is ready; the caller has to `end` it.

    Args:
        data: its data folder; if it is new and the service has no other database, it is given a
            cluster, so that the service need not make one.
        handed: a socket that listens, which it is given as systemd would.
        settings: as for `serving`.
    """
    log = _log_folder(data)
    if "database_url" not in settings:
        await lay(data)
    chosen = {"port": 0, "operator_key": OPERATOR} | settings
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PASSBY_")}
    environ = clean | {f"PASSBY_{name.upper()}": str(value) for name, value in chosen.items()}
    parent = os.getpid()

    def end_with_parent() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        if handed is not None:
            os.dup2(handed.fileno(), FIRST_FILE, inheritable=True)

    serve = (sys.executable, "-m", "engine.cli", "serve", "--data", str(data))
    told = ("sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh")
    with (log / "stdout").open("wb") as out, (log / "stderr").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(serve if handed is None else (*told, *serve)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=environ,
            preexec_fn=end_with_parent,
            pass_fds=() if handed is None else (FIRST_FILE,),
        )
    return Service(data, log, process)


def _log_folder(data: Path) -> Path:
    """A new folder for one process's output, named so that a later process's sorts later."""
    folder = data / f"log-{time.monotonic_ns():020}"
    folder.mkdir(parents=True)
    return folder


def remove(data: Path) -> None:
    """Remove a data folder with its database, which for root stands elsewhere."""
    home = Cluster(data, user="nobody").home
    shutil.rmtree(data, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


async def until(met: Callable[[], object], *, within_s: float) -> float:
    """Wait until a condition holds; how long it took, seconds.

    Raises:
        NotYet: it did not in time.
    """

    async def asked() -> object:
        return met()

    return await until_async(asked, within_s=within_s)


async def until_async(met: Callable[[], Awaitable[object]], *, within_s: float) -> float:
    """Wait until a condition that has to be asked for holds; how long it took, seconds."""
    began_s = time.monotonic()
    while not await met():
        if time.monotonic() - began_s > within_s:
            raise NotYet(f"it did not happen within {within_s:g} s")
        await asyncio.sleep(LOOK_S)
    return time.monotonic() - began_s


def still_there(pids: list[int]) -> list[int]:
    """Those of the processes that exist; Linux."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[int]:
    """A process's children, oldest first; Linux."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in tasks.read_text().split()]
    return sorted(found)
