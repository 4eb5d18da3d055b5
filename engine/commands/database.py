"""The database that the settings mean, for commands that work on it without the service."""

import contextlib
from collections.abc import AsyncIterator

from engine.config import Config
from engine.store.embedded import DataInUse, EmbeddedPostgres
from engine.store.port import Store
from engine.store.postgres import PostgresStore


@contextlib.asynccontextmanager
async def database(config: Config) -> AsyncIterator[str]:
    """URL of the database named, of the running one of `data`, or of the one started here."""
    if config.database_url:
        yield config.database_url
        return
    config.data.mkdir(parents=True, exist_ok=True)
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
