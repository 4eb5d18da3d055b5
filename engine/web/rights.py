"""What residents may ask for at any time: all that is held on them, and that it is erased."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from engine.consent.zones import to_document
from engine.store.audit import AuditFilter, Author
from engine.store.port import KeyRow
from engine.store.rights import new_erasure
from engine.web.auth import resident_of
from engine.web.claims import ClaimView
from engine.web.claims import view as claim_view
from engine.web.context import Context
from engine.web.fields import ResidentId
from engine.web.history import Receipt, receipt_of
from engine.web.keys import KeyView
from engine.web.keys import view as key_view
from engine.web.live import in_force, or_not_in_force
from engine.web.problem import Refused
from engine.web.residents import ResidentView, resident_row, view
from engine.web.route import Answer

FORM: Final = "passby-resident-1"
CLAIMS_READ: Final = 1_000
ENTRIES_MAX: Final = 1_000
"""Most entries of the audit log in an export, the newest."""


class StayTold(msgspec.Struct, frozen=True, kw_only=True):
    """A stay that is not known to have ended."""

    fence: str
    entered_ms: int
    dwelled_s: int
    """The longest stay that was told of."""


class WriteTold(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody else wrote about the resident."""

    at_ms: int
    role: str
    name: str
    """Of the key."""
    action: str
    outcome: str


class MergedTold(msgspec.Struct, frozen=True, kw_only=True):
    """Who the resident also was."""

    resident: str
    records: tuple[Receipt, ...]


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """All that is held on a resident. Positions are not: none is ever stored."""

    form: str
    at_ms: int
    controller: str
    """Who is responsible, as the operator set it; empty: not told."""
    settings: ResidentView
    records: tuple[Receipt, ...]
    """All that was ever said, oldest first."""
    merged: tuple[MergedTold, ...]
    """Whoever was merged into the resident."""
    age_band: str | None
    zones: tuple[dict[str, Any], ...]
    """GeoJSON Features, as the list of zones has them."""
    offers: tuple[ClaimView, ...]
    """All that were made and are still known to be the resident's, newest first."""
    seen_ms: int | None
    """When they were last heard of, about."""
    stays: tuple[StayTold, ...]
    devices: tuple[KeyView, ...]
    written: Annotated[tuple[WriteTold, ...], Meta(max_length=ENTRIES_MAX)]
    """By operators and senders, newest first."""


async def export_resident(ctx: Context, key: KeyRow, *, resident: ResidentId) -> Answer[Export]:
    """Export all that is held on a resident."""
    row = await resident_row(ctx, key, resident)
    now_ms, store = ctx.clock_ms(), ctx.store
    (state,) = await store.read_states([row.id], now_ms=now_ms)
    guards = await store.read_protections([row.id])
    entries = await store.audit(AuditFilter(id=row.id), limit=ENTRIES_MAX)
    export = Export(
        form=FORM,
        at_ms=now_ms,
        controller=ctx.config.controller,
        settings=view(row),
        records=tuple(map(receipt_of, row.records)),
        merged=tuple(
            MergedTold(resident=one.id, records=tuple(map(receipt_of, one.records)))
            for one in await store.read_merged(row.id)
        ),
        age_band=guards[0].protection.age_band if guards else None,
        zones=tuple(to_document(zone) for one in guards for zone in one.protection.zones),
        offers=tuple([claim async for claim in _claims(ctx, row.id)]),
        seen_ms=state.seen_ms,
        stays=tuple(msgspec.convert(stay, StayTold, from_attributes=True) for stay in state.stays),
        devices=tuple(key_view(one) for one in _keys_of(ctx, row.id)),
        written=tuple(
            WriteTold(
                at_ms=entry.author.at_ms,
                role=entry.author.role,
                name=entry.author.name,
                action=entry.author.action,
                outcome=entry.outcome,
            )
            for entry in entries
            if entry.kind in ("resident", "protection")
        ),
    )
    return Answer(export, headers={"Content-Disposition": 'attachment; filename="passby.json"'})


async def _claims(ctx: Context, resident: str) -> AsyncIterator[ClaimView]:
    """Every claim of a resident, newest first, read a page at a time."""
    before: tuple[int, str] | None = None
    while True:
        found = await ctx.store.claims_of(resident, before=before, limit=CLAIMS_READ)
        for claim in found:
            yield claim_view(claim, ctx.clock_ms())
        if len(found) < CLAIMS_READ:
            return
        last = found[-1].row
        before = last.made_ms, last.made.claim


def _keys_of(ctx: Context, resident: str) -> list[KeyRow]:
    """The keys of a resident's devices, oldest first."""
    mine = (one for one in ctx.keys.values() if one.resident == resident)
    return sorted(mine, key=lambda one: (one.created_ms, one.id))


async def erase_resident(
    ctx: Context, key: KeyRow, by: Author | None, *, resident: ResidentId
) -> Answer[None]:
    """Erase all that is held on a resident; their devices' keys stop working."""
    whom = resident_of(key, resident)
    erased = ctx.store.erase_resident(whom, new_erasure(), by=by)
    with or_not_in_force():
        number = await in_force(ctx, erased, narrows=True)
    if number is None:
        raise Refused("unknown_resident")
    return Answer(None, 204)
