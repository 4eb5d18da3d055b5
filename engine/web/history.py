"""What a resident said: every record as a receipt that they may keep, and the history of them.

The fields of a receipt are those of ISO/IEC TS 27560 (consent record information structure), in
words of the W3C Data Privacy Vocabulary.
"""

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.consent.lanes import ACTIONS, CATEGORIES, PURPOSES
from engine.consent.record import Notice, Record, Scope, WeekWindow, record_hash, record_id
from engine.store.port import KeyRow
from engine.web.context import Context
from engine.web.fields import Cursor, Limit, ResidentId
from engine.web.paging import LIMIT_DEFAULT, Page, read_place, write_place
from engine.web.problem import Refused
from engine.web.residents import resident_row
from engine.web.route import Answer

SCHEMA: Final = "ISO/IEC TS 27560:2023"

STATES: Final = {
    "grant": "dpv:ConsentGiven",
    "deny": "dpv:ConsentRefused",
    "withdraw": "dpv:ConsentWithdrawn",
    "suspend": "dpv:ConsentInvalidated",
    "confirm": "dpv:RenewedConsentGiven",
}
"""Effect -> the status that the record is evidence of."""

ReceiptId = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{32}(?![\s\S])", description="`id` of the receipt.")
]


class Receipt(msgspec.Struct, frozen=True):
    """One record as the resident may keep it.

    `hash` is the SHA-256 of the record as canonical JSON (RFC 8785), `id` its first 32 digits.
    """

    id: str
    hash: str
    record: Record


class PurposeTold(msgspec.Struct, frozen=True, kw_only=True):
    """For what, on what ground, with which data, and by whom."""

    purpose: str
    purpose_type: str
    """DPV term."""
    lawful_basis: str
    processing: dict[str, str]
    """Action -> DPV term."""
    pii_types: dict[str, str]
    """Kind of data -> DPV term."""
    recipients: Scope
    channels: tuple[str, ...] | None
    week: tuple[WeekWindow, ...] | None
    places: tuple[str, ...]
    withdrawal_method: str


class EventTold(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, by whose clock, and until when it holds."""

    event_state: str
    """DPV term of a consent status."""
    event_time: datetime
    """By the service's clock, which is the one that counts."""
    claimed_time: datetime | None
    """By the device's clock, as it claims."""
    valid_until: datetime | None
    """Null: a "no" does not end."""
    entity: str
    """Who spoke: self, guardian, agent, signal or operator."""
    device: str | None
    proof: str | None


class ConsentReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt in full: the record with its seal, and the same in the fields of the standard."""

    id: str
    hash: str
    """SHA-256 of `record` as canonical JSON (RFC 8785), hex."""
    supersedes: str | None
    """`id` of the receipt before it; null: it is the first."""
    schema_version: str
    pii_principal_id: str
    pii_controller: str
    """Who is responsible, as the operator set it; empty: not told."""
    privacy_notice: Notice | None
    purposes: tuple[PurposeTold, ...]
    event: EventTold
    record: Record


def receipt_of(record: Record) -> Receipt:
    """A record with its seal."""
    return Receipt(record_id(record), record_hash(record), record)


def in_full(record: Record, controller: str) -> ConsentReceipt:
    """A record in the fields of the standard."""
    return ConsentReceipt(
        id=record_id(record),
        hash=record_hash(record),
        supersedes=record.supersedes or None,
        schema_version=SCHEMA,
        pii_principal_id=record.subject,
        pii_controller=controller,
        privacy_notice=record.notice,
        purposes=() if record.purpose not in PURPOSES else (_purpose(record),),
        event=EventTold(
            event_state=STATES[record.effect],
            event_time=_instant(record.server_ms),
            claimed_time=None if record.client_ms is None else _instant(record.client_ms),
            valid_until=None if record.expires_ms is None else _instant(record.expires_ms),
            entity=record.actor,
            device=record.device,
            proof=record.proof,
        ),
        record=record,
    )


def _purpose(record: Record) -> PurposeTold:
    return PurposeTold(
        purpose=record.purpose,
        purpose_type=PURPOSES[record.purpose],
        lawful_basis="dpv:Consent",
        processing={action: ACTIONS[action] for action in record.actions},
        pii_types={kind: CATEGORIES[kind] for kind in record.data},
        recipients=record.scope,
        channels=record.channels,
        week=record.week,
        places=record.places,
        withdrawal_method="PATCH /v1/residents/me/preferences, or POST /v1/residents/me/stop",
    )


def _instant(ms: int) -> datetime:
    """An instant of the years that a datetime knows; a device may claim any."""
    return datetime.fromtimestamp(min(ms, _LAST_MS) / 1_000, UTC)


_LAST_MS: Final = 253_402_300_799_000
"""The end of the year 9999."""


async def list_history(
    ctx: Context,
    key: KeyRow,
    *,
    resident: ResidentId,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor | None = None,
) -> Answer[Page[Receipt]]:
    """List all that a resident ever said, newest first, each with its receipt."""
    records = (await resident_row(ctx, key, resident)).records
    # Records are only ever added, so that their number from the first is a place that stays.
    before = len(records) if cursor is None else min(read_place(cursor), len(records))
    first = max(0, before - limit)
    page = tuple(receipt_of(record) for record in reversed(records[first:before]))
    return Answer(Page(page, write_place(first) if first else None))


async def get_receipt(
    ctx: Context, key: KeyRow, *, resident: ResidentId, receipt: ReceiptId
) -> Answer[ConsentReceipt]:
    """Read one receipt in full, after ISO/IEC TS 27560; of whoever was merged in, too."""
    row = await resident_row(ctx, key, resident)
    for one in (row, *await ctx.store.read_merged(row.id)):
        for record in one.records:
            if record_id(record) == receipt:
                return Answer(in_full(record, ctx.config.controller))
    raise Refused("unknown_receipt")
