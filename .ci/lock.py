"""Write requirements.lock: every package that Passby runs on or is developed with, with hashes.

Run it with `make lock`, which gives it a Python that has pip-tools. Pins that still fit
pyproject.toml stay as they are, so that a new dependency moves nothing else; with `--upgrade` all
of them move. The runtime comes first and the tools of development after a marker line, so that an
image can stop reading there. The file holds no address: where packages come from is the concern
of whoever installs them, and the hashes hold wherever that is.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
DEVELOPMENT = "# ---- development: what follows is not needed to run Passby ----"
HEADER = """\
# Every package that Passby runs on or is developed with: exact versions, and the SHA-256 of each
# file of the release, for every platform. Install with
#     pip install --require-hashes -r requirements.lock
#     pip install --no-deps --no-build-isolation -e .
# Renew after an edit of pyproject.toml with `make lock` (pins that still fit stay), and move all
# pins to the newest releases with `make lock UPGRADE=--upgrade`. Do not edit by hand.
"""
OPTIONS = (
    "--quiet",
    "--generate-hashes",
    "--allow-unsafe",
    "--strip-extras",
    "--no-annotate",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-emit-trusted-host",
    "--no-emit-options",
)


def compiled(extras: tuple[str, ...], given: tuple[str, ...]) -> dict[str, str]:
    """Resolve pyproject.toml and give each package's pin and hashes, by its name in lower case."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock.txt"
        if LOCK.exists():
            out.write_text(LOCK.read_text())
        command = [sys.executable, "-m", "piptools", "compile", *OPTIONS, *extras, *given]
        subprocess.run([*command, "-o", str(out), "pyproject.toml"], cwd=ROOT, check=True)
        blocks = re.split(r"\n(?=[A-Za-z0-9])", out.read_text().strip())
    return {block.split("==", 1)[0].strip().lower(): block for block in blocks}


def main() -> None:
    """Resolve once with the extra `dev` and once without, and write the two parts."""
    given = tuple(sys.argv[1:])
    everything = compiled(("--extra", "dev"), given)
    # Without the upgrade, and from the same pins: the runtime is a subset, at the same versions.
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("\n".join(block.split(" ", 1)[0] for block in everything.values()) + "\n")
        runtime = compiled((), ("-c", str(pins), *given)).keys()
    first = [block for name, block in everything.items() if name in runtime]
    second = [block for name, block in everything.items() if name not in runtime]
    LOCK.write_text("\n".join([HEADER, *first, "", DEVELOPMENT, *second]) + "\n")


main()
