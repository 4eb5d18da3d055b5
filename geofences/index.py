"""Which fences cover a position: the R-tree finds candidates, an exact test keeps the right ones.

Belongs to one thread. A fence is known to the world by its id, and inside by its slot: a small
integer, under which the tree and the arrays have it.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from geofences.boundary import has_spellings, point_of, short_lines
from geofences.cells import Candidate, Cells
from geofences.fence import Area, BBox, Fence
from geofences.globe import Space, ecef, ecef_many, metres_per_degree
from geofences.measure import bend_m, split_box
from geofences.tree import BoxTree

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_by_id = attrgetter("id")

_CLEARANCE_FIRST_M = 64.0
_CLEARANCE_DENSE = 64
"""With more fences than this in a box, a larger one would hold hundreds."""
_CLEARANCE_LAT_MAX = 85.0


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
        self._cells.forget(fence.boxes)

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
        self._cells.forget(fence.boxes)
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

        O(log n + k) where nobody has been, else O(k).
        """
        if not (-180.0 <= lon <= 180.0 and -90.0 <= lat <= 90.0):
            return ()
        candidates = self._cells.around(lon, lat, lon, lat) or self._shells(
            self._tree.meeting(lon, lat, lon, lat)
        )
        return self._sift(candidates, *ecef(lon, lat), lon, lat, 0.0)[0]

    def along(
        self,
        lon0: float,
        lat0: float,
        lon1: float,
        lat1: float,
        left: Collection[Fence] = (),
    ) -> tuple[tuple[Fence, ...], tuple[Fence, ...]]:
        """The fences that cover the end of a segment, and those only met on the way.

        Args:
            lon0, lat0: the fix before.
            lon1, lat1: this fix; the segment is the straight short way between, in lon/lat.
            left: fences that are not asked for on the way, such as those that cover its beginning.

        Returns:
            What `covering` says of the end, and the fences that `measure.meets` the segment but do
            not cover its end. Nothing is met on the way from a position that is out of range.
        """
        if not (-180.0 <= lon1 <= 180.0 and -90.0 <= lat1 <= 90.0):
            return (), ()
        if not (-180.0 <= lon0 <= 180.0 and -90.0 <= lat0 <= 90.0):
            return self.covering(lon1, lat1), ()
        candidates = self._cells.around(lon0, lat0, lon1, lat1) or self._shells(
            self._meeting(lon0, lat0, lon1, lat1)
        )
        start, end = ecef(lon0, lat0), ecef(lon1, lat1)
        length_m = math.dist(start, end)
        slack_m = bend_m(length_m)
        covering, near = self._sift(candidates, *end, lon1, lat1, length_m + slack_m)
        maybe = _may_meet([f for f in near if f not in left], start, end, slack_m)
        return covering, _met(maybe, lon0, lat0, lon1, lat1) if maybe else ()

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
        self,
        candidates: Iterable[Candidate],
        x: float,
        y: float,
        z: float,
        lon: float,
        lat: float,
        reach_m: float,
    ) -> tuple[tuple[Fence, ...], list[Fence]]:
        """Part candidates into those that cover a position and others that may be near it.

        Args:
            candidates: sorted by fence id.
            x, y, z: the position in space.
            reach_m: others are wanted that a straight line of so many metres may reach.

        Returns:
            Both sorted by fence id.
        """
        covering: list[Fence] = []
        doubtful: list[Fence] = []
        others: list[Fence] = []
        fences = self._fences
        for cx, cy, cz, near_m, far_m, slot in candidates:
            dx, dy, dz = x - cx, y - cy, z - cz
            chord_2 = dx * dx + dy * dy + dz * dz
            if chord_2 < near_m * near_m:
                covering.append(fences[slot])
            elif chord_2 <= far_m * far_m:
                doubtful.append(fences[slot])
            else:
                far_m += reach_m  # noqa: PLW2901
                if chord_2 <= far_m * far_m:
                    others.append(fences[slot])
        if doubtful:
            self._settle(doubtful, lon, lat, covering, others)
        return tuple(covering), others

    def _settle(
        self,
        doubtful: list[Fence],
        lon: float,
        lat: float,
        covering: list[Fence],
        others: list[Fence],
    ) -> None:
        """Ask each fence whether it covers the position, and put it where it belongs."""
        point: shapely.Point | None = None
        many_spellings = has_spellings(lon, lat)
        for fence in doubtful:
            if many_spellings or not isinstance(fence.shape, Area):
                inside = fence.ruler.covers(lon, lat)
            else:
                # One point for all of them, since to make it costs more than to ask.
                point = point or point_of(lon, lat)
                inside = fence.shape.geometry.intersects(point)
            (covering if inside else others).append(fence)
        covering.sort(key=_by_id)
        others.sort(key=_by_id)

    def _meeting(self, lon0: float, lat0: float, lon1: float, lat1: float) -> list[int]:
        """The slots of the boxes that meet a segment's own box, which the seam may cut in two."""
        south, north = (lat0, lat1) if lat0 < lat1 else (lat1, lat0)
        west, east = (lon0, lon1) if lon0 < lon1 else (lon1, lon0)
        if east - west <= 180.0:
            return self._tree.meeting(west, south, east, north)
        slots = self._tree.meeting(-180.0, south, west, north)
        return slots + self._tree.meeting(east, south, 180.0, north)

    def _shells(self, slots: Iterable[int]) -> list[Candidate]:
        """The shells of fences, sorted by fence id."""
        fences = self._fences
        found = sorted((fences[slot].id, slot) for slot in set(slots))
        return [(*fences[slot].ruler.shell, slot) for _, slot in found]

    def _refine_many(self, lon_lat: Floats, slots: Ints) -> npt.NDArray[np.bool_]:
        """Whether each candidate covers its position: (k, 2) and (k,) to bool (k,)."""
        lon, lat = lon_lat[:, 0], lon_lat[:, 1]
        shells = self._all_shells[slots]
        chord_2 = ((ecef_many(lon, lat) - shells[:, :3]) ** 2).sum(1)
        kept: npt.NDArray[np.bool_] = chord_2 < shells[:, 3] ** 2
        doubtful = ~kept & (chord_2 <= shells[:, 4] ** 2)
        geometries = self._geometries[slots]
        many_spellings = (np.abs(lon) == 180.0) | (np.abs(lat) == 90.0)
        at_once = doubtful & ~many_spellings & (geometries != None)  # noqa: E711 (of each element)
        kept[at_once] = shapely.intersects_xy(geometries[at_once], lon[at_once], lat[at_once])
        for k in np.flatnonzero(doubtful & ~at_once).tolist():
            ruler = self._fences[slots[k]].ruler
            kept[k] = ruler.covers(float(lon[k]), float(lat[k]))
        return kept

    def _rebuild(self, by_id: dict[str, Fence]) -> None:
        """Hold these fences and no others, with a tree built in bulk."""
        self._slots: dict[str, int] = {}
        self._fences: list[Fence] = []
        self._free: list[int] = []
        self._wide = 0
        self._all_shells = np.empty((len(by_id), 5))
        self._geometries = np.empty(len(by_id), dtype=np.object_)
        slots: list[int] = []
        boxes: list[BBox] = []
        for slot, fence in enumerate(by_id.values()):
            self._slots[fence.id] = slot
            self._hold(slot, fence)
            slots += [slot] * len(fence.boxes)
            boxes += fence.boxes
        self._tree = BoxTree(slots, boxes)
        self._cells = Cells(self._tree, self._fences)

    def _hold(self, slot: int, fence: Fence) -> None:
        """Put a fence into a slot of the list and arrays, which grow when it is a new one."""
        if slot == len(self._fences):
            self._fences.append(fence)
        else:
            self._fences[slot] = fence
        if slot == len(self._all_shells):
            room = max(64, slot)
            self._all_shells = np.append(self._all_shells, np.empty((room, 5)), axis=0)
            self._geometries = np.append(self._geometries, np.empty(room, dtype=np.object_))
        self._all_shells[slot] = fence.ruler.shell
        self._geometries[slot] = fence.shape.geometry if isinstance(fence.shape, Area) else None
        self._wide += len(fence.boxes) > 1


