"""The database that the settings mean, for commands that work on it without the service."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from engine.commands.terminal import WorkFailed
from engine.config import Config
from engine.doctor import owner_of
from engine.store.embedded import DataInUse, EmbeddedPostgres
from engine.store.port import Store
from engine.store.postgres import PostgresStore


@contextlib.asynccontextmanager
async def database(config: Config) -> AsyncIterator[str]:
    """URL of the database named, of the running one of `data`, or of the one started here."""
    if config.database_url:
        yield config.database_url
        return
    if _is_foreign(config.data):
        yield _running_url(config.data)
        return
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = EmbeddedPostgres(config.data)
    try:
        url = await server.start()
    except DataInUse:
        yield server.url_file.read_text(encoding="utf-8").strip()
        return
    try:
        yield url
    finally:
        await server.stop()


def _is_foreign(data: Path) -> bool:
    """Whether a data folder belongs to another user: a server that we start would not be theirs."""
    return data.exists() and data.stat().st_uid != os.geteuid()


def _running_url(data: Path) -> str:
    """URL of the server that another user runs.

    Raises:
        WorkFailed: none runs.
    """
    if not owner_of(data):
        raise WorkFailed(
            f"{data} belongs to user {data.stat().st_uid}, and its server does not run: do this as "
            "that user, or start the service first"
        )
    return (data / "database.url").read_text(encoding="utf-8").strip()


@contextlib.asynccontextmanager
async def opened_store(config: Config) -> AsyncIterator[Store]:
    """The store on that database."""
    async with database(config) as url:
        store = PostgresStore(url)
        await store.open()
        try:
            yield store
        finally:
            await store.close()
