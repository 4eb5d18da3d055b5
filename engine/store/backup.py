"""All that survives, in one file, and back from it.

The file is gzip over lines: a header (JSON), then for each table a line that names it, its rows in
PostgreSQL's text form of COPY and a line ``\\.``, and in the end a line with the SHA-256 of all
before it. So it needs no tool of one version of PostgreSQL, and `zcat` shows it. It holds what the
database holds, residents' consent and codes included: keep it as you keep the database.

It is made in one REPEATABLE READ transaction, while the service runs. It is put back in one
transaction, which also suspends every grant in it: see `engine.consent.suspension`. The change feed
goes on above any number that it ever had (by the milliseconds since 1970, which only grow), so that
no process that followed it before can go on. So does the window of events, which is empty then: who
followed it is told of a gap.
"""

import contextlib
import gzip
import hashlib
import importlib.metadata
import os
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from engine.consent.record import record_id
from engine.consent.suspension import suspend
from engine.store.migrate import Migration, SchemaRefused, load_migrations, migrate, missing_of
from engine.store.queries import load_queries

FORMAT: Final = 1
SQL: Final = load_queries()
LONG_S: Final = 24 * 3_600.0
RESIDENTS_AT_ONCE: Final = 2_000
CHUNK_BYTES: Final = 1 << 18
LINE_BYTES_MAX: Final = 1 << 31
"""More than a row can be: PostgreSQL's own limit is half of it."""

LEVEL: Final = 6
END: Final = b"\\.\n"

_TABLE: Final = re.compile(r"^create table (\w+)", re.MULTILINE)
_encode: Final = msgspec.json.Encoder().encode


class BackupRefused(Exception):
    """A backup can't be made, or not be used, or not here; the text says why and what to do."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    passby_backup: int
    """Number of this form."""
    version: str
    """Of Passby."""
    migrations: tuple[str, ...]
    """Checksums of those that the database had."""
    taken_ms: int
    rows: dict[str, int]
    """Table -> how many."""


class Section(msgspec.Struct, frozen=True):
    """The line before a table's rows."""

    table: str
    columns: tuple[str, ...]


class Trailer(msgspec.Struct, frozen=True):
    """The last line: SHA-256, hex, of all bytes before it."""

    sha256: str


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did."""

    rows: dict[str, int]
    deleted: dict[str, int]
    """Table -> rows that were there and are gone; those without any are left out."""
    suspended: int
    """Residents, of whom every grant is suspended."""
    codes_ended: int
    """Codes that were open in the backup and may have been used since: they are not taken."""


def tables_of(migrations: Sequence[Migration]) -> list[str]:
    """The tables that migrations make, in an order in which they can be filled."""
    return [name for migration in migrations for name in _TABLE.findall(migration.sql)]


# -- making one -------------------------------------------------------------------------------


async def back_up(url: str, path: Path, *, now_ms: int) -> Header:
    """Write everything into a new file, which is there whole or not at all, mode 0600.

    Raises:
        BackupRefused: the file is there already, or there is nothing to back up.
        SchemaRefused: the database was made by another code than this one.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    async with _connected(url) as connection:
        known = load_migrations()
        applied = known[: len(known) - len(await missing_of(connection, known))]
        if not applied:
            raise BackupRefused("the database has no tables of Passby: there is nothing to back up")
        try:
            opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(opened, "wb") as raw:
                with gzip.GzipFile("", "wb", LEVEL, raw, mtime=now_ms // 1_000) as packed:
                    header = await _write(connection, packed, applied, now_ms)
                raw.flush()
                os.fsync(raw.fileno())
            os.link(draft, path)
        except FileExistsError:
            raise BackupRefused(f"{path} is there already: name a new file") from None
        except OSError as error:
            raise BackupRefused(
                f"{path} can't be written ({error.strerror}), and no part of it was kept: make "
                "room there, or name a file elsewhere"
            ) from None
        finally:
            draft.unlink(missing_ok=True)
    return header


async def _write(
    connection: asyncpg.Connection, packed: gzip.GzipFile, applied: Sequence[Migration], now_ms: int
) -> Header:
    """Everything as of one instant."""
    digest = hashlib.sha256()

    async def write(data: bytes) -> None:
        digest.update(data)
        packed.write(data)

    async with connection.transaction(isolation="repeatable_read", readonly=True):
        tables = tables_of(applied)
        header = Header(
            passby_backup=FORMAT,
            version=importlib.metadata.version("passby"),
            migrations=tuple(migration.checksum for migration in applied),
            taken_ms=now_ms,
            rows=await _counts(connection, tables),
        )
        await write(_encode(header) + b"\n")
        for table in tables:
            columns = [r["column_name"] for r in await connection.fetch(SQL["columns_of"], table)]
            await write(_encode(Section(table, tuple(columns))) + b"\n")
            await connection.copy_from_table(
                table, columns=columns, output=write, format="text", timeout=LONG_S
            )
            await write(END)
    packed.write(_encode(Trailer(digest.hexdigest())) + b"\n")
    return header


async def _counts(connection: asyncpg.Connection, tables: Sequence[str]) -> dict[str, int]:
    """How many rows the tables have; their names are ours."""
    return {
        table: await connection.fetchval(f"select count(*) from {table}", timeout=LONG_S)
        for table in tables
    }


# -- reading one ------------------------------------------------------------------------------


def check(path: Path) -> Header:
    """Read a whole file and see that it is what was written, and that this code can use it.

    Raises:
        BackupRefused: it is damaged, or of a newer version, or no backup.
    """
    with _lines(path) as lines:
        return _check(path, lines)


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Iterator[bytes]]:
    """The lines of a file; what is wrong with its packing is told as our own error."""
    try:
        with gzip.open(path, "rb") as file:
            yield iter(lambda: file.readline(LINE_BYTES_MAX), b"")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"{error}") from None


