"""The whole way of a ping, in one place. Read this first.

    refuse what breaks a limit
      -> consent: may the location be used at all?            no -> no_consent, no trace
      -> is it in a zone that the resident keeps private?     yes -> private_zone, no trace
      -> the fences that cover it, less those whose brand may not see it
      -> transitions: enter, dwell, exit, pass
      -> the offers that wait for them, through the ladder of gates -> at most one
      -> a Decision, and Changes for the journal
      ... the journal makes the changes durable ...
      -> hand_over: consent once more, since the resident may have said no in the meantime

`Engine.decide` is one synchronous call without a clock, a random number or I/O, so that a recorded
stream gives the same bytes again. The rim around it stamps the pings, writes the changes, and
gives the decisions out.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from engine.advice import Adviser
from engine.answers import answer, event_of, rejected
from engine.changes import (
    Changes,
    ClaimMade,
    ClaimRow,
    OfferCount,
    ResidentState,
)
from engine.consent.floor import Floor
from engine.consent.index import Entry, PreferenceIndex
from engine.consent.law import Laws
from engine.consent.protection import Protection
from engine.consent.record import Record
from engine.consent.row import Row
from engine.consent.saying import Sayings
from engine.consent.zones import draw
from engine.decision import Decision, NextFix, OfferMade, Reject
from engine.offers.book import OfferBook
from engine.offers.choice import Candidate, Circumstances, candidates, choose, furthest
from engine.offers.codes import Namer
from engine.offers.gates import Attention, offer_day
from engine.offers.offer import Brand, Offer
from engine.offers.reasons import why
from engine.ping import AGE_MAX_MS, Ping, order_key, refusal
from engine.presence import Tracker
from engine.residents import SETTINGS_DEFAULT, Resident, ResidentSettings
from engine.second_gate import SecondGate
from geofences.fence import Fence
from geofences.index import FenceIndex
from geofences.transitions import Transition, accuracy_or_default

_STALE: Final = Reject("stale", "This server may not know the latest preferences; try again.")
_DOUBTFUL: Final = Reject("not_durable", "What was answered before is being read again; try again.")


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a city sets about decisions."""

    attention: Attention = Attention(per_day=1, per_week=3)
    kept_fixes_max: int = 150
    next_fix: bool = False
    """Whether every decision tells when and where the next fix would matter, asked for or not."""
    age_max_ms: int | None = AGE_MAX_MS
    """Oldest fix taken; None: any, for a replay."""


