"""The `passby` command: data goes to stdout, progress to stderr.

Exit codes: 0 done, 1 the work failed, 2 wrong use.
"""

import argparse
import asyncio
import dataclasses
import errno
import os
import sys
from typing import Final

import uvloop

from engine.commands import backup, doctor, explain, imports, keys, replay, serve, settings
from engine.commands.terminal import FAILED, WRONG_USE, WorkFailed, say
from engine.config import Config, SettingRefused
from engine.demo import DemoFailed
from engine.logs import set_up
from engine.replay import InputRefused
from engine.store.backup import BackupRefused
from engine.store.cluster import ClusterRefused
from engine.store.embedded import DataInUse, ServerFailed
from engine.store.migrate import SchemaRefused
from engine.store.port import StoreUnavailable

_FIXES: Final = {
    errno.ENOSPC: "make room on that disk, then do it again",
    errno.EADDRINUSE: "stop what listens there, or choose another --port (0 takes a free one)",
}
"""What to do about what the system refuses."""
FAILURES: Final = (
    WorkFailed,
    InputRefused,
    DemoFailed,
    DataInUse,
    ServerFailed,
    ClusterRefused,
    SchemaRefused,
    BackupRefused,
)
"""What ends a command with a sentence instead of a traceback."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        config = _config(arguments)
    except SettingRefused as error:
        say(f"passby: {error}")
        return WRONG_USE
    set_up(config.log_level, config.log_format)
    try:
        result = arguments.run(config, arguments)
        return int(uvloop.run(result)) if asyncio.iscoroutine(result) else int(result)
    except (*FAILURES, OSError) as error:
        fix = _FIXES.get(error.errno or 0) if isinstance(error, OSError) else None
        say(f"passby: {error}{f'; {fix}' if fix else ''}")
        return FAILED
    except StoreUnavailable as error:
        say(f"passby: the database does not answer: {error}")
        return FAILED
    except KeyboardInterrupt:
        return FAILED


def _config(arguments: argparse.Namespace) -> Config:
    """Settings of the environment, overruled by what the command line gives."""
    names = {field.name for field in dataclasses.fields(Config)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return Config.from_environ(os.environ, **given)


def _parser() -> argparse.ArgumentParser:
    """The command line; each command adds its own flags and names what runs."""
    parser = argparse.ArgumentParser(
        prog="passby", description="A real-time location-offer engine for cities."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (serve, replay, imports, keys, backup, explain, doctor, settings):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