def _damaged(path: Path, what: str) -> BackupRefused:
    return BackupRefused(f"{path} is damaged or no backup: {what}; take another copy of it")


def _header(path: Path, line: bytes) -> Header:
    """The first line, if this code understands what follows it."""
    try:
        form = msgspec.json.decode(line, type=dict[str, Any]).get("passby_backup")
        if isinstance(form, int) and form > FORMAT:
            raise BackupRefused(f"{path} was made by a newer version of Passby: use that version")
        header = msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError:
        raise _damaged(path, "it has no header") from None
    ours = tuple(migration.checksum for migration in load_migrations())
    if len(header.migrations) > len(ours):
        raise BackupRefused(
            f"{path} was made by Passby {header.version}, whose database is at migration "
            f"{len(header.migrations)}, and this code knows {len(ours)}: use that version"
        )
    if header.migrations != ours[: len(header.migrations)]:
        raise BackupRefused(
            f"{path} was made by another code than this: use Passby {header.version}"
        )
    return header


def _check(path: Path, lines: Iterator[bytes]) -> Header:
    """Every line of it, up to the seal."""
    digest = hashlib.sha256()
    first = next(lines, b"")
    header = _header(path, first)
    digest.update(first)
    rows: dict[str, int] = {}
    table = ""
    for line in lines:
        if not table and line.startswith(b'{"sha256"'):
            _check_seal(path, line, digest.hexdigest())
            if rows != header.rows:
                raise _damaged(path, "rows are missing")
            return header
        digest.update(line)
        if not table:
            table = _section(path, line).table
            rows[table] = 0
        elif line == END:
            table = ""
        else:
            rows[table] += 1
    raise _damaged(path, "its end is missing")


def _section(path: Path, line: bytes) -> Section:
    try:
        return msgspec.json.decode(line, type=Section)
    except msgspec.MsgspecError:
        raise _damaged(path, "a table has no name") from None


def _check_seal(path: Path, line: bytes, sha256: str) -> None:
    try:
        sealed = msgspec.json.decode(line, type=Trailer).sha256
    except msgspec.MsgspecError:
        raise _damaged(path, "its seal can't be read") from None
    if sealed != sha256:
        raise _damaged(path, "its bytes are not those that were written")


# -- putting one back -------------------------------------------------------------------------


