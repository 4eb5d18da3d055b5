"""How preferences change: turning off always works, turning on only from the latest settings.

A change either narrows (a deny, a withdrawal, a grant that only takes from those that hold) or
widens (any other grant). Narrowing needs no precondition and is accepted however old the device's
view is. Widening needs the version that the device has seen: else a phone that never saw the "off"
of another would turn it on again.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from engine.consent.lanes import ACTIONS, CATEGORIES, CONTACT, PURPOSES, lanes
from engine.consent.record import ALL, Notice, Record, Scope, WeekWindow, record_id
from engine.consent.row import FOREVER_MS, reach_of
from engine.consent.standing import Standing, Told, standing_of

DAY_MS: Final = 24 * 3_600_000
GRANT_LIFE_MS: Final = 365 * DAY_MS
PRECISE_LIFE_MS: Final = 90 * DAY_MS
"""A grant on precise location ends sooner than others: after 3 months, not 12."""


SPEAK_FOR_OTHERS: Final = ("guardian", "agent")
"""Actors whose "never" a minor can't lift."""


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """One change that a resident asks for."""

    effect: str
    purpose: str
    actions: tuple[str, ...]
    data: tuple[str, ...]
    scope: Scope = ALL
    channels: tuple[str, ...] | None = None
    week: tuple[WeekWindow, ...] | None = None
    places: tuple[str, ...] = ()
    expires_ms: int | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Who says it, when, and on what they saw; the same for all changes of one call."""

    actor: str
    now_ms: int
    if_match: int | None = None
    """The version that the device had seen; None: it named none."""
    device: str | None = None
    notice: Notice | None = None
    client_ms: int | None = None
    proof: str | None = None
    bound: bool = False
    """A minor, who turns nothing on that somebody denied for them."""
    seed: bytes = b""
    """16 to 64 random bytes, from which the records' salts are drawn; empty: they have none."""


class Kept(Protocol):
    """A resident's records so far, as the store keeps them."""

    @property
    def id(self) -> str:
        """The resident."""

    @property
    def version(self) -> int:
        """Version of the last record, 0 without any."""

    @property
    def records(self) -> tuple[Record, ...]:
        """In the order in which they were said."""


class Resolved(msgspec.Struct, frozen=True):
    """What becomes of a call: the records to append, and the changes that were refused."""

    records: tuple[Record, ...]
    refused: tuple[Requested, ...] = ()
    narrows: bool = False
    """Whether something narrows, even if it holds already and leaves no record."""


class TooManyRecords(Exception):
    """A resident has as many records as one may have, and nothing more is turned on."""


class GuardianNeeded(Exception):
    """A minor can't turn on what somebody denied for them."""


class PreconditionRequired(Exception):
    """A widening did not say which version it is based on."""


class PreconditionFailed(Exception):
    """A widening was based on an older version; `difference` is what was said since."""

    def __init__(self, current: int, difference: tuple[Record, ...]) -> None:
        super().__init__(f"the latest version is {current}")
        self.current = current
        self.difference = difference


def marketing(opted_in: bool, brands: Sequence[str] | None = None) -> tuple[Requested, ...]:
    """The shorthand: offers over all channels on precise location, for all or for some brands.

    Opting a brand out is a denial, so that it holds even where a grant for all stands.
    """
    if brands is None:
        effect, scopes = "grant" if opted_in else "withdraw", [ALL]
    else:
        effect = "grant" if opted_in else "deny"
        scopes = [Scope(brand=brand) for brand in sorted(set(brands))]
    return tuple(
        Requested(effect=effect, purpose="offers", actions=(action,), data=(data,), scope=scope)
        for scope in scopes
        for action, data in (("use", "precise_location"), ("contact", "contact_point"))
    )


def stop() -> tuple[Requested, ...]:
    """Everything off: every grant for every purpose is withdrawn."""
    return tuple(
        Requested(
            effect="withdraw", purpose=purpose, actions=tuple(ACTIONS), data=tuple(CATEGORIES)
        )
        for purpose in PURPOSES
    )


