"""What residents may ask of the store in memory."""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from engine.consent.record import record_id
from engine.store.audit import Author
from engine.store.rights import ERASED, ROWS_MAX, HeldClaim, Retained, new_erasure
from engine.store.shared import claim_row

if TYPE_CHECKING:
    from engine.store.shared import Claim, Shared


class MemoryRights:
    """The part of a store in memory that answers; see `rights.RightsStore`."""

    def _open_shared(self) -> "Shared":
        raise NotImplementedError

    async def claims_of(
        self, resident: str, *, before: tuple[int, str] | None = None, limit: int
    ) -> list[HeldClaim]:
        """Claims of a resident, newest first."""
        claims = self._open_shared().claims_of.get(resident, [])
        newest = sorted(claims, key=_age, reverse=True)
        return [_held(claim) for claim in newest if before is None or _age(claim) < before][:limit]

    async def erase_resident(
        self, resident: str, erasure: str, *, by: Author | None = None
    ) -> int | None:
        """Erase all that is held on a resident."""
        shared = self._open_shared()
        row = shared.residents.pop(resident, None)
        if row is None:
            return None
        salted = [record_id(record) for record in row.records if record.salt is not UNSET]
        shared.erased_records[erasure] = salted
        shared.protections.pop(resident, None)
        keys = sorted(key.id for key in shared.keys.values() if key.resident == resident)
        for key in keys:
            del shared.keys[key]
        for call in [call for call in shared.calls if call[0] in keys]:
            del shared.calls[call]
        for place, entry in enumerate(shared.entries):
            if entry.id == resident and entry.kind in ("resident", "protection"):
                shared.entries[place] = msgspec.structs.replace(entry, id=erasure)
        _forget_traces(shared, resident)
        shared.erasures[erasure] = resident
        shared.note(by, "resident", erasure, None, 0, "deleted")
        if keys:
            shared.append("key", keys)
        return shared.append("resident", [resident, ""])

    async def retain(
        self, *, presence_before_ms: int, claims_before_ms: int, rows_max: int = ROWS_MAX
    ) -> Retained | None:
        """Forget some of what is too old."""
        shared = self._open_shared()
        for resident in shared.erasures.values():
            if resident not in shared.residents:
                _forget_traces(shared, resident)
        unseen = [r for r, p in shared.presences.items() if p.seen_ms < presence_before_ms]
        unseen = sorted(unseen)[:rows_max]
        for resident in unseen:
            del shared.presences[resident]
        named = (
            claim
            for claim in sorted(shared.claims.values(), key=_age)
            if claim.made.made_ms < claims_before_ms and not claim.made.resident.startswith(ERASED)
        )
        old = list(islice(named, rows_max))
        _anonymise(shared, old)
        return Retained(presences=len(unseen), claims=len(old))


def _forget_traces(shared: "Shared", resident: str) -> None:
    """Forget all that is written while pings are answered."""
    shared.presences.pop(resident, None)
    _anonymise(shared, shared.claims_of.pop(resident, []))
    shared.window.rows = [
        msgspec.structs.replace(row, resident=None) if row.resident == resident else row
        for row in shared.window.rows
    ]


def _anonymise(shared: "Shared", claims: Iterable["Claim"]) -> None:
    """Make claims nobody's, each nobody of its own."""
    for claim in claims:
        made = claim.made
        shared.claim_of_decision.pop((made.decision, made.resident), None)
        of_resident = shared.claims_of.get(made.resident, [])
        if claim in of_resident:
            of_resident.remove(claim)
        claim.made = msgspec.structs.replace(
            made,
            resident=new_erasure(),
            decision=new_erasure(),
            why=b'{"candidates":[],"allowed_by":[]}',
        )


def _age(claim: "Claim") -> tuple[int, str]:
    return claim.made.made_ms, claim.made.made.claim


def _held(claim: "Claim") -> HeldClaim:
    redeemed = claim.redemption
    return HeldClaim(
        row=claim_row(claim.made),
        state="made" if claim.stands else "recalled",
        recall_reason=claim.recall_reason,
        redemption=None if redeemed is None else redeemed.id,
        redeemed_ms=None if redeemed is None else redeemed.at_ms,
        till=None if redeemed is None else redeemed.till,
    )
