"""`passby doctor`, each of its findings brought about for real, on real folders and databases."""

import asyncio
import contextlib
import json
import os
import sys
import zoneinfo
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine import doctor
from engine.app import clock_ms, running
from engine.cli import main
from engine.config import Config
from engine.store.migrate import load_migrations, migrate
from engine.web.listening import Certificate
from tests.running import OPERATOR, Service, remove, serving
from tests.test_restart import certify
from tests.web_town import serving as in_process


def told(found: list[doctor.Finding] | Iterator[doctor.Finding]) -> list[tuple[str, str]]:
    """Names and statuses; whatever is not well names its fix, and only that."""
    found = list(found)
    assert all((finding.status == "ok") != bool(finding.fix) for finding in found), found
    return [(finding.name, finding.status) for finding in found]


def test_the_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert told(doctor.folder(data)) == [("data", "ok")]
    data.mkdir(mode=0o700)
    assert told(doctor.folder(data)) == [("data", "ok")]
    data.chmod(0o755)
    assert told(doctor.folder(data)) == [("data", "warn")]
    data.chmod(0o777)
    assert told(doctor.folder(data)) == [("data", "fail")]
    (tmp_path / "file").write_text("")
    assert told(doctor.folder(tmp_path / "file")) == [("data", "fail")]


@pytest.mark.parametrize(("free", "status"), [(10**8, "fail"), (10**9, "warn"), (10**11, "ok")])
def test_the_disk(tmp_path: Path, free: int, status: str) -> None:
    found = told(doctor.disk(tmp_path / "not" / "there", lambda _: free))

    assert set(found) == {("disk", status)}
    assert all(status != "fail" for _, status in told(doctor.disk(tmp_path)))


def test_zones_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(doctor.zones("Europe/Berlin")) == [("zones", "ok")]
    zoneinfo.reset_tzpath(to=[])
    try:
        for name in ["tzdata", *(name for name in sys.modules if name.startswith("tzdata."))]:
            monkeypatch.setitem(sys.modules, name, None)
        assert told(doctor.zones("UTC")) == [("zones", "fail")]
    finally:
        zoneinfo.reset_tzpath()


def test_the_operators_key(tmp_path: Path) -> None:
    config = Config(data=tmp_path)
    file = tmp_path / "operator.key"
    assert told(doctor.operator_key(config)) == [("key", "ok")]
    file.write_text("")
    file.chmod(0o600)
    assert told(doctor.operator_key(config)) == [("key", "fail")]
    file.write_text("pb_operator_of_some_length")
    assert told(doctor.operator_key(config)) == [("key", "ok")]
    file.chmod(0o644)
    assert told(doctor.operator_key(config)) == [("key", "fail")]
    assert told(doctor.operator_key(Config(operator_key="short"))) == [("key", "warn")]
    assert told(doctor.operator_key(Config(operator_key=OPERATOR))) == [("key", "ok")]


def test_the_certificate(tmp_path: Path) -> None:
    """None is asked for, one that is none, and one on its days: it lasts for two."""
    (tmp_path / "cert.pem").write_text("no certificate")
    good, key = certify(tmp_path, "good")
    config = Config(tls_certificate=str(good), tls_key=str(key))
    now_ms = clock_ms()

    assert told(doctor.certificate(Config(), now_ms)) == []
    none = Config(tls_certificate=str(tmp_path / "cert.pem"))
    assert told(doctor.certificate(none, now_ms)) == [("tls", "fail")]
    for days, status in ((-13, "ok"), (-11, "warn"), (0, "warn"), (3, "fail")):
        found = list(doctor.certificate(config, now_ms + days * 86_400_000))
        assert told(found) == [("tls", status)], days
        assert "passby" in found[0].fix or status == "ok"


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection of our own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_the_database(empty_database_url: str, tmp_path: Path) -> None:
    """From an empty one to one of a newer version; and one that is not there."""
    config = Config(data=tmp_path, operator_key=OPERATOR)
    well = [("store", "ok"), ("clock", "ok")]
    assert told(await doctor.database(empty_database_url, config)) == [
        *well,
        ("migrations", "warn"),
    ]

    async with connected(empty_database_url) as connection:
        await migrate(connection, load_migrations()[:1])
        found = told(await doctor.database(empty_database_url, config))
        assert found == [*well, ("migrations", "warn"), ("key", "warn")]

        await migrate(connection, load_migrations())
        found = told(await doctor.database(empty_database_url, config))
        assert found == [*well, ("migrations", "ok"), ("key", "warn"), ("records", "ok")]

        async with running(
            Config(data=tmp_path, operator_key=OPERATOR, database_url=empty_database_url),
            lambda: None,
        ):
            found = told(await doctor.database(empty_database_url, config))
        assert found == [*well, ("migrations", "ok"), ("key", "ok"), ("records", "ok")]

        later_ms = clock_ms() + 3_600_000
        who = [str(later_ms), "k", "desk", "operator", "PUT /x", "r"]
        await connection.execute(
            "select note($1, 'key', array['k'], array[null], array[0], array['created'])", who
        )
        found = told(await doctor.database(empty_database_url, config))
        late = [("key", "ok"), ("clock", "warn"), ("records", "ok")]
        assert found == [*well, ("migrations", "ok"), *late]

        await connection.execute(
            "insert into passby_migrations (number, name, checksum) values (9999, 'x', 'x')"
        )
    found = told(await doctor.database(empty_database_url, config))
    assert found == [*well, ("migrations", "fail")]
    nobody = "postgresql://passby:no@127.0.0.1:1/passby"
    assert told(await doctor.database(nobody, config)) == [("store", "fail")]


