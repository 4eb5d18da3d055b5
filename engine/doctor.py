"""Look at everything that the service needs, without changing any of it, and say what to do.

Each check gives findings; a finding that is not `ok` names the fix. Nothing is migrated, made or
deleted by looking.
"""

import fcntl
import hashlib
import os
import shutil
import time
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import aiohttp
import asyncpg
import msgspec

from engine.app import OPERATOR_KEY_FILE
from engine.config import Config
from engine.store import chains
from engine.store.cluster import SHARED, Cluster
from engine.store.migrate import SchemaRefused, load_migrations, missing_of
from engine.store.recent import DAY_MS
from engine.store.room import LOG_BYTES_MAX
from engine.web.listening import Certificate

DISK_WARN_BYTES: Final = 2_000_000_000
DISK_FAIL_BYTES: Final = 200_000_000
CLOCK_WARN_MS: Final = 1_000
CLOCK_FAIL_MS: Final = 10_000
CERTIFICATE_WARN_DAYS: Final = 14
ANSWER_S: Final = 5.0
POSTGRES_MIN: Final = 140_000
KEY_LETTERS_MIN: Final = 16


class Finding(msgspec.Struct, frozen=True):
    """What one look found."""

    name: str
    status: Literal["ok", "warn", "fail"]
    what: str
    fix: str = ""
    """What to do; empty where all is well."""


def folder(data: Path) -> Iterator[Finding]:
    """The data folder: there, ours to write, and for nobody else to read."""
    if not data.exists():
        yield Finding("data", "ok", f"{data} is not there yet; the first start makes it")
        return
    if not data.is_dir():
        yield Finding("data", "fail", f"{data} is no folder", "name a folder with --data")
        return
    status = data.stat()
    if status.st_uid != os.geteuid() and os.geteuid() != 0:
        what = f"{data} belongs to user {status.st_uid}, and we are {os.geteuid()}"
        yield Finding("data", "fail", what, "run as its owner, or chown -R it")
    elif not os.access(data, os.W_OK | os.X_OK):
        yield Finding("data", "fail", f"{data} can't be written", f"chmod u+rwx {data}")
    elif status.st_mode & 0o022:
        what = f"{data} can be written by others"
        yield Finding("data", "fail", what, f"chmod 700 {data}")
    elif status.st_mode & 0o055:
        yield Finding("data", "warn", f"{data} can be read by others", f"chmod 700 {data}")
    else:
        yield Finding("data", "ok", f"{data} is ours alone")


def disk(
    data: Path, free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
) -> Iterator[Finding]:
    """Room where the database grows: in the data folder, and for root where its cluster stands."""
    places = {_there(data)} | ({_there(SHARED)} if os.geteuid() == 0 else set())
    for place in sorted(places):
        free = free_bytes(place)
        what = f"{free / 1e9:,.1f} GB free at {place}"
        fix = "make room: a full disk stops every commit, and with it every answer"
        if free < DISK_FAIL_BYTES:
            yield Finding("disk", "fail", what, fix)
        elif free < DISK_WARN_BYTES:
            yield Finding("disk", "warn", what, fix)
        else:
            yield Finding("disk", "ok", what)


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(one for one in (path.resolve(), *path.resolve().parents) if one.exists())


def zones(city: str) -> Iterator[Finding]:
    """The time zones can be read: the city's, and those that residents may have."""
    try:
        for name in ("UTC", city, "Europe/Helsinki"):
            zoneinfo.ZoneInfo.no_cache(name)
    except (KeyError, ValueError, OSError) as error:
        what = f"a zone can't be read: {error}"
        yield Finding("zones", "fail", what, "install the package tzdata, or that of the system")
    else:
        yield Finding("zones", "ok", f"zones can be read; the city's is {city}")


