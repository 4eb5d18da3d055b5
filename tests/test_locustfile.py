"""The load test works against a real server, with the contract that the server has today."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTENING = re.compile(r"listening on (http://\S+)")
LOCUST = (sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless")
SHORT = ("--users", "3", "--spawn-rate", "3", "--run-time", "8s", "--only-summary")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`passby serve` on a free port with data of its own; its address and its folder."""
    data = tmp_path_factory.mktemp("passby")
    command = [sys.executable, "-m", "engine.cli", "serve", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if found := LISTENING.search(line):
                break
        else:
            pytest.fail(f"the server did not start: {told}")
        # Nobody reads on: what it tells later must not fill the pipe and stop it.
        with subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL):
            yield found.group(1), data
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def locust(host: str, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the scenario briefly."""
    environment = os.environ | {"PASSBY_DATA": str(data)}
    environment.pop("PASSBY_OPERATOR_KEY", None)
    return subprocess.run(
        [*LOCUST, *SHORT, "--host", host, *more],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_residents_walk_and_get_offers(server: tuple[str, Path]) -> None:
    """Every request is answered with a well-formed decision, and some bring an offer."""
    host, data = server
    run = locust(host, data, "--residents", "30", "--batch-share", "0.5")
    counts = dict(re.findall(r"^(\w+ \w+)\s+(\d+)$", run.stdout, re.M))

    assert run.returncode == 0, run.stdout + run.stderr
    assert int(counts["pings answered"]) > 500
    assert int(counts["offers made"]) > 0


def test_a_set_up_that_fails_says_why_and_stops(server: tuple[str, Path], tmp_path: Path) -> None:
    """A wrong key: one sentence, exit code 2, and no request after it."""
    (tmp_path / "operator.key").write_text("nobody's key\n")
    run = locust(server[0], tmp_path)

    assert run.returncode == 2
    assert "The city can't be set up" in run.stdout
    assert "pings answered" not in run.stdout
