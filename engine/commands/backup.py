"""`passby backup`, `restore` and `reconfirm`: all that survives into a file, and back."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.app import clock_ms
from engine.commands.database import database, opened_store
from engine.commands.terminal import DONE, FAILED, WorkFailed, add_data, every, say
from engine.config import Config
from engine.consent.suspension import confirm
from engine.store.backup import back_up, check, restore
from engine.store.port import Store, VersionMoved

PROGRESS_EVERY_S: Final = 1.0


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("backup", help="everything into a file, while the service runs")
    parser.add_argument("file", type=Path, help="a new file, such as passby.backup")
    parser.add_argument("--check", action="store_true", help="only see that a file is whole")
    parser.add_argument("--json", action="store_true", help="print what is in it as JSON")
    add_data(parser)
    parser.set_defaults(run=_backup)
    parser = commands.add_parser("restore", help="a backup into an empty database")
    parser.add_argument("file", type=Path, help="what passby backup wrote")
    parser.add_argument("--force", action="store_true", help="delete first what is there")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_data(parser)
    parser.set_defaults(run=_restore)
    parser = commands.add_parser(
        "reconfirm", help="let grants count again that a restore suspended"
    )
    parser.add_argument("resident", nargs="*", help="residents who have confirmed")
    parser.add_argument("--all", action="store_true", help="everybody")
    parser.add_argument("--because", required=True, help="on what ground; kept in the history")
    add_data(parser)
    parser.set_defaults(run=_reconfirm)


async def _backup(config: Config, arguments: argparse.Namespace) -> int:
    """Write a file, or look at one."""
    if arguments.check:
        header = check(arguments.file)
    else:
        async with database(config) as url:
            header = await back_up(url, arguments.file, now_ms=clock_ms())
        check(arguments.file)
    if arguments.json:
        print(msgspec.json.encode(header).decode())
        return DONE
    taken = datetime.fromtimestamp(header.taken_ms / 1_000, tz=UTC)
    print(f"{'taken':<20} {taken:%Y-%m-%d %H:%M:%S} UTC by Passby {header.version}")
    for table, rows in header.rows.items():
        print(f"{table:<20} {rows:,}")
    return DONE


async def _restore(config: Config, arguments: argparse.Namespace) -> int:
    """Put a file back, and tell what has to be done then."""
    async with database(config) as url:
        done = await restore(url, arguments.file, force=arguments.force, now_ms=clock_ms(), say=say)
    if arguments.json:
        print(msgspec.json.encode(done).decode())
        return DONE
    for table, rows in done.deleted.items():
        say(f"deleted: {rows:,} {table}")
    for table, rows in done.rows.items():
        print(f"{table:<20} {rows:,}")
    say(
        f"every grant of {done.suspended:,} residents is suspended: they get nothing until they "
        "grant anew, or passby reconfirm says that they still do"
    )
    say(f"{done.codes_ended:,} open codes have ended: they may have been used since the backup")
    say("keys deleted since the backup are back: see passby keys list")
    return DONE


async def _reconfirm(config: Config, arguments: argparse.Namespace) -> int:
    """Append to the residents' records that their grants still hold."""
    if bool(arguments.resident) == arguments.all:
        raise WorkFailed("name the residents, or --all")
    async with opened_store(config) as store:
        if arguments.all:
            names: list[str] = []
            await store.snapshot(
                now_ms=clock_ms(), take=lambda told: names.extend(row.id for row in told)
            )
        else:
            names = arguments.resident
        done, unknown, tell = 0, list[str](), every(PROGRESS_EVERY_S)
        for name in names:
            confirmed = await _confirm(store, name, arguments.because)
            done += confirmed is True
            if confirmed is None:
                unknown.append(name)
            if tell():
                say(f"{done:,} residents confirmed")
    print(f"confirmed {done:,}")
    if unknown:
        say(f"not known: {', '.join(unknown)}")
    return FAILED if unknown else DONE


async def _confirm(store: Store, resident: str, because: str) -> bool | None:
    """One resident; False if nothing is suspended, None if they are not known."""
    while True:
        rows = await store.read_residents([resident])
        if not rows:
            return None
        record = confirm(rows[0], because=because, now_ms=clock_ms())
        if record is None:
            return False
        try:
            await store.append_records(resident, (record,), version_before=rows[0].version)
        except VersionMoved:
            continue
        return True