async def restore(
    url: str, path: Path, *, force: bool, now_ms: int, say: Callable[[str], None]
) -> Restored:
    """Put a backup into an empty database, or with force in the place of what is there.

    Raises:
        BackupRefused: the file can't be used, or the database is not empty, or a service uses it.
            Nothing has changed then.
        SchemaRefused: the database was made by another code than this one.
    """
    header = check(path)
    say(f"{path} is whole: {sum(header.rows.values()):,} rows")
    known = load_migrations()
    async with _connected(url) as connection:
        if count := await connection.fetchval(SQL["other_sessions"]):
            raise BackupRefused(f"a service uses the database ({count} sessions): stop it first")
        await _prepare(connection, known, len(header.migrations))
        tables = tables_of(known[: len(header.migrations)])
        counts = await _counts(connection, tables)
        there = {t: n for t, n in counts.items() if n and t not in _OF_A_MIGRATION}
        if not force and (held := {t: n for t, n in there.items() if t not in _OF_A_START}):
            told = ", ".join(f"{n:,} {t}" for t, n in held.items())
            raise BackupRefused(f"the database is not empty: it holds {told}; --force deletes them")
        async with connection.transaction():
            await _fill(connection, path, tables)
            await migrate(connection, known)
            because = f"A backup of {header.taken_ms} ms was restored."
            suspended = await _suspend_all(connection, because, now_ms)
            await connection.execute(SQL["renumber_feed"], now_ms)
            await connection.execute(SQL["forget_events"], now_ms)
            await connection.execute(SQL["forget_nodes"])
            ended = await connection.fetchval(SQL["expire_open_codes"], now_ms)
            if await _differs(connection, header, suspended):
                raise BackupRefused(f"{path} changed while it was read; nothing was restored")
    return Restored(rows=header.rows, deleted=there, suspended=suspended, codes_ended=ended)


_OF_A_START: Final = ("secrets", "keys", "changes", "nodes")
"""Tables that a service fills when it is started, before anybody has used it."""

_OF_A_MIGRATION: Final = ("event_window",)
"""Tables that hold something as soon as they are there."""


async def _prepare(connection: asyncpg.Connection, known: list[Migration], wanted: int) -> None:
    """Bring the database to the tables that the backup was made of."""
    applied = len(known) - len(await missing_of(connection, known))
    if applied > wanted:
        raise BackupRefused(
            f"the backup is of migration {wanted} and the database is at {applied} already: "
            "restore into a new one, by another --data or --database-url"
        )
    await migrate(connection, known[:wanted])


async def _fill(connection: asyncpg.Connection, path: Path, tables: Sequence[str]) -> None:
    """Put the file's rows in the place of what the tables hold."""
    for table in tables:
        await connection.execute(f"alter table {table} disable trigger user")
    await connection.execute(f"truncate {', '.join(tables)}", timeout=LONG_S)
    with _lines(path) as lines:
        next(lines)
        for line in lines:
            if line.startswith(b'{"sha256"'):
                break
            section = _section(path, line)
            if section.table not in tables:
                raise _damaged(path, "it holds a table that is not ours")
            await connection.copy_to_table(
                section.table,
                columns=section.columns,
                source=_rows(lines),
                format="text",
                timeout=LONG_S,
            )
    for table in tables:
        await connection.execute(f"alter table {table} enable trigger user")
        for row in await connection.fetch(SQL["identities"], table):
            column = row["column_name"]
            await connection.execute(
                f"select setval(pg_get_serial_sequence('{table}', '{column}'), max({column})) "
                f"from {table} having max({column}) is not null"
            )


async def _rows(lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A table's rows in chunks, up to its end."""
    chunk = bytearray()
    for line in lines:
        if line == END:
            break
        chunk += line
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


async def _suspend_all(connection: asyncpg.Connection, because: str, now_ms: int) -> int:
    """Append to every resident's records the one that suspends; how many there are."""
    count, after = 0, ""
    while True:
        rows = await connection.fetch(SQL["last_records"], after, RESIDENTS_AT_ONCE)
        if not rows:
            return count
        records = [
            suspend(row["id"], row["version"], row["record"], because=because, now_ms=now_ms)
            for row in rows
        ]
        await connection.fetchval(
            SQL["put_records"],
            [record.subject for record in records],
            [row["position"] + 1 for row in rows],
            [record.version for record in records],
            [record_id(record) for record in records],
            [_encode(record) for record in records],
            timeout=LONG_S,
        )
        count, after = count + len(rows), rows[-1]["id"]


async def _differs(connection: asyncpg.Connection, header: Header, suspended: int) -> bool:
    """Whether the database holds other numbers of rows than the backup, and what was added."""
    begun_anew = ("changes", "events", "event_batches", "nodes")
    wanted = {table: rows for table, rows in header.rows.items() if table not in begun_anew}
    wanted["consent_records"] += suspended
    return await _counts(connection, list(wanted)) != wanted


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of our own, without limits of time; its errors quote no row."""
    try:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            await connection.execute("set statement_timeout = 0")
            yield connection
        finally:
            await connection.close()
    except SchemaRefused:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BackupRefused(f"the database refused: {type(error).__name__}") from None
