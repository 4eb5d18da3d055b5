"""A million residents' preferences: how long they load, what they take, and how fast one decides.

The residents are made in PostgreSQL itself, and loaded by a process of its own, whose memory is
then that of the index. A fifth of them never said anything, more than half said what many say, and
a fifth what nobody else says.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from bench.consent_load import CATEGORIES, NOW_MS, Measured
from bench.leftovers import removed
from bench.table import Row
from bench.timing import progress, told
from engine.consent.record import ALL, Notice, Record, Scope, WeekWindow
from engine.store.embedded import EmbeddedPostgres
from engine.store.postgres import PostgresStore

BRANDS: Final = 2_000
_CHANNELS: Final = (None, ("push",), ("push", "in_app"), ("email",))
_WEEKS: Final = (None, (WeekWindow((6, 7), 9, 21),), (WeekWindow((1, 2, 3, 4, 5), 17, 21),))
_PARTS: Final = 20
"""The residents of each so many say likewise: n % 20."""

_RESIDENTS: Final = """
insert into residents (id, settings, version)
select 'r-' || lpad(n::text, 9, '0'), ($2::bytea[])[1 + n % cardinality($2::bytea[])],
    (n % 20 >= 4)::integer
from generate_series(0, $1::bigint - 1) n
"""

_RECORDS: Final = """
insert into consent_records (resident, position, version, id, body)
select 'r-' || lpad(n::text, 9, '0'), said.position, 1, md5(n || '.' || said.position),
    convert_to(
        replace(replace(replace(replace(replace(
            said.body, '_subject_', 'r-' || lpad(n::text, 9, '0')),
            '_salt_', md5(n || 's' || said.position)),
            '_before_', md5(n || '.' || said.position - 1)),
            '_other_', 'b' || hashint8(n * 5 + said.position)::bigint % $4 + $4),
            '1790000000001', (1790000000001 + n * 7919 % 7000000000)::text),
        'UTF8')
from generate_series(0, $1::bigint - 1) n
join unnest($2::integer[], $3::text[]) said (position, body) on true
"""
"""$1 residents, $2 and $3 what is said by those of a kind, $4 brands."""


def run(*, residents: int, asked: int) -> list[Row]:
    """Measure with so many residents, and ask so often for a decision."""
    with told("consent"):
        return asyncio.run(_measured(residents, asked))


async def _measured(residents: int, asked: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="passby-bench-") as folder, removed(Path(folder)):
        server = EmbeddedPostgres(Path(folder))
        url = await server.start()
        try:
            store = PostgresStore(url)
            await store.open()
            await store.close()
            records = await make(url, residents)
            measured = await asyncio.to_thread(load, url, asked)
        finally:
            await server.stop()
    name = f"consent {_short(measured.residents)}"
    note = (
        f"{records:,} records, {measured.rows:,} rows; {measured.cpu_s:.1f} s of this process; "
        f"at most {measured.turn_ms:.1f} ms at a time"
    )
    return [
        Row(name=f"{name}, load", median_us=measured.load_s * 1e6, note=note),
        Row(name=f"{name}, memory", mb=measured.held_mb, note=f"at most {measured.peak_mb:,.0f}"),
        *(
            Row(name=f"{name}, {way}", least_us=took.least_us, median_us=took.median_us)
            for way, took in measured.decisions.items()
        ),
    ]


def load(url: str, asked: int) -> Measured:
    """Load in a process of its own, which then measures."""
    command = [sys.executable, "-m", "bench.consent_load", url, str(asked)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=Measured)


async def make(url: str, residents: int) -> int:
    """Write so many residents into an empty database; how many records they have."""
    zones = [
        f'{{"timezone":"{zone}"}}'.encode() for zone in ("Europe/Helsinki", "UTC", "Asia/Tokyo")
    ]
    connection = await asyncpg.connect(url, command_timeout=600.0)
    try:
        await connection.execute("set statement_timeout = 0")
        await connection.execute(_RESIDENTS, residents, zones)
        for which, records in _kinds():
            positions = list(range(1, len(records) + 1))
            said = [msgspec.json.encode(record).decode() for record in records]
            where = f" where n % {_PARTS} = any(array[{','.join(map(str, which))}])"
            await connection.execute(_RECORDS + where, residents, positions, said, BRANDS)
            progress(f"consent: {which[-1] + 1}/{_PARTS} of the residents have said something")
        await connection.execute("analyze residents, consent_records")
        count: int = await connection.fetchval("select count(*) from consent_records")
        return count
    finally:
        await connection.close()


def _kinds() -> list[tuple[range, list[Record]]]:
    """What is said, by the residents who say it: by n % 20, from 4 on."""
    opted_in = [
        _record("grant", "use", "precise_location"),
        _record("grant", "contact", "contact_point"),
    ]
    some = [
        [
            _record("grant", "use", "precise_location", scope=scope),
            _record(
                "grant",
                "contact",
                "contact_point",
                scope=scope,
                channels=_CHANNELS[n % len(_CHANNELS)],
                week=_WEEKS[n % len(_WEEKS)],
            ),
            _record("deny", "contact", "contact_point", scope=Scope(category="pubs")),
        ]
        for n, scope in enumerate(Scope(category=category) for category in CATEGORIES)
    ]
    own = [
        *opted_in,
        *(_record("deny", "use", "precise_location", scope=_OTHER) for _ in range(2)),
        _record("grant", "share", "facility_use", scope=_OTHER),
    ]
    return [
        (range(4, 13), opted_in),
        *((range(13 + n, 14 + n), said) for n, said in enumerate(some)),
        (range(16, 20), own),
    ]


_OTHER: Final = Scope(brand="_other_")


def _record(effect: str, action: str, data: str, **fields: object) -> Record:
    """A record as the service writes it, with places that the database fills in."""
    common: dict[str, object] = {
        "subject": "_subject_",
        "actor": "self",
        "scope": ALL,
        "version": 1,
        "server_ms": NOW_MS,
        "client_ms": NOW_MS - 40,
        "expires_ms": 1_790_000_000_001 if effect == "grant" else None,
        "notice": Notice("offers", "2026-01", "en", "5f" * 32),
        "device": "phone",
        "supersedes": "_before_",
        "salt": "_salt_",
    }
    said = {"effect": effect, "purpose": "offers", "actions": (action,), "data": (data,)}
    return Record(**{**common, **said, **fields})  # type: ignore[arg-type]


def _short(residents: int) -> str:
    return f"{residents // 1_000_000}M" if residents >= 1_000_000 else f"{residents:,}"
