"""How residents move and what their phones report: true positions first, then fixes with noise.

The noise is a Gauss-Markov process, one for east and one for north: its error stays for about a
minute, as that of a phone between houses does, and does not average out from fix to fix. The
reported `accuracy_m` is the radius that holds the true position 68 times in 100, which for equal
normal errors on both axes is 1.51 standard deviations of one axis.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Final

from loadtest.streets import Point, Streets, to_lon_lat

SPEED_MIN_MPS: Final = 1.1
SPEED_MAX_MPS: Final = 1.6
ACCURACY_PER_SD: Final = 1.51
"""sqrt(-2 ln(1 - 0.68)): the 68 % radius of a circular normal error, in standard deviations."""
NOISE_LASTS_S: Final = 60.0
"""After this time the error has forgotten all but 1/e of itself."""
GAP_EVERY_S: Final = 1_500.0
LATE_SHARE: Final = 0.015
LATE_MAX_MS: Final = 100_000
DUPLICATE_SHARE: Final = 0.004

Way = list[Point]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A straight way in one go, or a stay where both ends are equal; times from the start."""

    from_s: float
    to_s: float
    a: Point
    b: Point


def journey(
    rng: Random,
    streets: Streets,
    *,
    home: int,
    work: int,
    calls: list[tuple[int, int, Point, Point]],
) -> Iterator[tuple[Way, float]]:
    """Ways, each with the seconds stayed at its end, without end: to work and back, with calls.

    Args:
        rng: decides when a call is made, and how long a stay is.
        streets: where to walk.
        home: crossing at which the first way begins.
        work: crossing to and from which the resident goes.
        calls: shops the resident likes; each as both crossings of its stretch, its door, and the
            point inside at which to stand.
    """
    here = home
    while True:
        for goal in (work, home):
            if calls and rng.random() < 0.75:
                a, b, door, inside = calls[rng.randrange(len(calls))]
                path, last = _to_door(streets, here, (a, b), door)
                yield [*path, door, inside], rng.uniform(90.0, 420.0)
                leave = b if last == a else a
                yield [inside, door, streets.nodes[leave]], 0.0
                here = leave
            yield (
                [streets.nodes[n] for n in streets.shortest_path(here, goal)],
                rng.uniform(60, 600),
            )
            here = goal


def _to_door(streets: Streets, here: int, stretch: tuple[int, int], door: Point) -> tuple[Way, int]:
    """The way to the end of a stretch from which its door is reached sooner, and which end."""
    ways = []
    for end in stretch:
        way = [streets.nodes[n] for n in streets.shortest_path(here, end)]
        total_m = sum(math.dist(p, q) for p, q in pairwise([*way, door]))
        ways.append((total_m, end, way))
    _, end, way = min(ways)
    return way, end


def stretches(
    rng: Random, ways: Iterator[tuple[Way, float]], *, speed_mps: float
) -> Iterator[Stretch]:
    """Put times to ways: each way at its own pace, now and then a wait at a crossing."""
    now_s = 0.0
    for way, stay_s in ways:
        pace = min(SPEED_MAX_MPS, max(SPEED_MIN_MPS, speed_mps * rng.uniform(0.93, 1.07)))
        for a, b in pairwise(way):
            took_s = math.dist(a, b) / pace
            if took_s > 0:
                yield Stretch(now_s, now_s + took_s, a, b)
                now_s += took_s
            if rng.random() < 0.15:
                wait_s = rng.uniform(4.0, 30.0)
                yield Stretch(now_s, now_s + wait_s, b, b)
                now_s += wait_s
        if stay_s > 0:
            yield Stretch(now_s, now_s + stay_s, way[-1], way[-1])
            now_s += stay_s


