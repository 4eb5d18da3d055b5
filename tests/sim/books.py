"""What the witness of a world writes down, and the invariant that is held against it.

It is stated by the witness' own books and the slow rule of consent, whatever the service believes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from engine.consent.record import Record
from engine.decision import OfferMade
from engine.store.shared import Shared
from tests.consent_oracle import OFFER, Asked, answer
from tests.sim.clockwork import Agenda, ProcessLoop
from tests.sim.process import SKEW_MAX_MS, Process, Said
from tests.strategies import NOON_MS

BRANDS: Final = ("beans", "tea", "ink")


class Books:
    """What was acknowledged and what left; the invariant is held against them.

    Attributes:
        broken: sentences on what should never have happened.
        seen: how often what happened.
    """

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self.shared = Shared()
        """What the database holds."""
        self._acknowledged: dict[str, int] = {}
        self._is_news = False
        """Something was acknowledged in the step that was just taken."""
        self._allowed: dict[tuple[str, int, str, int], bool] = {}
        self.calls: dict[int, Said] = {}
        self.broken: list[str] = []
        self.seen: Counter[str] = Counter()
        self.trace: list[str] = []

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self._agenda.now_us / 1e6:9.6f}  {what}")

    def breaks(self, what: str) -> None:
        """The invariant does not hold."""
        self.broken.append(what)
        self.note(f"BROKEN: {what}")

    def acknowledged(self, said: Said, version: int) -> None:
        """A resident was told that what they said is in force everywhere."""
        before = self._acknowledged.get(said.resident, 0)
        self._acknowledged[said.resident] = max(before, version)
        self._is_news = True
        self.seen["on for a while acknowledged"] += said.expires_ms is not None
        self.seen["on acknowledged" if said.on else "off acknowledged"] += 1
        self.note(f"{said.resident}: call {said.number} acknowledged as version {version}")

    def merged(self, stays: str, goes: str, version: int) -> None:
        """Two residents were told to be one; of the one who goes nothing is allowed any more."""
        for resident, newest in ((stays, version), (goes, self.shared.residents[goes].version)):
            before = self._acknowledged.get(resident, 0)
            self._acknowledged[resident] = max(before, newest)
        self._is_news = True
        self.seen["merge acknowledged"] += 1
        self.note(f"{goes} is {stays} now, acknowledged as version {version}")

    def left(self, process: Process, how: str, resident: str, made: OfferMade) -> None:
        """An offer left: by a lease that runs, and by something that was said not before the last
        acknowledgement.
        """
        self.seen[how] += 1
        self.note(f"{process.name}: an offer of {made.brand} left for {resident} by {how}")
        if process.mono_ms() >= process.link.lease_until_ms:
            self.breaks(f"{process.name} handed out by {how} after its lease")
        # After a merge codes are those of the one who stays, unless the till asked before.
        stays = self.shared.residents[resident].merged_into if how == "till" else None
        if not any(self._may_leave(who, made.brand) for who in (resident, stays) if who):
            self.breaks(
                f"{process.name} handed out by {how} what {resident} had forbidden, "
                f"acknowledged as version {self._acknowledged.get(resident, 0)}"
            )

    def _may_leave(self, resident: str, brand: str) -> bool:
        """Whether something that holds allows it, said not before the last acknowledgement."""
        newest = self.shared.residents[resident].version
        since = self._acknowledged.get(resident, 0)
        return any(self.allows(resident, v, brand) for v in range(since, newest + 1))

    def allows(self, resident: str, version: int, brand: str) -> bool:
        """Whether the slow rule lets a brand make offers after so much was said.

        A grant that has ended by every clock that a process may have is none.
        """
        now_ms = NOON_MS - SKEW_MAX_MS + self._agenda.now_us // 1_000
        said = self.shared.residents[resident].records
        ended = sum(r.expires_ms is not None and r.expires_ms <= now_ms for r in said)
        asked = (resident, version, brand, ended)
        if asked not in self._allowed:
            records = [record for record in said if record.version <= version]
            question = Asked(OFFER, brand, now_ms=now_ms)
            self._allowed[asked] = answer(records, question) == "allow"
        return self._allowed[asked]

    def executed(self, name: str, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        """What was written: a widening only behind the version that its device had seen."""
        if name != "append_records":
            return
        resident, records = args
        self.note(f"{resident}: version {given['version_before'] + 1} written")
        if records[0].effect == "grant":
            self._check_widening(records, given["version_before"])

    def _check_widening(self, records: Sequence[Record], before: int) -> None:
        said = self.calls[records[0].client_ms or 0]
        kept = [r for r in self.shared.residents[said.resident].records if r.version <= before]
        if said.seen != before and self._is_more(kept, [*kept, *records]):
            self.breaks(
                f"{said.resident} widened by call {said.number} of version {said.seen} "
                f"what was at version {before}"
            )

    def _is_more(self, before: Sequence[Record], after: Sequence[Record]) -> bool:
        """Whether anybody may do by the slow rule, now or later, what they might not."""
        now_ms = NOON_MS + self._agenda.now_us // 1_000
        ends = [r.expires_ms for r in (*before, *after) if r.expires_ms is not None]
        return any(
            answer(after, asked) == "allow" != answer(before, asked)
            for at_ms in {now_ms, *(end - 1 for end in ends if end > now_ms)}
            for brand in BRANDS
            for asked in [Asked(OFFER, brand, now_ms=at_ms)]
        )

    def check(self, processes: Sequence[Process], moved: ProcessLoop) -> None:
        """Nobody who acts does so without what was acknowledged, and no canary has cried.

        Args:
            processes: all that there are.
            moved: whose step it was that was just taken. Of the others nothing can have become
                wrong, unless there is another acknowledgement.
        """
        for process in processes:
            if self._is_news or process.loop is moved:
                self._check_one(process)
        self._is_news = False

    def _check_one(self, process: Process) -> None:
        if process.loop.faults:
            self.breaks(f"{process.name} made a mistake: {process.loop.faults[0]}")
        ctx = process.ctx
        if ctx is None or process.ended:
            return
        if ctx.canary.leaks:
            self.breaks(f"the canary of {process.name} was told after its no")
        if not process.acts:
            return
        if process.mono_ms() >= process.link.lease_until_ms:
            self.breaks(f"{process.name} acts after its lease")
        for resident, version in self._acknowledged.items():
            known = ctx.engine.preferences.version(resident) or 0
            if known < version:
                self.breaks(
                    f"{process.name} acts on version {known} of {resident}, "
                    f"who was acknowledged version {version}"
                )
