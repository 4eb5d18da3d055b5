"""A small disk of its own for a folder, which can be filled and emptied; for root on Linux only."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

BLOCK: bytes = bytes(1 << 16)


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator["SmallDisk"]:
    """Mount a disk of that size at a folder; skips the test where this machine does not let us."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    options = f"size={megabytes}m,mode=0711"
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily: whoever still has a file open there keeps it until they end.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class SmallDisk:
    """A disk that is mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        """What is left on it."""
        return shutil.disk_usage(self.folder).free

    def fill(self) -> None:
        """Leave not a byte."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(BLOCK)

    def make_room(self) -> None:
        """Give back all that `fill` took."""
        self._ballast.unlink()
