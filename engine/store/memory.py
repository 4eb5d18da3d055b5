"""The store in memory: the same promises as PostgreSQL but one, it does not survive.

Used by replays, where nothing must survive, and by tests. Several stores may share one `Shared`
and are then like several processes on one database.
"""

import asyncio
import contextlib
import secrets
from typing import TypeVar

import msgspec

from engine.changes import (
    Changes,
    ClaimMade,
    ClaimRefused,
    ClaimRow,
    OfferCount,
    PresenceRow,
    ResidentState,
)
from engine.consent.record import Record
from engine.offers.offer import Brand, Offer
from engine.residents import ResidentSettings
from engine.store.port import (
    AlreadyThere,
    BrandRow,
    Change,
    ClaimRecord,
    Committed,
    FeedLost,
    FenceRow,
    KeyRow,
    Kind,
    OfferRow,
    Redemption,
    RedemptionRefused,
    ResidentRow,
    Snapshot,
    StoreUnavailable,
    VersionMoved,
    Written,
    first_open_day,
    recent_since_ms,
)

Row = TypeVar("Row")


class Claim(msgspec.Struct):
    """A claim as it is kept."""

    made: ClaimMade
    recall_reason: str | None = None
    redemption: Redemption | None = None

    @property
    def stands(self) -> bool:
        """Whether it was not recalled."""
        return self.recall_reason is None


class Shared:
    """What several in-memory stores have in common, as processes have one database."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.feed: list[Change] = []
        """Without gaps; lines may be deleted from its front, as they may be pruned elsewhere."""
        self.brands: dict[str, BrandRow] = {}
        self.fences: dict[str, FenceRow] = {}
        self.offers: dict[str, OfferRow] = {}
        self.keys: dict[str, KeyRow] = {}
        self.residents: dict[str, ResidentRow] = {}
        self.presences: dict[str, PresenceRow] = {}
        self.claims: dict[str, Claim] = {}
        self.claims_of: dict[str, list[Claim]] = {}
        self.claim_of_code: dict[str, Claim] = {}
        self.claim_of_decision: dict[tuple[str, str], Claim] = {}
        self.counts: dict[tuple[str, int | None], int] = {}
        self.listeners: set[asyncio.Event] = set()

    @property
    def number(self) -> int:
        """The feed's newest number."""
        return self.feed[-1].number if self.feed else 0

    def append(self, kind: Kind, ids: list[str]) -> int:
        """Add lines to the feed and wake whoever follows it; the last number."""
        for id_ in ids:
            self.feed.append(Change(self.number + 1, kind, id_))
        for listener in self.listeners:
            listener.set()
        return self.number


