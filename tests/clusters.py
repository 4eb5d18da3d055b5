"""New database clusters without `initdb`: copies of one that was made once in a run."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from engine.store.cluster import Cluster, write_private
from engine.store.embedded import EmbeddedPostgres


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


async def lay(data: Path) -> None:
    """Give a data folder that has no cluster one of its own, as its first start would."""
    cluster = Cluster(data, user="nobody")
    if not cluster.folder.exists():
        made = await template()
        copy(made, cluster.folder)
        write_private(cluster.password_file, made.password)


def copy(made: Template, folder: Path) -> None:
    """Copy the template's cluster with its owners and modes."""
    subprocess.run(["cp", "-a", str(made.folder), str(folder)], check=True)
