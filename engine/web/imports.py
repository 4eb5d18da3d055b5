"""Imports: files of fences, of a brand with all that is its own, and of residents' say."""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from engine.ingest.rows import FileRefused, Row, RowRefused, read_rows
from engine.store.audit import Author
from engine.store.port import FenceRow, KeyRow
from engine.store.staging import Intake, fence_row
from engine.web.auth import check_brand, may_see
from engine.web.context import Context
from engine.web.live import live_in_city
from engine.web.problem import Refused
from engine.web.route import Answer
from engine.web.upload import Upload

T = TypeVar("T")

LIVE_S = 120.0
"""How long the answer to an import waits until all of it is live here."""

DryRun = Annotated[bool, Meta(description="Only tell what would be done.")]
BrandOfRows = Annotated[str, Meta(max_length=128, description="Of rows that name none.")]


class RejectedRow(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A row that was left out; the others are not touched by that."""

    row: int
    """From 1; a table's header is none."""
    id: str | None = None
    code: str
    path: str
    """Where in the row, or the column; empty: the row as a whole."""
    detail: str


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did, or would do."""

    created: int
    updated: int
    unchanged: int
    rejected: tuple[RejectedRow, ...]
    """The first 10,000."""
    rejected_count: int
    """All of them."""
    dry_run: bool
    """True: nothing was written."""


async def import_fences(
    ctx: Context,
    key: KeyRow,
    body: Upload,
    by: Author | None,
    *,
    brand: BrandOfRows | None = None,
    dry_run: DryRun = False,
) -> Answer[Imported]:
    """Import fences from a file; the good rows go live together."""
    if brand is not None:
        check_brand(key, brand)
    form = await body.form()

    def make(row: Row) -> FenceRow | RowRefused:
        return fence_row(row, form, laws=ctx.engine.floor.laws, brand=brand)

    def check(number: int, fence: FenceRow) -> FenceRow | RowRefused:
        path = "brand" if form == "csv" else "properties.brand"
        return refusal_of_fence(ctx, key, number, fence, path) or fence

    intake = Intake(read_rows(body.file, form), make, check, rows_max=ctx.config.import_rows_max)
    return await put(ctx, intake, by, dry_run=dry_run)


def refusal_of_fence(
    ctx: Context, key: KeyRow, row: int, fence: FenceRow, path: str
) -> RowRefused | None:
    """Why a fence may not be written by a key; None: it may."""
    if fence.brand not in ctx.engine.book.brands:
        return RowRefused(row, "unknown_brand", path, "Write the brand first.", fence.id)
    old = ctx.engine.fences.get(fence.id)
    if not may_see(key, fence.brand):
        return RowRefused(row, "foreign_brand", path, "The key is not for that brand.", fence.id)
    if old is not None and not may_see(key, old.brand):
        told = "Another brand has a fence of that id."
        return RowRefused(row, "foreign_brand", "id", told, fence.id)
    return None


async def put(
    ctx: Context, intake: Intake[Any], by: Author | None, *, dry_run: bool
) -> Answer[Imported]:
    """Write what an intake lets in, and wait until it is live."""
    try:
        done = await ctx.store.put_together(intake.parts(), dry_run=dry_run, by=by)
    except FileRefused as refused:
        raise Refused(refused.code, str(refused)) from None
    await live_in_city(ctx, done.number, timeout_s=LIVE_S)
    return Answer(report(intake, done.created, done.updated, done.unchanged, dry_run=dry_run))


def report(
    intake: Intake[Any], created: int, updated: int, unchanged: int, *, dry_run: bool
) -> Imported:
    """What came of an import."""
    return Imported(
        created=created,
        updated=updated,
        unchanged=unchanged,
        rejected=tuple(RejectedRow(**row._asdict()) for row in sorted(intake.rejected)),
        rejected_count=intake.rejected_count,
        dry_run=dry_run,
    )
