"""Turn successive fixes of one phone into enter, dwell, exit and pass, without jitter.

    outside --P(inside) >= 0.75 on one fix--> inside --dwell_s passed--> dwelled
    inside --two fixes in a row clear of the fence, or 30 min of silence--> outside
    outside --the way between two fixes met the fence--> pass

`step` is the only way by which stays change. There is no clock and no I/O: time is the fix's own,
so that a recorded stream replays exactly. A phone's fixes are folded in the order of their keys;
what arrives late is folded again from the fixes that are still kept (see engine/residents.py).

With d the signed metres to the boundary (positive inside) and sd the noise, P(inside) is
Phi(d / sd). sd is accuracy/1.5, since the phone systems give the radius that holds 68 % of a
two-dimensional normal, which is 1.51 of its standard deviations; it is at least 5 m, because no
phone is better in a street, and at most half the fence's inradius, because a fence that is
smaller than the noise could otherwise never be entered.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from geofences.fence import Fence
from geofences.globe import Space, ecef
from geofences.measure import depth_m, is_farther

ENTER_CONFIDENCE_MIN: Final = 0.75
ENTER_ACCURACY_MAX_M: Final = 150.0
ACCURACY_UNKNOWN_M: Final = 65.0
"""What an unknown or zero accuracy counts as: a typical fix from Wi-Fi."""
SD_MIN_M: Final = 5.0
EXIT_FIXES: Final = 2
EXIT_MARGIN_MIN_M: Final = 20.0
EXIT_MARGIN_INRADII: Final = 0.1
_SD_TINY_M: Final = 1e-6
"""Keeps the division whole in a fence so thin that its inradius is lost in rounding."""
SILENCE_MAX_MS: Final = 30 * 60_000
"""After a longer gap between two fixes, the stays before it are over."""


class Fix(msgspec.Struct, frozen=True, gc=False):
    """One position of a phone as transitions see it."""

    at_ms: int
    lon: float
    lat: float
    accuracy_m: float
    """> 0: what the phone said, or `ACCURACY_UNKNOWN_M`."""


class Stay(msgspec.Struct, frozen=True, gc=False):
    """A phone's stay in one fence."""

    fence: Fence
    """The fence as it was when last matched; another object of the same id means it was edited."""
    entered_ms: int
    dwelled_s: int
    """The longest dwell already told, seconds; 0: none."""
    clear_fixes: int
    """Fixes in a row, up to the last, that were clear of the fence."""


Stays = tuple[Stay, ...]
"""Ordered by fence id."""


class Transition(msgspec.Struct, frozen=True, gc=False):
    """Something that a fix showed."""

    fence: Fence
    kind: str
    """`exit`, `enter`, `dwell` or `pass`."""
    at_ms: int
    confidence: float
    """Probability that the position was inside, for an exit outside; 4 decimals."""
    dwell_s: int | None = None
    assumed: bool = False


class Dwells(NamedTuple):
    """The lengths of stay that somebody wants to hear of."""

    at: Callable[[Fence], Sequence[int]]
    """At a fence, rising, seconds."""
    least_s: int = 0
    """Nowhere is a shorter one waited for, so that most fences need not be asked."""
    most_s: int = 2**63
    """Nor a longer one anywhere."""


def accuracy_or_default(accuracy_m: float | None) -> float:
    """The accuracy to reckon with, metres: unknown or zero counts as 65 m."""
    return accuracy_m or ACCURACY_UNKNOWN_M


def noise_sd_m(accuracy_m: float, inradius_m: float) -> float:
    """Standard deviation of a fix's noise per axis, metres, as far as this fence goes."""
    return max(min(max(accuracy_m / 1.5, SD_MIN_M), inradius_m / 2.0), _SD_TINY_M)


def exit_margin_m(fence: Fence) -> float:
    """How far outside even the most accurate fix must be to be clear of a fence, metres."""
    return max(EXIT_MARGIN_INRADII * fence.inradius_m, EXIT_MARGIN_MIN_M)


def probability_inside(depth: float, sd: float) -> float:
    """Phi(depth / sd), rounded to 4 decimals so that every platform gives the same bytes."""
    return round(0.5 * math.erfc(-depth / (sd * math.sqrt(2.0))), 4)


