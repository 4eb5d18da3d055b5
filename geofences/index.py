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

from geofences.cells import Candidate, Cells
from geofences.fence import Area, BBox, Fence
from geofences.globe import Space, ecef, ecef_many, metres_per_degree
from geofences.measure import bend_m, split_box
from geofences.region import Region, region_around
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

    Attributes:
        edition: another object whenever a fence has come, gone or changed.
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
        self.edition = object()

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
        self.edition = object()
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

    def current(self, fence: Fence) -> Fence | None:
        """A fence that once was here as it is now, None if it was deleted."""
        return self.get(fence.id)

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
        candidates = self._cells.around(lon, lat, lon, lat)
        if candidates is None:
            candidates = self._cells.of(self._tree.meeting(lon, lat, lon, lat))
        here = ecef(lon, lat)
        return self._sift(candidates, here, here, 0.0, lon, lat)[0]

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
        candidates = self._cells.around(lon0, lat0, lon1, lat1)
        if candidates is None:
            candidates = self._cells.of(self._meeting(lon0, lat0, lon1, lat1))
        start, end = ecef(lon0, lat0), ecef(lon1, lat1)
        covering, near = self._sift(
            candidates, start, end, bend_m(math.dist(start, end)), lon1, lat1
        )
        met = tuple(f for f in near if f not in left and f.ruler.meets(lon0, lat0, lon1, lat1))
        return covering, met

    def region(self, lon: float, lat: float) -> Region | None:
        """What is settled for all positions around one, until `edition` is another object.

        Args:
            lon, lat: finite and in range.

        Returns:
            None at the seam and near a pole, and where too many boundaries are near.
        """
        candidates = self._cells.around(lon, lat, lon, lat)
        if candidates is None:
            return None
        return region_around(lon, lat, candidates, self._fences)

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
        start: Space,
        end: Space,
        slack_m: float,
        lon: float,
        lat: float,
    ) -> tuple[tuple[Fence, ...], list[Fence]]:
        """Part candidates into those that cover the end of a way and others that it may meet.

        Args:
            candidates: sorted by fence id.
            slack_m: how far the way may bend from the straight line through space, metres.
            lon, lat: the end.

        Returns:
            Both sorted by fence id; of the others all that do not lie clearly off the way.
        """
        covering: list[Fence] = []
        doubtful: list[Fence] = []
        others: list[Fence] = []
        fences = self._fences
        x, y, z = end
        back_x, back_y, back_z = start[0] - x, start[1] - y, start[2] - z
        length_2 = back_x * back_x + back_y * back_y + back_z * back_z
        reach_m = math.sqrt(length_2) + slack_m
        for cx, cy, cz, near_m, far_m, slot in candidates:
            dx, dy, dz = cx - x, cy - y, cz - z
            chord_2 = dx * dx + dy * dy + dz * dz
            if chord_2 < near_m * near_m:
                covering.append(fences[slot])
            elif chord_2 <= far_m * far_m:
                doubtful.append(fences[slot])
            elif chord_2 <= (far_m + reach_m) * (far_m + reach_m):
                # The way may come nearer than its end does: up to its beginning, or in between.
                along = dx * back_x + dy * back_y + dz * back_z
                if along >= length_2:
                    chord_2 += length_2 - 2.0 * along
                elif along > 0.0:
                    chord_2 -= along * along / length_2
                if chord_2 <= (far_m + slack_m) * (far_m + slack_m):
                    others.append(fences[slot])
        if doubtful:
            for fence in doubtful:
                (covering if fence.ruler.covers(lon, lat) else others).append(fence)
            covering.sort(key=_by_id)
            others.sort(key=_by_id)
        return tuple(covering), others

    def _meeting(self, lon0: float, lat0: float, lon1: float, lat1: float) -> list[int]:
        """The slots of the boxes that meet a segment's own box, which the seam may cut in two."""
        south, north = (lat0, lat1) if lat0 < lat1 else (lat1, lat0)
        west, east = (lon0, lon1) if lon0 < lon1 else (lon1, lon0)
        if east - west <= 180.0:
            return self._tree.meeting(west, south, east, north)
        slots = self._tree.meeting(-180.0, south, west, north)
        return slots + self._tree.meeting(east, south, 180.0, north)

    def _refine_many(self, lon_lat: Floats, slots: Ints) -> npt.NDArray[np.bool_]:
        """Whether each candidate covers its position: (k, 2) and (k,) to bool (k,)."""
        lon, lat = lon_lat[:, 0], lon_lat[:, 1]
        shells = self._cells.shells(slots)
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
        self._geometries = np.empty(len(by_id), dtype=np.object_)
        ordered = sorted(by_id.values(), key=_by_id)
        boxes = [(slot, box) for slot, fence in enumerate(ordered) for box in fence.boxes]
        self._tree = BoxTree([slot for slot, _ in boxes], [box for _, box in boxes])
        self._cells = Cells(self._tree, self._fences, len(ordered))
        for slot, fence in enumerate(ordered):
            self._slots[fence.id] = slot
            self._hold(slot, fence)
        self.edition = object()

    def _hold(self, slot: int, fence: Fence) -> None:
        """Put a fence into a slot of the list and arrays, which grow when it is a new one."""
        self._cells.hold(slot, fence)
        if slot == len(self._fences):
            self._fences.append(fence)
        else:
            self._fences[slot] = fence
        if slot == len(self._geometries):
            room = max(64, slot)
            self._geometries = np.append(self._geometries, np.empty(room, dtype=np.object_))
        self._geometries[slot] = fence.shape.geometry if isinstance(fence.shape, Area) else None
        self._wide += len(fence.boxes) > 1
