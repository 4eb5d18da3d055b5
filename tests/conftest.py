"""One embedded PostgreSQL for a process, and a database on it for each test that asks."""

import asyncio
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from engine.store.cluster import BELONGS_TO, SHARED
from engine.store.embedded import EmbeddedPostgres
from engine.store.migrate import load_migrations, migrate
from tests import clusters


class Server:
    """The run's server, and a loop of its own to talk to it from tests that have none.

    Attributes:
        url: of a database that nobody uses.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        self._folder = clusters.quick_folder()
        data = self._folder / "data"
        self._loop.run_until_complete(clusters.lay(data, shared=self._folder))
        self._embedded = EmbeddedPostgres(data, shared=self._folder)
        self.url = self._loop.run_until_complete(self._embedded.start())
        self._migrated = self.create_database()
        self._loop.run_until_complete(self._migrate(self.url_of(self._migrated)))

    def execute(self, sql: str) -> None:
        """Run one statement as the server's owner."""
        self._loop.run_until_complete(self._execute(sql))

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def _migrate(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            await migrate(connection, load_migrations())
        finally:
            await connection.close()

    def create_database(self, template: str = "template1") -> str:
        """Make a copy of a database that nobody is connected to; its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"create database {name} template {template}")
        return name

    def url_of(self, name: str) -> str:
        """The URL of a database."""
        return self.url.replace("/passby?", f"/{name}?")

    @contextmanager
    def database(self, *, empty: bool) -> Iterator[str]:
        """URL of a database, empty or with empty tables; dropped then, whoever is connected."""
        name = self.create_database(*(() if empty else (self._migrated,)))
        yield self.url_of(name)
        self.execute(f"drop database {name} with (force)")

    def stop(self) -> None:
        """Stop the server and leave nothing behind."""
        self._loop.run_until_complete(self._embedded.stop())
        self._loop.close()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    """The run's embedded PostgreSQL."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def _no_clusters_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the clusters that stand outside of the run's folders, as root's do, after the run."""
    yield
    clusters.forget()
    for note in SHARED.glob(f"*/{BELONGS_TO}") if os.geteuid() == 0 else ():
        if Path(note.read_text().strip()).is_relative_to(tmp_path_factory.getbasetemp()):
            shutil.rmtree(note.parent, ignore_errors=True)


@pytest.fixture
def database_url(database_server: Server) -> Iterator[str]:
    """URL of a database of this test's own whose tables are there and empty."""
    with database_server.database(empty=False) as url:
        yield url


@pytest.fixture
def empty_database_url(database_server: Server) -> Iterator[str]:
    """URL of a database of this test's own with nothing in it."""
    with database_server.database(empty=True) as url:
        yield url


SIM_SEEDS = 200
"""Worlds that are simulated in every run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have more worlds simulated, or a certain one."""
    parser.addoption(
        "--sim-seeds", type=int, default=SIM_SEEDS, help="simulate so many worlds (tests/sim)"
    )
    parser.addoption("--sim-seed", type=int, help="simulate the world of this seed only")


WORKERS = 2
"""Processes that run the whole suite between them."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Several for a run of everything; none for a part of it, which is then easy to watch."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return WORKERS if everything and not config.option.keyword else 0


ONE_AT_A_TIME = frozenset(
    f"tests/test_{name}.py"
    for name in (
        *("fault_revoke", "fault_two", "fault_kill", "fault_database", "fault_stop"),
        *("fault_disk", "fault_reload", "fault_secrets", "restart", "events_processes"),
        *("web_slow", "bench", "locustfile"),
    )
)
"""Files whose tests start services and look at the clock: one process has them all."""


class Files(LoadFileScheduling):  # type: ignore[misc]
    """Gives each file to a process, and those that must not be disturbed to a single one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "one at a time" if file in ONE_AT_A_TIME else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files:
    """By file, the longest piece of work first."""
    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what only one process can do."""
    items.sort(key=lambda item: item.nodeid.split("::")[0] not in ONE_AT_A_TIME)


def pytest_configure() -> None:
    """Let what the tests start keep what it compiled.

    Else each of a hundred services and commands would compile itself anew.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Lines to be printed at the end of the run, for figures that a test measured."""
    lines: list[str] = []
    yield lines
    request.node.user_properties += [("measured", line) for line in lines]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured, wherever it was."""
    told = [
        line
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, line in report.user_properties
        if name == "measured"
    ]
    if told:
        terminalreporter.section("measured")
        for line in told:
            terminalreporter.write_line(line)