def assumed_exit_ms(last_ms: int, at_ms: int, *, slack_ms: int = 0) -> int | None:
    """When the stays before a silence are taken to have ended; None if it was no silence.

    Args:
        last_ms: event time of the fix before.
        at_ms: event time of the fix that ends the gap.
        slack_ms: by how much `last_ms` may be behind the truth, as after a restart; a gap must be
            longer by this much, so that nobody is taken to have left who was heard of in between.
    """
    return last_ms + SILENCE_MAX_MS if at_ms - last_ms > SILENCE_MAX_MS + slack_ms else None


def step(
    stays: Stays,
    before: Fix | None,
    fix: Fix,
    covering: Sequence[Fence],
    met: Sequence[Fence],
    *,
    over_ms: int | None = None,
    current: Callable[[Fence], Fence | None],
    dwells: Dwells,
) -> tuple[Stays, tuple[Transition, ...]]:
    """Move one phone's stays on to its next fix and say what it showed.

    Args:
        stays: as they were after `before`.
        before: the fix before; None: this is the first.
        fix: later than `before` in the order of fixes.
        covering: the fences that cover `fix`, boundary included, by id.
        met: other fences that the way from `before` meets; those that covered `before` may be
            among them.
        over_ms: from `assumed_exit_ms`: all stays ended then, unheard of; None: no silence.
        current: a fence as it is now, None if it was deleted.
        dwells: the lengths of stay that somebody wants to hear of.

    Returns:
        The new stays (the same object if nothing changed) and the transitions: exits, enters,
        dwells, passes, each by fence id.

    A stay in a fence that was deleted, or given to another brand that may not see the fix or does
    not cover it, ends in silence. In one that was edited it goes on unless the fix is clear of the
    new shape, and then ends in silence: noise must not turn an edit into a second enter.
    """
    if not stays and not covering and not met:
        return stays, ()
    told: list[Transition] = []
    if over_ms is not None:
        told.extend(
            Transition(s.fence, "exit", over_ms, 0.5, assumed=True)
            for s in stays
            if current(s.fence) is s.fence
        )
        stays, before = (), None
    if _all_as_before(stays, covering):
        kept = stays
    else:
        kept = _still_there(stays, fix, covering, current, told) if stays else ()
        entered = _entered(kept, fix, covering, told) if covering else ()
        if entered:
            kept = tuple(sorted((*kept, *entered), key=_fence_id))
    if kept:
        kept = _dwelled(kept, fix, dwells, told)
    if met and before is not None:
        _passed(stays, before, fix, met, told)
    return kept, tuple(told)


def _fence_id(stay: Stay) -> str:
    return stay.fence.id


def _all_as_before(stays: Stays, covering: Sequence[Fence]) -> bool:
    """Whether the stays are in just what covers the fix: the common case, and the cheap one."""
    if len(stays) != len(covering):
        return False
    for stay, fence in zip(stays, covering, strict=True):
        if stay.fence is not fence or stay.clear_fixes:
            return False
    return True


def _still_there(
    stays: Stays,
    fix: Fix,
    covering: Sequence[Fence],
    current: Callable[[Fence], Fence | None],
    told: list[Transition],
) -> Stays:
    """The stays that go on; exits are told."""
    kept: list[Stay] = []
    changed = False
    place: Space | None = None
    for stay in stays:
        fence = stay.fence
        if fence in covering:
            if stay.clear_fixes:
                stay, changed = _inside(stay, fence), True  # noqa: PLW2901
            kept.append(stay)
            continue
        changed = True
        now = current(fence)
        if now is not fence:
            if now is not None and _goes_on(fence, now, fix, covering):
                kept.append(_inside(stay, now))
            continue
        place = place or ecef(fix.lon, fix.lat)
        clear = stay.clear_fixes + 1 if _is_clear(fence, fix, place) else 0
        if clear < EXIT_FIXES:
            kept.append(Stay(fence, stay.entered_ms, stay.dwelled_s, clear))
        else:
            sd = noise_sd_m(fix.accuracy_m, fence.inradius_m)
            inside = probability_inside(depth_m(fence, fix.lon, fix.lat), sd)
            outside = round(1.0 - inside, 4)
            told.append(Transition(fence, "exit", fix.at_ms, outside))
    return tuple(kept) if changed else stays


