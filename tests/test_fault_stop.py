"""A graceful stop under load, and starts that are refused."""

import time
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any, Final

import pytest

from tests import fault_audit
from tests.fault_crowd import Crowd
from tests.fault_town import Town
from tests.running import Service, launch, remove, serving, still_there, until

STOP_SECONDS_MAX: Final = 5
CLAIMS: Final = 60
"""Answered before the stop."""


async def stop(service: Service, crowd: Crowd, how: Signals) -> tuple[float, int]:
    """Stop in the middle of the walk; seconds until the process was gone, and its exit code."""
    async with crowd.walking(service):
        await until(lambda: len(crowd.ledger.claims) >= CLAIMS, within_s=20)
        began_s = time.monotonic()
        service.signal(how)
        code = await service.wait()
        return time.monotonic() - began_s, code


@pytest.mark.parametrize("how", [SIGTERM, SIGINT])
async def test_a_stop_answers_what_is_in_flight(
    tmp_path: Path, measured: list[str], how: Signals
) -> None:
    """Every claim that was made was answered, the database ends in order, and the exit is 0."""
    crowd, data = Crowd(Town.of("stopped", residents=60)), tmp_path / "data"
    try:
        async with serving(data, stop_seconds_max=STOP_SECONDS_MAX) as service:
            await crowd.town.register(service)
            processes = service.children()
            took_s, code = await stop(service, crowd, how)
        assert (code, still_there(processes)) == (0, [])
        assert took_s < STOP_SECONDS_MAX
        assert not (data / "database.url").exists()
        said = (data / "postgres.log").read_text(encoding="utf-8")
        assert said.rstrip().endswith("LOG:  database system is shut down")

        async with serving(data) as service:
            books = await fault_audit.read(service)
            assert fault_audit.faults(books, crowd) == []
            assert fault_audit.unread(books, crowd) == {}
        assert "not properly shut down" not in (data / "postgres.log").read_text(encoding="utf-8")
        measured.append(
            f"{how.name} under load: gone in {took_s:.2f} s, {len(crowd.ledger.claims)} claims, "
            f"each answered; {len(crowd.asking)} pings came too late and left no claim"
        )
    finally:
        remove(data)


async def refused_start(data: Path, **settings: Any) -> tuple[int, str]:
    """Start what cannot be started; the exit code and what it said."""
    service = await launch(data, **settings)
    try:
        return await service.wait(), service.stderr
    finally:
        await service.end()


async def test_a_second_start_on_the_same_data_or_port_is_refused(tmp_path: Path) -> None:
    """Each says what is in the way, in one line, and the running one does not notice."""
    data, other = tmp_path / "data", tmp_path / "other"
    try:
        async with serving(data) as service:
            code, said = await refused_start(data)
            assert code == 1
            assert said.count("\n") == 1
            assert f"in use by process {service.pid}" in said

            port = int(service.url.rsplit(":", 1)[1])
            code, said = await refused_start(other, port=port)
            assert code == 1
            assert said.count("\n") == 1
            assert str(port) in said
            assert "in use; stop what listens there, or choose another --port" in said

            assert (await service.must("GET", "/readyz", key=None))["ready"]
            assert (data / "database.url").exists()
    finally:
        remove(data)
        remove(other)


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """One line says what to do, and the database stays as it is."""
    data = tmp_path / "data"
    try:
        async with serving(data) as service, service.database() as database:
            await database.execute(
                "insert into passby_migrations (number, name, checksum) values (9999, 'x', 'x')"
            )
        code, said = await refused_start(data)
        assert code == 1
        assert said.count("\n") == 1
        assert "used by a newer version" in said
    finally:
        remove(data)
