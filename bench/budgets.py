"""What a run is held to, and what that means on a machine that is slower or faster.

Budgets are written for the machine that `budgets.toml` describes. One that needs three times as
long for the same work of others has three times as long for ours, and a faster one less.
"""

import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

BUDGETS_FILE: Final = Path(__file__).with_name("budgets.toml")

Budgets = dict[str, dict[str, float]]
"""Row -> figure with ``_max`` or ``_min`` behind its name -> limit."""

_MACHINE: Final = "machine"


class Machine(msgspec.Struct, frozen=True):
    """What a machine makes of two pieces of work of others."""

    textbook_us: float
    """The textbook's match of a position among 1,000 fences: rtree and shapely; best of rounds."""
    aiohttp_per_s: float
    """Pings a second over HTTP, one a request, to a server that does nothing; see `bare`."""

    def limit(self, figure: str, wanted: float, budgeted: "Machine") -> float:
        """What a budget means here.

        Args:
            figure: with ``_max`` or ``_min``; durations and rates depend on the machine.
            wanted: on the machine that the budgets are for.
            budgeted: that machine.
        """
        if figure.endswith(("_us_max", "_us_min")):
            return wanted * self.textbook_us / budgeted.textbook_us
        if figure.startswith("per_s"):
            return wanted * self.aiohttp_per_s / budgeted.aiohttp_per_s
        return wanted

    def best(self, again: "Machine") -> "Machine":
        """The better of two measurements, figure by figure."""
        return Machine(
            min(self.textbook_us, again.textbook_us), max(self.aiohttp_per_s, again.aiohttp_per_s)
        )

    def told(self, budgeted: "Machine") -> str:
        """A line for whoever reads the table."""
        return (
            f"this machine: the textbook's match among 1,000 fences {self.textbook_us:.1f} us "
            f"({self.textbook_us / budgeted.textbook_us:.2f} of the one that the budgets are for), "
            f"an HTTP server that does nothing {self.aiohttp_per_s:,.0f} pings a second "
            f"({self.aiohttp_per_s / budgeted.aiohttp_per_s:.2f} of it)"
        )


def written_for(path: Path = BUDGETS_FILE) -> Machine:
    """The machine that the budgets are written for."""
    return msgspec.convert(_read(path)[_MACHINE], Machine)


def read_budgets(here: Machine | None = None, path: Path = BUDGETS_FILE) -> Budgets:
    """The limits that a run is held to on this machine; None: as they are written."""
    written, there = _read(path), written_for(path)
    return {
        row: {
            figure: wanted if here is None else here.limit(figure, wanted, there)
            for figure, wanted in limits.items()
        }
        for row, limits in written.items()
        if row != _MACHINE
    }


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
