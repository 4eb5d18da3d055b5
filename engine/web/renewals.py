"""Grants that end soon: each as the change that renews it."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.consent.record import Notice, Scope, WeekWindow, record_id
from engine.consent.sync import DAY_MS, due
from engine.store.port import KeyRow
from engine.web.context import Context
from engine.web.fields import ResidentId
from engine.web.live import etag
from engine.web.paging import Page
from engine.web.residents import resident_row
from engine.web.route import Answer

WITHIN_DAYS: Final = 30

Days = Annotated[int, Meta(ge=0, le=366, description="How soon a grant ends that is listed.")]


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """The change that renews a grant, as PATCH preferences takes it."""

    effect: str
    purpose: str
    actions: tuple[str, ...]
    data: tuple[str, ...]
    scope: Scope
    channels: tuple[str, ...] | None
    week: tuple[WeekWindow, ...] | None
    places: tuple[str, ...]


class DueGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that ends soon."""

    receipt: str
    expires_ms: int
    notice: Notice | None
    """The text on which it rests; show the latest version, and let the renewal name that."""
    change: Renewal


async def list_renewals(
    ctx: Context, key: KeyRow, *, resident: ResidentId, within_days: Days = WITHIN_DAYS
) -> Answer[Page[DueGrant]]:
    """List grants that end soon, the first to end first; a renewal is a new grant, by PATCH."""
    row = await resident_row(ctx, key, resident)
    found = due(row.records, ctx.clock_ms(), within_ms=within_days * DAY_MS)
    items = tuple(
        DueGrant(
            receipt=record_id(record),
            expires_ms=record.expires_ms or 0,
            notice=record.notice,
            change=msgspec.convert(record, Renewal, from_attributes=True),
        )
        for record in found
    )
    return Answer(Page(items), headers={"ETag": etag(row.version)})
