"""Bring a database's tables to what this code expects, one numbered file at a time.

Files `migrations/0001_*.sql` and on are applied in order, each in a transaction of its own together
with the line that records it. A file that was applied is never changed: its checksum is kept, and
a difference is refused, because nobody could say what the database really holds.
"""

import hashlib
from importlib.resources import files
from typing import Final

import asyncpg
import msgspec

_LOCK: Final = int.from_bytes(hashlib.sha256(b"passby migrations").digest()[:8], signed=True)

_TABLE: Final = """
create table if not exists passby_migrations (
    number integer primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now()
)
"""


class SchemaRefused(Exception):
    """The database was made by another code than this one; the text says what to do."""


class Migration(msgspec.Struct, frozen=True):
    """One file of the `migrations` folder."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text, hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations() -> list[Migration]:
    """The package's migrations in order.

    Raises:
        ValueError: their numbers are not 1, 2, 3 and so on.
    """
    found = sorted(
        (
            file
            for file in (files("engine.store") / "migrations").iterdir()
            if file.name.endswith(".sql")
        ),
        key=lambda file: file.name,
    )
    migrations = [
        Migration(int(file.name[:4]), file.name[5:-4], file.read_text("utf-8")) for file in found
    ]
    if [migration.number for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise ValueError("migrations must be numbered 0001, 0002 and so on, without gaps")
    return migrations


async def migrate(connection: asyncpg.Connection, migrations: list[Migration]) -> int:
    """Apply what is missing; the number of migrations applied, 0 if there was nothing to do.

    Of several processes that call this at once one works and the others wait, under a session lock
    that also ends with its connection.

    Raises:
        SchemaRefused: an applied migration differs from ours, or is unknown to this code.
    """
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_TABLE)
        applied = await connection.fetch(
            "select number, name, checksum from passby_migrations order by number"
        )
        _check(applied, migrations)
        missing = migrations[len(applied) :]
        for migration in missing:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into passby_migrations (number, name, checksum) values ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.checksum,
                )
        return len(missing)
    finally:
        if not connection.is_closed():
            await connection.execute("select pg_advisory_unlock($1)", _LOCK)


async def missing_of(
    connection: asyncpg.Connection, migrations: list[Migration]
) -> list[Migration]:
    """Which migrations a database lacks; changes nothing, and takes no lock.

    Raises:
        SchemaRefused: as `migrate`.
    """
    if await connection.fetchval("select to_regclass('passby_migrations')") is None:
        return migrations
    applied = await connection.fetch(
        "select number, name, checksum from passby_migrations order by number"
    )
    _check(applied, migrations)
    return migrations[len(applied) :]


def _check(applied: list[asyncpg.Record], migrations: list[Migration]) -> None:
    """Refuse a database whose history is not the beginning of ours."""
    if len(applied) > len(migrations):
        raise SchemaRefused(
            f"the database is at migration {applied[-1]['number']} and this code knows "
            f"{len(migrations)}: it was used by a newer version; run that version or a newer one"
        )
    for row, migration in zip(applied, migrations, strict=False):
        if (row["number"], row["checksum"]) != (migration.number, migration.checksum):
            raise SchemaRefused(
                f"migration {migration.number:04} ({migration.name}) was applied in another form "
                "than this code has: restore the file as it was and add a new one instead"
            )
