"""Receipts of what the records lack, after a backup was restored: what they still say "no" to.

The chain shows that receipts are whole and in order. It can't show that none came after the newest
of them: another device may have said "no" since. So receipts only ever narrow. Whatever they
denied, took back or cut down is said again; to turn something on, the resident is asked, as ever.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from engine.consent.merge import parts
from engine.consent.record import Record, Scope, record_id
from engine.consent.standing import Standing, standing_of
from engine.consent.sync import SPEAK_FOR_OTHERS, Requested

Speaker = Literal["self", "guardian", "signal"]
"""Whose a "no" is: a guardian's or an agent's, a browser's, or that of whoever brings it back."""

_HOLDS_FOR: Final[dict[Speaker, tuple[Speaker, ...]]] = {
    "self": ("self", "guardian", "signal"),
    "guardian": ("guardian",),
    "signal": ("guardian", "signal"),
}
"""Speaker -> whose deny of the same is as good."""

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


def noes(
    kept: Sequence[Record], presented: Iterable[Record]
) -> dict[Speaker, tuple[Requested, ...]]:
    """What has to be said so that no "no" of the receipts is lost, by speaker, in that order.

    Args:
        kept: all their records, in order.
        presented: records of theirs, in any order; those that are kept too say nothing new.

    Returns:
        Denies that stood at the end of the receipts, and withdrawals of what was left then of the
        grants that are kept. Grants of after the restore stay, as far as these don't touch them.
        A guardian's deny and a browser's are theirs again, since a minor does not lift the one, and
        the other is a floor; a speaker who has nothing to say is left out.

    Raises:
        OutOfChain: of two branches, or with a gap.
    """
    places = {BEGINNING: 0} | {record_id(one): place for place, one in enumerate(kept, start=1)}
    lost = {name: one for one in presented if (name := record_id(one)) not in places}
    if not lost:
        return {}
    before, said = _chained(kept, places, lost)
    then = [*before, *said]
    again = _denies(_denied(then), _denied(kept))
    again["self"] = _withdrawals(before, standing_of(then), standing_of(kept)) + again["self"]
    return {speaker: tuple(what) for speaker, what in again.items() if what}


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


_Denied = dict[Speaker, dict[Scope, int]]


def _denied(records: Sequence[Record]) -> _Denied:
    """What is denied, by whom and to whom; what several denied, is said once."""
    others: dict[Scope, int] = {}
    for held in standing_of(one for one in records if one.actor in SPEAK_FOR_OTHERS):
        if held.record.effect == "deny":
            others[held.record.scope] = others.get(held.record.scope, 0) | held.lanes
    denied: _Denied = {"self": {}, "guardian": {}, "signal": {}}
    for held in standing_of(records):
        scope = held.record.scope
        if held.record.effect == "deny":
            theirs = held.lanes & others.get(scope, 0)
            own: Speaker = "signal" if held.record.actor == "signal" else "self"
            said: dict[Speaker, int] = {"guardian": theirs, own: held.lanes & ~theirs}
            for speaker, lanes in said.items():
                denied[speaker][scope] = denied[speaker].get(scope, 0) | lanes
    return denied


def _denies(then: _Denied, now: _Denied) -> dict[Speaker, list[Requested]]:
    """What was denied and is not, or by nobody whose word is as good."""
    return {
        speaker: _requested(
            "deny",
            {
                scope: lanes & ~_all_of(now[one].get(scope, 0) for one in _HOLDS_FOR[speaker])
                for scope, lanes in scopes.items()
            },
        )
        for speaker, scopes in then.items()
    }


def _all_of(sets: Iterable[int]) -> int:
    """The lanes of any of some sets."""
    together = 0
    for lanes in sets:
        together |= lanes
    return together


def _requested(effect: str, said: Mapping[Scope, int]) -> list[Requested]:
    return [
        Requested(effect=effect, purpose=purpose, actions=actions, data=data, scope=scope)
        for scope, lanes in said.items()
        for purpose, actions, data in parts(lanes)
    ]
