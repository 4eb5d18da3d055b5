"""A brand with all its fences and offers: out as lines of JSON, and in again."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, BinaryIO, Final

import msgspec

from engine.consent.law import Laws
from engine.ingest.rows import Row, RowRefused, read_rows
from engine.offers.offer import Brand, Offer
from engine.store.audit import Author
from engine.store.port import FenceRow, KeyRow
from engine.store.staging import Intake, Thing, fence_row
from engine.web.auth import check_brand
from engine.web.body import decode
from engine.web.brands import BrandBody, brand_of
from engine.web.context import Context
from engine.web.fields import Id
from engine.web.imports import DryRun, Imported, put, refusal_of_fence
from engine.web.offers import OfferBody, offer_of, view
from engine.web.problem import FieldError, Refused
from engine.web.route import NDJSON, Answer
from engine.web.upload import Upload

READ_MAX: Final = 500
"""Most fences that are read at once."""

_brand: Final = msgspec.json.Decoder(BrandBody)
_offer: Final = msgspec.json.Decoder(OfferBody)


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of an export: one of the three. The brand comes first, then fences, then offers."""

    brand: Brand | None = None
    fence: dict[str, Any] | None = None
    """A GeoJSON Feature."""
    offer: OfferBody | None = None


async def export_brand(ctx: Context, key: KeyRow, *, brand: Id) -> Answer[Line]:
    """Export a brand, its fences and its offers, a line each; importing it changes nothing."""
    check_brand(key, brand)
    known = ctx.engine.book.brands.get(brand)
    if known is None:
        raise Refused("no_such_brand")
    return Answer(await _whole(_parts(ctx, known)), content_type=NDJSON)


async def _whole(parts: AsyncIterator[bytes]) -> BinaryIO:
    """A file of all parts, without a name: whatever fails does so before the answer begins.

    Raises:
        Refused: `overloaded`: the disk is full.
    """
    with contextlib.ExitStack() as undone:
        file = undone.enter_context(tempfile.TemporaryFile())
        async for part in parts:
            try:
                await asyncio.to_thread(_keep, file, part)
            except OSError:
                raise Refused("overloaded", "There is no room for the export here.") from None
        undone.pop_all()  # whoever sends it closes it
    return file


def _keep(file: BinaryIO, part: bytes) -> None:
    """Write a part to the end; in a thread, because a disk may be slow."""
    file.write(part)
    file.flush()


async def _parts(ctx: Context, known: Brand) -> AsyncIterator[bytes]:
    """The lines of a brand, some at a time."""
    brand = known.id
    yield _lines("brand", [known])
    ids = [fence.id for fence in ctx.engine.fences if fence.brand == brand]
    for start in range(0, len(ids), READ_MAX):
        rows = await ctx.store.read_fences(ids[start : start + READ_MAX])
        yield _lines("fence", (msgspec.Raw(row.feature) for row in rows))
    offers = sorted(o.id for o in ctx.engine.book.offers.values() if o.brand == brand)
    for start in range(0, len(offers), READ_MAX):
        found = await ctx.store.read_offers(offers[start : start + READ_MAX])
        yield _lines("offer", (view(row.offer) for row in found))


def _lines(kind: str, things: Iterable[Any]) -> bytes:
    return b"".join(msgspec.json.encode({kind: thing}) + b"\n" for thing in things)


async def import_brand(
    ctx: Context,
    key: KeyRow,
    body: Upload,
    by: Author | None,
    *,
    brand: Id,
    dry_run: DryRun = False,
) -> Answer[Imported]:
    """Import what was exported of a brand; the good rows go live together."""
    check_brand(key, brand)
    reading = _Reading(ctx, key, brand)
    rows = read_rows(body.file, "lines")
    made = partial(_made, ctx.engine.floor.laws)
    intake: Intake[Any] = Intake(rows, made, reading.check, rows_max=ctx.config.import_rows_max)
    return await put(ctx, intake, by, dry_run=dry_run)


def _made(laws: Laws, row: Row) -> BrandBody | FenceRow | OfferBody | RowRefused:
    """What a line holds; the pure part of the work."""
    value = row.value
    if (
        not isinstance(value, dict)
        or len(value) != 1
        or not value.keys() <= {*Line.__struct_fields__}
    ):
        told = 'Must be {"brand": ...}, {"fence": ...} or {"offer": ...}.'
        return RowRefused(row.number, "wrong_line", "", told)
    ((kind, held),) = value.items()
    if kind == "fence":
        return fence_row(Row(row.number, held), "lines", laws=laws, prefix="fence.")
    text = msgspec.json.encode(held)
    try:
        return decode(_brand, text) if kind == "brand" else decode(_offer, text)
    except Refused as refused:
        return _row_refused(row.number, kind, refused, None)


def _row_refused(row: int, kind: str, refused: Refused, id_: str | None) -> RowRefused:
    """A refusal of the single call as that of a row."""
    problem = refused.problem
    first = problem.errors[0] if problem.errors else FieldError("", problem.code, problem.detail)
    path = f"{kind}.{first.path}" if first.path else kind
    return RowRefused(row, first.code, path, first.detail, id_)


class _Reading:
    """One import of a brand: what came so far, since offers rest on fences, fences on a brand."""

    def __init__(self, ctx: Context, key: KeyRow, brand: str) -> None:
        self._ctx = ctx
        self._key = key
        self._id = brand
        self._brand = ctx.engine.book.brands.get(brand)
        self._fences: set[str] = set()

    def check(self, row: int, held: BrandBody | FenceRow | OfferBody) -> Thing | RowRefused:
        """The thing that a line brings, if it may be written."""
        if isinstance(held, BrandBody):
            try:
                self._brand = brand_of(self._ctx, self._id, held)
            except Refused as refused:
                return _row_refused(row, "brand", refused, held.id)
            return self._brand
        kind = "fence" if isinstance(held, FenceRow) else "offer"
        if held.brand != self._id:
            path = "fence.properties.brand" if kind == "fence" else "offer.brand"
            return RowRefused(
                row, "wrong_brand", path, "Must be the brand in the address.", held.id
            )
        if self._brand is None:
            told = "Write the brand first, or in a line before."
            return RowRefused(row, "unknown_brand", kind, told, held.id)
        if isinstance(held, FenceRow):
            return self._fence(row, held)
        return self._offer(row, held, self._brand)

    def _fence(self, row: int, fence: FenceRow) -> FenceRow | RowRefused:
        refused = refusal_of_fence(self._ctx, self._key, row, fence, "fence.properties.brand")
        if refused is not None and refused.code != "unknown_brand":
            return refused
        self._fences.add(fence.id)
        return fence

    def _offer(self, row: int, held: OfferBody, brand: Brand) -> Offer | RowRefused:
        if held.id is None:
            return RowRefused(row, "missing_field", "offer.id", "It is required.")
        old = self._ctx.engine.book.offers.get(held.id)
        if old is not None and old.brand != self._id:
            told = "Another brand has an offer of that id."
            return RowRefused(row, "foreign_brand", "offer.id", told, held.id)
        try:
            offer = offer_of(held.id, held, brand)
        except Refused as refused:
            return _row_refused(row, "offer", refused, held.id)
        for place, fence_id in enumerate(offer.fences):
            fence = self._ctx.engine.fences.get(fence_id)
            if fence_id not in self._fences and (fence is None or fence.brand != self._id):
                path, told = f"offer.fences[{place}]", "Must be a fence of the brand."
                return RowRefused(row, "unknown_fence", path, told, held.id)
        return offer
