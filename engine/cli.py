"""The `passby` command: data goes to stdout, progress to stderr.

Exit codes: 0 done, 1 the work failed, 2 wrong use.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from engine.app import OPERATOR_KEY_FILE, clock_ms, running
from engine.config import Config, SettingRefused
from engine.decision import encode
from engine.demo import Demo, DemoFailed
from engine.importing import Imported, import_fences
from engine.offers.gates import Attention
from engine.offers.offer import Brand
from engine.pipeline import EngineSettings
from engine.replay import (
    InputRefused,
    Replay,
    RowRefused,
    open_maybe_gzip,
    opt_in_rule,
    read_fences,
    read_offers,
)
from engine.store.cluster import ClusterRefused
from engine.store.embedded import DataInUse, EmbeddedPostgres, ServerFailed
from engine.store.migrate import SchemaRefused
from engine.store.port import KeyRow, Store, StoreUnavailable
from engine.store.postgres import PostgresStore
from engine.web.auth import key_hash, new_id, new_key
from engine.web.server import serve as serve_http
from loadtest.city import City

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
PROGRESS_EVERY_S: Final = 1.0
REJECTED_SHOWN_MAX: Final = 20


class WorkFailed(Exception):
    """The work can't be done; the text says why and what to do."""


FAILURES: Final = (
    WorkFailed,
    InputRefused,
    DemoFailed,
    DataInUse,
    ServerFailed,
    ClusterRefused,
    SchemaRefused,
)
"""What ends a command with a sentence instead of a traceback."""


def say(text: str) -> None:
    """Tell a person about progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        config = _config(arguments)
    except SettingRefused as error:
        say(f"passby: {error}")
        return WRONG_USE
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        result = arguments.run(config, arguments)
        return int(uvloop.run(result)) if asyncio.iscoroutine(result) else int(result)
    except (*FAILURES, OSError) as error:
        say(f"passby: {error}")
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


# -- serve and demo ---------------------------------------------------------------------------


async def _serve(config: Config, _: argparse.Namespace) -> int:
    async with _serving(config) as (_address, ended):
        await ended.wait()
    return DONE


@contextlib.asynccontextmanager
async def _serving(config: Config) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The whole service; gives its address, and an event that is set when it has to stop.

    Raises:
        WorkFailed: in the end, if it stopped because a part could not go on.
    """
    ended = asyncio.Event()
    failures: list[str] = []

    def fail() -> None:
        failures.append("stopped: the change feed can't be followed; start again")
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with running(config, fail) as ctx, serve_http(ctx, config.host, config.port) as port:
        address = f"http://{config.host}:{port}"
        say(f"listening on {address}")
        yield address, ended
        say("stopping")
    if failures:
        raise WorkFailed(failures[0])


async def _demo(config: Config, arguments: argparse.Namespace) -> int:
    logging.getLogger("engine.web").setLevel(logging.WARNING)
    zone = City.daytime_zone(clock_ms())
    config = dataclasses.replace(
        config, timezone=zone, attention_per_day=50, attention_per_week=200
    )
    city = City.make(
        arguments.seed, residents=arguments.residents, shops=arguments.shops, timezone=zone
    )
    async with _serving(config) as (address, ended):
        key = config.operator_key or (config.data / OPERATOR_KEY_FILE).read_text().strip()
        demo = Demo(address, key, city, say=lambda line: print(line, flush=True))
        walking = asyncio.create_task(demo.run(now_ms=clock_ms, progress=say))
        walking.add_done_callback(lambda _: ended.set())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(arguments.seconds or None):
                await ended.wait()
        if walking.done() and not walking.cancelled() and (error := walking.exception()):
            raise WorkFailed(f"the demo ended: {error}")
        walking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await walking
        say(f"{demo.pings} pings answered, {demo.offers} offers made")
    return DONE


# -- replay -----------------------------------------------------------------------------------


