"""The README's tour, pasted line by line as a stranger would, against a living demo."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[int]:
    """A demo whose data is where `make run` puts it; gives its port."""
    command = [sys.executable, "-m", "engine.cli", "demo", "--port", "0", "--residents", "20"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            found = None
            for line in process.stderr:
                found = found or LISTENING.search(line)
                if "set out" in line:
                    break
            assert found is not None, "the demo did not come up"
            yield int(found.group(1))
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _environment() -> dict[str, str]:
    """Enough to find the checkout and the shell's tools, and no settings of this machine."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}


def blocks(page: str) -> list[str]:
    """A page's blocks of commands, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)


def paste(page: str, port: int, folder: Path) -> list[str]:
    """Run a page's blocks one after another in one shell; what each of them printed."""
    script = "set -e\n" + "echo '==='\n".join(blocks(page)).replace(":8080", f":{port}")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("===\n")


def test_the_tour_works(demo: int, tmp_path: Path) -> None:
    """Every block of the tour runs, and shows what the README says that it shows."""
    _, merchant, resident, why, till, off = paste("README.md", demo, tmp_path)
    assert '"title":"Pizza, half price"' in merchant
    answers = [line for line in resident.splitlines() if '"decision"' in line]
    first, second = answers
    assert '"status":"no_consent"' in first
    assert '"offer":"pizza"' in second
    assert '"allowed_by":["' in why
    assert '"redemption":"' in till
    assert '"code":"already_redeemed"' in till
    assert '"status":"no_consent"' in off.splitlines()[-1]
