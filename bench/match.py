"""Which fences cover a position: ours against every fence asked, and against the textbook's way.

The textbook's way is an R-tree of boxes by rtree, then the exact test on each candidate: shapely's
`covers` on prepared geometries, and for circles our own exact test, which is quicker than what a
textbook would do, so that what is compared is the index. All give the same answers, or the run
stops.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shapely
from rtree import index

from bench.city import Floats, Walk, make_fences, scattered
from bench.table import Row
from bench.timing import in_turns, median, settled_memory, told
from geofences.fence import Area, Fence
from geofences.index import FenceIndex
from geofences.measure import covers

Answers = list[tuple[str, ...]]
"""For each position the ids of the fences that cover it, sorted."""


class Wrong(Exception):
    """Two ways of answering disagree."""


class BruteForce:
    """Asks every fence."""

    def __init__(self, fences: Sequence[Fence]) -> None:
        self._fences = sorted(fences, key=lambda fence: fence.id)

    def covering(self, lon: float, lat: float) -> tuple[Fence, ...]:
        """The fences that cover a position."""
        return tuple(fence for fence in self._fences if covers(fence, lon, lat))


class Textbook:
    """An R-tree, and the exact test on each candidate."""

    def __init__(self, fences: Sequence[Fence]) -> None:
        self._fences = fences
        self._areas = [f.shape.geometry if isinstance(f.shape, Area) else None for f in fences]
        shapely.prepare([area for area in self._areas if area is not None])
        boxes = ((n, box, None) for n, fence in enumerate(fences) for box in fence.boxes)
        self._tree = index.Index(boxes)

    def covering(self, lon: float, lat: float) -> tuple[Fence, ...]:
        """The fences that cover a position."""
        point = shapely.Point(lon, lat)
        found = []
        for number in self._tree.intersection((lon, lat, lon, lat)):
            area, fence = self._areas[number], self._fences[number]
            if covers(fence, lon, lat) if area is None else area.covers(point):
                found.append(fence)
        return tuple(sorted(found, key=lambda fence: fence.id))


def run(*, fences: int, pings: int, brute_pings: int, rounds: int) -> list[Row]:
    """Measure at one number of fences.

    Args:
        fences: how many.
        pings: positions a round.
        brute_pings: how many of them every fence is asked about; 0: none.
        rounds: that count.
    """
    with told(f"match: {fences:,} fences"):
        made = make_fences(fences)
        ours, textbook = FenceIndex.load(made), Textbook(made)
        lon_lat = scattered(pings)
        walk = Walk(pings)
        ways = np.hstack((walk.step(), walk.step()))
        answers = _same(ours, textbook, BruteForce(made), lon_lat, brute_pings)
        ends = ways[:, 2:].tolist()
        _agree("along", _ids(ours.along(*way)[0] for way in ways.tolist()), textbook, ends)
        hits = sum(map(len, answers)) / pings
        contenders: dict[str, Callable[[], int]] = {
            "textbook": _asking(textbook.covering, lon_lat),
            "ours": _asking(ours.covering, lon_lat),
            "ours, along a way": _asking(ours.along, ways),
            "ours, many at once": lambda: len(ours.covering_many(lon_lat)),
        }
        if brute_pings:
            brute = BruteForce(made)
            contenders["every fence"] = _asking(brute.covering, lon_lat[:brute_pings])
        with settled_memory():
            took = in_turns(contenders, rounds)
    return [_row(name, fences, hits, took) for name in contenders]


def _asking(ask: Callable[..., Any], rows: Floats) -> Callable[[], int]:
    """A round of asking about each row."""
    arguments = rows.tolist()

    def asked() -> int:
        for row in arguments:
            ask(*row)
        return len(arguments)

    return asked


def _row(name: str, fences: int, hits: float, took: dict[str, list[float]]) -> Row:
    """A line of the table, with how much quicker than the textbook it is."""
    times = min(took["textbook"]) / min(took[name])
    return Row(
        name=f"match {short(fences)}, {name}",
        fences=fences,
        least_us=min(took[name]),
        median_us=median(took[name]),
        hits=hits,
        note="" if name == "textbook" else f"{times:.2g} x the textbook's speed",
    )


def short(count: int) -> str:
    """A number as it stands in a row's name: 10000 -> 10k."""
    return f"{count // 1_000}k" if count % 1_000 == 0 else str(count)


def _same(
    ours: FenceIndex, textbook: Textbook, brute: BruteForce, lon_lat: Floats, brute_pings: int
) -> Answers:
    """The answers, after all ways of answering have agreed on them.

    Raises:
        Wrong: they do not.
    """
    at = lon_lat.tolist()
    answers = _ids(ours.covering(*position) for position in at)
    _agree("covering", answers, textbook, at)
    _agree("covering_many", _ids(ours.covering_many(lon_lat)), textbook, at)
    asked = at[: brute_pings or 20]
    _agree(
        "every fence asked", _ids(brute.covering(*position) for position in asked), textbook, asked
    )
    return answers


def _agree(what: str, answers: Answers, textbook: Textbook, at: list[list[float]]) -> None:
    """Raise unless the textbook gives these answers."""
    if answers != _ids(textbook.covering(*position) for position in at):
        raise Wrong(f"the textbook does not agree with: {what}")


def _ids(found: Any) -> Answers:
    return [tuple(fence.id for fence in fences) for fences in found]