def _replay(config: Config, arguments: argparse.Namespace) -> int:
    fences, brands, refused = read_fences(Path(arguments.fences), brand_by=arguments.brand_by)
    _tell_refused(refused)
    offers = read_offers(Path(arguments.offers), brands) if arguments.offers else []
    known = {brand.id for brand in brands}
    brands += [Brand(id=name, name=name) for name in sorted({o.brand for o in offers} - known)]
    replay = Replay(
        fences=fences,
        brands=brands,
        offers=offers,
        opted_in=opt_in_rule(arguments.opt_in),
        settings=EngineSettings(
            attention=Attention(config.attention_per_day, config.attention_per_week),
            kept_fixes_max=config.kept_fixes_max,
        ),
        timezone=config.timezone,
    )
    started = time.perf_counter()
    with (
        open_maybe_gzip(Path(arguments.pings)) as lines,
        _written(arguments.out) as write,
    ):
        done = 0
        tell = _every(PROGRESS_EVERY_S)
        for decisions in replay.run(lines, batch=arguments.batch):
            done += len(decisions)
            write(decisions)
            if tell():
                say(f"{done:,} pings, {done / (time.perf_counter() - started):,.0f} a second")
    seconds = time.perf_counter() - started
    summary = replay.summary()
    summary["pings_per_second"] = round(summary["pings"] / seconds) if seconds else 0
    _print_summary(summary, as_json=arguments.json)
    return DONE


@contextlib.contextmanager
def _written(path: str | None) -> Iterator[Callable[[list[Any]], None]]:
    """Write decisions to a file, a JSON line each; without a path to nowhere."""
    if path is None:
        yield lambda _: None
        return
    with Path(path).open("wb") as file:
        yield lambda decisions: file.writelines(encode(d) + b"\n" for d in decisions)


