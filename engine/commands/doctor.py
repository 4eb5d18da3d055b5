"""`passby doctor`: is everything as it must be, and if not, what to do."""

import argparse
from typing import Any

import msgspec

from engine import doctor
from engine.commands.database import database
from engine.commands.terminal import DONE, FAILED, WorkFailed, add_data
from engine.config import Config
from engine.doctor import Finding
from engine.store.cluster import ClusterRefused
from engine.store.embedded import ServerFailed


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("doctor", help="look at everything, and say what to do")
    parser.add_argument("--url", help="a service that has to run (default: look for one here)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_data(parser)
    parser.set_defaults(run=_doctor)


async def _doctor(config: Config, arguments: argparse.Namespace) -> int:
    """Print every finding; failed if one of them is a fail."""
    found = doctor.examine(config)
    found += await _database(config)
    scheme = "https" if config.tls_certificate else "http"
    url = arguments.url or f"{scheme}://{config.host}:{config.port}"
    found += await doctor.service(url.rstrip("/"), asked=bool(arguments.url))
    if arguments.json:
        print(msgspec.json.encode(found).decode())
    else:
        for finding in found:
            fix = f"; fix: {finding.fix}" if finding.fix else ""
            print(f"{finding.status:<5} {finding.name}: {finding.what}{fix}")
    return FAILED if any(finding.status == "fail" for finding in found) else DONE


async def _database(config: Config) -> list[Finding]:
    """Ask the database; one that comes along and does not run is started for that."""
    if not config.database_url and not doctor.cluster_of(config):
        return [Finding("store", "ok", "there is no database yet; the first start makes it")]
    try:
        async with database(config) as url:
            return await doctor.database(url, config)
    except (WorkFailed, ClusterRefused, ServerFailed, OSError) as error:
        return [Finding("store", "fail", str(error), "do what is said here, then look again")]
