"""Receipts of what the records lack, after a backup was restored: what they still say "no" to.

The chain shows that receipts are whole and in order. It can't show that none came after the newest
of them: another device may have said "no" since. So receipts only ever narrow. Whatever they
denied, took back or cut down is said again; to turn something on, the resident is asked, as ever.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from engine.consent.merge import parts
from engine.consent.record import Record, Scope, record_id
from engine.consent.standing import Standing, standing_of
from engine.consent.sync import Requested

BEGINNING: Final = ""
"""What the first record of all comes after."""


class OutOfChain(Exception):
    """Receipts that don't follow, one after another, on a record that is kept.

    Attributes:
        ids: of these.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        super().__init__("receipts are missing before these")
        self.ids = frozenset(ids)


def noes(kept: Sequence[Record], presented: Iterable[Record]) -> tuple[Requested, ...]:
    """What a resident has to say so that no "no" of the receipts is lost.

    Args:
        kept: all their records, in order.
        presented: records of theirs, in any order; those that are kept too say nothing new.

    Returns:
        Denies that stood at the end of the receipts, and withdrawals of what was left then of the
        grants that are kept. Grants of after the restore stay, as far as these don't touch them.

    Raises:
        OutOfChain: of two branches, or with a gap.
    """
    places = {BEGINNING: 0} | {record_id(one): place for place, one in enumerate(kept, start=1)}
    lost = {name: one for one in presented if (name := record_id(one)) not in places}
    if not lost:
        return ()
    before, said = _chained(kept, places, lost)
    then, now = standing_of([*before, *said]), standing_of(kept)
    return (*_withdrawals(before, then, now), *_denies(then, now))


def _chained(
    kept: Sequence[Record], places: Mapping[str, int], lost: Mapping[str, Record]
) -> tuple[Sequence[Record], list[Record]]:
    """The kept records on which the lost ones follow, and these in order."""
    following = {one.supersedes: name for name, one in lost.items()}
    roots = [name for before, name in following.items() if before in places]
    said: list[Record] = []
    name = roots[0] if roots else None
    while name is not None:
        said.append(lost[name])
        name = following.get(name)
    if len(said) < len(lost):
        raise OutOfChain(lost.keys() - {record_id(one) for one in said})
    return kept[: places[said[0].supersedes]], said


def _withdrawals(
    before: Sequence[Record], then: Iterable[Standing], now: Iterable[Standing]
) -> list[Requested]:
    """What was taken, later, from the grants that are kept, be it by a grant in their place."""
    old = {record_id(one) for one in before}
    left = {record_id(held.record): held.lanes for held in then}
    gone: dict[Scope, int] = {}
    for held in now:
        name = record_id(held.record)
        if held.record.effect == "grant" and name in old:
            scope = held.record.scope
            gone[scope] = gone.get(scope, 0) | held.lanes & ~left.get(name, 0)
    return _requested("withdraw", gone)


def _denies(then: Iterable[Standing], now: Iterable[Standing]) -> list[Requested]:
    """What was denied and is not."""
    missing: dict[Scope, int] = {}
    for held in then:
        if held.record.effect == "deny":
            missing[held.record.scope] = missing.get(held.record.scope, 0) | held.lanes
    for held in now:
        if held.record.effect == "deny" and held.record.scope in missing:
            missing[held.record.scope] &= ~held.lanes
    return _requested("deny", missing)


def _requested(effect: str, said: Mapping[Scope, int]) -> list[Requested]:
    return [
        Requested(effect=effect, purpose=purpose, actions=actions, data=data, scope=scope)
        for scope, lanes in said.items()
        for purpose, actions, data in parts(lanes)
    ]