def _every(seconds: float) -> Callable[[], bool]:
    """A question that is answered yes once in so many seconds."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds:
            return False
        last = now
        return True

    return due


def _print_summary(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(summary).decode())
        return
    for name, value in summary.items():
        shown = (
            "  ".join(f"{key} {count:,}" for key, count in value.items()) or "none"
            if isinstance(value, dict)
            else f"{value:,}"
            if isinstance(value, int)
            else value
        )
        print(f"{name:<18} {shown}")


def _tell_refused(refused: list[RowRefused]) -> None:
    for row in refused[:REJECTED_SHOWN_MAX]:
        say(f"row {row.row} left out: {row.code}: {row.detail}")
    if len(refused) > REJECTED_SHOWN_MAX:
        say(f"... and {len(refused) - REJECTED_SHOWN_MAX} more rows")


# -- import and keys --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _store(config: Config) -> AsyncIterator[Store]:
    """The store of these settings: the one named, the running one of `data`, or started here."""
    async with contextlib.AsyncExitStack() as stack:
        url = config.database_url
        if not url:
            config.data.mkdir(parents=True, exist_ok=True)
            server = EmbeddedPostgres(config.data)
            try:
                url = await server.start()
                stack.push_async_callback(server.stop)
            except DataInUse:
                url = server.url_file.read_text(encoding="utf-8").strip()
        store = PostgresStore(url)
        await store.open()
        stack.push_async_callback(store.close)
        yield store


async def _import_fences(config: Config, arguments: argparse.Namespace) -> int:
    say(f"reading {arguments.file}")
    fences, brands, refused = read_fences(Path(arguments.file), brand_by=arguments.brand_by)
    say(f"{len(fences):,} fences read, {len(refused):,} rows left out")
    rows = {fence.id: number for number, fence in enumerate(fences, 1)}
    made = brands if arguments.brand_by else []
    async with _store(config) as store:
        done = await import_fences(store, fences, rows, made, dry_run=arguments.dry_run)
    rejected = (*refused, *done.rejected)
    _print_import(done._replace(rejected=rejected), as_json=arguments.json)
    if not arguments.json:
        _tell_refused(list(rejected))
    return FAILED if rejected and not fences else DONE


def _print_import(done: Imported, *, as_json: bool) -> None:
    if as_json:
        report = {**done._asdict(), "rejected": [row._asdict() for row in done.rejected]}
        print(msgspec.json.encode(report).decode())
        return
    for name in ("created", "updated", "unchanged"):
        print(f"{name:<10} {getattr(done, name):,}")
    print(f"{'rejected':<10} {len(done.rejected):,}")


async def _keys(config: Config, arguments: argparse.Namespace) -> int:
    async with _store(config) as store:
        if arguments.action == "make":
            return await _make_key(store, arguments)
        if arguments.action == "delete":
            if await store.delete_key(arguments.id) is None:
                raise WorkFailed(f"there is no key {arguments.id}; see passby keys list")
            say(f"key {arguments.id} deleted")
            return DONE
        keys = (await store.snapshot(now_ms=clock_ms())).keys
    for key in sorted(keys, key=lambda key: key.created_ms):
        whose = ",".join(key.brands) or key.resident or key.purchaser or ""
        print(f"{key.id:<22} {key.role:<10} {key.name:<24} {whose}")
    return DONE


async def _make_key(store: Store, arguments: argparse.Namespace) -> int:
    text = new_key(arguments.role)
    row = KeyRow(
        id=new_id("k"),
        hash=key_hash(text),
        role=arguments.role,
        name=arguments.name,
        created_ms=clock_ms(),
        brands=tuple(arguments.brand or ()),
        resident=arguments.resident,
    )
    if (row.role == "merchant") != bool(row.brands) or (row.role == "resident") != bool(
        row.resident
    ):
        raise WorkFailed("a merchant key needs --brand, a resident key --resident; others neither")
    await store.put_key(row)
    say(f"key {row.id} made; it is shown this once:")
    print(text)
    return DONE


# -- the command line -------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passby", description="A real-time location-offer engine for cities."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_service(commands.add_parser("serve", help="run the service"), _serve)
    demo = commands.add_parser("demo", help="run the service with a made-up city that lives")
    _add_service(demo, _demo)
    demo.add_argument("--seed", type=int, default=1, help="another number, another city")
    demo.add_argument("--residents", type=int, default=300, help="who walk (default 300)")
    demo.add_argument("--shops", type=int, default=150, help="default 150")
    demo.add_argument(
        "--for", dest="seconds", type=float, default=0, help="stop after so many SECONDS"
    )
    _add_replay(commands.add_parser("replay", help="run a recorded stream, in memory"))
    _add_import(commands.add_parser("import", help="bring a file into the database"))
    _add_keys(commands.add_parser("keys", help="list, make and delete keys"))
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder of the database (default .passby)")
    parser.add_argument("--database-url", help="a PostgreSQL to use instead of the embedded one")


def _add_service(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default 8080; 0 takes a free one)")
    _add_data(parser)
    parser.set_defaults(run=run)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pings", help="PINGS.jsonl, perhaps .gz: a ping a line")
    parser.add_argument("--fences", required=True, help="GeoJSON FeatureCollection, perhaps .gz")
    parser.add_argument("--offers", help="JSON array of offers with their ids")
    parser.add_argument(
        "--opt-in", default="all", help="all (default), a file of ids, or a fraction from 0 to 1"
    )
    parser.add_argument("--brand-by", help="property that gives a brand to fences without one")
    parser.add_argument("--batch", type=int, default=1_000, help="pings at a time (default 1000)")
    parser.add_argument("--out", help="write the decisions here, a JSON line each")
    parser.add_argument("--timezone", help="the residents' IANA zone (default UTC)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=_replay)


def _add_import(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    fences = kinds.add_parser("fences", help="fences from a GeoJSON FeatureCollection")
    fences.add_argument("file", help="GeoJSON, perhaps .gz")
    fences.add_argument("--brand-by", help="property that gives a brand to fences without one")
    fences.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    fences.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_data(fences)
    fences.set_defaults(run=_import_fences)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="make a key; it is shown once")
    make.add_argument(
        "--role", required=True, choices=("operator", "merchant", "sender", "resident")
    )
    make.add_argument("--name", required=True, help="what it is for")
    make.add_argument("--brand", action="append", help="a merchant's brand; may be repeated")
    make.add_argument("--resident", help="a resident key's resident")
    delete = actions.add_parser("delete", help="delete a key")
    delete.add_argument("id")
    for action in (make, delete, actions.add_parser("list", help="list keys")):
        _add_data(action)
        action.set_defaults(run=_keys)


if __name__ == "__main__":
    sys.exit(main())
