"""What residents may ask of the store in memory."""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from engine.consent.protection import Protection
from engine.consent.record import record_id
from engine.store.audit import Author
from engine.store.guards import ProtectionRow
from engine.store.memory_part import MemoryPart
from engine.store.port import ResidentRow, VersionMoved
from engine.store.rights import (
    ERASED,
    PAIRINGS_MAX,
    ROWS_MAX,
    HeldClaim,
    Merge,
    Retained,
    new_erasure,
)
from engine.store.shared import claim_row

if TYPE_CHECKING:
    from engine.store.shared import Claim, Shared


class MemoryRights(MemoryPart):
    """The part of a store in memory that answers; see `rights.RightsStore`."""

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
        row = shared.residents.get(resident)
        if row is None:
            return None
        rows = [row, *_merged_into(shared, resident)]
        ids = {one.id for one in rows}
        shared.erased_records[erasure] = [
            record_id(record) for one in rows for record in one.records if record.salt is not UNSET
        ]
        keys = sorted(key.id for key in shared.keys.values() if key.resident in ids)
        for key in keys:
            del shared.keys[key]
        for call in [call for call in shared.calls if call[0] in keys]:
            del shared.calls[call]
        for place, entry in enumerate(shared.entries):
            if entry.id in ids and entry.kind in ("resident", "protection"):
                shared.entries[place] = msgspec.structs.replace(entry, id=erasure)
        for code in [code for code, (whose, _) in shared.pairings.items() if whose in ids]:
            del shared.pairings[code]
        for number, one in enumerate(sorted(ids, key=lambda one: one != resident)):
            del shared.residents[one]
            shared.protections.pop(one, None)
            _forget_traces(shared, one)
            shared.erasures[f"{erasure}-{number}"] = one
        shared.note(by, "resident", erasure, None, 0, "deleted")
        if keys:
            shared.append("key", keys)
        return shared.append("resident", [*sorted(ids), ""])

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

    async def put_pairing(
        self, code_hash: str, resident: str, *, until_ms: int, now_ms: int
    ) -> bool:
        """Keep a code for a resident."""
        shared = self._open_shared()
        row = shared.residents.get(resident)
        if row is None or row.merged_into is not None:
            return False
        kept = {code: kept for code, kept in shared.pairings.items() if kept[1] > now_ms}
        mine = sorted((until, code) for code, (whose, until) in kept.items() if whose == resident)
        for _, code in mine[: max(0, len(mine) - PAIRINGS_MAX + 1)]:
            del kept[code]
        shared.pairings = {**kept, code_hash: (resident, until_ms)}
        return True

    async def take_pairing(self, code_hash: str, *, now_ms: int) -> str | None:
        """The resident of a code that can still be used."""
        resident, until_ms = self._open_shared().pairings.pop(code_hash, ("", 0))
        return resident if until_ms > now_ms else None

    async def merge_residents(self, merge: Merge, *, by: Author | None = None) -> int | None:
        """Make one resident of two."""
        shared = self._open_shared()
        stays, goes = shared.residents.get(merge.stays), shared.residents.get(merge.goes)
        if stays is None or goes is None or stays.merged_into or goes.merged_into:
            return None
        guards = [_guard_version(shared, one) for one in (merge.stays, merge.goes)]
        if (stays.version, goes.version, *guards) != (
            merge.version_stays,
            merge.version_goes,
            merge.guard_stays,
            merge.guard_goes,
        ):
            raise VersionMoved(stays.version)
        _merge_rows(shared, stays, goes, merge)
        _merge_claims(shared, merge)
        for row in (shared.residents[merge.stays], shared.residents[merge.goes]):
            shared.window.tell_preferences(row.id, row.version)
            shared.note(by, "resident", row.id, None, row.version, "updated")
        keys = sorted(key.id for key in shared.keys.values() if key.resident == merge.goes)
        for key in keys:
            shared.keys[key] = msgspec.structs.replace(shared.keys[key], resident=merge.stays)
        if keys:
            shared.append("key", keys)
        if merge.protection is not None:
            _merge_protections(shared, merge, merge.protection)
            shared.append("protection", [merge.stays, merge.goes])
        return shared.append("resident", [merge.stays, merge.goes])

    async def read_merged(self, resident: str) -> list[ResidentRow]:
        """Those who were merged into a resident, by id."""
        return _merged_into(self._open_shared(), resident)


def _merged_into(shared: "Shared", resident: str) -> list[ResidentRow]:
    merged = [row for row in shared.residents.values() if row.merged_into == resident]
    return sorted(merged, key=lambda row: row.id)


def _guard_version(shared: "Shared", resident: str) -> int:
    row = shared.protections.get(resident)
    return 0 if row is None else row.version


def _merge_rows(shared: "Shared", stays: ResidentRow, goes: ResidentRow, merge: Merge) -> None:
    """What both say by the merge, and who is now who."""
    shared.residents[stays.id] = msgspec.structs.replace(
        stays,
        settings=merge.settings,
        version=merge.records[-1].version,
        records=stays.records + merge.records,
    )
    shared.residents[goes.id] = msgspec.structs.replace(
        goes,
        version=merge.goes_records[-1].version,
        records=goes.records + merge.goes_records,
        merged_into=stays.id,
    )
    for row in _merged_into(shared, goes.id):
        shared.residents[row.id] = msgspec.structs.replace(row, merged_into=stays.id)
    shared.pairings = {c: kept for c, kept in shared.pairings.items() if kept[0] != goes.id}


def _merge_claims(shared: "Shared", merge: Merge) -> None:
    """Claims and events become the one's who stays; where the other was is forgotten."""
    shared.presences.pop(merge.goes, None)
    mine = shared.claims_of.setdefault(merge.stays, [])
    for claim in shared.claims_of.pop(merge.goes, []):
        shared.claim_of_decision.pop((claim.made.decision, merge.goes), None)
        claim.made = msgspec.structs.replace(claim.made, resident=merge.stays)
        shared.claim_of_decision[claim.made.decision, merge.stays] = claim
        mine.append(claim)
    told = {"offer": merge.stays, "recall": merge.stays}
    shared.window.rows = [
        msgspec.structs.replace(row, resident=told.get(row.name))
        if row.resident == merge.goes
        else row
        for row in shared.window.rows
    ]


def _merge_protections(shared: "Shared", merge: Merge, protection: Protection) -> None:
    """What protects either protects the one who stays."""
    shared.protections[merge.stays] = ProtectionRow(
        resident=merge.stays, protection=protection, version=merge.guard_stays + 1
    )
    if merge.goes in shared.protections:
        shared.protections[merge.goes] = ProtectionRow(
            resident=merge.goes, version=merge.guard_goes + 1
        )


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
