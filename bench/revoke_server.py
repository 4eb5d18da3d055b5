"""A service that writes down when each offer leaves: ``python -m bench.revoke_server``.

It is the service itself but for its answerer, which stamps what it hands over; and, if asked, has
no second gate, so that it can be seen that somebody notices. Settings are those of the service.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar, TextIO

import uvloop

from engine.app import running
from engine.config import Config
from engine.decision import Decision
from engine.delivery.answer import Answerer, Decided
from engine.web.server import serve


class Stamping(Answerer):
    """Hands over as the service does, and stamps each offer: resident, Unix nanoseconds."""

    file: ClassVar[TextIO]

    def hand_over(self, decided: Decided) -> list[Decision]:
        """Right after the gate, in the same breath as the sending."""
        out = super().hand_over(decided)
        for decision in out:
            if decision.offer is not None:
                self.file.write(f"{decision.resident} {time.time_ns()}\n")
        return out


class Ungated(Stamping):
    """Hands over what was decided, whatever the resident has said since."""

    def hand_over(self, decided: Decided) -> list[Decision]:
        """No gate."""
        for decision in decided.decisions:
            if decision.offer is not None:
                self.file.write(f"{decision.resident} {time.time_ns()}\n")
        return decided.decisions


async def run(config: Config, answerer: type[Answerer]) -> None:
    """Serve until told to end."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with (
        running(config, ended.set, answerer=answerer) as ctx,
        serve(ctx, config.host, config.port) as port,
    ):
        print(f"listening on http://{config.host}:{port}", file=sys.stderr, flush=True)
        await ended.wait()


def main() -> None:
    """Take the flags and serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.revoke_server")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True, help="written at the end")
    parser.add_argument("--no-second-gate", action="store_true")
    arguments = parser.parse_args()
    config = Config.from_environ(os.environ, data=arguments.data)
    with arguments.stamps.open("w", encoding="utf-8") as file:
        Stamping.file = file
        uvloop.run(run(config, Ungated if arguments.no_second_gate else Stamping))


if __name__ == "__main__":
    main()
