"""The PostgreSQL that comes along: a child of this process, started and stopped with it.

The server is a direct child on a loopback port and asks everybody for the password (SCRAM). The
kernel tells it when we are gone (Linux: PR_SET_PDEATHSIG), however we went, and it stops by itself;
when it is gone, we start it again on the same port.

Two locks of the kernel, which end with their holders, keep order: one says which process owns a
data folder, the other is inherited by the server and all its children, so that no second server
can ever be started on a cluster that somebody still has open.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import asyncpg

from engine.store.cluster import ROLE, Cluster, ClusterRefused, write_private
from engine.store.room import bound_log, room

START_S: Final = 120.0
"""How long a server may take to start; long, because it may have a crash to recover from."""

ORPHAN_S: Final = 30.0
"""How long we wait for a server whose parent was killed to be gone."""

STOP_S: Final = 10.0
"""How long a server may take for each of the three ever less gentle ways to stop it."""

RESTARTS_MAX: Final = 8
"""Restarts in a row after which we give up; a server that stood for a minute starts anew."""

STEADY_S: Final = 60.0

_LOOK_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
_prctl: Final = getattr(ctypes.CDLL(None), "prctl", None)

# One call for the whole disk instead of one for each of a thousand files.
_SYNC: Final = "syncfs" if sys.platform == "linux" else "fsync"

# Errors are logged without the statement and without DETAIL, which quote ids.
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "50",
    "shared_buffers": "128MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "recovery_init_sync_method": _SYNC,
    "max_wal_size": "1GB",
    "max_parallel_workers_per_gather": "0",
    "password_encryption": "scram-sha-256",
    "log_destination": "stderr",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
}

_NOT_YET: Final = (
    ConnectionError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
)
"""What a server says, or does not say, that is about to serve."""

_log = logging.getLogger(__name__)


class DataInUse(Exception):
    """Another process owns the data folder; the text names it."""


class ServerFailed(Exception):
    """The server did not start; the text says where to read why."""


class EmbeddedPostgres:
    """One server for one data folder.

    Files in `data`: `database.url` while the server runs (mode 0600, for a process that wants to
    join), `postgres.password` (0600), `postgres.log` and `.log.1` (10 MB each), `passby.lock`; and
    for an ordinary user the cluster itself, `postgres`. Root's stands in /var/lib/passby.

    Args:
        data: the data folder.
        failed: called when the server went again and again, and is not started any more.
        user: who runs the server if we are root.
        shared: where the cluster and the binaries stand if we are root.

    Attributes:
        restarts: how often the server was started again after it had gone.
    """

    def __init__(
        self,
        data: Path,
        *,
        failed: Callable[[], None] = lambda: None,
        user: str = "nobody",
        **shared: Path,
    ) -> None:
        self.cluster = Cluster(data, user=user, **shared)
        self.restarts = 0
        self._failed = failed
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._password = ""
        self._port = 0
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            RuntimeError: it is not running.
        """
        if self._server is None:
            raise RuntimeError("the server is not running")
        return self._server.pid

    @property
    def url(self) -> str:
        """The database's URL, password included; stays the same from start to stop."""
        return self._url(ROLE)

    @property
    def url_file(self) -> Path:
        """Where the URL stands while the server runs."""
        return self.cluster.data / "database.url"

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self.cluster.data / "postgres.log"

    async def start(self) -> str:
        """Start the server and return its URL once it answers; must run in the main thread.

        Costs about a second with a new data folder, else 0.1 s, and 0.5 s more where root copies
        the binaries.

        Raises:
            DataInUse: another process has the data folder.
            ClusterRefused: the cluster on disk can't be used.
            ServerFailed: the server did not start.
        """
        if threading.current_thread() is not threading.main_thread():
            # The kernel's signal comes when the *thread* that forked ends.
            raise RuntimeError("the server must be started from the main thread")
        self._lock = _own(self.cluster.data / "passby.lock")
        try:
            binaries = await asyncio.to_thread(self.cluster.binaries)
            held = await self._hold_cluster()
            try:
                self._password = self.cluster.password() or await self._make(binaries)
            finally:
                os.close(held)
            await self._start_somewhere(binaries)
            write_private(self.url_file, self.url)
        except BaseException:
            await self.stop()
            raise
        self._watcher = asyncio.create_task(self._watch(binaries))
        return self.url

    async def stop(self) -> None:
        """Stop the server, wait until it is gone, and give the data folder free."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        if self._lock is not None:
            self.url_file.unlink(missing_ok=True)
        await self._end_server()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _url(self, database: str) -> str:
        # Encryption would protect nothing on the loopback, and asking for it costs a round trip
        # and a look into the home folder.
        where = f"127.0.0.1:{self._port}/{database}?sslmode=disable"
        return f"postgresql://{ROLE}:{self._password}@{where}"

    async def _make(self, binaries: Path) -> str:
        """Make a new cluster; its password. Whole or not at all: a half one is not kept."""
        fresh, word, password = self.cluster.prepare()
        made = self._spawn(
            [
                *(str(binaries / "initdb"), "-D", str(fresh), "-U", ROLE, f"--pwfile={word}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                f"--sync-method={_SYNC}",
            ]
        )
        await _exited(made)
        if made.returncode != 0:
            raise ServerFailed(f"initdb failed; {self.log_file} says why")
        self.cluster.keep(fresh, word, password)
        return password

    async def _start_somewhere(self, binaries: Path) -> None:
        """Start on a free port; another program may take it before the server does."""
        for last in (False, False, True):
            self._port = _free_port()
            try:
                await self._start_server(binaries)
            except ServerFailed:
                if last:
                    raise
            else:
                return

    async def _start_server(self, binaries: Path) -> None:
        """Start the server on its port and wait until the database answers."""
        held = await self._hold_cluster()
        try:
            # Nobody holds the cluster, so whoever wrote this file is gone, and its pid may by now
            # be that of an innocent process, for whose sake the server would refuse to start.
            self.cluster.postmaster_file.unlink(missing_ok=True)
            settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
            self._server = self._spawn(
                [
                    *(str(binaries / "postgres"), "-D", str(self.cluster.folder)),
                    *("-p", str(self._port), *settings),
                ],
                pass_fds=(held,),
            )
        finally:
            os.close(held)
        try:
            async with asyncio.timeout(START_S):
                await self._answers(self._server)
        except TimeoutError:
            await self._end_server()
            raise ServerFailed(f"the server did not answer within {START_S:.0f} s") from None

    async def _answers(self, server: subprocess.Popen[bytes]) -> None:
        """Return when the database can be used; makes it if the cluster is new."""
        while True:
            if server.poll() is not None:
                self._server = None
                raise ServerFailed(
                    f"the server ended with status {server.returncode}; {self.log_file} says why"
                )
            try:
                await _execute(self._url(ROLE), "select 1")
                return
            except asyncpg.InvalidCatalogNameError:
                await _execute(self._url("postgres"), f"create database {ROLE}")
            except asyncpg.InvalidPasswordError:
                await self._end_server()
                raise ClusterRefused(
                    f"the password in {self.cluster.password_file} is not that of the cluster "
                    f"{self.cluster.folder}"
                ) from None
            except _NOT_YET:
                await asyncio.sleep(_LOOK_S)

    def _spawn(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        """Start a child that runs as the server's user and is told to stop when we are gone."""
        parent = os.getpid()

        def stop_with_parent() -> None:
            # Runs in the child after its user has changed, which would undo this.
            if _prctl is not None:
                _prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches us alone, and we stop it in order
                preexec_fn=stop_with_parent,  # noqa: PLW1509 - it takes no lock
                **self.cluster.process,
                **more,
            )
        finally:
            os.close(log)

    async def _hold_cluster(self) -> int:
        """Lock the cluster; waits for the server of a killed parent, which is on its way out."""
        held = os.open(self.cluster.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline_s = time.monotonic() + ORPHAN_S
        hurried = False
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return held
            except BlockingIOError:
                if not hurried:
                    hurried = self._hurry_orphan()
                if time.monotonic() > deadline_s:
                    os.close(held)
                    raise DataInUse(
                        f"a server still has {self.cluster.folder} open after {ORPHAN_S:.0f} s; "
                        f"see the process named in {self.cluster.postmaster_file}"
                    ) from None
                await asyncio.sleep(_LOOK_S)

    def _hurry_orphan(self) -> bool:
        """Ask the server that has the cluster open to stop, in case nobody did; True if asked."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.cluster.postmaster_file.read_text().split("\n", 1)[0])
            if Path(f"/proc/{pid}/cwd").resolve() == self.cluster.folder:
                os.kill(pid, signal.SIGINT)
                return True
        return False

    async def _watch(self, binaries: Path) -> None:
        """Keep the server running and its log short, until cancelled."""
        failures = 0
        while self._server is not None:
            since_s = time.monotonic()
            while not await _exited(self._server, STEADY_S):
                bound_log(self.log_file)
            if time.monotonic() - since_s >= STEADY_S:
                failures = 0
            _log.error("the database server ended with status %s", self._server.returncode)
            while True:
                await room(self.cluster.folder)
                failures += 1
                if failures > RESTARTS_MAX:
                    _log.critical("the database server is not started again")
                    self._failed()
                    return
                try:
                    await self._start_server(binaries)
                except Exception as error:
                    _log.error("the database server did not start: %s", type(error).__name__)
                    await asyncio.sleep(min(0.1 * 2**failures, 5.0))
                else:
                    self.restarts += 1
                    _log.warning("the database server was started again")
                    break

    async def _end_server(self) -> None:
        """Stop the server: at once but in order, then in haste, then by force."""
        server, self._server = self._server, None
        if server is None:
            return
        for way in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if server.poll() is None:
                server.send_signal(way)
            if await _exited(server, STOP_S):
                return


def _own(path: Path) -> int:
    """Take a data folder for this process; the lock lasts as long as the descriptor returned."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(lock, 20).decode().strip() or "unknown"
        os.close(lock)
        raise DataInUse(
            f"the data folder {path.parent} is in use by process {pid}: stop it, or give this one "
            "another data folder"
        ) from None
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(lock)
        raise OSError(error.errno, error.strerror, str(path)) from None
    return lock


def _free_port() -> int:
    """A loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _execute(url: str, sql: str) -> None:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _exited(process: subprocess.Popen[bytes], timeout_s: float | None = None) -> bool:
    """Wait until a child has ended, and reap it; False if it has not within the time."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        watched = os.pidfd_open(process.pid)
    except ProcessLookupError:
        process.wait()
        return True
    try:
        loop.add_reader(watched, gone.set)
        async with asyncio.timeout(timeout_s):
            await gone.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
        os.close(watched)
    process.wait()
    return True
