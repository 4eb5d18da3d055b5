"""One embedded PostgreSQL for the run, and an empty database on it for each test that asks."""

import asyncio
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine.store.cluster import BELONGS_TO, SHARED
from engine.store.embedded import EmbeddedPostgres


class Server:
    """The run's server, and a loop of its own to talk to it from tests that have none."""

    def __init__(self, data: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._embedded = EmbeddedPostgres(data)
        self._numbers = itertools.count(1)
        self.url = self._loop.run_until_complete(self._embedded.start())

    def execute(self, sql: str) -> None:
        """Run one statement as the server's owner."""
        self._loop.run_until_complete(self._execute(sql))

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    def create_database(self) -> str:
        """Make an empty database; its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"create database {name}")
        return name

    def stop(self) -> None:
        """Stop the server and leave nothing behind."""
        self._loop.run_until_complete(self._embedded.stop())
        self._loop.close()
        shutil.rmtree(self._embedded.cluster.home, ignore_errors=True)


@pytest.fixture(scope="session")
def database_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The run's embedded PostgreSQL."""
    server = Server(tmp_path_factory.mktemp("database") / "data")
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def _no_clusters_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the clusters that stand outside of the run's folders, as root's do, after the run."""
    yield
    for note in SHARED.glob(f"*/{BELONGS_TO}") if os.geteuid() == 0 else ():
        if Path(note.read_text().strip()).is_relative_to(tmp_path_factory.getbasetemp()):
            shutil.rmtree(note.parent, ignore_errors=True)


@pytest.fixture
def database_url(database_server: Server) -> Iterator[str]:
    """URL of an empty database, which is dropped after the test, whoever is still connected."""
    name = database_server.create_database()
    yield database_server.url.replace("/passby?", f"/{name}?")
    database_server.execute(f"drop database {name} with (force)")


SIM_SEEDS = 200
"""Worlds that are simulated in every run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have more worlds simulated, or a certain one."""
    parser.addoption(
        "--sim-seeds", type=int, default=SIM_SEEDS, help="simulate so many worlds (tests/sim)"
    )
    parser.addoption("--sim-seed", type=int, help="simulate the world of this seed only")


MEASURED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Have a place for what tests measure, which is printed at the end of the run."""
    config.stash[MEASURED] = []


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[str]:
    """Lines to be printed at the end of the run, for figures that a test measured."""
    return request.config.stash[MEASURED]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was measured."""
    if lines := config.stash[MEASURED]:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