@pytest.mark.parametrize(
    ("ahead_ms", "unsure_ms", "status"),
    [(900, 0, "ok"), (-1_500, 0, "warn"), (1_500, 600, "ok"), (20_000, 5, "fail")],
)
def test_clocks(ahead_ms: int, unsure_ms: int, status: str) -> None:
    assert told(doctor._clock(ahead_ms, unsure_ms)) == [("clock", status)]


def test_a_server_that_is_too_old_or_loses_what_it_said() -> None:
    version = asyncpg.types.ServerVersion(13, 4, 0, "final", 0)
    on = {"fsync": "on", "full_page_writes": "on", "server_version_num": "180000"}

    assert told(doctor._version(version, on)) == [("store", "ok")]
    assert told(doctor._version(version, on | {"fsync": "off"})) == [("store", "fail")]
    assert told(doctor._version(version, on | {"server_version_num": "130004"})) == [
        ("store", "fail")
    ]


async def test_a_service_without_a_lease_is_told(database_url: str, tmp_path: Path) -> None:
    """Well at first; then its feed is not followed any more."""
    config = Config(data=tmp_path / "new", operator_key=OPERATOR, database_url=database_url)
    async with running(config, lambda: None) as ctx, in_process(ctx) as here:
        assert told(doctor.folder(config.data)) == [("data", "ok")]
        url = f"http://127.0.0.1:{here.port}"
        found = told(await doctor.service(url, asked=True))
        assert {status for _, status in found} == {"ok"}
        ctx.engine.preferences.suspended = 3
        assert ("service grants", "warn") in told(await doctor.service(url, asked=True))
        ctx.feed.lease_until_mono_ms = 1
        ctx.feed._poll_ms = 3_600_000
        found = told(await doctor.service(url, asked=True))
        assert ("service feed", "fail") in found
    assert told(await doctor.service(url, asked=True)) == [("service", "fail")]
    assert told(await doctor.service(url, asked=False)) == [("service", "ok")]


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    """That is said, and not that nobody is there."""
    certificate = Certificate(*map(str, certify(tmp_path, "good")))
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context
    )
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for asked, status in ((True, "fail"), (False, "warn")):
            (found,) = await doctor.service(url, asked=asked)
            assert (found.name, found.status) == ("service", status)
            assert "not trusted" in found.what
            assert "SSL_CERT_FILE" in found.fix


async def test_the_server_that_comes_along(tmp_path: Path) -> None:
    """While it runs, after it was killed, and the whole command on it; with a log too long."""
    data = tmp_path / "data"
    config = Config(data=data)
    try:
        async with serving(data) as service:
            assert told(doctor.server(config)) == [("server", "ok"), ("log", "ok")]
            code, found = await run_doctor(service, "--url", service.url)
            assert code == 0, found
            assert {"data", "disk", "zones", "server", "store", "clock", "migrations", "key"} < set(
                found
            )
            assert found["service feed"]["status"] == "ok"
            await service.kill()
        assert told(doctor.server(config)) == [("server", "warn"), ("log", "ok")]
        with (data / "postgres.log").open("ab") as log:
            log.truncate(30_000_000)
        assert told(doctor.server(config)) == [("server", "warn"), ("log", "warn")]
        code, found = await run_doctor(service, "--url", service.url)
        assert (code, found["service"]["status"]) == (1, "fail")
        assert told(doctor.server(config))[0] == ("server", "ok")
    finally:
        remove(data)


async def run_doctor(service: Service, *flags: str) -> tuple[int, dict[str, Any]]:
    """The command in a process of its own; its exit code and its findings by name."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine.cli", "doctor", "--json", "--data", str(service.data)),
        *flags,
        stdout=asyncio.subprocess.PIPE,
        env={"PASSBY_OPERATOR_KEY": OPERATOR, "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parent.parent,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, {finding["name"]: finding for finding in json.loads(out)}


def test_a_person_reads_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status, name, what, and the fix; nothing is made by looking."""
    data = tmp_path / "data"

    assert main(["doctor", "--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok    ", "warn  ")) for line in lines)
    assert f"ok    data: {data} is not there yet; the first start makes it" in lines
    assert not data.exists()
    (data).mkdir()
    (data / "operator.key").write_text("open to all")
    assert main(["doctor", "--data", str(data)]) == 1
    assert "; fix: chmod 600" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_left_alone(tmp_path: Path) -> None:
    """Root's server would not be theirs, and must not be made in its place."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "postgres.password").write_text("theirs")
    os.chown(data, 65_534, 65_534)
    before = {path.name: path.read_bytes() for path in data.iterdir()}

    assert main(["keys", "list", "--data", str(data)]) == 1
    assert main(["doctor", "--data", str(data)]) == 1
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before
