"""Receipts that a resident kept, brought back after a restore: each "no" of them holds again."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.consent import sync
from engine.consent.record import SUSPENSIONS, Record, record_id
from engine.consent.replayed import OutOfChain, noes
from engine.store.audit import Author
from engine.store.port import KeyRow
from engine.web.change import Change, errors_of
from engine.web.context import Context
from engine.web.fields import ResidentId
from engine.web.history import ReceiptId
from engine.web.live import etag
from engine.web.preferences import Acknowledged, actor_of, say, seed
from engine.web.problem import FieldError, Refused
from engine.web.residents import resident_row
from engine.web.route import Answer

RECEIPTS_MAX: Final = 1_000

ABOUT: Final = (
    "After a backup was restored, what was said since is gone here, and stands in the receipts "
    "that devices kept. Send those that `history` does not list any more, in any order, without a "
    "gap: whatever they denied or took back is said again, and holds from the answer on. They "
    "never turn anything on: no receipt can show that nothing was taken back after the newest of "
    "them. For that, show the resident the latest settings, and send what they want by PATCH. "
    "Receipts that `history` lists change nothing."
)


class ReceiptBody(msgspec.Struct, frozen=True):
    """A receipt, as `history` or an acknowledgement gave it."""

    id: ReceiptId
    record: Record


class Receipts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Receipts of one resident."""

    receipts: Annotated[tuple[ReceiptBody, ...], Meta(min_length=1, max_length=RECEIPTS_MAX)]


async def post_receipts(
    ctx: Context, key: KeyRow, body: Receipts, by: Author | None, *, resident: ResidentId
) -> Answer[Acknowledged]:
    """Bring back receipts after a restore: each "no" of them holds again."""
    row = await resident_row(ctx, key, resident)
    errors = [
        error
        for place, receipt in enumerate(body.receipts)
        for error in _errors(ctx, receipt, f"receipts[{place}]", row.id)
    ]
    if errors:
        raise Refused("invalid_receipts", errors=tuple(errors))
    try:
        lost = noes(row.records, [receipt.record for receipt in body.receipts])
    except OutOfChain as error:
        raise Refused("invalid_receipts", errors=_gaps(body, error)) from None
    if not lost:
        return _nothing(ctx, row.version)
    last = max(body.receipts, key=lambda one: one.record.version)
    proof = f"Receipts brought back after a restore, up to {last.id}."
    answers = []
    for speaker, requested in lost.items():
        actor = actor_of(key) if speaker == "self" else speaker
        said = sync.Said(actor=actor, now_ms=0, proof=proof, seed=seed())
        answers.append(await say(ctx, key, resident, requested, said, by))
    return _together(answers)


def _errors(ctx: Context, receipt: ReceiptBody, path: str, whose: str) -> list[FieldError]:
    """What is wrong with a receipt by itself."""
    record = receipt.record
    if record.subject != whose:
        return [FieldError(f"{path}.record.subject", "foreign_receipt", "It is another's.")]
    if record_id(record) != receipt.id:
        told = "The record is not the one that was sealed: send it as it was given."
        return [FieldError(f"{path}.id", "altered_receipt", told)]
    if record.effect in SUSPENSIONS:
        return []
    try:
        # A "no" with the same words: whom a grant named then, there need be no more.
        given = {name: getattr(record, name) for name in ("purpose", "actions", "data")}
        scope = msgspec.to_builtins(record.scope)
        change = msgspec.convert({"effect": "deny", "scope": scope} | given, Change)
    except msgspec.ValidationError:
        told = "There was never such a receipt."
        return [FieldError(f"{path}.record", "altered_receipt", told)]
    return errors_of(change, f"{path}.record", ctx.engine.book, 0)


def _gaps(body: Receipts, error: OutOfChain) -> tuple[FieldError, ...]:
    """The receipts that don't follow on those before them."""
    told = "Send the receipts before it too, back to one that `history` lists; one branch a call."
    return tuple(
        FieldError(f"receipts[{place}].record.supersedes", "out_of_chain", told)
        for place, receipt in enumerate(body.receipts)
        if receipt.id in error.ids
    )


def _together(answers: list[Answer[Acknowledged]]) -> Answer[Acknowledged]:
    """One answer to what was said by several; the last one's version has all of it."""
    parts = [msgspec.convert(one.value, Acknowledged) for one in answers]
    whole = msgspec.structs.replace(
        parts[-1],
        changes=tuple(change for part in parts for change in part.changes),
        receipts=tuple(receipt for part in parts for receipt in part.receipts),
    )
    return Answer(whole, headers=answers[-1].headers)


def _nothing(ctx: Context, version: int) -> Answer[Acknowledged]:
    """What was said already is in force."""
    done = Acknowledged(
        version=version, changes=(), receipts=(), acknowledged_ms=ctx.clock_ms(), refused=()
    )
    return Answer(done, headers={"ETag": etag(version)})
