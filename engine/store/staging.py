"""The rows of an import on their way into the store: read and made in a thread, slice by slice.

What an import costs in memory is one slice, the ids that were seen, and the rows that are told as
rejected, of which there is a most.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import orjson

from engine.consent.law import Laws
from engine.ingest.rows import FileRefused, Form, Row, RowRefused, column_of
from engine.offers.offer import Brand, Offer
from engine.store.port import FenceRow, Rows
from geofences.fence import FenceRejected
from geofences.geojson import parse_fence, to_feature

T = TypeVar("T")
Thing = Brand | FenceRow | Offer

REJECTED_MAX: Final = 10_000
"""Most rejected rows that are told one by one; the others are counted."""

_SLICE_ROWS: Final = 100
_SLICE_CORNERS: Final = 2_000
"""A slice ends early when its fences are large: about 2 ms of work, and never more than one fence
beyond it."""


class Intake(Generic[T]):
    """Takes in the rows of one import.

    Args:
        rows: of the file.
        make: what a row means, or why it is refused; called in a thread.
        check: whether it may go on, and as what; called on the loop.
        rows_max: longest file.

    Attributes:
        rejected: rows that were left out, the first 10,000.
        rejected_count: all of them.
    """

    def __init__(
        self,
        rows: Iterator[Row | RowRefused],
        make: Callable[[Row], T | RowRefused],
        check: Callable[[int, T], Thing | RowRefused],
        *,
        rows_max: int,
    ) -> None:
        self._rows = rows
        self._make = make
        self._check = check
        self._rows_max = rows_max
        self._seen: set[tuple[str, str]] = set()
        self._count = 0
        self._ended = False
        self.rejected: list[RowRefused] = []
        self.rejected_count = 0

    async def parts(self) -> AsyncIterator[Rows]:
        """The good rows, for `Store.put_together`.

        Raises:
            FileRefused: `too_many_rows`, or what the reader refuses; the import must be undone.
        """
        async for made in self.slices():
            good = [thing for row, one in made if (thing := self._admit(row, one)) is not None]
            yield Rows(
                brands=tuple(one for one in good if isinstance(one, Brand)),
                fences=tuple(one for one in good if isinstance(one, FenceRow)),
                offers=tuple(one for one in good if isinstance(one, Offer)),
            )

    async def slices(self) -> AsyncIterator[list[tuple[int, T]]]:
        """What the rows that can be read mean, each with its number."""
        while not self._ended:
            taken = await asyncio.to_thread(self._take)
            self._count += len(taken)
            if self._count > self._rows_max:
                raise FileRefused(
                    "too_many_rows", f"An import may have {self._rows_max} rows at most."
                )
            made: list[tuple[int, T]] = []
            for number, one in taken:
                if isinstance(one, RowRefused):
                    self.reject(one)
                else:
                    made.append((number, one))
            yield made

    def reject(self, row: RowRefused) -> None:
        """Leave a row out."""
        self.rejected_count += 1
        if len(self.rejected) < REJECTED_MAX:
            self.rejected.append(row)

    def twice(self, row: int, kind: str, id_: str) -> bool:
        """Whether an id was there before, which rejects the row."""
        if (kind, id_) in self._seen:
            told = "A row before this one has that id."
            self.reject(RowRefused(row, "duplicate_id", "id", told, id_))
            return True
        self._seen.add((kind, id_))
        return False

    def _take(self) -> list[tuple[int, T | RowRefused]]:
        """The next slice."""
        taken: list[tuple[int, T | RowRefused]] = []
        size = 0
        while len(taken) < _SLICE_ROWS and size < _SLICE_CORNERS * 40:
            row = next(self._rows, None)
            if row is None:
                self._ended = True
                break
            if isinstance(row, RowRefused):
                taken.append((row.row, row))
                continue
            made = self._make(row)
            size += len(made.feature) if isinstance(made, FenceRow) else 200
            taken.append((row.number, made))
        return taken

    def _admit(self, row: int, one: T) -> Thing | None:
        """The thing that a row brings, or None if the row is rejected."""
        thing = self._check(row, one)
        if isinstance(thing, RowRefused):
            self.reject(thing)
            return None
        return None if self.twice(row, type(thing).__name__, thing.id) else thing


def fence_row(
    row: Row, form: Form, *, laws: Laws, brand: str | None = None, prefix: str = ""
) -> FenceRow | RowRefused:
    """The fence that a row means.

    Args:
        laws: near whose places none may be.
        brand: whose it is, where the row names none.
        prefix: of the paths that are told.
    """
    value: Any = row.value
    properties = value.get("properties") if isinstance(value, dict) else None
    named = isinstance(properties, dict) and properties.get("brand") is not None
    try:
        fence = parse_fence(value, brand=None if named else brand)
    except FenceRejected as rejected:
        first = rejected.problems[0]
        path = column_of(first.path) if form == "csv" else prefix + first.path
        return RowRefused(row.number, first.code, path, first.detail, rejected.fence_id)
    if laws.has_places and (code := laws.near(fence)) is not None:
        told = f"The fence is too near to a place that a law protects: {laws.source(code)}"
        return RowRefused(row.number, "forbidden_by_law", "", told, fence.id)
    return FenceRow(id=fence.id, brand=fence.brand, feature=orjson.dumps(to_feature(fence)))
