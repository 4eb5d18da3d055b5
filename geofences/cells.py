"""The fences around a place, packed side by side: small cells, filled when first touched.

At 100,000 fences in a city nearly half of a decision went into the query of the R-tree and into
looking up each fence that it found. Here all that is needed to tell most fences apart from a
position lies in one piece, for every cell of 109 m in which somebody has been.
"""

import math
import struct
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from geofences.fence import EVERYWHERE, BBox, Fence, Shell
from geofences.globe import metres_per_degree
from geofences.tree import BoxTree

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Records: TypeAlias = npt.NDArray[Any]
"""Of `_RECORD`."""
Candidate: TypeAlias = tuple[float, float, float, float, float, int]
"""A fence's shell (see `fence.Shell`), and its slot."""

_PACKED: Final = struct.Struct("=5di")
_RECORD: Final = np.dtype([("shell", "=f8", 5), ("slot", "=i4")])
"""The same, as an array has it."""

_PER_DEGREE: Final = 1_024
"""Rows of cells a degree of latitude; a power of two, so that to scale by it is exact."""
_COLUMN_BITS: Final = 19
"""A row has less than 2**19 columns: 360 * 1,024."""
_MARGIN: Final = 1 / 3
"""A cell serves segments that end in it and begin at most this far outside, in cells: 36 m."""
_LAT_MAX: Final = 85.0
"""Nearer to a pole cells would grow thin, and the tree is asked."""
_LON_MAX: Final = 179.9

