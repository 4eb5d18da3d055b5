"""Go through all records of consent in the database and see that they are as they were written."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

import asyncpg
import msgspec

from engine.consent.chain import Broken, Kept, faults

ROWS: Final = 2_000
"""Records read at a time."""
BROKEN_MAX: Final = 20
"""Most that are named."""

_SQL: Final = """
select r.id as resident, r.version as newest, c.position, c.version, c.id, c.body
from residents r left join consent_records c on c.resident = r.id
order by r.id, c.position
"""


class Walked(msgspec.Struct):
    """What a walk through all chains found."""

    residents: int = 0
    records: int = 0
    faults: int = 0
    broken: list[Broken] = []
    """The first of them."""


async def walk(connection: asyncpg.Connection) -> Walked:
    """Look at every record, as of one instant, a slice at a time."""
    walked = Walked()
    rest: list[Any] = []
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        cursor = await connection.cursor(_SQL)
        while rows := await cursor.fetch(ROWS):
            rest += rows
            # The last resident's records may go on in the next slice.
            last = rest[-1]["resident"]
            whole = [row for row in rest if row["resident"] != last]
            rest = rest[len(whole) :]
            _look(walked, whole)
    _look(walked, rest)
    return walked


def _look(walked: Walked, rows: list[Any]) -> None:
    """Take in some residents' records, by resident and position."""
    for resident, own in groupby(rows, key=lambda row: row["resident"]):
        mine = list(own)
        kept = list(_kept(mine))
        walked.residents += 1
        walked.records += len(kept)
        found = faults(resident, mine[0]["newest"], kept)
        walked.faults += len(found)
        walked.broken += found[: BROKEN_MAX - len(walked.broken)]


def _kept(rows: list[Any]) -> Iterator[Kept]:
    for row in rows:
        if row["position"] is not None:
            yield Kept(row["position"], row["version"], row["id"], row["body"])