class Engine:
    """All that is needed to decide, held in memory by one owner, and the decision itself."""

    def __init__(
        self,
        *,
        secret: bytes,
        settings: EngineSettings | None = None,
        laws: Laws | None = None,
        preferences: PreferenceIndex | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        self.fences = FenceIndex()
        self.book = OfferBook()
        self.preferences = PreferenceIndex() if preferences is None else preferences
        self.tracker = Tracker(self.fences, self.book, kept_fixes_max=self.settings.kept_fixes_max)
        self.residents = self.tracker.residents
        if preferences is None:
            self.preferences.whereabouts = self.tracker.whereabouts
        self.floor = Floor(laws or Laws())
        self.second_gate = SecondGate(self.book, self.preferences, self.tracker)
        self.adviser = Adviser(self.fences, self.book)
        self._canaries: set[str] = set()
        self._settings_of: dict[str, ResidentSettings] = {}
        self._namer = Namer(secret)
        self._unsettled: dict[str, ClaimMade] = {}

    # -- the way of a ping ------------------------------------------------------------------

    def decide(self, pings: Sequence[Ping], *, mono_ms: int = 0) -> list[Decision]:
        """Decide pings in the order given, each as if it had come alone.

        Args:
            pings: stamped with `received_ms`, which is the now of everything but transitions.
            mono_ms: the monotonic clock that the lease of the preferences is held against.

        Returns:
            One decision a ping. An offer in it must not leave before the changes that
            `take_changes` then gives are durable, nor without `hand_over`.
        """
        stale = self.preferences.is_stale(mono_ms)
        return [self._decide(ping, stale) for ping in pings]

    def take_changes(self) -> Changes:
        """What must become durable since the last call; the caller owns it."""
        changes, self.tracker.changes = self.tracker.changes, Changes()
        return changes

    def _decide(self, ping: Ping, stale: bool) -> Decision:
        reject = refusal(ping, age_max_ms=self.settings.age_max_ms)
        if reject is not None:
            return rejected(ping, reject)
        if stale:
            return answer(ping, "", "shed", reject=_STALE)
        entry = self.preferences.entry(ping.resident, ping.received_ms)
        if entry is None or not entry.row.uses_location:
            self.tracker.forget(ping.resident)
            return answer(ping, "", "no_consent")
        resident = self.residents.get(ping.resident)
        if resident is None:
            resident = self.residents[ping.resident] = Resident(ping.resident)
            resident.row = entry.row
            resident.zones = self.tracker.zones.get(ping.resident)
        elif resident.doubtful:
            return answer(ping, "", "shed", reject=_DOUBTFUL)
        elif resident.row is not entry.row:
            self.tracker.refilter(resident, entry.row)
        if resident.zones is not None and resident.zones.hides(
            ping.lon, ping.lat, accuracy_or_default(ping.accuracy_m)
        ):
            self.tracker.hide(resident)
            return answer(ping, "", "private_zone")
        resident.heard_ms = ping.received_ms
        name = self._namer.decision(ping.resident, *order_key(ping))
        newest = resident.newest
        if newest is not None and ping.at_ms <= newest.at_ms and order_key(ping) <= newest.key:
            return self._decide_late(ping, name, resident, entry.row)
        if resident.claims:
            # Fixes are forgotten at a restart, at a doubt and with a change of the resident's say;
            # what a fix was given is not.
            again = resident.claim_of(name, ping.received_ms)
            if again is not None:
                return answer(ping, name, "duplicate", offer=again.made)
        told = self.tracker.follow(resident, newest, ping, entry.row)
        advice: NextFix | UnsetType = UNSET
        if ping.next_fix or self.settings.next_fix:
            advice = self.adviser.advise(resident, ping, entry.row)
        if not told:
            return answer(ping, name, "decided", next_fix=advice)
        made, withheld = self._offer(ping, name, resident, entry, told)
        events = tuple(event_of(t) for t in told)
        self.tracker.tell(ping.resident, entry.row, told, events)
        return answer(
            ping, name, "decided", events=events, offer=made, withheld=withheld, next_fix=advice
        )

    def _decide_late(self, ping: Ping, name: str, resident: Resident, row: Row) -> Decision:
        """A fix that was sent before, or that others have overtaken."""
        again = resident.claim_of(name, ping.received_ms)
        if again is not None:
            return answer(ping, name, "duplicate", offer=again.made)
        if resident.has_kept(order_key(ping)):
            return answer(ping, name, "duplicate")
        self.tracker.correct(resident, ping, row)
        return answer(ping, name, "late")

    # -- offers -------------------------------------------------------------------------------

    def _offer(
        self,
        ping: Ping,
        name: str,
        resident: Resident,
        entry: Entry,
        told: tuple[Transition, ...],
    ) -> tuple[OfferMade | None, str | None]:
        """At most one offer for what happened, or the gate that the furthest candidate failed."""
        told_now = Circumstances(
            resident=resident,
            settings=self._settings_of.get(resident.id, SETTINGS_DEFAULT),
            entry=entry,
            book=self.book,
            attention=self.settings.attention,
            now_ms=ping.received_ms,
            age_ms=ping.received_ms - ping.at_ms,
            mock=ping.mock,
            at=self.tracker.whereabouts(resident.id),
            forbidden=self.floor.forbidden,
        )
        found = candidates(told, told_now)
        chosen = choose(found, told_now)
        if chosen is None:
            return None, furthest(found)
        return self._claim(name, told_now, found, chosen), None

    def _claim(
        self,
        name: str,
        told: Circumstances,
        found: list[Candidate],
        chosen: Candidate,
    ) -> OfferMade:
        """Reserve the chosen offer for the resident and have the journal make it durable."""
        offer, resident, now_ms = chosen.offer, told.resident, told.now_ms
        claim_id = self._namer.claim(name, offer.id)
        made = OfferMade(
            claim=claim_id,
            offer=offer.id,
            brand=offer.brand,
            fence=chosen.event.fence.id,
            title=offer.title,
            body=offer.body,
            code=self._namer.code(claim_id),
            expires_at_ms=now_ms + offer.claim_ttl_s * 1_000,
            consent_version=told.entry.version,
        )
        day = offer_day(offer, now_ms)
        claim = ClaimMade(
            resident=resident.id,
            decision=name,
            made=made,
            made_ms=now_ms,
            claims_before=resident.claims_count,
            budget_total=offer.budget.total,
            budget_day=offer.budget.per_day,
            day=day,
            why=why(found, chosen, told, self.preferences, self.floor),
        )
        resident.add_claim(ClaimRow(resident=resident.id, decision=name, made=made, made_ms=now_ms))
        self.book.reserve(offer.id, day)
        self._unsettled[claim_id] = claim
        self.tracker.changes.claims.append(claim)
        return made

    def hand_over(self, decision: Decision, *, now_ms: int, mono_ms: int) -> Decision:
        """The second gate, right before a decision leaves; see `SecondGate.hand_over`."""
        return self.second_gate.hand_over(decision, now_ms=now_ms, mono_ms=mono_ms)

    # -- what came of the changes ---------------------------------------------------------------

    def settle(
        self, claims: Iterable[ClaimMade], refused: dict[str, str], counts: Iterable[OfferCount]
    ) -> list[str]:
        """Take over what a commit made of the claims in it.

        Args:
            claims: all claims of the group.
            refused: claim id -> reason, of those that the store did not accept.
            counts: of the offers that the group touched, as they stand after it.

        Returns:
            Residents of whom another process knows more; they are doubtful until restored.
        """
        moved: list[str] = []
        self.book.set_counts(counts)
        for claim in claims:
            if self._unsettled.pop(claim.made.claim, None) is None:
                continue
            self.book.reserve(claim.made.offer, claim.day, -1)
            reason = refused.get(claim.made.claim)
            resident = self.residents.get(claim.resident)
            if reason is None or resident is None:
                continue
            resident.drop_claim(claim.made.claim, accepted=False)
            if reason == "conflict":
                resident.doubtful = True
                moved.append(claim.resident)
        return moved

    def forget(self, residents: Iterable[str]) -> None:
        """A commit failed: what is remembered of these residents may be wrong.

        They are shed until `restore`; what they had reserved stays reserved until then.
        """
        for resident_id in residents:
            resident = self.residents[resident_id] = Resident(resident_id)
            resident.doubtful = True

    def restore(self, states: Iterable[ResidentState], counts: Iterable[OfferCount] = ()) -> None:
        """Take over what the store knows of residents, at a start or after a doubt.

        At a start, residents' preferences come first: of where somebody is who took back the use
        of location in the meantime, nothing is kept.
        """
        known = list(states)
        names = {state.resident for state in known}
        for claim in [c for c in self._unsettled.values() if c.resident in names]:
            del self._unsettled[claim.made.claim]
            self.book.reserve(claim.made.offer, claim.day, -1)
        self.book.set_counts(counts)
        for state in known:
            self.tracker.restore(state)
            entry = self.preferences.entry(state.resident, 0)
            if entry is not None and not entry.row.uses_location:
                self.tracker.forget(state.resident)

    # -- what follows the change feed -------------------------------------------------------------

    def put_brand(self, brand: Brand) -> None:
        """A brand is new or changed; its categories count from the next ping on."""
        before = self.book.brands.get(brand.id)
        self.book.put_brand(brand)
        self.adviser.forget()
        if before is not None and before.categories != brand.categories:
            self.tracker.forget_rows()

    def put_fences(self, fences: Sequence[Fence]) -> None:
        """Fences are new or changed; live together from the next ping on."""
        self.fences.put_many(fences)
        for fence in fences:
            self.book.forget_fence(fence.id)
        self.floor.put_fences(fences)
        self.adviser.forget()

    def swap_fences(self, fences: FenceIndex) -> None:
        """Another index takes the place of the one so far, and gets what that held; O(1)."""
        self.fences.swap(fences)
        self.book.forget_fences()
        self.floor.swap_fences(self.fences)
        self.adviser.forget()

    def drop_fence(self, fence_id: str) -> None:
        """A fence was deleted: stays in it end in silence."""
        self.fences.remove(fence_id)
        self.book.forget_fence(fence_id)
        self.adviser.forget()

    def put_offer(self, offer: Offer) -> None:
        """An offer is new or changed."""
        self.book.put_offer(offer)
        self.adviser.forget()

    def drop_offer(self, offer_id: str) -> None:
        """An offer was deleted; codes already given keep their worth."""
        self.book.drop_offer(offer_id)
        self.adviser.forget()

    def put_resident(
        self,
        resident_id: str,
        settings: ResidentSettings,
        version: int,
        records: Iterable[Record],
        *,
        now_ms: int,
    ) -> None:
        """A resident is new, or said something: in force from the next line on."""
        self._settings_of[resident_id] = settings
        entry = self.preferences.put(
            resident_id,
            version,
            records,
            settings.timezone,
            now_ms=now_ms,
            floor=self.floor.of(resident_id),
        )
        resident = self.residents.get(resident_id)
        if not entry.row.uses_location:
            self.tracker.forget(resident_id)
        elif resident is not None and not resident.doubtful and resident.row is not entry.row:
            self.tracker.refilter(resident, entry.row)

    def take_resident(
        self,
        resident_id: str,
        settings: ResidentSettings,
        version: int,
        said: Sayings,
        *,
        now_ms: int,
    ) -> None:
        """A resident as a process knows them that starts: nothing else is known of them yet."""
        self._settings_of[resident_id] = settings
        self.preferences.take(
            resident_id,
            version,
            said,
            settings.timezone,
            now_ms=now_ms,
            floor=self.floor.of(resident_id),
        )

    def put_canary(
        self, resident_id: str, version: int, records: Iterable[Record], *, now_ms: int
    ) -> None:
        """A made-up resident said something: in force from the next line on. Counts nowhere."""
        self._canaries.add(resident_id)
        self.preferences.put(resident_id, version, records, "UTC", now_ms=now_ms)

    def put_protection(self, resident_id: str, protection: Protection) -> None:
        """What protects a resident has changed: in force from the next line on."""
        self.tracker.draw(resident_id, draw(protection.zones))
        floor = self.floor.put_age(resident_id, protection.age_band)
        entry = self.preferences.put_floor(resident_id, floor)
        if entry is not None and not entry.row.uses_location:
            self.tracker.forget(resident_id)

    def drop_resident(self, resident_id: str) -> None:
        """A resident is no more known, which means no."""
        self.tracker.zones.pop(resident_id, None)
        self.floor.drop(resident_id)
        self.preferences.drop(resident_id)
        self._settings_of.pop(resident_id, None)
        self.residents.pop(resident_id, None)

    def sweep(self, resident_ids: Iterable[str], now_ms: int) -> None:
        """Let go of what is remembered of residents who have not been heard of for long.

        The caller goes through `residents` with it now and then, a slice at a time.
        """
        for resident_id in resident_ids:
            entry = self.preferences.entry(resident_id, now_ms)
            if entry is None or not entry.row.uses_location:
                self.tracker.forget(resident_id)
            self.tracker.sweep(resident_id, now_ms)

    def counts(self) -> dict[str, int]:
        """How much of everything is held in memory."""
        return {
            "brands": len(self.book.brands),
            "fences": len(self.fences),
            "offers": len(self.book.offers),
            "residents": len(self.preferences) - len(self._canaries),
            "residents_remembered": len(self.residents),
        }
