"""What a ping makes durable: plain values that travel from the pipeline to the journal.

The pipeline fills one `Changes` while it decides; the journal merges those of many pings into one
transaction. A ping's answer waits for that transaction if, and only if, it holds something of the
ping's resident.
"""

import msgspec

from engine.decision import Event, OfferMade


class StayRow(msgspec.Struct, frozen=True, array_like=True):
    """A resident's stay in one fence, as it survives a restart."""

    fence: str
    entered_ms: int
    dwelled_s: int
    """The longest dwell already told, seconds; 0: none."""


class PresenceRow(msgspec.Struct, frozen=True):
    """All stays of one resident. No stays means that the row is deleted: outside everywhere."""

    resident: str
    stays: tuple[StayRow, ...]
    seen_ms: int
    """Event time of the newest fix when the row was written."""


class ClaimMade(msgspec.Struct, frozen=True, kw_only=True):
    """One offer made to one resident, with the conditions under which it may become durable."""

    resident: str
    decision: str
    """Id of the decision; unique per resident, so that a ping sent again finds its claim."""
    made: OfferMade
    made_ms: int
    claims_before: int
    """How many claims the resident had in all, as this process knew; moved on means conflict."""
    budget_total: int | None
    budget_day: int | None
    day: int
    """The offer's own day that the claim counts in, as days since 1970-01-01 of its zone."""
    why: bytes
    """JSON of the ladder of gates for every candidate; holds no position and no resident id."""


class ClaimRecalled(msgspec.Struct, frozen=True):
    """A claim taken back before it reached the resident; its cap and its budget return."""

    claim: str
    resident: str
    reason: str


class TransitionTold(msgspec.Struct, frozen=True):
    """A transition as it goes to those who follow the events of the city or of a brand."""

    resident: str
    """Whose answer waits until it is durable. Kept with the event only if it is `shared`."""
    brand: str
    """Of the fence."""
    event: Event
    shared: bool
    """Whether the resident shares such visits with the brand; they are asked again when it is
    told."""


class Changes(msgspec.Struct):
    """Everything that one or more decisions need to have made durable, merged in order."""

    presences: dict[str, PresenceRow] = {}
    """By resident; the latest wins."""
    touches: dict[str, int] = {}
    """Resident -> newest fix's event time: keeps `seen_ms` near the truth; no answer waits."""
    claims: list[ClaimMade] = []
    recalls: list[ClaimRecalled] = []
    told: list[TransitionTold] = []
    """In the order in which it happened."""

    @property
    def size(self) -> int:
        """How many changes these are."""
        return (
            len(self.presences)
            + len(self.touches)
            + len(self.claims)
            + len(self.recalls)
            + len(self.told)
        )

    @property
    def tells(self) -> bool:
        """Whether there may be events in them."""
        return bool(self.claims or self.recalls or self.told)

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.presences or self.touches or self.claims or self.recalls or self.told)

    def merge(self, later: "Changes") -> None:
        """Add what came later; a later presence of the same resident replaces the earlier."""
        self.presences.update(later.presences)
        self.touches.update(later.touches)
        self.claims.extend(later.claims)
        self.recalls.extend(later.recalls)
        self.told.extend(later.told)


class ClaimRefused(msgspec.Struct, frozen=True):
    """A claim that the store did not accept; the ping is answered without an offer."""

    claim: str
    reason: str
    """`budget_total`, `budget_day` or `conflict`."""


class OfferCount(msgspec.Struct, frozen=True):
    """How many claims of an offer stand, in all and on one of its days (None: only in all)."""

    offer: str
    day: int | None
    claims: int


class ClaimRow(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that stands, as it is read back at a start or after a doubt."""

    resident: str
    decision: str
    made: OfferMade
    made_ms: int


class ResidentState(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows of a resident's presence and claims."""

    resident: str
    stays: tuple[StayRow, ...] = ()
    seen_ms: int | None = None
    claims: tuple[ClaimRow, ...] = ()
    """Claims that stand, made in the last 8 days, oldest first."""
    claims_by_offer: dict[str, int] = {}
    """Offer -> number of claims that stand, ever."""
    older_ms_by_offer: dict[str, int] = {}
    """Offer -> when the newest claim that stands and is older than `claims` was made."""
    claims_count: int = 0
    """The number that `ClaimMade.claims_before` is held against: it rises with every claim
    accepted and never falls, recalled or not."""