def opt_out_of_sale() -> tuple[Requested, ...]:
    """What a signal of a browser says: nothing is shared and nothing is sold, for any purpose."""
    return tuple(
        Requested(effect="deny", purpose=purpose, actions=("share", "sell"), data=tuple(CATEGORIES))
        for purpose in PURPOSES
    )


def resolve(
    kept: Kept, requested: Iterable[Requested], said: Said, *, records_max: int | None = None
) -> Resolved:
    """Turn what a resident asks for into records, by the rule of narrowing and widening.

    Args:
        kept: what they said so far; the records returned follow on it and share the next version.
        requested: in the order in which it was asked.
        said: the circumstances. At version 0 a widening needs no `if_match`.
        records_max: with so many records already nothing is widened, and a narrowing leaves a
            record only where it changes something; None: no limit.

    Returns:
        Narrowings always; widenings if based on the latest version, else in `refused`, unless
        there is nothing else.

    Raises:
        PreconditionRequired: only widenings, and `if_match` is missing.
        PreconditionFailed: only widenings, and `if_match` is not the latest version.
        TooManyRecords: only widenings, and there are `records_max`.
        GuardianNeeded: only widenings, and a minor asks for what was denied for them.
    """
    latest = said.if_match == kept.version or (said.if_match is None and kept.version == 0)
    full = records_max is not None and len(kept.records) >= records_max
    wanted = tuple(requested)
    told: Told | None = None
    if full or (not latest and any(change.effect == "grant" for change in wanted)):
        told = Told(kept.records)
    forbidden = Told(r for r in kept.records if r.actor in SPEAK_FOR_OTHERS) if said.bound else None
    records: list[Record] = []
    refused: list[Requested] = []
    narrows = False
    for change in wanted:
        accepted: Requested | None = change
        if told is not None and change.effect == "grant":
            accepted = narrowed(told.of(change.scope), change, said.now_ms)
        if forbidden is not None and _lifts(change, forbidden.of(change.scope)):
            accepted = None
        if accepted is None:
            refused.append(change)
            continue
        narrows = narrows or told is not None or change.effect != "grant"
        record = _record(kept, accepted, said)
        if told is not None:
            if full and not told.changes_by(record):
                continue
            told.say(record)
        records.append(record)
    if refused and not narrows:
        if latest:
            raise TooManyRecords if full else GuardianNeeded
        if said.if_match is None:
            raise PreconditionRequired
        raise PreconditionFailed(
            kept.version,
            tuple(r for r in kept.records if r.version > (said.if_match or 0)),
        )
    return Resolved(_chained(kept, records, said.seed), tuple(refused), narrows)


def _lifts(change: Requested, held: Iterable[Standing]) -> bool:
    """Whether a grant would take the place of a deny, as a grant for the same scope does."""
    said = lanes(change.purpose, change.actions, change.data)
    denied = (one.lanes & said for one in held if one.record.effect == "deny")
    return change.effect == "grant" and any(denied)


def narrowed(held: Iterable[Standing], change: Requested, now_ms: int) -> Requested | None:
    """A grant as it is known to take away and to allow nothing new; None: it is not.

    For each of its lanes one for the same scope must hold that has all of its channels and hours,
    excepts none but its places, and ends no sooner; and of one of them it must be less. It takes
    the place of those, so that whatever is said later, no more is allowed than if it had not been
    said. Where it names no end, it gets the soonest of theirs: to renew is to widen.

    Args:
        held: what stands for its scope.
        change: a grant.
        now_ms: grants that have ended then are none.
    """
    said = lanes(change.purpose, change.actions, change.data)
    under = [one for one in held if one.lanes & said]
    holds = [one.lanes for one in under if _holds(one, now_ms)]
    if len(holds) < len(under) or said & ~sum(holds):  # no lane stands twice in a scope
        return None
    ends_ms = [_end_ms(one.record) for one in under]
    end_ms = min(ends_ms) if change.expires_ms is None else change.expires_ms
    less = [_less(change, one.record) for one in under if one.lanes & said & CONTACT]
    if end_ms > min(ends_ms) or None in less:
        return None
    if not any(less) and (change.expires_ms is None or end_ms == max(ends_ms)):
        return None
    return msgspec.structs.replace(change, expires_ms=None if end_ms == FOREVER_MS else end_ms)


