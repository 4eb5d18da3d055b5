"""`passby import`: bring a file into the database."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from engine.app import clock_ms
from engine.commands.database import opened_store
from engine.commands.terminal import DONE, FAILED, add_data, say, tell_refused
from engine.config import Config
from engine.importing import Imported, import_fences
from engine.store.audit import Author


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("import", help="bring a file into the database")
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    fences = kinds.add_parser("fences", help="fences: GeoJSON, lines of it, or a table")
    fences.add_argument("file", help="GeoJSON, NDJSON, a text sequence or CSV, perhaps .gz")
    fences.add_argument("--brand", help="the brand of fences without one")
    fences.add_argument("--brand-by", help="property that gives a brand to fences without one")
    fences.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    fences.add_argument("--json", action="store_true", help="print the result as JSON")
    add_data(fences)
    fences.set_defaults(run=_import_fences)


async def _import_fences(config: Config, arguments: argparse.Namespace) -> int:
    say(f"reading {arguments.file}")
    by = Author(at_ms=clock_ms(), key="", name="passby", role="host", action="passby import fences")
    async with opened_store(config) as store:
        done = await import_fences(
            store,
            Path(arguments.file),
            brand=arguments.brand,
            brand_by=arguments.brand_by,
            rows_max=config.import_rows_max,
            dry_run=arguments.dry_run,
            by=by,
        )
    _print_import(done, as_json=arguments.json)
    if not arguments.json:
        tell_refused(list(done.rejected))
    return FAILED if done.rejected and not done.created + done.updated + done.unchanged else DONE


def _print_import(done: Imported, *, as_json: bool) -> None:
    if as_json:
        report = {**done._asdict(), "rejected": [row._asdict() for row in done.rejected]}
        print(msgspec.json.encode(report).decode())
        return
    for name in ("created", "updated", "unchanged"):
        print(f"{name:<10} {getattr(done, name):,}")
    print(f"{'rejected':<10} {done.rejected_count:,}")
