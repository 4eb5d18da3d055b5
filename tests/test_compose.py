"""docker-compose.yml and the Dockerfile say what they should, as far as a parser can tell."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from engine.config import PREFIX, Config

ROOT: Final = Path(__file__).resolve().parent.parent
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
SETTINGS: Final = {PREFIX + field.name.upper() for field in fields(Config)}
IMAGE_OPTIONS: Final = {
    *("build", "cap_drop", "depends_on", "environment", "healthcheck", "image", "ports"),
    *("read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "volumes"),
}
"""Keys of a service in the Compose Specification, of those that are used here."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The parsed file."""
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_there_are_a_database_and_an_engine(compose: dict[str, Any]) -> None:
    """Two services, and no key that Compose would refuse."""
    services = compose["services"]

    assert compose.keys() == {"name", "services", "volumes"}
    assert services.keys() == {"database", "engine"}
    assert services["database"]["image"] == "postgres:18"
    assert all(service.keys() <= IMAGE_OPTIONS for service in services.values())


def test_the_engine_waits_for_a_healthy_database(compose: dict[str, Any]) -> None:
    """Both say when they are well, within limits, and the engine waits for the database to be."""
    for service in compose["services"].values():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD"
        assert check.keys() == {"test", "interval", "timeout", "retries", "start_period"}
    waits = compose["services"]["engine"]["depends_on"]

    assert waits == {"database": {"condition": "service_healthy"}}


def test_what_must_survive_lies_on_named_volumes(compose: dict[str, Any]) -> None:
    """The database's cluster and the engine's folder outlive their containers."""
    mounts = [mount for service in compose["services"].values() for mount in service["volumes"]]

    assert mounts == ["database:/var/lib/postgresql", "engine:/data"]
    assert compose["volumes"].keys() == {"database", "engine"}


def test_ports_are_on_loopback_unless_told_otherwise(compose: dict[str, Any]) -> None:
    """Every port published is bound to this machine by default."""
    ports = [port for service in compose["services"].values() for port in service["ports"]]

    assert ports
    assert all(
        re.match(r"127\.0\.0\.1:|\$\{PUBLISH_ADDRESS:-127\.0\.0\.1\}:", port) for port in ports
    )


def test_no_secret_is_written_down(compose: dict[str, Any]) -> None:
    """Password and key come from .env, which git and the image's builder ignore."""
    engine = compose["services"]["engine"]["environment"]
    database = compose["services"]["database"]["environment"]

    assert database["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert "${POSTGRES_PASSWORD:?" in engine["PASSBY_DATABASE_URL"]
    assert engine["PASSBY_OPERATOR_KEY"] == "${PASSBY_OPERATOR_KEY:-}"
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_every_setting_named_exists(compose: dict[str, Any]) -> None:
    """An unknown PASSBY_ variable stops the engine, so none may stand here."""
    environment = compose["services"]["engine"]["environment"]
    sources = [(ROOT / name).read_text() for name in ("docker-compose.yml", ".env.example")]
    named = {
        name for text in [*sources, DOCKERFILE] for name in re.findall(r"\bPASSBY_[A-Z_]+", text)
    }

    assert environment.keys() <= named
    assert named - SETTINGS == set()


def test_every_variable_of_compose_is_in_the_example(compose: dict[str, Any]) -> None:
    """Whoever copies .env.example sees all that can be set."""
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    shown = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))

    assert used == shown


def test_the_image_runs_locked_packages_as_nobody_much() -> None:
    """Hashes at every install from outside, a user of its own, and a health check."""
    installs = re.findall(r"pip install ([^\\\n]+)", DOCKERFILE)

    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert re.search(r"^USER passby$", DOCKERFILE, re.M)
    assert re.search(r"^HEALTHCHECK .*\\\n\s+CMD .*/healthz", DOCKERFILE, re.M)


def test_the_image_gets_what_it_copies() -> None:
    """What the Dockerfile copies from the checkout is there, and .dockerignore lets it through."""
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0:1] == "!"
    }
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
        for name in line.split()
    }

    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_reads_the_lock_up_to_its_marker() -> None:
    """The line at which the image stops reading stands in the lock, once, after all it needs."""
    runtime, *rest = (ROOT / "requirements.lock").read_text().split("# ---- development")

    assert len(rest) == 1
    assert "\nasyncpg==" in runtime
    assert "\npytest==" not in runtime
