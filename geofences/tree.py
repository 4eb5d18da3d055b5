"""The R-tree of boxes: libspatialindex by way of rtree, asked without its wrapper's detours.

rtree's own `intersection` checks, allocates and yields: at 10,000 fences in a city that is two
thirds of a query's 10 us. Here a query is one C call into buffers that are kept, 4 us. What rtree
leaves to its caller is seen to here: coordinates are finite, what is deleted is there, and the
answer's buffer grows when it is too small. Not thread-safe, not even for reads.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from rtree import core, index

from geofences.fence import BBox

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_LEAF = 16
"""Entries a node: measured best for points among 1,000 to 100,000 boxes; rtree's 100 is 1.5x."""
_PART = 1_000
"""Boxes that are taken over at once: the interpreter can't turn to other threads meanwhile."""


class BoxTree:
    """Boxes with an integer each; one integer may have several boxes."""

    def __init__(self, slots: Sequence[int] = (), boxes: Sequence[BBox] = ()) -> None:
        """Build the tree; in bulk (sort-tile-recursive), when boxes are given."""
        settings = index.Property(
            leaf_capacity=_LEAF, index_capacity=_LEAF, near_minimum_overlap_factor=_LEAF - 4
        )
        if slots:
            corners, ids = np.empty((len(boxes), 4)), np.empty(len(slots), dtype=np.int64)
            for start in range(0, len(slots), _PART):
                part = slice(start, start + _PART)
                corners[part], ids[part] = boxes[part], slots[part]
            _check_finite(corners)
            low, high = np.ascontiguousarray(corners[:, :2]), np.ascontiguousarray(corners[:, 2:])
            self._rtree = index.Index((ids, low, high), properties=settings)
        else:
            self._rtree = index.Index(properties=settings)
        self._low, self._high = (ctypes.c_double * 2)(), (ctypes.c_double * 2)()
        self._count, self._done = (ctypes.c_uint64 * 1)(), ctypes.c_int64()
        self._grow(256)

    def insert(self, slot: int, box: BBox) -> None:
        """Add a box; a box that is there already would be there twice."""
        _check_finite(np.array(box))
        self._rtree.insert(slot, box)

    def delete(self, slot: int, box: BBox) -> None:
        """Take away a box exactly as it was inserted."""
        self._rtree.delete(slot, box)

    def meeting(self, west: float, south: float, east: float, north: float) -> list[int]:
        """The slots of all boxes that have a position in common with this one.

        The numbers must be finite. A slot comes once for each of its boxes; the order is the
        tree's. O(log n + k).
        """
        low, high = self._low, self._high
        low[0], low[1], high[0], high[1] = west, south, east, north
        _intersects(*self._call)
        if self._count[0] > len(self._found):
            # The answer did not fit. `_done` does not say so: it keeps an earlier query's word.
            self._grow(2 * self._count[0])
            return self.meeting(west, south, east, north)
        return self._found[: self._count[0]]

    def containing_many(self, lon_lat: Floats) -> tuple[Ints, Ints]:
        """The slots of all boxes that contain each of some finite positions.

        Args:
            lon_lat: float64 (n, 2), degrees, n > 0.

        Returns:
            int64 (k,) positions as rows of `lon_lat`, ascending, and int64 (k,) slots.
        """
        points = np.ascontiguousarray(lon_lat, dtype=np.float64)
        query: Any = self._rtree.intersection_v
        slots, counts = query(points, points)
        # The counts come unsigned, which numpy's repeat refuses.
        return np.repeat(np.arange(len(points)), counts.astype(np.int64)), slots

    def _grow(self, room: int) -> None:
        self._found = (ctypes.c_int64 * room)()
        self._call = (
            self._rtree.handle._as_parameter_,
            1,
            2,
            room,
            2,
            1,
            ctypes.addressof(self._low),
            ctypes.addressof(self._high),
            ctypes.addressof(self._found),
            ctypes.addressof(self._count),
            ctypes.byref(self._done),
        )


def _check_finite(numbers: Floats) -> None:
    """Raise on what the tree would take in and then match with everything or nothing."""
    if not np.isfinite(numbers).all():
        raise ValueError("a box must be of finite numbers")


_intersects = core.rt.Index_Intersects_id_v
