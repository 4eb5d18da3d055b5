"""What a benchmark starts and makes, ended and removed, however it ends."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.store.cluster import Cluster

END_S: Final = 20.0


@contextmanager
def removed(data: Path) -> Iterator[None]:
    """A data folder's database is gone afterwards, also where it stands elsewhere (for root)."""
    try:
        yield
    finally:
        cluster = Cluster(data, user="nobody")
        if cluster.as_root:
            shutil.rmtree(cluster.home, ignore_errors=True)


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """A process of ours that has ended afterwards: when asked to, or else killed."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def end_by_signal(*_: object) -> None:
    """Take SIGTERM as Ctrl-C, so that what was started is ended too."""
    sys.exit(128 + signal.SIGTERM)