def _may_meet(fences: Iterable[Fence], start: Space, end: Space, slack_m: float) -> list[Fence]:
    """The fences but those that are clearly missed on a straight way between two places in space.

    These lie farther from it than it may bend, `slack_m`, and reach.
    """
    x, y, z = start
    dx, dy, dz = end[0] - x, end[1] - y, end[2] - z
    length_2 = dx * dx + dy * dy + dz * dz
    per_length_2 = 1.0 / length_2 if length_2 else 0.0
    near: list[Fence] = []
    for fence in fences:
        cx, cy, cz, _, far_m = fence.ruler.shell
        gx, gy, gz = cx - x, cy - y, cz - z
        part = (gx * dx + gy * dy + gz * dz) * per_length_2
        if part > 0.0:
            part = min(part, 1.0)
            gx, gy, gz = gx - part * dx, gy - part * dy, gz - part * dz
        reach_m = far_m + slack_m
        if gx * gx + gy * gy + gz * gz <= reach_m * reach_m:
            near.append(fence)
    return near


def _met(
    fences: Iterable[Fence], lon0: float, lat0: float, lon1: float, lat1: float
) -> tuple[Fence, ...]:
    """Those of the fences that `measure.meets` the segment."""
    met: list[Fence] = []
    lines: tuple[shapely.LineString, ...] = ()
    many_spellings = has_spellings(lon0, lat0) or has_spellings(lon1, lat1)
    for fence in fences:
        if many_spellings or not isinstance(fence.shape, Area):
            meets = fence.ruler.meets(lon0, lat0, lon1, lat1)
        else:
            # One line for all of them, since to make it costs more than to ask.
            lines = lines or short_lines(lon0, lat0, lon1, lat1)
            meets = any(map(fence.shape.geometry.intersects, lines))
        if meets:
            met.append(fence)
    return tuple(met)
