"""Restarts that lose no ping, TLS with a certificate that is renewed, and the log as JSON."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from engine.web.listening import Certificate, handed_over, tell_starter
from tests.running import OPERATOR, Service, launch, remove, serving, until

KEEPING: Final = 8
"""Clients that keep their connection."""
KNOCKING: Final = 4
"""Clients that connect anew for every ping."""
PINGS_BETWEEN: Final = 200
"""Answered before, between and after what is done to the service."""


@dataclass(slots=True)
class Load:
    """What clients were answered."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    async def more(self) -> None:
        """Wait until many more pings were answered."""
        enough = self.answered + PINGS_BETWEEN
        await until(lambda: self.answered >= enough or self.failed, within_s=30)

    async def ask(self, session: aiohttp.ClientSession, resident: str) -> None:
        """Post pings one after the other, for ever."""
        while True:
            began_s = time.monotonic()
            ping = {"resident": resident, "at_ms": time.time_ns() // 1_000_000}
            ping |= {"lon": 24.94, "lat": 60.17, "accuracy_m": 5.0}
            try:
                async with session.post("/v1/pings", json=ping) as answer:
                    body = await answer.json()
                if answer.status != 200 or body["status"] not in ("decided", "late", "duplicate"):
                    self.failed.append(f"{answer.status}: {body}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.failed.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            self.answered += 1


@contextlib.asynccontextmanager
async def loading(url: str, residents: list[str]) -> AsyncIterator[Load]:
    """Clients of both kinds that ask until the block ends."""
    load = Load()
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for number in range(KEEPING + KNOCKING):
            connector = aiohttp.TCPConnector(force_close=number >= KEEPING)
            session = aiohttp.ClientSession(url, headers=headers, connector=connector)
            await stack.enter_async_context(session)
            tasks.append(asyncio.create_task(load.ask(session, residents[number])))
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that outlives the services to which it is handed."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        held.listen(1_024)
        yield held


async def register(service: Service) -> list[str]:
    """Residents who have opted in; their ids."""
    residents = [f"r-{number}" for number in range(KEEPING + KNOCKING)]
    for resident in residents:
        await service.must("POST", "/v1/residents", {"resident": resident})
        path = f"/v1/residents/{resident}/preferences/marketing"
        await service.must("PUT", path, {"opted_in": True})
    return residents


async def test_a_second_process_takes_over_and_no_ping_is_lost(
    tmp_path: Path, database_url: str, listening: socket.socket, measured: list[str]
) -> None:
    """Both on one socket and one database; then the first one is told to stop."""
    first = await launch(tmp_path / "first", handed=listening, database_url=database_url)
    second = None
    try:
        await first.ready()
        residents = await register(first)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with loading(url, residents) as load:
            await load.more()
            second = await launch(tmp_path / "second", handed=listening, database_url=database_url)
            await second.ready()
            await load.more()
            first.signal(signal.SIGTERM)
            assert await first.wait() == 0
            await load.more()
        assert load.failed == []
        measured.append(
            f"take-over under load: {load.answered} pings, none lost, "
            f"the slowest {load.slowest_s * 1_000:.0f} ms"
        )
    finally:
        await first.end()
        if second is not None:
            await second.end()


async def test_a_restart_on_the_socket_of_another_loses_no_ping(
    tmp_path: Path, listening: socket.socket, measured: list[str]
) -> None:
    """With the server that comes along: nobody is there for a while, and all wait in line."""
    data = tmp_path / "data"
    try:
        service = await launch(data, handed=listening)
        await service.ready()
        residents = await register(service)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with loading(url, residents) as load:
            await load.more()
            service.signal(signal.SIGTERM)
            assert await service.wait() == 0
            await service.end()
            service = await launch(data, handed=listening)
            await service.ready()
            await load.more()
        assert load.failed == []
        measured.append(
            f"restart under load: {load.answered} pings, none lost, "
            f"the slowest waited {load.slowest_s:.1f} s"
        )
    finally:
        await service.end()
        remove(data)


def test_only_what_is_meant_for_us_is_taken(listening: socket.socket) -> None:
    """Another process's socket is not ours, and several are refused."""
    assert handed_over({}) is None
    assert handed_over({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    for count in ("2", "", "none"):
        with pytest.raises(OSError, match="one listening socket"):
            handed_over({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def test_the_starter_is_told(tmp_path: Path) -> None:
    """By a datagram, if they named a socket; one that is gone does no harm."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as starter:
        starter.bind(path)
        tell_starter({"NOTIFY_SOCKET": path}, "READY=1")
        assert starter.recv(100) == b"READY=1"
    tell_starter({}, "READY=1")
    tell_starter({"NOTIFY_SOCKET": path}, "READY=1")


def certify(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for localhost that vouches for itself, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext"),
            *("subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key)),
            *("-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def shown(url: str, trusted: Path) -> str:
    """The name in the certificate that a service shows, if it is the one trusted."""
    context = ssl.create_default_context(cafile=str(trusted))
    port = int(url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate: Any = writer.get_extra_info("peercert")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    writer.close()
    return str(dict(part[0] for part in certificate["subject"])["commonName"])


async def test_tls_and_a_renewed_certificate(tmp_path: Path, database_url: str) -> None:
    """SIGHUP shows the new one; a broken one is told of, and the one before stays."""
    (old, old_key), (new, new_key) = certify(tmp_path, "old"), certify(tmp_path, "new")
    used, used_key = tmp_path / "used.pem", tmp_path / "used.key"
    used.write_bytes(old.read_bytes())
    used_key.write_bytes(old_key.read_bytes())
    files = {"tls_certificate": used, "tls_key": used_key}
    data = tmp_path / "data"
    async with serving(data, database_url=database_url, log_format="json", **files) as service:
        assert service.url.startswith("https://")
        assert await shown(service.url, old) == "old"
        used.write_bytes(new.read_bytes())
        service.signal(signal.SIGHUP)
        await until(lambda: "the one before stays" in service.stderr, within_s=10)
        assert await shown(service.url, old) == "old"
        used_key.write_bytes(new_key.read_bytes())
        service.signal(signal.SIGHUP)
        await until(lambda: "was read again" in service.stderr, within_s=10)
        assert await shown(service.url, new) == "new"
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown(service.url, old)
    lines = [line for line in service.stderr.splitlines() if line.startswith("{")]
    told = [json.loads(line) for line in lines]
    assert {"error", "info"} <= {line["level"] for line in told}
    assert all(line.keys() >= {"at_ms", "level", "logger", "message"} for line in told)


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    """By its name, before anything is started."""
    (tmp_path / "no.pem").write_text("no certificate")
    for file in ("no.pem", "nowhere.pem"):
        with pytest.raises(OSError, match=file):
            Certificate(str(tmp_path / file), "")