def _holds(one: Standing, now_ms: int) -> bool:
    """Whether it is a grant that counts."""
    return one.record.effect == "grant" and not one.suspended and now_ms < _end_ms(one.record)


def _end_ms(record: Record) -> int:
    return FOREVER_MS if record.expires_ms is None else record.expires_ms


def _less(change: Requested, grant: Record) -> bool | None:
    """Whether the one allows contact on fewer channels, at fewer hours, or in fewer places than the
    other; None: on some, at some or in some that the other does not."""
    channels, week, places = reach_of(change.channels, change.week, change.places)
    most_channels, most_hours, spared = reach_of(grant.channels, grant.week, grant.places)
    if channels & ~most_channels or week & ~most_hours or not {*places} >= {*spared}:
        return None
    return (channels, week, places) != (most_channels, most_hours, spared)


def _record(kept: Kept, change: Requested, said: Said) -> Record:
    """An accepted change as a record, apart from its place among others."""
    return Record(
        subject=kept.id,
        actor=said.actor,
        effect=change.effect,
        purpose=change.purpose,
        actions=change.actions,
        data=change.data,
        scope=change.scope,
        version=kept.version + 1,
        server_ms=said.now_ms,
        client_ms=said.client_ms,
        expires_ms=_expiry(change, said.now_ms),
        channels=change.channels,
        week=change.week,
        places=change.places,
        notice=said.notice,
        device=said.device,
        proof=said.proof,
    )


def _chained(kept: Kept, records: Sequence[Record], seed: bytes) -> tuple[Record, ...]:
    """The records of a call, each with the hash of the one before it."""
    before = record_id(kept.records[-1]) if kept.records else ""
    chained: list[Record] = []
    for place, record in enumerate(records):
        one = msgspec.structs.replace(
            record, supersedes=before, call_records=len(records), salt=_salt(seed, place)
        )
        before = record_id(one)
        chained.append(one)
    return tuple(chained)


def _salt(seed: bytes, place: int) -> str | UnsetType:
    """The salt of a call's record: whoever knows one of them learns nothing of the others."""
    if not seed:
        return UNSET
    return hashlib.blake2b(place.to_bytes(4), key=seed, digest_size=16).hexdigest()


def _expiry(change: Requested, now_ms: int) -> int | None:
    """When a grant ends: when the resident says, but never later than its kind may last."""
    if change.effect != "grant":
        return None
    life_ms = PRECISE_LIFE_MS if "precise_location" in change.data else GRANT_LIFE_MS
    latest_ms = now_ms + life_ms
    return latest_ms if change.expires_ms is None else min(change.expires_ms, latest_ms)


def standing(records: Iterable[Record], now_ms: int) -> list[Standing]:
    """What holds at an instant of all that was said, for showing it to the resident."""
    return [held for held in _unexpired(records, now_ms) if not held.suspended]


def due(records: Iterable[Record], now_ms: int, *, within_ms: int) -> list[Record]:
    """Grants that hold and end soon, the first to end first: due for renewal.

    A renewal is a new grant of the same, which replaces the old one; like any grant it rests on
    the latest version and names the notice that was shown for it.
    """
    found = {
        record_id(held.record): held.record
        for held in standing(records, now_ms)
        if held.record.effect == "grant"
        and held.record.expires_ms is not None
        and held.record.expires_ms <= now_ms + within_ms
    }
    return [found[name] for name in sorted(found, key=lambda n: (found[n].expires_ms, n))]


def suspended(records: Iterable[Record], now_ms: int) -> list[Standing]:
    """Grants from before a restore that would hold at an instant, were they confirmed."""
    return [held for held in _unexpired(records, now_ms) if held.suspended]


def _unexpired(records: Iterable[Record], now_ms: int) -> list[Standing]:
    return [
        held
        for held in standing_of(records)
        if held.record.expires_ms is None or held.record.expires_ms > now_ms
    ]