class MemoryStore:
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

    async def secret(self, name: str) -> bytes:
        """32 random bytes, the same for everybody who asks for this name."""
        return self._open_shared().secrets.setdefault(name, secrets.token_bytes(32))

    # The feed.

    async def changes_after(self, number: int, *, limit: int = 10_000) -> list[Change]:
        """The feed's next lines."""
        feed = self._open_shared().feed
        first = feed[0].number if feed else 1
        at = number + 1 - first
        if (number > 0 and at < 1) or at < 0 or at > len(feed):
            raise FeedLost(number)
        return feed[at : at + limit]

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until the feed grows; a growth since the last wait counts."""
        self._open_shared()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._grown.wait()
        self._grown.clear()

    # What a process holds in memory.

    async def snapshot(self, *, now_ms: int) -> Snapshot:
        """Everything."""
        shared = self._open_shared()
        known = sorted(shared.presences.keys() | shared.claims_of.keys())
        return Snapshot(
            number=shared.number,
            brands=_those(shared.brands),
            fences=_those(shared.fences),
            offers=_those(shared.offers),
            residents=_those(shared.residents),
            keys=_those(shared.keys),
            states=tuple(self._state(resident, now_ms) for resident in known),
            counts=tuple(self._counts({offer for offer, _ in shared.counts}, now_ms)),
        )

    async def read_brands(self, ids: list[str]) -> list[BrandRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().brands, ids))

    async def read_fences(self, ids: list[str]) -> list[FenceRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().fences, ids))

    async def read_offers(self, ids: list[str]) -> list[OfferRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().offers, ids))

    async def read_residents(self, ids: list[str]) -> list[ResidentRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().residents, ids))

    async def read_keys(self, ids: list[str]) -> list[KeyRow]:
        """Those that exist, by id."""
        return list(_those(self._open_shared().keys, ids))

    async def read_states(self, ids: list[str], *, now_ms: int) -> list[ResidentState]:
        """The residents named, in the order given."""
        self._open_shared()
        return [self._state(resident, now_ms) for resident in ids]

    async def read_counts(self, offers: list[str], *, now_ms: int) -> list[OfferCount]:
        """Totals and open days, by offer and day; a total comes first."""
        self._open_shared()
        return self._counts(set(offers), now_ms)

    def _state(self, resident: str, now_ms: int) -> ResidentState:
        """What is known of one resident; O(claims ever made to them)."""
        presence = self.shared.presences.get(resident)
        claims = self.shared.claims_of.get(resident, [])
        standing = [claim.made for claim in claims if claim.stands]
        recent = [made for made in standing if made.made_ms >= recent_since_ms(now_ms)]
        by_offer: dict[str, int] = {}
        for made in standing:
            by_offer[made.made.offer] = by_offer.get(made.made.offer, 0) + 1
        return ResidentState(
            resident=resident,
            stays=presence.stays if presence else (),
            seen_ms=presence.seen_ms if presence else None,
            claims=tuple(
                _claim_row(made)
                for made in sorted(recent, key=lambda made: (made.made_ms, made.made.claim))
            ),
            claims_by_offer=by_offer,
            claims_count=len(claims),
        )

    def _counts(self, offers: set[str], now_ms: int) -> list[OfferCount]:
        """Totals and open days of these offers."""
        first_day = first_open_day(now_ms)
        return [
            OfferCount(offer, day, claims)
            for (offer, day), claims in sorted(self.shared.counts.items(), key=_count_order)
            if offer in offers and (day is None or day >= first_day)
        ]

    # What merchants, residents and the operator write.

    async def put_brand(self, brand: Brand) -> Written:
        """Write a brand."""
        shared = self._open_shared()
        version = shared.brands[brand.id].version + 1 if brand.id in shared.brands else 1
        shared.brands[brand.id] = BrandRow(brand, version)
        return Written(shared.append("brand", [brand.id]), version, version == 1)

    async def put_offer(self, offer: Offer) -> Written:
        """Write an offer."""
        shared = self._open_shared()
        version = shared.offers[offer.id].version + 1 if offer.id in shared.offers else 1
        shared.offers[offer.id] = OfferRow(offer, version)
        return Written(shared.append("offer", [offer.id]), version, version == 1)

    async def put_fences(self, fences: list[FenceRow]) -> list[Written]:
        """Write fences together; their numbers are in the order of their ids."""
        shared = self._open_shared()
        written: dict[str, Written] = {}
        for fence in sorted(fences, key=lambda fence: fence.id):
            before = shared.fences.get(fence.id)
            if before and (before.brand, before.feature) == (fence.brand, fence.feature):
                written[fence.id] = Written(0, before.version, created=False)
                continue
            version = before.version + 1 if before else 1
            shared.fences[fence.id] = msgspec.structs.replace(fence, version=version)
            number = shared.append("fence", [fence.id])
            written[fence.id] = Written(number, version, created=before is None)
        return [written[fence.id] for fence in fences]

    async def delete_fence(self, fence: str) -> int | None:
        """Delete a fence."""
        shared = self._open_shared()
        return shared.append("fence", [fence]) if shared.fences.pop(fence, None) else None

    async def delete_offer(self, offer: str) -> int | None:
        """Delete an offer; its claims and counts stay."""
        shared = self._open_shared()
        return shared.append("offer", [offer]) if shared.offers.pop(offer, None) else None

    async def put_key(self, key: KeyRow) -> int:
        """Write a key."""
        shared = self._open_shared()
        shared.keys[key.id] = key
        return shared.append("key", [key.id])

    async def delete_key(self, key: str) -> int | None:
        """Delete a key."""
        shared = self._open_shared()
        return shared.append("key", [key]) if shared.keys.pop(key, None) else None

    async def create_residents(self, residents: dict[str, ResidentSettings]) -> int:
        """Make residents, all or none."""
        shared = self._open_shared()
        if there := residents.keys() & shared.residents.keys():
            raise AlreadyThere(min(there))
        for resident, settings in residents.items():
            shared.residents[resident] = ResidentRow(id=resident, settings=settings)
        return shared.append("resident", sorted(residents))

    async def put_settings(self, resident: str, settings: ResidentSettings) -> int | None:
        """Replace a resident's settings."""
        shared = self._open_shared()
        if (row := shared.residents.get(resident)) is None:
            return None
        shared.residents[resident] = msgspec.structs.replace(row, settings=settings)
        return shared.append("resident", [resident])

    async def append_records(
        self, resident: str, records: tuple[Record, ...], *, version_before: int
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
        return shared.append("resident", [resident])

    # What pings make durable.

    async def commit(self, changes: Changes) -> Committed:
        """Apply a group."""
        shared = self._open_shared()
        self._apply_presences(changes)
        recalls: dict[str, str] = {}
        for recall in changes.recalls:
            recalls.setdefault(recall.claim, recall.reason)
        touched = self._recall(recalls)
        losers: set[str] = set()
        refusals: list[ClaimRefused] = []
        for made in changes.claims:
            offer = made.made.offer
            for key in ((offer, None), (offer, made.day)):
                shared.counts.setdefault(key, 0)
                touched.add(key)
            reason = "conflict" if made.resident in losers else self._refusal(made)
            if reason is None:
                self._accept(made)
            else:
                losers.add(made.resident)
                refusals.append(ClaimRefused(made.made.claim, reason))
        own = {made.made.claim for made in changes.claims}
        self._recall({claim: reason for claim, reason in recalls.items() if claim in own})
        counts = sorted(((key, shared.counts[key]) for key in touched), key=_count_order)
        return Committed(
            refused=tuple(refusals),
            counts=tuple(OfferCount(offer, day, claims) for (offer, day), claims in counts),
        )

    def _apply_presences(self, changes: Changes) -> None:
        """Replace presences, end those without stays, then raise what was touched."""
        presences = self.shared.presences
        for resident, presence in changes.presences.items():
            if presence.stays:
                presences[resident] = presence
            else:
                presences.pop(resident, None)
        for resident, seen_ms in changes.touches.items():
            there = presences.get(resident)
            if there and there.seen_ms < seen_ms:
                presences[resident] = msgspec.structs.replace(there, seen_ms=seen_ms)

    def _refusal(self, made: ClaimMade) -> str | None:
        """Why a claim can't be accepted, or None."""
        shared, offer = self.shared, made.made.offer
        if len(shared.claims_of.get(made.resident, ())) != made.claims_before:
            return "conflict"
        if made.budget_total is not None and shared.counts[offer, None] >= made.budget_total:
            return "budget_total"
        if made.budget_day is not None and shared.counts[offer, made.day] >= made.budget_day:
            return "budget_day"
        if (
            made.made.claim in shared.claims
            or made.made.code in shared.claim_of_code
            or (made.decision, made.resident) in shared.claim_of_decision
        ):
            return "conflict"
        return None

    def _accept(self, made: ClaimMade) -> None:
        """Keep a claim and count it."""
        shared, claim = self.shared, Claim(made)
        shared.claims[made.made.claim] = claim
        shared.claims_of.setdefault(made.resident, []).append(claim)
        shared.claim_of_code[made.made.code] = claim
        shared.claim_of_decision[made.decision, made.resident] = claim
        shared.counts[made.made.offer, None] += 1
        shared.counts[made.made.offer, made.day] += 1

    def _recall(self, recalls: dict[str, str]) -> set[tuple[str, int | None]]:
        """Take back those of the claims that stand; the counts that this touched."""
        touched: set[tuple[str, int | None]] = set()
        for id_, reason in recalls.items():
            claim = self.shared.claims.get(id_)
            if claim is None or not claim.stands:
                continue
            claim.recall_reason = reason
            for key in ((claim.made.made.offer, None), (claim.made.made.offer, claim.made.day)):
                self.shared.counts[key] -= 1
                touched.add(key)
        return touched

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

    async def roll_back(self, redemption: str) -> bool:
        """Take a redemption back; False if there is none."""
        self._open_shared()
        if claim := self._redeemed(redemption):
            claim.redemption = None
        return claim is not None


def _those(rows: dict[str, Row], ids: list[str] | None = None) -> tuple[Row, ...]:
    """Rows by id: all, or those of the ids that exist."""
    return tuple(rows[id_] for id_ in sorted(rows if ids is None else rows.keys() & set(ids)))


def _count_order(item: tuple[tuple[str, int | None], int]) -> tuple[str, int]:
    """By offer, its total first, then its days."""
    (offer, day), _ = item
    return offer, -1 if day is None else day


def _claim_id(claim: Claim) -> str:
    return claim.made.made.claim


def _claim_row(made: ClaimMade) -> ClaimRow:
    return ClaimRow(
        resident=made.resident, decision=made.decision, made=made.made, made_ms=made.made_ms
    )


def _claim_record(claim: Claim) -> ClaimRecord:
    return ClaimRecord(
        row=_claim_row(claim.made),
        state="made" if claim.stands else "recalled",
        recall_reason=claim.recall_reason,
        redemption=claim.redemption.id if claim.redemption else None,
        why=claim.made.why,
    )
