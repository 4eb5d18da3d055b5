"""Measures this machine by work that is not ours, for the budgets; see `budgets`."""

import subprocess
import sys

from bench.budgets import Machine
from bench.city import make_fences, scattered
from bench.leftovers import ended
from bench.load import Phase, Plan
from bench.match import Textbook
from bench.serve import ROOT, loaded
from bench.timing import in_turns, settled_memory, told


def measure(*, fences: int = 1_000, pings: int = 5_000, residents: int = 20_000) -> Machine:
    """Measure this machine; about ten seconds."""
    with told("the machine"):
        textbook, at = Textbook(make_fences(fences)), scattered(pings).tolist()

        def ask() -> int:
            for lon, lat in at:
                textbook.covering(lon, lat)
            return pings

        with settled_memory():
            textbook_us = min(in_turns({"textbook": ask}, 7)["textbook"])
        return Machine(textbook_us, _bare_per_s(residents))


def _bare_per_s(residents: int) -> float:
    """Pings a second that a server takes which does nothing with them."""
    command = [sys.executable, "-m", "bench.bare"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    with ended(process):
        assert process.stdout is not None
        plan = Plan(
            host="127.0.0.1",
            port=int(process.stdout.readline()),
            key="pb_operator_nobody",
            residents=residents,
            server_pid=process.pid,
            phases=[Phase(name="bare, warm", rounds=1), Phase(name="bare", rounds=1)],
        )
        _, result = loaded(plan)
    return result.pings / result.seconds
