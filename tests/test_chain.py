"""A record that somebody changed, dropped or added behind our back is found, and by its receipt."""

import random
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
import pytest

from engine import doctor
from engine.config import Config
from engine.consent.chain import Broken, Kept, faults, seal
from engine.consent.record import Record, record_id
from engine.consent.sync import Said, marketing, resolve, stop
from engine.residents import ResidentSettings
from engine.store import chains
from engine.store.port import ResidentRow
from engine.store.postgres import PostgresStore
from tests.strategies import NOON_MS, records_of

SALTED: Final = Said(actor="self", now_ms=NOON_MS, seed=b"5" * 32, device='phöne "1" \t')


def said(resident: str = "ann") -> tuple[Record, ...]:
    """What a resident said in three calls, ten records, some salted and some of old without."""
    first = records_of(marketing(True), resident=resident)
    row = ResidentRow(id=resident, settings=ResidentSettings(), version=1, records=first)
    return first + resolve(row, stop(), SALTED).records


def kept(records: tuple[Record, ...]) -> list[Kept]:
    """As the store keeps them."""
    return [
        Kept(place, record.version, record_id(record), msgspec.json.encode(record))
        for place, record in enumerate(records, 1)
    ]


def test_what_was_written_is_whole() -> None:
    """Whatever a record holds, and in whatever order its fields were written."""
    records = said()

    assert faults("ann", 2, kept(records)) == []
    assert faults("nobody", 0, []) == []
    for record in records:
        fields = list(msgspec.to_builtins(record).items())
        random.Random(1).shuffle(fields)
        assert seal(msgspec.json.encode(dict(fields))) == record_id(record)


def test_every_change_of_one_record_is_found() -> None:
    """Each field of each record, whether it is put anew, dropped or added."""
    rows = kept(said())
    for place, row in enumerate(rows):
        told = msgspec.json.decode(row.body)
        changes = [{**told, name: "x"} for name in told if told[name] != "x"]
        changes += [{n: v for n, v in told.items() if n != name} for name in told]
        changes.append({**told, "more": 1})
        for changed in changes:
            body = msgspec.json.encode(changed)
            forged = [*rows[:place], row._replace(body=body), *rows[place + 1 :]]
            assert Broken(row.id, "altered") in faults("ann", 2, forged)
        for wrong in (row._replace(version=7), row._replace(id="0" * 32)):
            assert faults("ann", 2, [*rows[:place], wrong, *rows[place + 1 :]]) != []


def test_a_gap_an_addition_and_a_swap_are_found() -> None:
    """Anywhere in the chain, at its ends too; a record of another's is none of this one's."""
    rows = kept(said())
    for place in range(len(rows)):
        left = [*rows[:place], *rows[place + 1 :]]
        closed = [row._replace(position=at) for at, row in enumerate(left, 1)]
        expected = rows[place + 1].id if place + 1 < len(rows) else None
        if expected is not None:
            assert Broken(expected, "missing") in faults("ann", 2, left)
            assert Broken(expected, "out_of_chain") in faults("ann", 2, closed)
    assert faults("ann", 2, rows[:2]) == [Broken(rows[1].id, "missing")]
    assert faults("ann", 2, []) == [Broken("", "missing")]
    for end in range(3, len(rows)):  # some of the last call are there
        assert faults("ann", 2, rows[:end]) == [Broken(rows[end - 1].id, "missing")]
    assert faults("ann", 2, [*rows[:-2], rows[-1], rows[-2]]) != []
    assert faults("bob", 2, rows) == [Broken(row.id, "altered") for row in rows]
    assert faults("ann", 2, [rows[0]._replace(body=b"no json"), *rows[1:]]) == [
        Broken(rows[0].id, "altered")
    ]


TAMPERED: Final = {
    "altered": "update consent_records set body = convert_to(replace(convert_from(body, 'UTF8'), "
    "'\"withdraw\"', '\"grant\"'), 'UTF8') where resident = 'r-7' and position = 5",
    "out_of_chain": "update consent_records set position = 11 - position + 100 "
    "where resident = 'r-7' and position in (5, 6)",
    "missing": "delete from consent_records where resident = 'r-7' and position > 9",
}


@pytest.mark.parametrize("fault", [None, *TAMPERED])
async def test_the_doctor_names_the_receipt_and_nobody(
    database_url: str, tmp_path: Path, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among many residents, some of whom said nothing, and however the slices fall."""
    monkeypatch.setattr(chains, "ROWS", 7)
    store = PostgresStore(database_url)
    await store.open()
    try:
        rows = [
            ResidentRow(id=f"r-{number}", settings=ResidentSettings(), records=said(f"r-{number}"))
            for number in range(20)
        ]
        await store.import_residents(rows)
        await store.create_residents({"silent": ResidentSettings()})
    finally:
        await store.close()
    if fault is not None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("alter table consent_records disable trigger all")
        await connection.execute(TAMPERED[fault])
        await connection.close()

    found = await doctor.database(database_url, Config(data=tmp_path))

    (records,) = [finding for finding in found if finding.name == "records"]
    if fault is None:
        assert (records.status, records.fix) == ("ok", "")
        assert records.what == "200 records of 21 residents are as written"
        return
    assert records.status == "fail"
    assert fault in records.what
    assert "r-7" not in records.what
    at = {"altered": 4, "out_of_chain": 5, "missing": 8}[fault]
    assert record_id(rows[7].records[at]) in records.what


async def test_only_a_few_are_named(database_url: str) -> None:
    """However many there are."""
    store = PostgresStore(database_url)
    await store.open()
    await store.import_residents(
        [
            ResidentRow(id=f"r-{number}", settings=ResidentSettings(), records=said())
            for number in range(30)
        ]
    )
    await store.close()
    connection = await asyncpg.connect(database_url)
    walked = await chains.walk(connection)
    await connection.close()

    assert (walked.residents, walked.records, walked.faults) == (30, 300, 300)
    assert len(walked.broken) == chains.BROKEN_MAX
