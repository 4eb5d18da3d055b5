"""`passby import`: bring a file into the database."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from engine.app import clock_ms, read_laws
from engine.commands.database import opened_store
from engine.commands.terminal import DONE, FAILED, add_data, say, tell_refused
from engine.config import Config
from engine.importing import Imported, import_fences, import_residents
from engine.store.audit import Author


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("import", help="bring a file into the database")
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    fences = kinds.add_parser("fences", help="fences: GeoJSON, lines of it, or a table")
    fences.add_argument("file", help="GeoJSON, NDJSON, a text sequence or CSV, perhaps .gz")
    fences.add_argument("--brand", help="the brand of fences without one")
    fences.add_argument("--brand-by", help="property that gives a brand to fences without one")
    fences.set_defaults(run=_import_fences)
    residents = kinds.add_parser("residents", help="residents with the opt-ins that the city holds")
    residents.add_argument("file", help="a resident a line of JSON, with the proof, perhaps .gz")
    residents.set_defaults(run=_import_residents)
    for parser in (fences, residents):
        parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        add_data(parser)


def _author(command: str) -> Author:
    return Author(at_ms=clock_ms(), key="", name="passby", role="host", action=command)


def _tell(rows: int) -> None:
    say(f"{rows:,} rows")


async def _import_fences(config: Config, arguments: argparse.Namespace) -> int:
    say(f"reading {arguments.file}")
    async with opened_store(config) as store:
        done = await import_fences(
            store,
            Path(arguments.file),
            brand=arguments.brand,
            brand_by=arguments.brand_by,
            laws=read_laws(config.law_packs),
            rows_max=config.import_rows_max,
            dry_run=arguments.dry_run,
            by=_author("passby import fences"),
            tell=_tell,
        )
    return _told(done, as_json=arguments.json)


async def _import_residents(config: Config, arguments: argparse.Namespace) -> int:
    say(f"reading {arguments.file}")
    async with opened_store(config) as store:
        done = await import_residents(
            store,
            Path(arguments.file),
            zone=config.timezone,
            now_ms=clock_ms(),
            rows_max=config.import_rows_max,
            dry_run=arguments.dry_run,
            by=_author("passby import residents"),
            tell=_tell,
        )
    return _told(done, as_json=arguments.json)


def _told(done: Imported, *, as_json: bool) -> int:
    """Print what came of an import; the exit code: 1 where no row was good."""
    _print_import(done, as_json=as_json)
    if not as_json:
        tell_refused(done.rejected, done.rejected_count)
        if any(row.code == "brand_missing" for row in done.rejected):
            say("give fences without a brand one: --brand BRAND, or --brand-by PROPERTY")
    return FAILED if done.rejected and not done.created + done.updated + done.unchanged else DONE


def _print_import(done: Imported, *, as_json: bool) -> None:
    if as_json:
        report = {**done._asdict(), "rejected": [row._asdict() for row in done.rejected]}
        print(msgspec.json.encode(report).decode())
        return
    for name in ("created", "updated", "unchanged"):
        print(f"{name:<10} {getattr(done, name):,}")
    print(f"{'rejected':<10} {done.rejected_count:,}")
