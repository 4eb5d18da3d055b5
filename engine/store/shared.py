"""The state of stores in memory, and what a group of changes does to it."""

import asyncio
import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

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
from engine.consent.notices import NoticeText
from engine.consent.saying import sayings_of
from engine.store.audit import AuditEntry, Author, allows
from engine.store.guards import ProtectionRow
from engine.store.kept import Kept
from engine.store.memory_nodes import Nodes
from engine.store.memory_window import Window, store_ms
from engine.store.port import (
    BrandRow,
    Change,
    Committed,
    Expected,
    FenceRow,
    ForeignBrand,
    KeyRow,
    Kind,
    OfferRow,
    Redemption,
    ResidentRow,
    Rows,
    Together,
    VersionMoved,
    Written,
)
from engine.store.recent import first_open_day, recent_since_ms
from engine.store.told import ResidentTold


class Claim(msgspec.Struct):
    """A claim as it is kept."""

    made: ClaimMade
    recall_reason: str | None = None
    redemption: Redemption | None = None

    @property
    def stands(self) -> bool:
        """Whether it was not recalled."""
        return self.recall_reason is None


class Put(NamedTuple):
    """What came of writing one thing."""

    id: str
    version: int
    outcome: str


class Shared:
    """What several in-memory stores have in common, as processes have one database."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.feed: list[Change] = []
        """Without gaps; lines may be deleted from its front, as they may be pruned elsewhere."""
        self.fed_ms: dict[int, int] = {}
        """Number of a line -> when it was written."""
        self.brands: dict[str, BrandRow] = {}
        self.fences: dict[str, FenceRow] = {}
        self.offers: dict[str, OfferRow] = {}
        self.keys: dict[str, KeyRow] = {}
        self.residents: dict[str, ResidentRow] = {}
        self.protections: dict[str, ProtectionRow] = {}
        self.notices: dict[tuple[str, str, str], NoticeText] = {}
        """By id, version and locale."""
        self.presences: dict[str, PresenceRow] = {}
        self.claims: dict[str, Claim] = {}
        self.claims_of: dict[str, list[Claim]] = {}
        self.claim_of_code: dict[str, Claim] = {}
        self.claim_of_decision: dict[tuple[str, str], Claim] = {}
        self.counts: dict[tuple[str, int | None], int] = {}
        self.last_versions: dict[tuple[str, str], int] = {}
        """Of what was deleted: made anew, it goes on from there."""
        self.entries: list[AuditEntry] = []
        self.entries_ever = 0
        self.batches: dict[str, dict[str, list[str]]] = {}
        self.calls: dict[tuple[str, str], Kept] = {}
        self.erased_records: dict[str, list[str]] = {}
        """Erasure -> ids of records whose bodies are gone."""
        self.pairings: dict[str, tuple[str, int]] = {}
        """SHA-256 of a code -> its resident, and until when it can be used."""
        self.erasures: dict[str, str] = {}
        """Erasure -> the resident whose traces are looked for again."""
        self.listeners: set[asyncio.Event] = set()
        self.window = Window()
        self.nodes = Nodes()

    @property
    def number(self) -> int:
        """The feed's newest number."""
        return self.feed[-1].number if self.feed else 0

    def append(self, kind: Kind, ids: list[str]) -> int:
        """Add lines to the feed and wake whoever follows it; the last number."""
        for id_ in ids:
            self.feed.append(Change(self.number + 1, kind, id_))
            self.fed_ms[self.number] = store_ms()
        for listener in self.listeners:
            listener.set()
        return self.number

    def note(
        self, by: Author | None, kind: str, id_: str, brand: str | None, version: int, outcome: str
    ) -> None:
        """Add an entry to the audit log, if there is an author."""
        if by is not None:
            self.entries_ever += 1
            self.entries.append(
                AuditEntry(
                    number=self.entries_ever,
                    author=msgspec.structs.replace(by, brands=None),
                    kind=kind,
                    id=id_,
                    brand=brand,
                    version=version,
                    outcome=outcome,
                )
            )

    def rows_of(self, kind: Kind) -> dict[str, Any]:
        """What there is of a kind, by id."""
        rows: dict[str, dict[str, Any]] = {
            "brand": self.brands,
            "fence": self.fences,
            "offer": self.offers,
        }
        return rows[kind]

    def expect(self, kind: Kind, ids: Iterable[str], expected: Expected, by: Author | None) -> None:
        """Refuse a write unless each of them is as expected, and the author's if it is there.

        Raises:
            VersionMoved, ForeignBrand
        """
        rows = self.rows_of(kind)
        for id_ in ids:
            row = rows.get(id_)
            version = 0 if row is None else row.version
            if not allows(expected, version):
                raise VersionMoved(version)
            if by is None or by.brands is None or row is None or kind == "brand":
                continue
            if _owner(row) not in by.brands:
                raise ForeignBrand

    def put(self, kind: Kind, id_: str, brand: str, row: Any, by: Author | None) -> "Put":
        """Write one thing with its next version, unless it is as it was."""
        rows = self.rows_of(kind)
        before = rows.get(id_)
        if before is not None and before == msgspec.structs.replace(row, version=before.version):
            return Put(id_, before.version, "unchanged")
        first = self.last_versions.get((kind, id_), 0) + 1
        version = first if before is None else before.version + 1
        rows[id_] = msgspec.structs.replace(row, version=version)
        outcome = "created" if before is None else "updated"
        self.note(by, kind, id_, brand, version, outcome)
        return Put(id_, version, outcome)

    def told(self, kind: Kind, done: list["Put"]) -> list[Written]:
        """Tell the feed of what was written; each thing with its number."""
        changed = [one.id for one in done if one.outcome != "unchanged"]
        if not changed:
            return [Written(0, one.version, created=False) for one in done]
        newest = self.append(kind, changed)
        numbers = dict(zip(changed, range(newest - len(changed) + 1, newest + 1), strict=True))
        return [
            Written(numbers.get(one.id, 0), one.version, created=one.outcome == "created")
            for one in done
        ]

    def delete(self, kind: Kind, id_: str, expected: Expected, by: Author | None) -> int | None:
        """Delete one thing, if it is as expected; the feed's number."""
        self.expect(kind, [id_], expected, by)
        rows = self.rows_of(kind)
        row = rows.get(id_)
        if row is None:
            return None
        del rows[id_]
        self.last_versions[kind, id_] = row.version
        self.note(by, kind, id_, _owner(row), row.version, "deleted")
        return self.append(kind, [id_])

    def put_together(self, parts: list[Rows], by: Author | None, *, dry_run: bool) -> Together:
        """Write an import, or on a copy see what would come of it."""
        for part in parts:
            self.expect("fence", [fence.id for fence in part.fences], None, by)
            self.expect("offer", [offer.id for offer in part.offers], None, by)
        place = copy.copy(self) if dry_run else self
        if dry_run:
            place.brands, place.fences = dict(self.brands), dict(self.fences)
            place.offers = dict(self.offers)
        done: list[tuple[Kind, Put]] = []
        for part in parts:
            done += [
                ("brand", place.put("brand", b.id, b.id, BrandRow(b), by)) for b in part.brands
            ]
            done += [("fence", place.put("fence", f.id, f.brand, f, by)) for f in part.fences]
            done += [
                ("offer", place.put("offer", o.id, o.brand, OfferRow(o), by)) for o in part.offers
            ]
        outcomes = Counter(one.outcome for _, one in done)
        number = 0
        if outcomes["created"] + outcomes["updated"] and not dry_run:
            wrote = sorted((kind, one.id) for kind, one in done if one.outcome != "unchanged")
            batch = f"batch-{self.number + 1}"
            ids = self.batches[batch] = {}
            for kind, id_ in wrote:
                ids.setdefault(kind, []).append(id_)
            number = self.append("batch", [batch])
        return Together(number, outcomes["created"], outcomes["updated"], outcomes["unchanged"])

    def commit(self, changes: Changes) -> Committed:
        """Apply a group, as `port.Store.commit` says."""
        self._apply_presences(changes)
        recalls: dict[str, str] = {}
        for recall in changes.recalls:
            recalls.setdefault(recall.claim, recall.reason)
        recalled = self._recall(recalls)
        touched = self._return(recalled)
        losers: set[str] = set()
        refusals: list[ClaimRefused] = []
        accepted: list[ClaimMade] = []
        for made in changes.claims:
            offer = made.made.offer
            for key in ((offer, None), (offer, made.day)):
                self.counts.setdefault(key, 0)
                touched.add(key)
            reason = "conflict" if made.resident in losers else self._refusal(made)
            if reason is None:
                self._accept(made)
                accepted.append(made)
            else:
                losers.add(made.resident)
                refusals.append(ClaimRefused(made.made.claim, reason))
        own = {made.made.claim for made in changes.claims}
        own_recalled = self._recall({c: reason for c, reason in recalls.items() if c in own})
        self._return(own_recalled)
        self._tell(changes, accepted, [*recalled, *own_recalled])
        counts = sorted(((key, self.counts[key]) for key in touched), key=count_order)
        return Committed(
            refused=tuple(refusals),
            counts=tuple(OfferCount(offer, day, claims) for (offer, day), claims in counts),
        )

    def _apply_presences(self, changes: Changes) -> None:
        """Replace presences, end those without stays, then raise what was touched."""
        presences = self.presences
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
        offer = made.made.offer
        if len(self.claims_of.get(made.resident, ())) != made.claims_before:
            return "conflict"
        if made.budget_total is not None and self.counts[offer, None] >= made.budget_total:
            return "budget_total"
        if made.budget_day is not None and self.counts[offer, made.day] >= made.budget_day:
            return "budget_day"
        if (
            made.made.claim in self.claims
            or made.made.code in self.claim_of_code
            or (made.decision, made.resident) in self.claim_of_decision
        ):
            return "conflict"
        return None

    def _accept(self, made: ClaimMade) -> None:
        """Keep a claim and count it."""
        claim = Claim(made)
        self.claims[made.made.claim] = claim
        self.claims_of.setdefault(made.resident, []).append(claim)
        self.claim_of_code[made.made.code] = claim
        self.claim_of_decision[made.decision, made.resident] = claim
        self.counts[made.made.offer, None] += 1
        self.counts[made.made.offer, made.day] += 1

    def _recall(self, recalls: dict[str, str]) -> list[Claim]:
        """Take back those of the claims that stand."""
        recalled = []
        for id_, reason in recalls.items():
            claim = self.claims.get(id_)
            if claim is not None and claim.stands:
                claim.recall_reason = reason
                recalled.append(claim)
        return recalled

    def _return(self, recalled: list[Claim]) -> set[tuple[str, int | None]]:
        """Count claims no more that were taken back; the counts that this touched."""
        touched: set[tuple[str, int | None]] = set()
        for claim in recalled:
            for key in ((claim.made.made.offer, None), (claim.made.made.offer, claim.made.day)):
                self.counts[key] -= 1
                touched.add(key)
        return touched

    def _tell(self, changes: Changes, accepted: list[ClaimMade], recalled: list[Claim]) -> None:
        """Append to the window what became of a group."""
        for told in changes.told:
            self.window.tell_transition(told)
        for made in accepted:
            self.window.tell_offer(made)
        for claim in recalled:
            self.window.tell_recall(claim.made, claim.recall_reason or "")

    def state(self, resident: str, now_ms: int) -> ResidentState:
        """What is known of one resident; O(claims ever made to them)."""
        presence = self.presences.get(resident)
        claims = self.claims_of.get(resident, [])
        standing = [claim.made for claim in claims if claim.stands]
        recent = [made for made in standing if made.made_ms >= recent_since_ms(now_ms)]
        by_offer: dict[str, int] = {}
        older: dict[str, int] = {}
        for made in standing:
            offer = made.made.offer
            by_offer[offer] = by_offer.get(offer, 0) + 1
            if made.made_ms < recent_since_ms(now_ms):
                older[offer] = max(older.get(offer, made.made_ms), made.made_ms)
        return ResidentState(
            resident=resident,
            stays=presence.stays if presence else (),
            seen_ms=presence.seen_ms if presence else None,
            claims=tuple(
                claim_row(made)
                for made in sorted(recent, key=lambda made: (made.made_ms, made.made.claim))
            ),
            claims_by_offer=by_offer,
            older_ms_by_offer=older,
            claims_count=len(claims),
        )

    def open_counts(self, offers: set[str], now_ms: int) -> list[OfferCount]:
        """Totals and open days of these offers."""
        first_day = first_open_day(now_ms)
        return [
            OfferCount(offer, day, claims)
            for (offer, day), claims in sorted(self.counts.items(), key=count_order)
            if offer in offers and (day is None or day >= first_day)
        ]


def _owner(row: FenceRow | OfferRow) -> str:
    """The brand that a thing belongs to."""
    return row.offer.brand if isinstance(row, OfferRow) else row.brand


def count_order(item: tuple[tuple[str, int | None], int]) -> tuple[str, int]:
    """By offer, its total first, then its days."""
    (offer, day), _ = item
    return offer, -1 if day is None else day


def claim_row(made: ClaimMade) -> ClaimRow:
    """A claim as it is read back."""
    return ClaimRow(
        resident=made.resident, decision=made.decision, made=made.made, made_ms=made.made_ms
    )


def as_told(row: ResidentRow) -> ResidentTold:
    """Of a resident what counts in memory."""
    return ResidentTold(
        id=row.id,
        settings=row.settings,
        version=row.version,
        said=sayings_of(row.records),
    )