def _inside(stay: Stay, fence: Fence) -> Stay:
    """A stay that goes on in a fence, with no fix clear of it."""
    return Stay(fence, stay.entered_ms, stay.dwelled_s, 0)


def _is_clear(fence: Fence, fix: Fix, place: Space) -> bool:
    """Whether the whole error circle of a fix lies outside the fence with its margin."""
    away_m = fix.accuracy_m + exit_margin_m(fence)
    return is_farther(fence, fix.lon, fix.lat, place, away_m)


def _goes_on(before: Fence, now: Fence, fix: Fix, covering: Sequence[Fence]) -> bool:
    """Whether a stay in an edited fence goes on in what the fence is now."""
    if now in covering:
        return True
    return now.brand == before.brand and not _is_clear(now, fix, ecef(fix.lon, fix.lat))


def _entered(
    kept: Stays, fix: Fix, covering: Sequence[Fence], told: list[Transition]
) -> tuple[Stay, ...]:
    """New stays in those of the covering fences that the fix is surely enough inside of."""
    if fix.accuracy_m > ENTER_ACCURACY_MAX_M:
        return ()
    # Of the fences as they are now: those that were edited have been put in place of the old.
    inside = [stay.fence for stay in kept]
    entered: list[Stay] = []
    for fence in covering:
        if fence in inside:
            continue
        sd = noise_sd_m(fix.accuracy_m, fence.inradius_m)
        sure = probability_inside(depth_m(fence, fix.lon, fix.lat), sd)
        if sure >= ENTER_CONFIDENCE_MIN:
            entered.append(Stay(fence, fix.at_ms, 0, 0))
            told.append(Transition(fence, "enter", fix.at_ms, sure))
    return tuple(entered)


def _dwelled(
    kept: Stays,
    fix: Fix,
    dwells: Dwells,
    told: list[Transition],
) -> Stays:
    """The stays with the dwells marked that are due at this fix, each told once."""
    since_ms, most_s = fix.at_ms - dwells.least_s * 1_000, dwells.most_s
    marked: list[Stay] | None = None
    for place, stay in enumerate(kept):
        if stay.entered_ms > since_ms or stay.dwelled_s >= most_s or stay.clear_fixes:
            continue
        wanted = dwells.at(stay.fence)
        if not wanted or wanted[-1] <= stay.dwelled_s:
            continue
        stayed_ms = fix.at_ms - stay.entered_ms
        due = [s for s in wanted if s > stay.dwelled_s and s * 1_000 <= stayed_ms]
        if not due:
            continue
        depth = depth_m(stay.fence, fix.lon, fix.lat)
        sure = probability_inside(depth, noise_sd_m(fix.accuracy_m, stay.fence.inradius_m))
        told.extend(Transition(stay.fence, "dwell", fix.at_ms, sure, dwell_s=s) for s in due)
        marked = marked or list(kept)
        marked[place] = Stay(stay.fence, stay.entered_ms, due[-1], 0)
    return kept if marked is None else tuple(marked)


def _passed(
    stays: Stays, before: Fix, fix: Fix, met: Sequence[Fence], told: list[Transition]
) -> None:
    """Tell the fences that were crossed with both ends outside.

    A fence with a stay is left by its exit, not passed; a fix too vague to enter by is too vague
    to pass by.
    """
    if max(before.accuracy_m, fix.accuracy_m) > ENTER_ACCURACY_MAX_M:
        return
    inside = {stay.fence.id for stay in stays}
    for fence in met:
        if fence.id in inside or depth_m(fence, before.lon, before.lat) >= 0.0:
            continue
        sd = noise_sd_m(max(before.accuracy_m, fix.accuracy_m), fence.inradius_m)
        sure = probability_inside(_deepest_m(fence, before, fix), sd)
        told.append(Transition(fence, "pass", fix.at_ms, sure))


def _deepest_m(fence: Fence, before: Fix, fix: Fix) -> float:
    """How deep the way between two fixes goes into a fence, metres, looked at in 15 places."""
    east = (fix.lon - before.lon + 540.0) % 360.0 - 180.0
    north = fix.lat - before.lat
    return max(
        depth_m(
            fence,
            (before.lon + east * part / 16 + 540.0) % 360.0 - 180.0,
            before.lat + north * part / 16,
        )
        for part in range(1, 16)
    )
