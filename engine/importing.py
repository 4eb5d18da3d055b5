"""Bring a file of fences into the store: what is good goes live together, the rest is told."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engine.ingest.rows import FileRefused, RowRefused, form_of, read_head, read_rows
from engine.offers.offer import Brand
from engine.replay import InputRefused, branded, open_maybe_gzip
from engine.store.audit import Author
from engine.store.port import FenceRow, Rows, Store
from engine.store.staging import Intake, fence_row


class Imported(NamedTuple):
    """What an import did, or would do."""

    created: int
    updated: int
    unchanged: int
    rejected: tuple[RowRefused, ...]
    """The first 10,000."""
    rejected_count: int


async def import_fences(
    store: Store,
    path: Path,
    *,
    brand: str | None = None,
    brand_by: str | None = None,
    rows_max: int,
    dry_run: bool,
    by: Author | None,
) -> Imported:
    """Write fences so that they go live together.

    Args:
        store: open.
        path: a FeatureCollection, a text sequence, lines or a table, perhaps gzipped.
        brand: of rows that name none.
        brand_by: a property whose text becomes the brand and a tag of a fence without brand; such
            brands are made where they are not there. A fence of any other brand that does not exist
            is rejected.
        dry_run: only tell what would be done.

    Raises:
        InputRefused: nothing of the file can be used; nothing was written.
    """
    with open_maybe_gzip(path) as file:
        form = form_of(None, read_head(file))
        rows = read_rows(file, form)
        if brand_by is not None:
            rows = (branded(row, brand_by) for row in rows)
        make = partial(fence_row, form=form, brand=brand)
        intake: Intake[FenceRow] = Intake(rows, make, lambda _, row: row, rows_max=rows_max)
        try:
            brands: set[str] = set()
            parts = _parts(store, intake, brands if brand_by is not None else None)
            done = await store.put_together(parts, dry_run=dry_run, by=by)
        except FileRefused as refused:
            raise InputRefused(f"{path}: {refused}") from None
    rejected = tuple(sorted(intake.rejected))
    created = done.created - len(brands)
    return Imported(created, done.updated, done.unchanged, rejected, intake.rejected_count)


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
