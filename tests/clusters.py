"""New database clusters without `initdb`: copies of one that was made once in a run."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from engine.store.cluster import SHARED, Cluster, write_private
from engine.store.embedded import EmbeddedPostgres

MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 4 << 30
"""More than the databases of a run and a write-ahead log of the longest that it may be."""


class Template(NamedTuple):
    """A cluster that nobody has open, its database `passby` empty.

    Attributes:
        data: the data folder that it was made for.
        folder: of the cluster; all in it is its server's user's.
        password: of the cluster, and so of its copies.
    """

    data: Path
    folder: Path
    password: str


_made: list[Template] = []


async def template() -> Template:
    """The run's one, made when it is first asked for; must run in the main thread."""
    if not _made:
        embedded = EmbeddedPostgres(Path(tempfile.mkdtemp(prefix="passby-template-")))
        await embedded.start()
        await embedded.stop()
        cluster = embedded.cluster
        _made.append(Template(cluster.data, cluster.folder, cluster.password() or ""))
    return _made[0]


def forget() -> None:
    """Remove the template."""
    while _made:
        made = _made.pop()
        shutil.rmtree(made.folder.parent)
        shutil.rmtree(made.data, ignore_errors=True)


async def lay(data: Path, *, shared: Path = SHARED) -> None:
    """Give a data folder that has no cluster one of its own, as its first start would.

    Args:
        data: the data folder.
        shared: where the cluster and the binaries stand if we are root.
    """
    made = await template()
    cluster = Cluster(data, user="nobody", shared=shared)
    binaries = f"postgres-{cluster.version}"
    if cluster.as_root and shared != SHARED:
        (shared / binaries).symlink_to(SHARED / binaries)
    if not cluster.folder.exists():
        copy(made, cluster.folder)
        write_private(cluster.password_file, made.password)


def copy(made: Template, folder: Path) -> None:
    """Copy the template's cluster with its owners and modes."""
    subprocess.run(["cp", "-a", str(made.folder), str(folder)], check=True)


def quick_folder() -> Path:
    """A new folder, in memory if there is room, for a cluster whose disk no test looks at."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    folder = Path(tempfile.mkdtemp(prefix="passby-tests-", dir=MEMORY if roomy else None))
    folder.chmod(0o755)
    return folder
