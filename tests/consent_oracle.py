"""The rule of consent once more, written from its description and not from its code.

It is slow and has no bits: one question about one (purpose, action, data) at a time, answered by
reading a resident's records from the first to the last.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from engine.consent.law import Rule
from engine.consent.record import Record, Scope, WeekWindow

Lane = tuple[str, str, str]


class Asked(NamedTuple):
    """Who wants to do what, when, and how."""

    lanes: tuple[Lane, ...]
    brand: str
    categories: tuple[str, ...] = ()
    deny_categories: tuple[str, ...] = ()
    channel: str = "push"
    now_ms: int = 0
    zone: str = "UTC"
    outside: tuple[str, ...] | None = None
    """The zones that the resident is surely not in; None: nobody can tell where they are."""
    age: str | None = None
    """Their age band; None: nobody told, which means an adult."""
    rules: tuple[Rule, ...] = ()
    """Of law, that are switched on."""


OFFER = (("offers", "use", "precise_location"), ("offers", "contact", "contact_point"))


def answer(records: Sequence[Record], asked: Asked) -> str:
    """`allow`, or the first of the reasons for a no."""
    if any(_is_unlawful(records, lane, asked) for lane in asked.lanes):
        return "law"
    if any(_denies(records, lane, asked) for lane in asked.lanes):
        return "denied"
    grants = {lane: _grants(records, lane, asked) for lane in asked.lanes}
    if not all(grants.values()):
        return "no_grant"
    contacts = [found for lane, found in grants.items() if lane[1] == "contact"]
    if not all(any(_on(g, asked.channel) for g in found) for found in contacts):
        return "channel"
    on_channel = [[g for g in found if _on(g, asked.channel)] for found in contacts]
    here = [[g for g in found if _here(g, asked)] for found in on_channel]
    if not all(here):
        return "place"
    if not all(any(_in_hours(g, asked) for g in found) for found in here):
        return "quiet_hours"
    return "allow"


def _is_unlawful(records: Sequence[Record], lane: Lane, asked: Asked) -> bool:
    """Whether a rule for their age denies it, or a signal that no grant for all took back."""
    for rule in asked.rules:
        applies = rule.ages is None or (asked.age or "adult") in rule.ages
        parts = zip(lane, (rule.purposes, rule.actions, rule.data), strict=True)
        if applies and all(said is None or word in said for word, said in parts):
            return True
    return any(
        _is_of_a_signal(record) and _says(record, lane) and not _is_lifted(records, place, lane)
        for place, record in enumerate(records)
    )


def _is_of_a_signal(record: Record) -> bool:
    return record.effect == "deny" and record.actor == "signal" and record.scope.all


def _is_lifted(records: Sequence[Record], place: int, lane: Lane) -> bool:
    """Whether a deny was taken back: only by a later grant of the very same scope.

    A later deny of that scope takes its place.
    """
    scope = records[place].scope
    return any(
        later.effect != "withdraw" and later.scope == scope and _says(later, lane)
        for later in records[place + 1 :]
    )


def _says(record: Record, lane: Lane) -> bool:
    purpose, action, data = lane
    return record.purpose == purpose and action in record.actions and data in record.data


def _applies(scope: Scope, brand: str, categories: Iterable[str]) -> bool:
    """Whether what was said of a scope is meant for this brand."""
    return scope.all or scope.brand == brand or scope.category in set(categories)


def _denies(records: Sequence[Record], lane: Lane, asked: Asked) -> bool:
    """Whether a deny of the resident's own stands."""
    categories = {*asked.categories, *asked.deny_categories}
    return any(
        record.effect == "deny"
        and not _is_of_a_signal(record)
        and _says(record, lane)
        and not _is_lifted(records, place, lane)
        and _applies(record.scope, asked.brand, categories)
        for place, record in enumerate(records)
    )


def _grants(records: Sequence[Record], lane: Lane, asked: Asked) -> list[Record]:
    """The grants of a lane to the brand that stand and have not expired."""
    found = []
    for place, record in enumerate(records):
        if record.effect != "grant" or not _says(record, lane):
            continue
        if not _applies(record.scope, asked.brand, asked.categories):
            continue
        taken = any(
            later.scope == record.scope or (later.effect == "withdraw" and later.scope.all)
            for later in records[place + 1 :]
            if _says(later, lane)
        )
        expired = record.expires_ms is not None and asked.now_ms >= record.expires_ms
        if not taken and not expired:
            found.append(record)
    return found


def _on(grant: Record, channel: str) -> bool:
    return grant.channels is None or channel in grant.channels


def _here(grant: Record, asked: Asked) -> bool:
    """Whether the grant holds where the resident is: in none of its places, as far as is known."""
    if not grant.places:
        return True
    return asked.outside is not None and set(grant.places) <= set(asked.outside)


def _in_hours(grant: Record, asked: Asked) -> bool:
    """Whether the wall clock of the zone shows one of the grant's hours."""
    wall = datetime.fromtimestamp(asked.now_ms / 1_000, UTC).astimezone(ZoneInfo(asked.zone))
    if grant.week is None:
        return 8 <= wall.hour < 21
    return any(_in_window(window, wall.isoweekday(), wall.hour) for window in grant.week)


def _in_window(window: WeekWindow, today: int, hour: int) -> bool:
    """Whether an hour of a day lies in a window, which may have begun the day before."""
    yesterday = 7 if today == 1 else today - 1
    begins, ends = window.from_hour, window.to_hour
    if ends > begins:
        return today in window.days and begins <= hour < ends
    return (today in window.days and hour >= begins) or (yesterday in window.days and hour < ends)