CELLS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes that all cells may hold together."""
_LARGE_M: Final = 1_000.0
"""A fence that is larger than this may cover all of a cell, and its boundary be far away."""
_SERVED_M: Final = 170.0
"""No position of a segment that a cell serves is farther from the cell's middle: a cell is 109 m
by 120 m at most."""


def _columns(band: int) -> int:
    """Columns of cells a degree of longitude, in a band of one degree of latitude."""
    east_m, north_m = metres_per_degree(band - 89.5)
    return max(1, int(_PER_DEGREE * min(1.0, east_m / north_m)))


_COLUMNS: Final = tuple(_columns(band) for band in range(180))


class Cells:
    """The shells of all fences, and the cells that somebody has been in since those around changed.

    Args:
        tree: where the candidates of a cell are found.
        fences: by slot; the index's own list, which it changes in place.
        room: for so many fences, for a start.

    Attributes:
        bytes_held: by all cells together.
    """

    def __init__(self, tree: BoxTree, fences: list[Fence], room: int) -> None:
        self._tree = tree
        self._fences = fences
        self._records = np.empty(room, dtype=_RECORD)
        self._astray: set[int] = set()
        """Slots that may stand elsewhere than the ids of their fences would have them."""
        self._greatest = ""
        """The last id of the other slots."""
        self._large: set[int] = set()
        """Slots of the fences that are looked at more closely; see `_shell_near`."""
        self._packed: dict[int, bytes] = {}
        self.bytes_held = 0

    def hold(self, slot: int, fence: Fence) -> None:
        """Take over the fence of a slot; the index is about to put it into its list."""
        if slot == len(self._records):
            self._records = np.append(self._records, np.empty(max(64, slot), dtype=_RECORD))
        self._records[slot] = (fence.ruler.shell, slot)
        if slot == len(self._fences) and self._greatest < fence.id:
            self._greatest = fence.id
        elif slot == len(self._fences) or self._fences[slot].id != fence.id:
            self._astray.add(slot)
        if _is_large(fence.ruler.shell):
            self._large.add(slot)
        else:
            self._large.discard(slot)

    def shells(self, slots: Ints) -> Floats:
        """The shells of the fences in so many slots: float64 (k, 5)."""
        found: Floats = self._records["shell"][slots]
        return found

    def of(self, slots: Iterable[int]) -> Iterable[Candidate]:
        """The candidates in some slots, by fence id."""
        return _PACKED.iter_unpack(self._records[self._by_id(set(slots))].tobytes())

    def around(
        self, lon0: float, lat0: float, lon1: float, lat1: float
    ) -> Iterable[Candidate] | None:
        """Every fence that may cover the end of a segment or be met on the way, by fence id.

        Args:
            lon0, lat0, lon1, lat1: finite and in range.

        Returns:
            None where no cell serves the segment: it is too long, or at the seam or a pole.
        """
        if not (-_LAT_MAX < lat1 < _LAT_MAX and -_LON_MAX < lon1 < _LON_MAX):
            return None
        north = lat1 + 90.0
        columns = _COLUMNS[int(north)]
        row, column = int(north * _PER_DEGREE), int((lon1 + 180.0) * columns)
        if lat0 != lat1 or lon0 != lon1:
            up = (lat0 + 90.0) * _PER_DEGREE - row
            along = (lon0 + 180.0) * columns - column
            if not (-_MARGIN < up < 1 + _MARGIN and -_MARGIN < along < 1 + _MARGIN):
                return None
        key = row << _COLUMN_BITS | column
        packed = self._packed.get(key)
        if packed is None:
            packed = self._fill(key)
        return _PACKED.iter_unpack(packed)

    def forget(self, boxes: Iterable[BBox]) -> None:
        """A fence with these boxes has come or gone: what lies around it is looked up anew."""
        for box in boxes:
            rows = _span(box.south + 90.0, box.north + 90.0, _PER_DEGREE)
            if len(rows) * (box.east - box.west) * _PER_DEGREE > len(self._packed):
                gone = [key for key in self._packed if _touches(key, box)]
            else:
                gone = [
                    row << _COLUMN_BITS | column for row in rows for column in _across(row, box)
                ]
            for key in gone:
                self.bytes_held -= len(self._packed.pop(key, b""))

    def _fill(self, key: int) -> bytes:
        """Look up a cell's candidates and remember them; the oldest cells make room."""
        row, column = divmod(key, 1 << _COLUMN_BITS)
        high, wide = 1 / _PER_DEGREE, 1 / _COLUMNS[row // _PER_DEGREE]
        lon, lat = (column + 0.5) * wide - 180.0, (row + 0.5) * high - 90.0
        east, north = (0.5 + _MARGIN) * wide, (0.5 + _MARGIN) * high
        slots = set(self._tree.meeting(lon - east, lat - north, lon + east, lat + north))
        records = self._records[self._by_id(slots)]
        if not self._large.isdisjoint(slots):
            records = self._nearby(records, lon, lat)
        packed = self._packed[key] = records.tobytes()
        self.bytes_held += len(packed)
        if self.bytes_held > CELLS_BYTES_MAX:
            for old in list(islice(self._packed, 1 + len(self._packed) // 8)):
                self.bytes_held -= len(self._packed.pop(old))
        return packed

    def _by_id(self, slots: set[int]) -> list[int]:
        """Slots in the order of their fences' ids."""
        if self._astray.isdisjoint(slots):
            return sorted(slots)
        fences = self._fences
        return sorted(slots, key=lambda slot: fences[slot].id)

    def _nearby(self, records: Records, lon: float, lat: float) -> Records:
        """Records of fences as they are seen in the cell around a position."""
        seen = [
            (shell, slot)
            for slot in records["slot"].tolist()
            if (shell := _shell_near(self._fences[slot], lon, lat)) is not None
        ]
        return np.array(seen, dtype=_RECORD)


def _is_large(shell: Shell) -> bool:
    """Whether it is worth asking of a fence whether it covers all of a cell."""
    return shell.far_m > _LARGE_M and shell.far_m - shell.near_m >= 1.0


def _shell_near(fence: Fence, lon: float, lat: float) -> Shell | None:
    """The fence's shell as it is seen in the cell around a position; None: it is out of reach.

    A country's boundary is far from most cells, which are then settled here once and for all.
    """
    shell = fence.ruler.shell
    if not _is_large(shell):
        return shell
    depth_m = fence.ruler.depth_m(lon, lat)
    # By what `depth_m` may err, with room to spare.
    sure_m = 0.97 * abs(depth_m) - 0.5
    if sure_m > _SERVED_M:
        return EVERYWHERE if depth_m > 0.0 else None
    return shell


def _span(low: float, high: float, per_degree: int) -> range:
    """Which rows or columns may be served with something between two degrees, counted from 0."""
    return range(max(0, math.floor(low * per_degree) - 2), math.floor(high * per_degree) + 3)


def _across(row: int, box: BBox) -> range:
    """The columns of a row that something in a box may concern."""
    band = min(179, row // _PER_DEGREE)
    return _span(box.west + 180.0, box.east + 180.0, _COLUMNS[band])


def _touches(key: int, box: BBox) -> bool:
    """Whether something in a box may concern a cell."""
    row, column = divmod(key, 1 << _COLUMN_BITS)
    return row in _span(box.south + 90.0, box.north + 90.0, _PER_DEGREE) and column in _across(
        row, box
    )
