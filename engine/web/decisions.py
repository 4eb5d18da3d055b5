"""Why: the ladder of gates of a claim, as much of it as is the caller's business."""

import msgspec

from engine.store.port import ClaimRecord, KeyRow
from engine.web.auth import may_see
from engine.web.context import Context
from engine.web.fields import Id
from engine.web.problem import Refused
from engine.web.route import Answer


class GateView(msgspec.Struct, frozen=True):
    """A candidate and the one gate that it failed; null: it was made."""

    offer: str
    brand: str
    fence: str
    trigger: str
    withheld: str | None
    because: str | None = None
    """Where consent decided: `law:<rule>`, `you:<receipt>`, `no_grant:<lane>`, `suspended:<lane>`
    or `window`. Null for a merchant: it is between the resident and the city."""


class Ladder(msgspec.Struct, frozen=True):
    """What a decision kept of its reasons."""

    candidates: tuple[GateView, ...]
    allowed_by: tuple[str, ...] = ()
    """Receipts of the grants that allowed the offer."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why an offer was made, and why the others were not."""

    decision: str
    claim: str
    offer: str
    brand: str
    made_ms: int
    expires_at_ms: int
    consent_version: int | None
    """Null for a merchant: it is between the resident and the city."""
    state: str
    recall_reason: str | None
    redeemed: bool
    candidates: tuple[GateView, ...]
    allowed_by: tuple[str, ...]


async def why(ctx: Context, key: KeyRow, *, decision: Id) -> Answer[Why]:
    """Explain a claim by its id or its decision's; a merchant sees its own brands' candidates."""
    found = await ctx.store.claim_by_id(decision)
    if found is None or not _is_business_of(key, found):
        raise Refused("unknown_decision")
    return Answer(view(key, found))


def _is_business_of(key: KeyRow, found: ClaimRecord) -> bool:
    """Whether the caller may know that the claim exists."""
    if key.role == "resident":
        return key.resident == found.row.resident
    return may_see(key, found.row.made.brand)


def view(key: KeyRow, found: ClaimRecord) -> Why:
    """The claim with what the caller may see of its reasons."""
    ladder, made = msgspec.json.decode(found.why, type=Ladder), found.row.made
    merchant = key.role == "merchant"
    return Why(
        decision=found.row.decision,
        claim=made.claim,
        offer=made.offer,
        brand=made.brand,
        made_ms=found.row.made_ms,
        expires_at_ms=made.expires_at_ms,
        consent_version=None if merchant else made.consent_version,
        state=found.state,
        recall_reason=found.recall_reason,
        redeemed=found.redemption is not None,
        candidates=tuple(
            msgspec.structs.replace(gate, because=None) if merchant else gate
            for gate in ladder.candidates
            if not merchant or may_see(key, gate.brand)
        ),
        allowed_by=() if merchant else ladder.allowed_by,
    )
