"""What holds of all that was said: each grant and deny, less what later records took from it."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import count
from operator import itemgetter
from typing import Final

import msgspec

from engine.consent.lanes import lanes
from engine.consent.record import SUSPENSIONS, Record, Scope

KNOWN_MAX: Final = 10_000
"""Sets of words whose lanes are remembered."""


class Standing(msgspec.Struct, frozen=True):
    """A grant or a deny that holds, less the lanes that later records took from it."""

    record: Record
    lanes: int
    suspended: bool = False
    """A grant from before a restore, not confirmed since: it allows nothing."""


_lanes: Final = lru_cache(maxsize=KNOWN_MAX)(lanes)


def lanes_of(record: Record) -> int:
    """The lanes that a record speaks of."""
    return _lanes(record.purpose, record.actions, record.data)


def standing_of(records: Iterable[Record]) -> list[Standing]:
    """Fold what a resident said, in the order in which it was said, into what holds.

    A grant or a deny replaces what was said before on the same lanes for the same scope. A
    withdrawal takes grants away: those of its scope, or with the scope `all` those of every scope.
    It never lifts a deny, so that withdrawing can only narrow. `suspend` and `confirm` are about
    every grant so far, and about no deny. Expiry is not looked at here.
    """
    return Told(records).standing


_ByScope = dict[Scope, dict[int, Standing]]
"""Scope -> place of a record among all -> what stands of it; no lane stands twice in a scope."""


class Told:
    """What holds of all that a resident said so far; a step costs the same after ever so much."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._grants: _ByScope = {}
        self._denies: _ByScope = {}
        self._places = count()
        for record in records:
            self.say(record)

    @property
    def standing(self) -> list[Standing]:
        """What holds, in the order in which it was said."""
        found: list[tuple[int, Standing]] = []
        for by_scope in (self._grants, self._denies):
            for own in by_scope.values():
                found += own.items()
        found.sort(key=itemgetter(0))
        return [held for _, held in found]

    def of(self, scope: Scope) -> tuple[Standing, ...]:
        """What holds for just this scope."""
        return (*self._grants.get(scope, _NONE).values(), *self._denies.get(scope, _NONE).values())

    def changes_by(self, record: Record) -> bool:
        """Whether anything would hold otherwise after one more record; a grant is taken to."""
        scope, said = record.scope, lanes_of(record)
        if record.effect == "withdraw":
            touched = self._grants.values() if scope.all else [self._grants.get(scope, _NONE)]
            return any(held.lanes & said for own in touched for held in own.values())
        denied = sum(held.lanes for held in self._denies.get(scope, _NONE).values())
        return record.effect != "deny" or bool(said & ~denied)

    def say(self, record: Record) -> None:
        """Take in one more record."""
        if record.effect in SUSPENSIONS:
            for own in self._grants.values():
                for place, held in own.items():
                    own[place] = Standing(held.record, held.lanes, record.effect == "suspend")
            return
        scope, said = record.scope, lanes_of(record)
        if record.effect == "withdraw":
            for each in tuple(self._grants) if scope.all else (scope,):
                _take(self._grants, each, said)
            return
        _take(self._grants, scope, said)
        _take(self._denies, scope, said)
        if said:
            by_scope = self._grants if record.effect == "grant" else self._denies
            by_scope.setdefault(scope, {})[next(self._places)] = Standing(record, said)


_NONE: Final[Mapping[int, Standing]] = {}


def _take(by_scope: _ByScope, scope: Scope, said: int) -> None:
    """Take lanes from what stands for a scope."""
    own = by_scope.get(scope)
    if own is None:
        return
    for place, held in tuple(own.items()):
        if left := held.lanes & ~said:
            own[place] = Standing(held.record, left, held.suspended)
        else:
            del own[place]
    if not own:
        del by_scope[scope]
