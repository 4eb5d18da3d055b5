"""The units of systemd: accepted by systemd itself, hardened, and in step with the settings."""

import configparser
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from engine.config import Config
from engine.store.embedded import STOP_S

DEPLOY: Final = Path(__file__).resolve().parent.parent / "deploy"


class _Unit(configparser.RawConfigParser):
    """A unit's sections; a key that is given again counts last."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False)
        self.read_string((DEPLOY / name).read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """With a program and a user that this machine has."""
    for name in ("passby.service", "passby.socket"):
        text = (DEPLOY / name).read_text()
        text = text.replace("/opt/passby/bin/passby", "/bin/true").replace("=passby\nG", "=root\nG")
        (tmp_path / name).write_text(text.replace("Group=passby", "Group=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "passby.service"), tmp_path / "passby.socket"],
        capture_output=True,
        text=True,
        check=False,
    )

    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, told) == (0, []), done.stderr


def test_the_service_is_hardened_and_may_stop_in_peace() -> None:
    """No more rights than it needs; and more time to stop than it ever takes."""
    service, config = _Unit("passby.service")["Service"], Config()
    longest_s = config.drain_seconds + config.stop_seconds_max + 3 * STOP_S

    assert int(service["TimeoutStopSec"]) > longest_s
    assert service["User"] not in ("", "root")
    assert {service[name] for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome")} == {"yes"}
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"]) == ("strict", "")
    assert (service["KillMode"], service["Restart"]) == ("mixed", "on-failure")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["LimitNOFILE"]) > config.connections_max
    assert service["Sockets"] == "passby.socket"


def test_the_socket_is_on_loopback() -> None:
    """Nobody else reaches it before somebody has thought about TLS."""
    assert _Unit("passby.socket")["Socket"]["ListenStream"] == f"127.0.0.1:{Config().port}"