def operator_key(config: Config) -> Iterator[Finding]:
    """The operator's key: set or kept in a file that is for its owner alone."""
    path = config.data / OPERATOR_KEY_FILE
    if config.operator_key:
        if len(config.operator_key) < KEY_LETTERS_MIN:
            what = f"the operator's key has fewer than {KEY_LETTERS_MIN} letters"
            yield Finding("key", "warn", what, "set a longer PASSBY_OPERATOR_KEY")
        else:
            yield Finding("key", "ok", "the operator's key is set")
    elif not path.exists():
        yield Finding("key", "ok", f"{path} is not there yet; the first start makes it")
    elif (mode := path.stat().st_mode & 0o777) & 0o077:
        what = f"{path} has mode {mode:04o}: others may read it"
        fix = f"chmod 600 {path}; if somebody may have read it, delete the file and the key"
        yield Finding("key", "fail", what, fix)
    elif not os.access(path, os.R_OK) or not path.read_text(encoding="utf-8").strip():
        what = f"{path} is empty or can't be read"
        yield Finding("key", "fail", what, f"delete {path}: the next start makes a new key")
    else:
        yield Finding("key", "ok", f"{path} is for its owner alone")


def certificate(config: Config, now_ms: int) -> Iterator[Finding]:
    """The certificate and its key, where TLS is asked for, and how long it lasts."""
    if not config.tls_certificate:
        return
    try:
        shown = Certificate(config.tls_certificate, config.tls_key)
        ends_ms = shown.ends_ms()
    except OSError as error:
        yield Finding("tls", "fail", str(error), "put a PEM certificate and its own key there")
        return
    left_days, day = (ends_ms - now_ms) // DAY_MS, datetime.fromtimestamp(ends_ms / 1_000, tz=UTC)
    what = f"{config.tls_certificate} and its key belong together; it ends on {day:%Y-%m-%d}"
    fix = "renew it, put the new files there, and reload: systemctl reload passby, or SIGHUP"
    if ends_ms <= now_ms:
        yield Finding("tls", "fail", f"{config.tls_certificate} ended on {day:%Y-%m-%d}", fix)
    elif left_days < CERTIFICATE_WARN_DAYS:
        yield Finding("tls", "warn", f"{what}, in {left_days} days", fix)
    else:
        yield Finding("tls", "ok", what)


def server(config: Config) -> Iterator[Finding]:
    """The server that comes along: who runs it, and what one that was killed left behind."""
    if config.database_url or not (config.data / "postgres.password").exists():
        return
    owner, url_file = owner_of(config.data), config.data / "database.url"
    if owner:
        yield Finding("server", "ok", f"runs under process {owner}")
        if not url_file.exists():
            what = f"{url_file} is not there: nobody else can join"
            yield Finding("server", "warn", what, "start the service again")
    elif url_file.exists():
        what = f"does not run, but left {url_file}: its process was killed"
        yield Finding("server", "warn", what, "nothing: the next start recovers and replaces it")
    else:
        yield Finding("server", "ok", "does not run, and was stopped in order")
    log = config.data / "postgres.log"
    size = log.stat().st_size if log.exists() else 0
    if size > 2 * LOG_BYTES_MAX:
        what = f"{log} has {size / 1e6:,.0f} MB"
        yield Finding("log", "warn", what, f"read its end, then empty it: truncate -s 0 {log}")
    else:
        yield Finding("log", "ok", f"{log} has {size / 1e6:,.1f} MB")


