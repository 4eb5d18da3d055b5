"""Durations of calls: what is compared runs in turns, and the least and the median are told."""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter, perf_counter_ns


def progress(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(text, file=sys.stderr, flush=True)


def percentile(durations: Sequence[float], share: float) -> float:
    """The duration that this share does not exceed (nearest rank)."""
    return sorted(durations)[min(len(durations) - 1, int(len(durations) * share))]


def in_turns(contenders: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Run contenders in turns; the microseconds of one piece of work, by round.

    Args:
        contenders: each does some pieces of work and says how many.
        rounds: after one for warming up that does not count. Contenders go forth and back, so
            that none always comes after the same other one.
    """
    took: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            began_ns = perf_counter_ns()
            pieces = contenders[name]()
            took_ns = perf_counter_ns() - began_ns
            if number:
                took[name].append(took_ns / pieces / 1_000)
    return took


def turn_ns(*, turns: int = 200_000, rounds: int = 25) -> float:
    """How long a turn of a plain Python loop takes here, nanoseconds, in the best of some rounds.

    By it the runs of two machines can be compared, or two runs of a machine that others use.
    """
    best_ns = float("inf")
    for _ in range(rounds):
        count, began_ns = 0, perf_counter_ns()
        while count < turns:
            count += 1
        best_ns = min(best_ns, (perf_counter_ns() - began_ns) / turns)
    return best_ns


@contextmanager
def settled_memory() -> Iterator[None]:
    """What is held by now is out of the collector's way, as in the service after its start."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell what is being done, and how long it took."""
    progress(f"{what} ...")
    began_s = perf_counter()
    yield
    progress(f"{what}: {perf_counter() - began_s:.1f} s")


__all__ = ["in_turns", "median", "percentile", "progress", "settled_memory", "told", "turn_ns"]
