"""Which fences cover a position: the R-tree finds candidates, an exact test keeps the right ones.

Belongs to one thread. A fence is known to the world by its id, and inside by its slot: a small
integer, under which the tree and the arrays have it.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from geofences.boundary import has_spellings, short_lines
from geofences.fence import Area, BBox, Fence
from geofences.globe import ecef, ecef_many, metres_per_degree
from geofences.measure import Rim, bend_m, split_box
from geofences.tree import BoxTree

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_by_id = attrgetter("id")

_CLEARANCE_FIRST_M = 64.0
_CLEARANCE_DENSE = 64
"""With more fences than this in a box, a larger one would hold hundreds."""
_CLEARANCE_LAT_MAX = 85.0

_RIM_SIZE = 40
_rim_at = struct.Struct("5d").unpack_from
"""Five numbers side by side are one cache line; as Python floats they would be five misses."""


class FenceIndex:
    """The fences of a city, and which of them cover a position.

    Answers are tuples sorted by fence id, so that equal input gives equal output. Positions that
    are not finite or out of range are covered by nothing.
    """

    def __init__(self) -> None:
        self._rebuild({})

    @classmethod
    def load(cls, fences: Iterable[Fence]) -> "FenceIndex":
        """Build an index in bulk: 100,000 fences in about 0.5 s.

        Raises:
            ValueError: two fences have one id.
        """
        by_id: dict[str, Fence] = {}
        for fence in fences:
            if fence.id in by_id:
                raise ValueError(f"fence {fence.id} comes twice")
            by_id[fence.id] = fence
        made = cls()
        made._rebuild(by_id)
        return made

    def add(self, fence: Fence) -> None:
        """Add a fence; it counts at once. About 20 us.

        Raises:
            ValueError: a fence of this id is there already.
        """
        if fence.id in self._slots:
            raise ValueError(f"fence {fence.id} is there already")
        slot = self._free.pop() if self._free else len(self._fences)
        self._slots[fence.id] = slot
        self._hold(slot, fence)
        for box in fence.boxes:
            self._tree.insert(slot, box)

    def replace(self, fence: Fence) -> None:
        """Put a fence in the place of the one with its id, or add it where there is none."""
        self.remove(fence.id)
        self.add(fence)

    def remove(self, fence_id: str) -> bool:
        """Take a fence away, and say whether it was there."""
        slot = self._slots.pop(fence_id, None)
        if slot is None:
            return False
        fence = self._fences[slot]
        for box in fence.boxes:
            self._tree.delete(slot, box)
        # What is held in a free slot is never looked at; it goes when the slot is used again.
        self._free.append(slot)
        self._wide -= len(fence.boxes) > 1
        return True

    def put_many(self, fences: Iterable[Fence]) -> None:
        """Add or replace many fences, all live from the same moment; of one id the last counts."""
        by_id = {fence.id: fence for fence in fences}
        if 4 * len(by_id) > len(self):
            # To build anew costs 5 us a fence, a delete and an insert 30.
            self._rebuild({fence.id: fence for fence in self} | by_id)
            return
        for fence in by_id.values():
            self.replace(fence)

    def changed(self, put: Iterable[Fence], gone: Iterable[str]) -> "FenceIndex":
        """Another index, with some fences put and some gone; this one stays as it is.

        May run in a thread while this one is asked, as long as nobody changes it.
        """
        by_id = {self._fences[slot].id: self._fences[slot] for slot in self._slots.values()}
        by_id.update((fence.id, fence) for fence in put)
        for fence_id in gone:
            by_id.pop(fence_id, None)
        made = FenceIndex()
        made._rebuild(by_id)
        return made

    def swap(self, other: "FenceIndex") -> None:
        """Hold what another index holds, and let it hold what this one held; all of it at once."""
        mine, theirs = dict(vars(self)), dict(vars(other))
        vars(self).update(theirs)
        vars(other).update(mine)

    def clear(self) -> None:
        """Let go of everything. To free a large tree takes a while: a thread's work."""
        self._rebuild({})

    def get(self, fence_id: str) -> Fence | None:
        """The fence of this id, if it is there."""
        slot = self._slots.get(fence_id)
        return None if slot is None else self._fences[slot]

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Fence]:
        for _, slot in sorted(self._slots.items()):
            yield self._fences[slot]

    def within_box(self, box: BBox) -> tuple[Fence, ...]:
        """The fences with a box that has a position in common with this one, for listing.

        Conservative: a fence's boxes are a little larger than the fence.
        """
        slots = set(self._tree.meeting(*box)) if np.isfinite(box).all() else ()
        return tuple(sorted((self._fences[slot] for slot in slots), key=_by_id))

    def clearance_m(
        self, lon: float, lat: float, counts: Callable[[Fence], bool], *, most_m: float
    ) -> float:
        """How far it is at least to the nearest fence that counts, metres; 0 where one covers.

        Never more than the truth, and less by at most 5 % + 1 m, unless fences that do not count
        lie so dense that to look further would cost too much. 0 within 5 degrees of a pole.

        Args:
            counts: which fences are looked for.
            most_m: farther than this nobody wants to know; at most 10,000.

        Cost: 6-30 us: boxes around the position, each larger than the one before, until one holds a
        fence that counts.
        """
        if not abs(lat) <= _CLEARANCE_LAT_MAX:
            return 0.0
        east_m, north_m = metres_per_degree(lat)
        nearest_m, reach_m = most_m, min(_CLEARANCE_FIRST_M, most_m)
        seen: set[int] = set()
        while True:
            # Larger by what a parallel shrinks and a degree stretches in 10 km.
            wide, high = 1.03 * reach_m / east_m, 1.03 * reach_m / north_m
            slots: set[int] = set()
            for box in split_box(lon - wide, lat - high, lon + wide, lat + high):
                slots.update(self._tree.meeting(*box))
            for slot in slots - seen:
                fence = self._fences[slot]
                if counts(fence):
                    away_m = -fence.ruler.depth_m(lon, lat)
                    nearest_m = min(nearest_m, 0.97 * away_m - 0.5)
                    if nearest_m <= 0.0:
                        return 0.0
            if nearest_m <= reach_m or reach_m >= most_m or len(slots) > _CLEARANCE_DENSE:
                return min(nearest_m, reach_m)
            seen |= slots
            reach_m = min(most_m, reach_m * (4.0 if len(slots) <= _CLEARANCE_DENSE / 4 else 2.0))

    def covering(self, lon: float, lat: float) -> tuple[Fence, ...]:
        """The fences that cover a position, boundary included, as `measure.covers` has it.

        O(log n + k): 6 us at 1,000 fences in a city, 20 us at 100,000.
        """
        if not (-180.0 <= lon <= 180.0 and -90.0 <= lat <= 90.0):
            return ()
        slots = self._tree.meeting(lon, lat, lon, lat)
        return self._sift(slots, lon, lat)[0] if slots else ()

    def along(
        self, lon0: float, lat0: float, lon1: float, lat1: float
    ) -> tuple[tuple[Fence, ...], tuple[Fence, ...]]:
        """The fences that cover the end of a segment, and those only met on the way.

        Args:
            lon0, lat0: the fix before.
            lon1, lat1: this fix; the segment is the straight short way between, in lon/lat.

        Returns:
            What `covering` says of the end, and the fences that `measure.meets` the segment but do
            not cover its end. Nothing is met on the way from a position that is out of range.

        One query of the tree, on the segment's box; two where it crosses the antimeridian.
        """
        if not (-180.0 <= lon1 <= 180.0 and -90.0 <= lat1 <= 90.0):
            return (), ()
        if not (-180.0 <= lon0 <= 180.0 and -90.0 <= lat0 <= 90.0):
            return self.covering(lon1, lat1), ()
        south, north = (lat0, lat1) if lat0 < lat1 else (lat1, lat0)
        west, east = (lon0, lon1) if lon0 < lon1 else (lon1, lon0)
        if east - west <= 180.0:
            slots = self._tree.meeting(west, south, east, north)
        else:
            slots = self._tree.meeting(-180.0, south, west, north)
            slots = list({*slots, *self._tree.meeting(east, south, 180.0, north)})
        if not slots:
            return (), ()
        covering, others = self._sift(slots, lon1, lat1)
        if not others:
            return covering, ()
        return covering, self._met(others, lon0, lat0, lon1, lat1)

    def covering_many(self, lon_lat: Floats) -> list[tuple[Fence, ...]]:
        """For each of many positions what `covering` says of it.

        Args:
            lon_lat: float64 (n, 2), degrees.

        About a third of the time of as many calls of `covering`.
        """
        answers: list[tuple[Fence, ...]] = [()] * len(lon_lat)
        usable = np.flatnonzero((np.abs(lon_lat) <= (180.0, 90.0)).all(1))
        if not len(usable):
            return answers
        rows, slots = self._tree.containing_many(lon_lat[usable])
        rows = usable[rows]
        if self._wide and len(rows):
            rows, slots = np.unique(np.stack((rows, slots)), axis=1)
        kept = self._refine_many(lon_lat[rows], slots)
        found: dict[int, list[Fence]] = {}
        fences_by_slot = self._fences
        for row, slot in zip(rows[kept].tolist(), slots[kept].tolist(), strict=True):
            found.setdefault(row, []).append(fences_by_slot[slot])
        for row, fences in found.items():
            fences.sort(key=_by_id)
            answers[row] = tuple(fences)
        return answers

    def _sift(
        self, slots: list[int], lon: float, lat: float
    ) -> tuple[tuple[Fence, ...], list[int]]:
        """Part candidates into the fences that cover the position, sorted, and other slots."""
        covering: list[Fence] = []
        others: list[int] = []
        fences, rims = self._fences, self._rim_bytes
        x, y, z = ecef(lon, lat)
        point: Any = None
        many_spellings = has_spellings(lon, lat)
        for slot in set(slots) if self._wide else slots:
            cx, cy, cz, near_2, far_2 = _rim_at(rims, slot * _RIM_SIZE)
            if far_2:
                dx, dy, dz = x - cx, y - cy, z - cz
                chord_2 = dx * dx + dy * dy + dz * dz
                inside = chord_2 < near_2 or (
                    chord_2 <= far_2 and fences[slot].ruler.covers(lon, lat)
                )
            elif many_spellings:
                inside = fences[slot].ruler.covers(lon, lat)
            else:
                if point is None:
                    self._lon_lat[0], self._lon_lat[1] = lon, lat
                    point = shapely.points(self._lon_lat)
                area: Any = fences[slot].shape
                inside = area.geometry.intersects(point)
            if inside:
                covering.append(fences[slot])
            else:
                others.append(slot)
        if len(covering) > 1:
            covering.sort(key=_by_id)
        return tuple(covering), others

    def _met(
        self, slots: list[int], lon0: float, lat0: float, lon1: float, lat1: float
    ) -> tuple[Fence, ...]:
        """Those of the candidates that `measure.meets` the segment, sorted.

        What is the same for all candidates is worked out once, and a circle that is clearly missed
        is seen to be so without a call: most are.
        """
        x, y, z = ecef(lon0, lat0)
        x1, y1, z1 = ecef(lon1, lat1)
        dx, dy, dz = x1 - x, y1 - y, z1 - z
        length_2 = dx * dx + dy * dy + dz * dz
        per_length_2 = 1.0 / length_2 if length_2 else 0.0
        slack_m = bend_m(math.sqrt(length_2))
        lines: tuple[shapely.LineString, ...] = ()
        many_spellings = has_spellings(lon0, lat0) or has_spellings(lon1, lat1)
        fences, rims = self._fences, self._rim_bytes
        met: list[Fence] = []
        for slot in slots:
            cx, cy, cz, _, far_2 = _rim_at(rims, slot * _RIM_SIZE)
            fence = fences[slot]
            if far_2:
                gx, gy, gz = cx - x, cy - y, cz - z
                along = (gx * dx + gy * dy + gz * dz) * per_length_2
                if along > 0.0:
                    along = min(along, 1.0)
                    gx, gy, gz = gx - along * dx, gy - along * dy, gz - along * dz
                reach_m = fence.inradius_m + slack_m
                if gx * gx + gy * gy + gz * gz > reach_m * reach_m:
                    continue
            elif not many_spellings:
                lines = lines or short_lines(lon0, lat0, lon1, lat1)
                area: Any = fence.shape
                if any(map(area.geometry.intersects, lines)):
                    met.append(fence)
                continue
            if fence.ruler.meets(lon0, lat0, lon1, lat1):
                met.append(fence)
        if len(met) > 1:
            met.sort(key=_by_id)
        return tuple(met)

    def _refine_many(self, lon_lat: Floats, slots: Ints) -> npt.NDArray[np.bool_]:
        """Whether each candidate covers its position: (k, 2) and (k,) to bool (k,)."""
        lon, lat = lon_lat[:, 0], lon_lat[:, 1]
        geometries = self._geometries[slots]
        rims = self._rims[slots]
        is_area = rims[:, 4] == 0.0
        kept = np.zeros(len(slots), dtype=np.bool_)
        kept[is_area] = shapely.intersects_xy(geometries[is_area], lon[is_area], lat[is_area])
        rims = rims[~is_area]
        chord_2 = ((ecef_many(lon[~is_area], lat[~is_area]) - rims[:, :3]) ** 2).sum(1)
        kept[~is_area] = chord_2 < rims[:, 3]
        doubtful = np.zeros(len(slots), dtype=np.bool_)
        doubtful[~is_area] = (chord_2 >= rims[:, 3]) & (chord_2 <= rims[:, 4])
        doubtful |= is_area & ((np.abs(lon) == 180.0) | (np.abs(lat) == 90.0))
        for k in np.flatnonzero(doubtful).tolist():
            ruler = self._fences[slots[k]].ruler
            kept[k] = ruler.covers(float(lon[k]), float(lat[k]))
        return kept

    def _rebuild(self, by_id: dict[str, Fence]) -> None:
        """Hold these fences and no others, with a tree built in bulk."""
        self._slots: dict[str, int] = {}
        self._fences: list[Fence] = []
        self._free: list[int] = []
        self._wide = 0
        self._lon_lat = np.empty(2)
        self._rims = np.zeros((len(by_id), 5))
        self._rim_bytes = self._rims.data
        self._geometries = np.empty(len(by_id), dtype=np.object_)
        slots: list[int] = []
        boxes: list[BBox] = []
        for slot, fence in enumerate(by_id.values()):
            self._slots[fence.id] = slot
            self._hold(slot, fence)
            slots += [slot] * len(fence.boxes)
            boxes += fence.boxes
        self._tree = BoxTree(slots, boxes)

    def _hold(self, slot: int, fence: Fence) -> None:
        """Put a fence into a slot of the list and arrays, which grow when it is a new one."""
        if slot == len(self._fences):
            self._fences.append(fence)
        else:
            self._fences[slot] = fence
        if slot == len(self._rims):
            room = max(64, slot)
            self._rims = np.append(self._rims, np.zeros((room, 5)), axis=0)
            self._rim_bytes = self._rims.data
            self._geometries = np.append(self._geometries, np.empty(room, dtype=np.object_))
        ruler = fence.ruler
        if isinstance(ruler, Rim):
            self._rims[slot] = (ruler.x, ruler.y, ruler.z, ruler.near_2, ruler.far_2)
        else:
            self._rims[slot] = 0.0
        self._geometries[slot] = fence.shape.geometry if isinstance(fence.shape, Area) else None
        self._wide += len(fence.boxes) > 1
