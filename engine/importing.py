"""Bring a file of fences or residents into the store: what is good goes in, the rest is told."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from engine.consent.law import Laws
from engine.ingest.rows import FileRefused, Form, Row, RowRefused, form_of, read_head, read_rows
from engine.offers.offer import Brand
from engine.replay import InputRefused, branded, open_maybe_gzip
from engine.store.audit import Author
from engine.store.port import FenceRow, Rows, Store
from engine.store.staging import Intake, fence_row
from engine.web.resident_rows import intake_of, put_residents

TELL_ROWS: Final = 10_000
"""Rows between two lines of progress."""
FORM_OF_NAME: Final[dict[str, Form]] = {
    ".csv": "csv",
    ".ndjson": "lines",
    ".jsonl": "lines",
    ".geojsonl": "lines",
    ".geojsons": "sequence",
}
"""By the end of a file's name; of any other its beginning tells."""
Tell = Callable[[int], object]


class Imported(NamedTuple):
    """What an import did, or would do."""

    created: int
    updated: int
    unchanged: int
    rejected: tuple[RowRefused, ...]
    """The first 10,000."""
    rejected_count: int


def _imported(intake: Intake[Any], created: int, updated: int, unchanged: int) -> Imported:
    rejected = tuple(sorted(intake.rejected))
    return Imported(created, updated, unchanged, rejected, intake.rejected_count)


def _told(rows: Iterator[Row | RowRefused], tell: Tell) -> Iterator[Row | RowRefused]:
    """The rows, telling now and then how many were read."""
    for count, row in enumerate(rows, 1):
        if count % TELL_ROWS == 0:
            tell(count)
        yield row


def _form(path: Path, head: bytes) -> Form:
    """Which form a file has: what its name says, or else its beginning."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    return FORM_OF_NAME.get(name.suffix.lower()) or form_of(None, head)


async def import_residents(
    store: Store,
    path: Path,
    *,
    zone: str,
    now_ms: int,
    rows_max: int,
    dry_run: bool,
    by: Author | None,
    tell: Tell = lambda _: None,
) -> Imported:
    """Write residents with the opt-ins that the city holds, and their proof, as over HTTP.

    Args:
        store: open.
        path: a resident a line of JSON, perhaps gzipped.
        zone: of residents whose line names none.
        now_ms: from when what is granted counts, Unix milliseconds.
        dry_run: only tell what would be done.
        tell: is told now and then how many rows were read.

    Raises:
        InputRefused: the file is too long; rows before the place were written.
    """
    with open_maybe_gzip(path) as file:
        rows = _told(read_rows(file, "lines"), tell)
        intake = intake_of(rows, zone=zone, now_ms=now_ms, rows_max=rows_max)
        try:
            done = await put_residents(store, intake, dry_run=dry_run, by=by)
        except FileRefused as refused:
            raise InputRefused(f"{path}: {refused}") from None
    return _imported(intake, done.created, done.updated, done.unchanged)


async def import_fences(  # noqa: PLR0913 (the flags of a command)
    store: Store,
    path: Path,
    *,
    brand: str | None = None,
    brand_by: str | None = None,
    laws: Laws | None = None,
    rows_max: int,
    dry_run: bool,
    by: Author | None,
    tell: Tell = lambda _: None,
) -> Imported:
    """Write fences so that they go live together.

    Args:
        store: open.
        path: a FeatureCollection, a text sequence, lines or a table, perhaps gzipped.
        brand: of rows that name none.
        brand_by: a property whose text becomes the brand and a tag of a fence without brand; such
            brands are made where they are not there. A fence of any other brand that does not exist
            is rejected.
        laws: near whose places a fence is rejected; None: there are none.
        dry_run: only tell what would be done.
        tell: is told now and then how many rows were read.

    Raises:
        InputRefused: nothing of the file can be used; nothing was written.
    """
    with open_maybe_gzip(path) as file:
        form = _form(path, read_head(file))
        rows = _told(read_rows(file, form), tell)
        if brand_by is not None:
            rows = (branded(row, brand_by) for row in rows)
        make = partial(fence_row, form=form, laws=laws or Laws(), brand=brand)
        intake: Intake[FenceRow] = Intake(rows, make, lambda _, row: row, rows_max=rows_max)
        try:
            brands: set[str] = set()
            parts = _parts(store, intake, brands if brand_by is not None else None)
            done = await store.put_together(parts, dry_run=dry_run, by=by)
        except FileRefused as refused:
            raise InputRefused(f"{path}: {refused}") from None
    return _imported(intake, done.created - len(brands), done.updated, done.unchanged)


async def _parts(
    store: Store, intake: Intake[FenceRow], brands: set[str] | None
) -> AsyncIterator[Rows]:
    """The good rows, each slice with the brands that it needs; `brands` takes those that are made.

    None: none may be made.
    """
    known: set[str] = set()
    async for made in intake.slices():
        wanted = sorted({fence.brand for _, fence in made} - known)
        known |= {row.brand.id for row in await store.read_brands(wanted)}
        missing = [name for name in wanted if name not in known and brands is not None]
        if brands is not None:
            brands.update(missing)
            known.update(missing)
        fences = []
        for row, fence in made:
            if fence.brand not in known:
                told = f"Brand {fence.brand} does not exist; make it first."
                intake.reject(RowRefused(row, "unknown_brand", "brand", told, fence.id))
            elif not intake.twice(row, "fence", fence.id):
                fences.append(fence)
        yield Rows(
            brands=tuple(Brand(id=name, name=name) for name in missing), fences=tuple(fences)
        )
