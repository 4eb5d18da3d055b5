"""`passby serve` and `passby demo`: the service, alone or with a made-up city that lives."""

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from engine.app import OPERATOR_KEY_FILE, clock_ms, running
from engine.commands.terminal import DONE, WorkFailed, add_data, say
from engine.config import Config
from engine.demo import Demo
from engine.logs import set_level_again
from engine.web.listening import Certificate, handed_over, tell_starter
from engine.web.server import serve as serve_http
from loadtest.city import City

_log = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Take the flags of both."""
    _add_service(commands.add_parser("serve", help="run the service"), _serve)
    demo = commands.add_parser("demo", help="run the service with a made-up city that lives")
    _add_service(demo, _demo)
    demo.add_argument("--seed", type=int, default=1, help="another number, another city")
    demo.add_argument("--residents", type=int, default=300, help="who walk (default 300)")
    demo.add_argument("--shops", type=int, default=150, help="default 150")
    demo.add_argument(
        "--for", dest="seconds", type=float, default=0, help="stop after so many SECONDS"
    )


def _add_service(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default 8080; 0 takes a free one)")
    add_data(parser)
    parser.set_defaults(run=run)


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
        failures.append("stopped: a part of the service can't go on, see the log; start again")
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    certificate = (
        Certificate(config.tls_certificate, config.tls_key) if config.tls_certificate else None
    )
    loop.add_signal_handler(signal.SIGHUP, _read_again, config, certificate)
    handed = handed_over(os.environ)
    async with (
        running(config, fail) as ctx,
        serve_http(ctx, config.host, config.port, certificate=certificate, handed=handed) as port,
    ):
        host = config.host if handed is None else handed.getsockname()[0]
        address = f"{'http' if certificate is None else 'https'}://{host}:{port}"
        say(f"listening on {address}")
        tell_starter(os.environ, "READY=1")
        yield address, ended
        tell_starter(os.environ, "STOPPING=1")
        say("stopping")
    if failures:
        raise WorkFailed(failures[0])


def _read_again(config: Config, certificate: Certificate | None) -> None:
    """Take over another log level and a renewed certificate; a bad one changes nothing."""
    set_level_again(config.data, config.log_level)
    if certificate is None:
        return
    try:
        certificate.read_again()
    except OSError as error:
        _log.error("%s; the one before stays", error)
    else:
        _log.info("the certificate was read again")


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
        say(
            f"{demo.pings} pings answered, {demo.spared} not sent because they could not matter, "
            f"{demo.offers} offers made"
        )
    return DONE