def owner_of(data: Path) -> str:
    """Id of the process that owns a data folder, empty if none does; leaves it as it is."""
    try:
        with (data / "passby.lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(20).strip() or "unknown"
    except OSError:
        return ""
    return ""


def cluster_of(config: Config) -> bool:
    """Whether the data folder has a cluster of its own."""
    if not (config.data / "postgres.password").exists():
        return False
    if config.data.stat().st_uid != os.geteuid():
        return True
    return Cluster(config.data, user="nobody").folder.exists()


async def database(url: str, config: Config) -> list[Finding]:
    """What can be asked of the database: version, durability, migrations, clock, key, consent."""
    try:
        connection = await asyncpg.connect(url, timeout=ANSWER_S, command_timeout=ANSWER_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        what = f"the database does not let us in: {type(error).__name__}"
        fix = "see that PostgreSQL runs, and that PASSBY_DATABASE_URL has its address and password"
        return [Finding("store", "fail", what, fix)]
    try:
        found = [*_version(connection.get_server_version(), await _settings(connection))]
        found += _clock(*await _clocks(connection))
        migrations = await _migrations(connection)
        found.append(migrations)
        if migrations.status != "fail" and "no tables" not in migrations.what:
            found += await _key_in_store(connection, config)
        if migrations.status == "ok":
            found += _set_back(time.time_ns() // 1_000_000, await _newest_ms(connection))
            found.append(_records(await chains.walk(connection)))
        return found
    finally:
        await connection.close()


async def _settings(connection: asyncpg.Connection) -> dict[str, str]:
    names = ["fsync", "synchronous_commit", "full_page_writes", "server_version_num"]
    rows = await connection.fetch(
        "select name, setting from pg_settings where name = any($1)", names
    )
    return {row["name"]: row["setting"] for row in rows}


def _version(version: asyncpg.ServerVersion, settings: dict[str, str]) -> Iterator[Finding]:
    told = f"PostgreSQL {version.major}.{version.minor}"
    if int(settings["server_version_num"]) < POSTGRES_MIN:
        yield Finding("store", "fail", f"{told} is too old", "use PostgreSQL 14 or newer")
    elif off := [name for name in ("fsync", "full_page_writes") if settings[name] != "on"]:
        what = f"{told} has {' and '.join(off)} off: what was answered may be lost"
        yield Finding("store", "fail", what, f"turn {' and '.join(off)} on in postgresql.conf")
    else:
        yield Finding("store", "ok", f"{told} answers")


async def _clocks(connection: asyncpg.Connection) -> tuple[int, int]:
    """The database's clock less ours, and how unsure that is, milliseconds."""
    before_ns, began_ns = time.time_ns(), time.monotonic_ns()
    theirs = await connection.fetchval("select extract(epoch from clock_timestamp()) * 1000")
    took_ns = time.monotonic_ns() - began_ns
    return round(float(theirs) - (before_ns + took_ns / 2) / 1e6), took_ns // 2_000_000


def _clock(ahead_ms: int, unsure_ms: int) -> Iterator[Finding]:
    apart = max(0, abs(ahead_ms) - unsure_ms)
    what = f"the database's clock is {abs(ahead_ms)} ms {'ahead' if ahead_ms > 0 else 'behind'}"
    fix = "let both machines follow NTP: times of pings, offers and grants rest on the clock"
    if apart > CLOCK_FAIL_MS:
        yield Finding("clock", "fail", what, fix)
    elif apart > CLOCK_WARN_MS:
        yield Finding("clock", "warn", what, fix)
    else:
        yield Finding("clock", "ok", what)


async def _newest_ms(connection: asyncpg.Connection) -> int:
    """The latest instant among the newest entries of the audit log; 0 of none."""
    newest: int = await connection.fetchval(
        "select coalesce(max(at_ms), 0) from "
        "(select at_ms from audit order by number desc limit 1000) as newest"
    )
    return newest


def _set_back(now_ms: int, newest_ms: int) -> Iterator[Finding]:
    """Whether something was written at a time that is yet to come."""
    ahead_ms = newest_ms - now_ms
    if ahead_ms <= CLOCK_FAIL_MS:
        return
    what = f"something was written at a time that comes in {ahead_ms / 1_000:,.0f} s"
    fix = "see which clock was wrong, ours now or the one then, and let them follow NTP"
    yield Finding("clock", "warn", what, fix)


def _records(walked: chains.Walked) -> Finding:
    """Whether what residents said is as it was written; receipts are named, and nobody."""
    if not walked.faults:
        what = f"{walked.records:,} records of {walked.residents:,} residents are as written"
        return Finding("records", "ok", what)
    told = ", ".join(f"{one.receipt or 'of none'} ({one.fault})" for one in walked.broken)
    more = ", and more" if walked.faults > len(walked.broken) else ""
    what = f"{walked.faults:,} records of consent are not as written; receipts {told}{more}"
    fix = "find out who wrote to the database, and compare with a backup: see explanation/rights.md"
    return Finding("records", "fail", what, fix)


async def _migrations(connection: asyncpg.Connection) -> Finding:
    known = load_migrations()
    try:
        missing = await missing_of(connection, known)
    except SchemaRefused as error:
        return Finding("migrations", "fail", str(error), "run the version that fits the database")
    if len(missing) == len(known):
        what = "the database has no tables of ours yet"
        return Finding("migrations", "warn", what, "nothing: the next start makes them")
    if missing:
        what = f"{len(missing)} of {len(known)} are missing"
        fix = "back up, then start this version: it applies them"
        return Finding("migrations", "warn", what, fix)
    return Finding("migrations", "ok", f"all {len(known)} are applied")


async def _key_in_store(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Whether the operator's key opens the service."""
    path = config.data / OPERATOR_KEY_FILE
    key = config.operator_key
    if not key and path.exists() and os.access(path, os.R_OK):
        key = path.read_text(encoding="utf-8").strip()
    if not key:
        return []
    key_id = f"operator-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if await connection.fetchval("select 1 from keys where id = $1", key_id):
        return [Finding("key", "ok", "the operator's key is known to the store")]
    what = "the operator's key is not in the store"
    return [Finding("key", "warn", what, "nothing: the next start of the service adds it")]


async def service(url: str, *, asked: bool) -> list[Finding]:
    """What a running service says of itself.

    Args:
        url: where it listens.
        asked: whether there has to be one.
    """
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/readyz") as answer,
        ):
            told = await answer.json()
            checks = {name: (one["ok"], one["detail"]) for name, one in told["checks"].items()}
            lag_s, suspended = await _gauges(session, url)
    except aiohttp.ClientConnectorCertificateError as error:
        what = f"the certificate shown at {url} is not trusted here: {error.certificate_error}"
        fix = "name the --url by the certificate's own name, and its issuer by SSL_CERT_FILE"
        return [Finding("service", "fail" if asked else "warn", what, fix)]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, OSError):
        what = f"nobody says at {url} whether they are ready"
        if not asked:
            return [Finding("service", "ok", f"none runs at {url}")]
        return [Finding("service", "fail", what, "start it with passby serve, or name its --url")]
    fixes = {
        "store": "see the line of the store",
        "feed": "see that the database answers; a service that lost the feed must be started again",
        "journal": "see how fast the database's disk is: commits take longer than pings come",
    }
    return [
        Finding(f"service {name}", "ok", detail)
        if ok
        else Finding(f"service {name}", "fail", detail, fixes.get(name, "see the service's log"))
        for name, (ok, detail) in checks.items()
    ] + [
        Finding("service lag", "ok", f"the feed was read to its end {lag_s:.1f} s ago"),
        _grants(suspended),
    ]


async def _gauges(session: aiohttp.ClientSession, url: str) -> tuple[float, int]:
    """How long ago the service last saw the end of the change feed, seconds; and how many
    residents have suspended grants."""
    async with session.get(f"{url}/metrics") as answer:
        lines = [line.split() for line in (await answer.text()).splitlines()]
    told = {line[0]: line[1] for line in lines if len(line) == 2}
    suspended = float(told["passby_residents_suspended"])
    return float(told["passby_feed_lag_seconds"]), int(suspended)


def _grants(suspended: int) -> Finding:
    """Whether a restore left grants that nobody has confirmed."""
    if not suspended:
        return Finding("service grants", "ok", "no grant is suspended")
    what = f"grants of {suspended:,} residents are suspended since a backup was restored"
    fix = "let residents grant anew, or say on what ground they still do: passby reconfirm"
    return Finding("service grants", "warn", what, fix)


def examine(config: Config) -> list[Finding]:
    """All that can be seen from this machine without the database."""
    return [
        *folder(config.data),
        *disk(config.data),
        *zones(config.timezone),
        *operator_key(config),
        *certificate(config, time.time_ns() // 1_000_000),
        *server(config),
    ]
