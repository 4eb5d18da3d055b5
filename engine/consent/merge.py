"""Two residents become one: what either denied stays denied, and only what both granted is granted.

A person who used two apps, or whom a city knew twice, never said of the one what they said of the
other. So a merge may only narrow: denies are united, grants are cut with each other. What can't be
said exactly by records is left out, and so is what is suspended.

    grant of one    grant of the other    the merged one grants
    all             any scope             that scope
    a scope         the same scope        that scope
    otherwise                             nothing: a brand may leave its category tomorrow
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from engine.consent.lanes import ACTIONS, CATEGORIES, CHANNELS, CONTACT, PURPOSES, lanes
from engine.consent.record import ALL, Record, Scope, WeekWindow
from engine.consent.row import WEEK_DEFAULT, week_mask
from engine.consent.standing import Standing
from engine.consent.sync import Requested, standing, stop

_DAY: Final = (1 << 24) - 1


def merged(
    own: Iterable[Record], other: Iterable[Record], now_ms: int, *, renamed: Mapping[str, str]
) -> tuple[Requested, ...]:
    """What the one who stays has to say so that it is the least of what both said.

    Args:
        own: what the one who stays said, in order.
        other: what the one who goes said.
        now_ms: grants that have expired then are none.
        renamed: places of the one who goes -> their names with the one who stays.
    """
    ours, theirs = standing(own, now_ms), standing(other, now_ms)
    denied = _denied([*ours, *theirs])
    pairs = [
        (one, two)
        for one in ours
        for two in theirs
        if one.record.effect == two.record.effect == "grant"
    ]
    # A grant replaces what was said before for its scope: what both said of it has the last word.
    pairs.sort(key=lambda pair: pair[0].record.scope == pair[1].record.scope)
    grants = [said for one, two in pairs for said in _meet(one, two, denied, renamed)]
    denies = [
        Requested(effect="deny", purpose=p, actions=a, data=d, scope=held.record.scope)
        for held in theirs
        if held.record.effect == "deny"
        for p, a, d in parts(held.lanes)
    ]
    return (*stop(), *dict.fromkeys(grants), *dict.fromkeys(denies))


def _denied(held: Iterable[Standing]) -> dict[Scope, int]:
    """The lanes that either denied, by scope. A grant of that scope would lift the deny."""
    denied: dict[Scope, int] = {}
    for one in held:
        if one.record.effect == "deny":
            denied[one.record.scope] = denied.get(one.record.scope, 0) | one.lanes
    return denied


def _meet(
    one: Standing, two: Standing, denied: Mapping[Scope, int], renamed: Mapping[str, str]
) -> Iterator[Requested]:
    """What two grants have in common."""
    scope = _scope(one.record.scope, two.record.scope)
    if scope is None:
        return
    said = one.lanes & two.lanes & ~denied.get(scope, 0)
    channels = _channels(one.record.channels, two.record.channels)
    week = _week(one.record.week, two.record.week)
    if channels == () or week == ():
        said &= ~CONTACT
    places = (*one.record.places, *(renamed.get(name, name) for name in two.record.places))
    for purpose, actions, data in parts(said):
        reaches = "contact" in actions
        yield Requested(
            effect="grant",
            purpose=purpose,
            actions=actions,
            data=data,
            scope=scope,
            channels=channels if reaches else None,
            week=week if reaches else None,
            places=tuple(dict.fromkeys(places)) if reaches else (),
            expires_ms=_sooner(one.record.expires_ms, two.record.expires_ms),
        )


def _scope(one: Scope, two: Scope) -> Scope | None:
    """Whom both are about, if a record can say so."""
    if one == ALL:
        return two
    return one if two in (one, ALL) else None


def _channels(one: tuple[str, ...] | None, two: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Channels that both name; None: all."""
    if one is None or two is None:
        return two if one is None else one
    return tuple(name for name in CHANNELS if name in one and name in two)


def _week(
    one: tuple[WeekWindow, ...] | None, two: tuple[WeekWindow, ...] | None
) -> tuple[WeekWindow, ...] | None:
    """Hours that both name; None: outside the quiet hours."""
    if one == two:
        return one
    mask = week_mask(WEEK_DEFAULT if one is None else one)
    return windows(mask & week_mask(WEEK_DEFAULT if two is None else two))


def windows(mask: int) -> tuple[WeekWindow, ...]:
    """Windows of just these hours of the week, none of them overnight; the inverse of `week_mask`.

    Days of equal hours share their windows.
    """
    days: dict[int, list[int]] = {}
    for day in range(7):
        hours = mask >> 24 * day & _DAY
        days.setdefault(hours, []).append(day + 1)
    return tuple(
        WeekWindow(tuple(of), first, last)
        for hours, of in sorted(days.items(), key=lambda item: item[1])
        for first, last in _runs(hours)
    )


def _runs(hours: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits of a day: first hour, and the hour after the last."""
    hour = 0
    while hour < 24:
        if not hours >> hour & 1:
            hour += 1
            continue
        first = hour
        while hour < 24 and hours >> hour & 1:
            hour += 1
        yield first, hour


def parts(said: int) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """A set of lanes as purposes, each with actions on the same kinds of data."""
    for purpose in PURPOSES:
        by_data: dict[tuple[str, ...], list[str]] = {}
        for action in ACTIONS:
            data = tuple(kind for kind in CATEGORIES if said & lanes(purpose, (action,), (kind,)))
            if data:
                by_data.setdefault(data, []).append(action)
        for data, actions in by_data.items():
            yield purpose, tuple(actions), data


def _sooner(one: int | None, two: int | None) -> int | None:
    """The earlier end; None: none."""
    return min((end for end in (one, two) if end is not None), default=None)
