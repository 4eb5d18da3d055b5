"""``python -m bench``: run all benchmarks, print one table, exit with 1 when over budget.

A full run takes ten to twenty minutes. Ctrl-C ends it and whatever it has started.
"""

import argparse
import signal
import sys
from collections.abc import Callable

from bench import commit, consent, decide, machine, match, next_fix, revoke, serve, streams
from bench.budgets import read_budgets, written_for
from bench.leftovers import end_by_signal
from bench.table import Row, conditions, lines, over_budget
from bench.timing import progress

Benchmarks = dict[str, list[Callable[[], list[Row]]]]

RESIDENTS = 20_000


def full() -> Benchmarks:
    """The sizes whose figures mean something."""
    return {
        "match": [
            lambda: match.run(fences=1_000, pings=5_000, brute_pings=100, rounds=15),
            lambda: match.run(fences=10_000, pings=5_000, brute_pings=0, rounds=15),
            lambda: match.run(fences=100_000, pings=5_000, brute_pings=0, rounds=9),
        ],
        "decide": [
            lambda: decide.run(fences=10_000, residents=RESIDENTS, rounds=4),
            lambda: decide.run(fences=100_000, residents=RESIDENTS, rounds=3),
        ],
        "serve": [lambda: serve.run(fences=10_000, residents=RESIDENTS, rounds=4)],
        "streams": [
            lambda: streams.run(
                fences=10_000, residents=RESIDENTS, rounds=2, readers=100, rows=10_000
            )
        ],
        "commit": [lambda: commit.run(residents=RESIDENTS, seconds=5.0)],
        "next_fix": [lambda: next_fix.run(residents=200, shops=120, seconds=4 * 3_600)],
        "revoke": [lambda: revoke.run(residents=200, withdrawals=1_200)],
        "consent": [lambda: consent.run(residents=1_000_000, asked=20_000)],
    }


def smoke() -> Benchmarks:
    """The smallest sizes at which everything still happens; the figures mean nothing."""
    return {
        "match": [lambda: match.run(fences=300, pings=200, brute_pings=50, rounds=2)],
        "decide": [lambda: decide.run(fences=300, residents=300, rounds=1)],
        "serve": [lambda: serve.run(fences=300, residents=300, rounds=1)],
        "streams": [lambda: streams.run(fences=2_000, residents=500, rounds=1, readers=3, rows=99)],
        "commit": [lambda: commit.run(residents=100, seconds=0.3)],
        "next_fix": [lambda: next_fix.run(residents=10, shops=30, seconds=1_800)],
        "revoke": [lambda: revoke.run(residents=5, withdrawals=5)],
        "consent": [lambda: consent.run(residents=500, asked=500)],
    }


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Passby.")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it still work?")
    parser.add_argument(
        "only",
        nargs="*",
        metavar="BENCHMARK",
        help="match, decide, serve, streams, commit, next_fix, revoke, consent; default all",
    )
    arguments = parser.parse_args(argv)
    benchmarks = smoke() if arguments.smoke else full()
    if unknown := set(arguments.only) - benchmarks.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose of {', '.join(benchmarks)}")
    signal.signal(signal.SIGTERM, end_by_signal)
    head = conditions(residents=RESIDENTS)
    here = None if arguments.smoke else machine.measure()
    rows = [
        row
        for name, runs in benchmarks.items()
        if not arguments.only or name in arguments.only
        for run in runs
        for row in run()
    ]
    budgets = {}
    if here is not None:
        # Whatever slowed it down at first is no excuse for what came later.
        here = here.best(machine.measure())
        head.append(here.told(written_for()))
        budgets = read_budgets(here)
    print("\n".join([*head, "", *lines(rows, budgets)]))
    broken = over_budget(rows, budgets)
    for sentence in broken:
        progress(f"over budget: {sentence}")
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