def sampled(
    parts: Iterator[Stretch], *, seconds: float, interval_s: float
) -> Iterator[tuple[float, Point, Stretch]]:
    """True positions at every interval from 0 on, `seconds` excluded, each with its stretch."""
    part = next(parts)
    for n in range(math.ceil(seconds / interval_s)):
        at_s = n * interval_s
        while part.to_s <= at_s:
            part = next(parts)
        share = (at_s - part.from_s) / (part.to_s - part.from_s)
        (ax, ay), (bx, by) = part.a, part.b
        yield at_s, (ax + share * (bx - ax), ay + share * (by - ay)), part


def fixes(
    rng: Random,
    truth: Iterator[tuple[float, Point, Stretch]],
    *,
    resident: str,
    start_ms: int,
    sd_m: float,
    interval_s: float,
) -> Iterator[dict[str, Any]]:
    """What a phone reports of a true way, in the order of its fixes, with gaps.

    Args:
        rng: all of the noise.
        truth: from `sampled`.
        resident: id to put into the pings.
        start_ms: Unix milliseconds of the way's second 0.
        sd_m: standard deviation of one axis under open sky; the surroundings change it slowly.
        interval_s: time between two fixes.
    """
    keep = math.exp(-interval_s / NOISE_LASTS_S)
    fresh = math.sqrt(1 - keep * keep)
    # Slower than the error itself, so that the reported accuracy can follow it.
    slow = math.exp(-interval_s / (4 * NOISE_LASTS_S))
    slow_fresh = math.sqrt(1 - slow * slow)
    east, north, sky = rng.gauss(0, 1), rng.gauss(0, 1), rng.gauss(0, 1)
    silent_until_s = 0.0
    for at_s, (x, y), part in truth:
        sd_now_m = sd_m * math.exp(0.3 * sky)
        report = _report(rng, part, sd_now_m)
        lon, lat = to_lon_lat((x + sd_now_m * east, y + sd_now_m * north))
        if at_s > 0 and rng.random() < interval_s / GAP_EVERY_S:
            silent_until_s = at_s + rng.uniform(60.0, 300.0)
        if at_s >= silent_until_s:
            at_ms = start_ms + round(at_s * 1000)
            yield {"resident": resident, "at_ms": at_ms, "lon": lon, "lat": lat} | report
        east = keep * east + fresh * rng.gauss(0, 1)
        north = keep * north + fresh * rng.gauss(0, 1)
        sky = slow * sky + slow_fresh * rng.gauss(0, 1)


def _report(rng: Random, part: Stretch, sd_m: float) -> dict[str, float]:
    """Accuracy, speed and heading as the phone believes them; no heading while it stands."""
    report = {"accuracy_m": round(ACCURACY_PER_SD * sd_m * math.exp(rng.gauss(0, 0.05)), 1)}
    dx, dy = part.b[0] - part.a[0], part.b[1] - part.a[1]
    length_m = math.hypot(dx, dy)
    if not length_m:
        return report | {"speed_mps": 0.0}
    speed_mps = length_m / (part.to_s - part.from_s) + rng.gauss(0, 0.08)
    heading = math.degrees(math.atan2(dx, dy)) + rng.gauss(0, 8)
    return report | {
        "speed_mps": round(max(0.0, speed_mps), 2),
        "heading_deg": round(heading % 360.0, 1) % 360.0,
    }


def delivered(rng: Random, sent: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Bring some fixes late and a few twice; none is lost here.

    A late one comes after up to five later ones, and never by more than `LATE_MAX_MS`.
    """
    held: list[tuple[int, dict[str, Any]]] = []
    for number, ping in enumerate(sent):
        oldest_ms = ping["at_ms"] - LATE_MAX_MS
        yield from [late for due, late in held if due < number or late["at_ms"] < oldest_ms]
        held = [(due, late) for due, late in held if due >= number and late["at_ms"] >= oldest_ms]
        if number and rng.random() < LATE_SHARE:
            held.append((number + rng.randint(1, 5), ping))
            continue
        yield ping
        if rng.random() < DUPLICATE_SHARE:
            yield dict(ping)
    yield from [late for _, late in held]
