"""The store in memory: the same promises as PostgreSQL but one, it does not survive.

Used by replays, where nothing must survive, and by tests. Several stores may share one `Shared`
and are then like several processes on one database.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from itertools import islice
from typing import Literal, TypeVar

import msgspec

from engine.changes import Changes, OfferCount, ResidentState
from engine.consent.record import Record
from engine.offers.offer import Brand, Offer
from engine.residents import ResidentSettings
from engine.store.audit import AuditEntry, AuditFilter, Author
from engine.store.kept import KEPT_MS, Kept, KeptAnswer
from engine.store.memory_guards import MemoryGuards
from engine.store.memory_nodes import MemoryNodes
from engine.store.memory_pruning import MemoryPruning
from engine.store.memory_rights import MemoryRights
from engine.store.memory_window import MemoryWindow
from engine.store.port import (
    AlreadyThere,
    BrandRow,
    ClaimRecord,
    Committed,
    Expected,
    FencePage,
    FenceRow,
    KeyRow,
    OfferRow,
    Redemption,
    RedemptionRefused,
    ResidentRow,
    ResidentsImported,
    Rows,
    Snapshot,
    StoreUnavailable,
    Together,
    VersionMoved,
    Written,
)
from engine.store.shared import Claim, Shared, as_told, claim_row
from engine.store.told import TakeResidents

Row = TypeVar("Row")


class MemoryStore(MemoryNodes, MemoryPruning, MemoryGuards, MemoryRights, MemoryWindow):
    """Store in memory; see `port.Store` for the methods.

    Args:
        shared: the state to work on; None: a new one. `store.shared` can be given to another store.

    Set `available` to False, and every method raises StoreUnavailable until it is True again.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self.shared = Shared() if shared is None else shared
        self.available = True
        self._opened = False
        self._grown = asyncio.Event()

    def _open_shared(self) -> Shared:
        """The state, if the store is there to answer."""
        if not (self.available and self._opened):
            raise StoreUnavailable("the store in memory is closed or switched off")
        return self.shared

    async def open(self) -> None:
        """Be ready."""
        if self._opened:
            raise RuntimeError("the store is open already")
        if not self.available:
            raise StoreUnavailable("the store in memory is switched off")
        self._opened = True
        self._grown.set()
        self.shared.listeners.add(self._grown)

    async def close(self) -> None:
        """Stop listening; what is shared stays."""
        self._opened = False
        self.shared.listeners.discard(self._grown)
        self.shared.nodes.listeners.pop(id(self), None)

    async def secret(self, name: str) -> bytes:
        """32 random bytes, the same for everybody who asks for this name."""
        return self._open_shared().secrets.setdefault(name, secrets.token_bytes(32))

    # What a process holds in memory.

    async def snapshot(self, *, now_ms: int, take: TakeResidents | None = None) -> Snapshot:
        """Everything."""
        shared = self._open_shared()
        if take is not None:
            take([as_told(row) for row in _those(shared.residents)])
        known = sorted(shared.presences.keys() | shared.claims_of.keys())
        return Snapshot(
            number=shared.number,
            brands=_those(shared.brands),
            fences=_those(shared.fences),
            offers=_those(shared.offers),
            keys=_those(shared.keys),
            states=tuple(shared.state(resident, now_ms) for resident in known),
            counts=tuple(shared.open_counts({offer for offer, _ in shared.counts}, now_ms)),
            protections=_those(shared.protections),
        )

    async def read_brands(self, ids: list[str]) -> list[BrandRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().brands, ids))

    async def read_fences(self, ids: list[str]) -> list[FenceRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().fences, ids))

    async def page_fences(self, asked: FencePage) -> tuple[list[FenceRow], bool]:
        """Some fences by id, and whether more follow."""
        fences = self._open_shared().fences
        ids = sorted(
            one
            for one in (fences if asked.ids is None else {*asked.ids} & fences.keys())
            if one > asked.after and (asked.brands is None or fences[one].brand in asked.brands)
        )
        page: list[FenceRow] = []
        size = 0
        while len(page) < min(len(ids), asked.limit) and size < asked.bytes_max:
            page.append(fences[ids[len(page)]])
            size += len(page[-1].feature)
        return page, len(page) < len(ids)

    async def page_fence_ids(
        self, *, after: str, brands: tuple[str, ...] | None, limit: int
    ) -> list[str]:
        """Some ids of fences."""
        fences = self._open_shared().fences
        return sorted(
            id_
            for id_, one in fences.items()
            if id_ > after and (brands is None or one.brand in brands)
        )[:limit]

    async def read_offers(self, ids: list[str]) -> list[OfferRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().offers, ids))

    async def read_residents(self, ids: list[str], *, ahead: bool = False) -> list[ResidentRow]:
        """Those that exist, by id."""
        del ahead
        return list(_those(self._open_shared().residents, ids))

    async def read_keys(self, ids: list[str]) -> list[KeyRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().keys, ids))

    async def read_states(self, ids: list[str], *, now_ms: int) -> list[ResidentState]:
        """The residents named, in the order given."""
        shared = self._open_shared()
        return [shared.state(resident, now_ms) for resident in ids]

    async def read_counts(self, offers: list[str], *, now_ms: int) -> list[OfferCount]:
        """Totals and open days, by offer and day; a total comes first."""
        shared = self._open_shared()
        return shared.open_counts(set(offers), now_ms)

    # What merchants, residents and the operator write.

    async def put_brand(
        self, brand: Brand, *, expected: Expected = None, by: Author | None = None
    ) -> Written:
        """Write a brand."""
        shared = self._open_shared()
        shared.expect("brand", [brand.id], expected, by)
        done = shared.put("brand", brand.id, brand.id, BrandRow(brand), by)
        return shared.told("brand", [done])[0]

    async def put_offer(
        self, offer: Offer, *, expected: Expected = None, by: Author | None = None
    ) -> Written:
        """Write an offer."""
        shared = self._open_shared()
        shared.expect("offer", [offer.id], expected, by)
        done = shared.put("offer", offer.id, offer.brand, OfferRow(offer), by)
        return shared.told("offer", [done])[0]

    async def put_fences(
        self, fences: list[FenceRow], *, expected: Expected = None, by: Author | None = None
    ) -> list[Written]:
        """Write fences together; their numbers are in the order of their ids."""
        shared = self._open_shared()
        shared.expect("fence", [fence.id for fence in fences], expected, by)
        done = [
            shared.put("fence", fence.id, fence.brand, fence, by)
            for fence in sorted(fences, key=lambda fence: fence.id)
        ]
        written = {one.id: told for one, told in zip(done, shared.told("fence", done), strict=True)}
        return [written[fence.id] for fence in fences]

    async def delete_fence(
        self, fence: str, *, expected: Expected = None, by: Author | None = None
    ) -> int | None:
        """Delete a fence."""
        return self._open_shared().delete("fence", fence, expected, by)

    async def delete_offer(
        self, offer: str, *, expected: Expected = None, by: Author | None = None
    ) -> int | None:
        """Delete an offer; its claims and counts stay."""
        return self._open_shared().delete("offer", offer, expected, by)

    async def put_together(
        self, parts: AsyncIterator[Rows], *, dry_run: bool = False, by: Author | None = None
    ) -> Together:
        """Write an import."""
        self._open_shared()
        rows = [part async for part in parts]
        return self._open_shared().put_together(rows, None if dry_run else by, dry_run=dry_run)

    async def read_batch(self, batch: str) -> dict[str, list[str]]:
        """What an import wrote."""
        return self._open_shared().batches.get(batch, {})

    async def audit(self, wanted: AuditFilter, *, limit: int) -> list[AuditEntry]:
        """Entries of the audit log, newest first."""
        entries = reversed(self._open_shared().entries)
        return list(islice((entry for entry in entries if _is_wanted(entry, wanted)), limit))

    async def keep_call(
        self, key: str, name: str, fingerprint: bytes, *, now_ms: int
    ) -> Kept | None:
        """Take an Idempotency-Key, or see what has it."""
        calls = self._open_shared().calls
        known = calls.get((key, name))
        if known is not None and known.at_ms > now_ms - KEPT_MS:
            return known
        calls[key, name] = Kept(fingerprint=fingerprint, at_ms=now_ms, state="doing")
        return None

    async def end_call(self, key: str, name: str, at_ms: int, answer: KeptAnswer | None) -> None:
        """Keep the answer of a call."""
        calls = self._open_shared().calls
        known = calls.get((key, name))
        if known is not None and known.at_ms == at_ms:
            state: Literal["lost", "done"] = "lost" if answer is None else "done"
            calls[key, name] = msgspec.structs.replace(known, state=state, answer=answer)

    async def free_call(self, key: str, name: str, at_ms: int) -> None:
        """Give an Idempotency-Key free again."""
        calls = self._open_shared().calls
        if (known := calls.get((key, name))) and known.at_ms == at_ms:
            del calls[key, name]

    async def put_key(self, key: KeyRow, *, by: Author | None = None) -> int:
        """Write a key."""
        shared = self._open_shared()
        outcome = "updated" if key.id in shared.keys else "created"
        shared.keys[key.id] = key
        shared.note(by, "key", key.id, None, 0, outcome)
        return shared.append("key", [key.id])

    async def delete_key(self, key: str, *, by: Author | None = None) -> int | None:
        """Delete a key."""
        shared = self._open_shared()
        if shared.keys.pop(key, None) is None:
            return None
        shared.note(by, "key", key, None, 0, "deleted")
        return shared.append("key", [key])

    async def create_residents(
        self, residents: dict[str, ResidentSettings], *, by: Author | None = None
    ) -> int:
        """Make residents, all or none."""
        shared = self._open_shared()
        if there := residents.keys() & shared.residents.keys():
            raise AlreadyThere(min(there))
        for resident, settings in sorted(residents.items()):
            shared.residents[resident] = ResidentRow(id=resident, settings=settings)
            shared.note(by, "resident", resident, None, 0, "created")
        return shared.append("resident", sorted(residents))

    async def import_residents(
        self, rows: list[ResidentRow], *, by: Author | None = None
    ) -> ResidentsImported:
        """Make residents with what they said."""
        shared = self._open_shared()
        made, said = [], []
        for row in sorted(rows, key=lambda row: row.id):
            there = shared.residents.get(row.id)
            version = row.records[-1].version if row.records else 0
            if there is None:
                made.append(row.id)
                shared.residents[row.id] = msgspec.structs.replace(row, version=version)
            elif there.version == 0 and row.records:
                shared.residents[row.id] = msgspec.structs.replace(
                    there, version=version, records=row.records
                )
            else:
                continue
            said.append(row.id)
            if version:
                shared.window.tell_preferences(row.id, version)
            outcome = "created" if there is None else "updated"
            shared.note(by, "resident", row.id, None, version, outcome)
        number = shared.append("resident", said) if said else 0
        return ResidentsImported(number, frozenset(made), frozenset(said))

    async def put_settings(
        self, resident: str, settings: ResidentSettings, *, by: Author | None = None
    ) -> int | None:
        """Replace a resident's settings."""
        shared = self._open_shared()
        if (row := shared.residents.get(resident)) is None:
            return None
        shared.residents[resident] = msgspec.structs.replace(row, settings=settings)
        shared.note(by, "resident", resident, None, row.version, "updated")
        return shared.append("resident", [resident])

    async def append_records(
        self,
        resident: str,
        records: tuple[Record, ...],
        *,
        version_before: int,
        by: Author | None = None,
    ) -> int | None:
        """Append what a resident said."""
        shared = self._open_shared()
        if not records:
            raise ValueError("records must not be empty")
        if (row := shared.residents.get(resident)) is None:
            return None
        if row.version != version_before:
            raise VersionMoved(row.version)
        shared.residents[resident] = msgspec.structs.replace(
            row, version=records[-1].version, records=row.records + records
        )
        shared.note(by, "resident", resident, None, records[-1].version, "updated")
        shared.window.tell_preferences(resident, records[-1].version)
        return shared.append("resident", [resident])

    # What pings make durable.

    async def commit(self, changes: Changes) -> Committed:
        """Apply a group."""
        return self._open_shared().commit(changes)

    async def claim_by_code(self, code: str) -> ClaimRecord | None:
        """The claim whose code this is."""
        claim = self._open_shared().claim_of_code.get(code)
        return None if claim is None else _claim_record(claim)

    async def claim_by_id(self, claim_or_decision: str) -> ClaimRecord | None:
        """The claim of that id, or the one that a decision of that id made."""
        shared = self._open_shared()
        if claim := shared.claims.get(claim_or_decision):
            return _claim_record(claim)
        of_decision = [
            claim
            for (decision, _), claim in shared.claim_of_decision.items()
            if decision == claim_or_decision
        ]
        return _claim_record(min(of_decision, key=_claim_id)) if of_decision else None

    async def redeem(self, redemption: Redemption) -> None:
        """Use a claim's code."""
        shared = self._open_shared()
        claim = shared.claims.get(redemption.claim)
        if claim is None:
            raise RedemptionRefused("unknown_claim")
        if not claim.stands:
            raise RedemptionRefused("recalled")
        if claim.redemption or self._redeemed(redemption.id):
            raise RedemptionRefused("already_redeemed")
        if claim.made.made.expires_at_ms <= redemption.at_ms:
            raise RedemptionRefused("expired")
        claim.redemption = redemption
        self.shared.window.tell_redemption(redemption, rolled_back=False)

    def _redeemed(self, redemption: str) -> Claim | None:
        """The claim that a redemption stands for; O(claims), which is enough in memory."""
        for claim in self.shared.claims.values():
            if claim.redemption and claim.redemption.id == redemption:
                return claim
        return None

    async def redemption(self, redemption: str) -> Redemption | None:
        """The redemption of that id that stands."""
        self._open_shared()
        claim = self._redeemed(redemption)
        return claim.redemption if claim else None

    async def roll_back(self, redemption: str, *, by: Author | None = None) -> bool:
        """Take a redemption back; False if there is none."""
        shared = self._open_shared()
        claim = self._redeemed(redemption)
        if claim is not None and claim.redemption is not None:
            shared.window.tell_redemption(claim.redemption, rolled_back=True)
            claim.redemption = None
            shared.note(by, "redemption", redemption, claim.made.made.brand, 0, "deleted")
        return claim is not None


def _those(rows: dict[str, Row], ids: list[str] | None = None) -> tuple[Row, ...]:
    """Rows by id: all, or those of the ids that exist."""
    return tuple(rows[id_] for id_ in sorted(rows if ids is None else rows.keys() & set(ids)))


def _is_wanted(entry: AuditEntry, wanted: AuditFilter) -> bool:
    return (
        (wanted.before is None or entry.number < wanted.before)
        and wanted.kind in (None, entry.kind)
        and wanted.id in (None, entry.id)
        and (wanted.since_ms is None or entry.author.at_ms >= wanted.since_ms)
        and (wanted.brands is None or entry.brand in wanted.brands)
    )


def _claim_id(claim: Claim) -> str:
    return claim.made.made.claim


def _claim_record(claim: Claim) -> ClaimRecord:
    return ClaimRecord(
        row=claim_row(claim.made),
        state="made" if claim.stands else "recalled",
        recall_reason=claim.recall_reason,
        redemption=claim.redemption.id if claim.redemption else None,
        why=claim.made.why,
    )
