"""Residents whom a city brings along, with the opt-ins that it already holds and their proof.

An import never widens what somebody said here: it makes residents, and speaks for those who never
said anything. Whoever has said something keeps just that.
"""

import secrets
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from engine.consent import sync
from engine.ingest.rows import FileRefused, Row, RowRefused, read_rows
from engine.residents import ResidentSettings
from engine.store.audit import Author
from engine.store.port import ResidentRow, Store, Together
from engine.store.staging import Intake
from engine.web.body import decode
from engine.web.context import Context
from engine.web.fields import Id, Language, Name, Zone, zone_errors
from engine.web.imports import LIVE_S, DryRun, Imported, report
from engine.web.live import live
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer
from engine.web.upload import Upload


class ResidentChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Offers on or off, for all brands or for some."""

    opted_in: bool
    brands: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=1_000)] | None = None


class Proof(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Where the city keeps the evidence; it stands in the resident's record and receipt."""

    source: Name
    """The system or the form, such as `city-portal`."""
    reference: Name
    """What finds it there."""
    notice: Name | None = None
    """The text that the resident was shown, by its name and version."""


class ResidentLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A resident of an import."""

    resident: Id
    timezone: Zone | None = None
    """The city's by default."""
    language: Language = "en"
    marketing: ResidentChoice | None = None
    proof: Proof | None = None
    """Required where `opted_in` is true."""
    at_ms: Annotated[int, Meta(ge=0, le=1 << 53)] | None = None
    """When it was said; kept as a claim. What holds counts from the import."""


_line: Final = msgspec.json.Decoder(ResidentLine)


class _Made(NamedTuple):
    """What a row means, and the brands that it names, which have to be there."""

    row: ResidentRow
    brands: tuple[str, ...]


async def import_residents(
    ctx: Context, body: Upload, by: Author | None, *, dry_run: DryRun = False
) -> Answer[Imported]:
    """Import residents with their marketing choices and the proof; a say is never widened."""
    intake = intake_of(
        read_rows(body.file, "lines"),
        zone=ctx.config.timezone,
        now_ms=ctx.clock_ms(),
        rows_max=ctx.config.import_rows_max,
    )
    try:
        done = await put_residents(ctx.store, intake, dry_run=dry_run, by=by)
    except FileRefused as refused:
        raise Refused(refused.code, str(refused)) from None
    await live(ctx, done.number, timeout_s=LIVE_S)
    return Answer(report(intake, done.created, done.updated, done.unchanged, dry_run=dry_run))


def intake_of(
    rows: Iterator[Row | RowRefused], *, zone: str, now_ms: int, rows_max: int
) -> Intake[_Made]:
    """The rows of an import of residents on their way in.

    Args:
        zone: of residents whose row names none.
        now_ms: from when what is granted counts, Unix milliseconds.
        rows_max: longest file.
    """
    make = partial(_made, zone=zone, now_ms=now_ms)
    return Intake(rows, make, lambda row, _: _said(row, ""), rows_max=rows_max)


async def put_residents(
    store: Store, intake: Intake[_Made], *, dry_run: bool, by: Author | None
) -> Together:
    """Write what an intake lets in, a slice at a time; rows that may not be written are rejected.

    Raises:
        FileRefused: the rest of the file can't be used; the slices before were written.
    """
    created = updated = unchanged = number = 0
    known: set[str] = set()
    async for made in intake.slices():
        fresh = await _fresh(store, intake, made, known)
        there = {one.id: one for one in await store.read_residents(list(fresh))}
        wanted: list[ResidentRow] = []
        for row, one in fresh.values():
            kept = there.get(one.id)
            if kept is None or (kept.version == 0 and one.records):
                wanted.append(one)
                created += kept is None
                updated += kept is not None
            elif _is_same(kept, one):
                unchanged += 1
            else:
                intake.reject(_said(row, one.id))
        if dry_run or not wanted:
            continue
        done = await store.import_residents(wanted, by=by)
        number = max(number, done.number)
        for lost in [one.id for one in wanted if one.id not in done.written]:
            created -= lost not in there
            updated -= lost in there
            intake.reject(_said(fresh[lost][0], lost))
    return Together(number, created, updated, unchanged)


async def _fresh(
    store: Store, intake: Intake[_Made], made: list[tuple[int, _Made]], known: set[str]
) -> dict[str, tuple[int, ResidentRow]]:
    """Those of a slice whose brands are there and who did not come before; by their ids.

    Args:
        known: brands that are there, of those asked for so far.
    """
    named = {brand for _, one in made for brand in one.brands}
    known |= {row.brand.id for row in await store.read_brands(sorted(named - known))}
    fresh: dict[str, tuple[int, ResidentRow]] = {}
    for row, (one, brands) in made:
        place = next((n for n, brand in enumerate(brands) if brand not in known), None)
        if place is not None:
            path = f"marketing.brands[{place}]"
            intake.reject(RowRefused(row, "unknown_brand", path, "There is no such brand.", one.id))
        elif not intake.twice(row, "resident", one.id):
            fresh[one.id] = (row, one)
    return fresh


def _said(row: int, resident: str) -> RowRefused:
    told = "The resident has said something here, which an import does not change."
    return RowRefused(row, "already_said", "marketing", told, resident or None)


def _is_same(kept: ResidentRow, one: ResidentRow) -> bool:
    """Whether the row brings nothing that this resident did not bring along before."""
    if not one.records:
        return True
    if not kept.records or kept.records[0].actor != "agent":
        return False
    first = kept.records[: len(one.records)]
    return [_what(record) for record in first] == [_what(record) for record in one.records]


def _what(record: Any) -> tuple[Any, ...]:
    return record.effect, record.purpose, record.actions, record.scope, record.proof


def _made(row: Row, *, zone: str, now_ms: int) -> _Made | RowRefused:
    """The resident that a row means."""
    try:
        line = decode(_line, msgspec.json.encode(row.value))
    except Refused as refused:
        first = (*refused.problem.errors, FieldError("", "invalid_body", ""))[0]
        return RowRefused(row.number, first.code, first.path, first.detail)
    wrong = _error(line)
    if wrong is not None:
        return RowRefused(row.number, wrong.code, wrong.path, wrong.detail, line.resident)
    settings = ResidentSettings(timezone=line.timezone or zone, language=line.language)
    resident = ResidentRow(id=line.resident, settings=settings)
    if line.marketing is None:
        return _Made(resident, ())
    said = sync.Said(
        actor="agent",
        now_ms=now_ms,
        client_ms=line.at_ms,
        seed=secrets.token_bytes(32),
        proof=None if line.proof is None else msgspec.json.encode(line.proof).decode(),
    )
    asked = sync.marketing(line.marketing.opted_in, line.marketing.brands)
    records = sync.resolve(resident, asked, said).records
    return _Made(msgspec.structs.replace(resident, records=records), line.marketing.brands or ())


def _error(line: ResidentLine) -> FieldError | None:
    """The first thing that is wrong with a row."""
    if line.resident == "me":
        return FieldError("resident", "reserved", "Not `me`.")
    if line.timezone is not None and (errors := zone_errors("timezone", line.timezone)):
        return errors[0]
    if line.marketing is not None and line.marketing.opted_in and line.proof is None:
        return FieldError("proof", "missing_field", "An opt-in needs its proof.")
    return None
