"""The offers that a resident was made, and what became of each."""

from typing import Literal

import msgspec

from engine.decision import OfferMade
from engine.store.port import KeyRow
from engine.store.rights import HeldClaim
from engine.web.auth import resident_of
from engine.web.context import Context
from engine.web.fields import Cursor, Limit, ResidentId
from engine.web.paging import LIMIT_DEFAULT, Page, not_ours, read_cursor, write_cursor
from engine.web.residents import resident_row
from engine.web.route import Answer

State = Literal["open", "expired", "redeemed", "recalled"]


class ClaimView(OfferMade, frozen=True, kw_only=True):
    """An offer as its resident was made it."""

    made_ms: int
    state: State
    """Of the code; a brand that the resident left refuses it even while it is open."""
    redeemed_ms: int | None
    recall_reason: str | None


async def list_claims(
    ctx: Context,
    key: KeyRow,
    *,
    resident: ResidentId,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor | None = None,
) -> Answer[Page[ClaimView]]:
    """List the offers that a resident was made, newest first."""
    whom = resident_of(key, resident)
    await resident_row(ctx, key, whom)
    before = None if cursor is None else _before(cursor)
    found = await ctx.store.claims_of(whom, before=before, limit=limit + 1)
    now_ms = ctx.clock_ms()
    page = tuple(view(claim, now_ms) for claim in found[:limit])
    last = found[:limit][-1].row if len(found) > limit else None
    following = None if last is None else write_cursor(f"{last.made_ms} {last.made.claim}")
    return Answer(Page(page, following))


def _before(cursor: str) -> tuple[int, str]:
    """The claim that the page before ended with."""
    at_ms, _, claim = read_cursor(cursor).partition(" ")
    if at_ms.isascii() and at_ms.isdigit() and len(at_ms) < 19 and claim and "\0" not in claim:
        return int(at_ms), claim
    raise not_ours()


def view(claim: HeldClaim, now_ms: int) -> ClaimView:
    """A claim as its resident sees it."""
    made = claim.row.made
    return ClaimView(
        **msgspec.structs.asdict(made),
        made_ms=claim.row.made_ms,
        state=_state(claim, now_ms),
        redeemed_ms=claim.redeemed_ms,
        recall_reason=claim.recall_reason,
    )


def _state(claim: HeldClaim, now_ms: int) -> State:
    if claim.state == "recalled":
        return "recalled"
    if claim.redemption is not None:
        return "redeemed"
    return "expired" if claim.row.made.expires_at_ms <= now_ms else "open"
