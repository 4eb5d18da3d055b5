"""`passby replay`: run a recorded stream of pings through the pipeline, in memory."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.commands.terminal import DONE, every, say, tell_refused
from engine.config import Config
from engine.decision import encode
from engine.offers.gates import Attention
from engine.offers.offer import Brand
from engine.pipeline import EngineSettings
from engine.replay import (
    Replay,
    open_maybe_gzip,
    opt_in_rule,
    read_fences,
    read_offers,
    read_own_zones,
)

PROGRESS_EVERY_S: Final = 1.0


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("replay", help="run a recorded stream, in memory")
    parser.add_argument("pings", help="PINGS.jsonl, perhaps .gz: a ping a line")
    parser.add_argument("--fences", required=True, help="GeoJSON FeatureCollection, perhaps .gz")
    parser.add_argument("--offers", help="JSON array of offers with their ids")
    parser.add_argument(
        "--opt-in", default="all", help="all (default), a file of ids, or a fraction from 0 to 1"
    )
    parser.add_argument(
        "--zones", help="residents' own zones: a GeoJSON Feature a line, with properties.resident"
    )
    parser.add_argument("--brand-by", help="property that gives a brand to fences without one")
    parser.add_argument("--batch", type=int, default=1_000, help="pings at a time (default 1000)")
    parser.add_argument("--out", help="write the decisions here, a JSON line each")
    parser.add_argument("--timezone", help="the residents' IANA zone (default UTC)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=_replay)


def _replay(config: Config, arguments: argparse.Namespace) -> int:
    fences, brands, refused = read_fences(Path(arguments.fences), brand_by=arguments.brand_by)
    tell_refused(refused)
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
        protections=read_own_zones(Path(arguments.zones)) if arguments.zones else None,
    )
    started = time.perf_counter()
    with (
        open_maybe_gzip(Path(arguments.pings)) as lines,
        _written(arguments.out) as write,
    ):
        done = 0
        tell = every(PROGRESS_EVERY_S)
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
