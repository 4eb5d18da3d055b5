"""Every history of two or three calls over two devices and two processes, step by step.

A call is sent by a device, read and written by a process, and acknowledged once every process has
applied it or its lease has run out; between any two steps anything else may happen. What becomes
of a call is decided by the real `sync.resolve` and by two rivals, and what holds by the real row.

The invariant: no process says ON after an OFF was acknowledged that whoever turned on had not seen.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Final, NamedTuple

import msgspec
import pytest

from engine.consent.record import Record
from engine.consent.row import compile_row
from engine.consent.standing import standing_of
from engine.consent.sync import (
    PreconditionFailed,
    PreconditionRequired,
    Said,
    marketing,
    resolve,
)
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from tests.strategies import NOON_MS

CLOCKS: Final = (0, 100)
"""How far the devices' clocks are ahead: one is right, one is not."""


class Call(NamedTuple):
    """Something that a device says, by way of a process."""

    device: int
    process: int
    on: bool


class Said_(NamedTuple):  # noqa: N801 (the name is taken)
    """A call that was written: what it said, what its device had seen, and its clock."""

    on: bool
    seen: int
    clock: int


Log = tuple[Said_, ...]
"""All that was written, in the order of versions."""


class Step(NamedTuple):
    """Where a call is: what its device had seen when it was sent, and the version read or made."""

    at: str
    seen: int = 0
    version: int = 0


IDLE: Final = Step("idle")


class World(NamedTuple):
    """All that there is between two steps."""

    log: Log
    calls: tuple[Step, ...]
    seen: tuple[int, ...]
    """What each device has seen."""
    applied: tuple[int, ...]
    """What each process knows."""
    lapsed: tuple[bool, ...]
    """Whether each process's lease has run out, so that it says OFF whatever it knows."""


class Design(NamedTuple):
    """A way to keep devices in step."""

    accepts: Callable[[Log, Said_], bool]
    """Whether a call is written behind what there is."""
    holds: Callable[[Log], Said_ | None]
    """Which call the state rests on: the one that turned it on, or None where it is OFF."""


@cache
def records(ons: tuple[bool, ...]) -> tuple[Record, ...]:
    """The real records of calls, each from the latest settings."""
    row = ResidentRow(id="ann", settings=ResidentSettings())
    for on in ons:
        said = Said(actor="self", now_ms=NOON_MS, if_match=row.version)
        made = resolve(row, marketing(on), said).records
        row = msgspec.structs.replace(row, version=row.version + 1, records=row.records + made)
    return row.records


@cache
def resolves(ons: tuple[bool, ...], on: bool, seen: int) -> bool:
    """What the real rule makes of a call."""
    row = ResidentRow(id="ann", settings=ResidentSettings(), version=len(ons), records=records(ons))
    said = Said(actor="self", now_ms=NOON_MS, if_match=seen if on else None)
    try:
        return resolve(row, marketing(on), said).refused == ()
    except (PreconditionRequired, PreconditionFailed):
        return False


@cache
def allows(ons: tuple[bool, ...]) -> bool:
    """Whether the real row lets the location be used."""
    row, _ = compile_row(standing_of(records(ons)), NOON_MS)
    return row.uses_location


def ons_of(log: Log) -> tuple[bool, ...]:
    return tuple(one.on for one in log)


def newest(log: Log) -> Said_ | None:
    """The last call written, if it turned on."""
    return log[-1] if log and log[-1].on else None


def latest_by_clock(log: Log) -> Said_ | None:
    """The call of the latest device's clock, if it turned on."""
    last = max(log, key=lambda one: one.clock, default=None)
    return last if last is not None and last.on else None


def ours(log: Log) -> Said_ | None:
    return newest(log) if allows(ons_of(log)) else None


DESIGNS: Final = {
    "narrow always, widen from the latest": Design(
        lambda log, said: resolves(ons_of(log), said.on, said.seen), ours
    ),
    "last writer wins, by server order": Design(lambda _log, _said: True, newest),
    "last writer wins, by client clock": Design(lambda _log, _said: True, latest_by_clock),
}
OURS: Final = "narrow always, widen from the latest"


def put(values: tuple, place: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:place], value, *values[place + 1 :])


def steps(world: World, calls: tuple[Call, ...], design: Design) -> Iterator[World]:
    """Every world that may come next."""
    version = len(world.log)
    for device, seen in enumerate(world.seen):
        # A device looks when it is about to speak; when else, makes no difference.
        if seen != version and _is_to_speak(world, calls, device):
            yield world._replace(seen=put(world.seen, device, version))
    for process, applied in enumerate(world.applied):
        if applied != version or world.lapsed[process]:
            yield world._replace(
                applied=put(world.applied, process, version),
                lapsed=put(world.lapsed, process, False),
            )
        # A lease that runs out while there is nothing new makes a no of a yes and no more.
        if not world.lapsed[process] and applied != version:
            yield world._replace(lapsed=put(world.lapsed, process, True))
    for place, call in enumerate(calls):
        for step, log, seen_now in _of_call(world, calls, place, call, design):
            yield world._replace(
                log=log,
                calls=put(world.calls, place, step),
                seen=put(world.seen, call.device, seen_now),
            )


def _is_to_speak(world: World, calls: tuple[Call, ...], device: int) -> bool:
    return any(
        call.device == device and step.at == "idle"
        for step, call in zip(world.calls, calls, strict=True)
    )


def _of_call(
    world: World, calls: tuple[Call, ...], place: int, call: Call, design: Design
) -> Iterator[tuple[Step, Log, int]]:
    """What may become of one call next: its step, the log, and what its device has seen."""
    step, log, seen = world.calls[place], world.log, world.seen[call.device]
    if step.at == "idle":
        before = [world.calls[n].at for n in range(place) if calls[n].device == call.device]
        if all(at == "done" for at in before):
            yield Step("sent", seen), log, seen
    elif step.at == "sent":
        for version in {len(log), world.applied[call.process]}:
            yield Step("read", step.seen, version), log, seen
    elif step.at == "read":
        if step.version != len(log):  # somebody wrote in between: read again
            yield Step("sent", step.seen), log, seen
            return
        said = Said_(call.on, step.seen, CLOCKS[call.device] + place)
        if design.accepts(log, said):
            yield Step("written", step.seen, len(log) + 1), (*log, said), seen
        else:
            yield Step("done"), log, seen
    elif step.at == "written" and all(
        applied >= step.version or lapsed
        for applied, lapsed in zip(world.applied, world.lapsed, strict=True)
    ):
        yield Step("done", step.seen, step.version), log, max(seen, step.version)


def turned_on_by(world: World, design: Design) -> Iterator[Said_]:
    """For every process that says ON, the call on which that rests."""
    for applied, lapsed in zip(world.applied, world.lapsed, strict=True):
        by = None if lapsed else design.holds(world.log[:applied])
        if by is not None:
            yield by


class Explored(NamedTuple):
    """What was found of a history."""

    worlds: int
    broken: bool
    """A process says ON by somebody who had not seen an OFF that was acknowledged."""
    on_again: bool
    """A process says ON by somebody who had."""


def explore(calls: tuple[Call, ...], log: Log, design: Design) -> Explored:
    """All worlds that can be reached, up to the first that breaks the invariant."""
    version, on_again = len(log), False
    first = World(log, (IDLE,) * len(calls), (version,) * 2, (version,) * 2, (False,) * 2)
    found, waiting = {first}, [first]
    while waiting:
        world = waiting.pop()
        off = max(
            (
                step.version
                for step, call in zip(world.calls, calls, strict=True)
                if step.at == "done" and not call.on
            ),
            default=0,
        )
        for by in turned_on_by(world, design) if off else ():
            if by.seen < off:
                return Explored(len(found), broken=True, on_again=on_again)
            on_again = True
        for following in steps(world, calls, design):
            if following not in found:
                found.add(following)
                waiting.append(following)
    return Explored(len(found), broken=False, on_again=on_again)


def histories(count: int) -> Iterator[tuple[Call, ...]]:
    """Every one of so many calls that turns on and off; in the first, processes are alike."""
    firsts = [Call(device, 0, on) for device in (0, 1) for on in (True, False)]
    others = [Call(*one) for one in product((0, 1), (0, 1), (True, False))]
    for first in firsts:
        for rest in product(others, repeat=count - 1):
            if len({call.on for call in (first, *rest)}) == 2:
                yield (first, *rest)


NOTHING: Final[Log] = ()
ON: Final[Log] = (Said_(True, 0, 0),)


@pytest.mark.parametrize("start", [NOTHING, ON], ids=["nothing said", "on"])
def test_two_calls_never_turn_on_what_was_acknowledged_off(start: Log) -> None:
    """And whoever has seen the OFF can turn on again, so that the invariant says something."""
    explored = [explore(calls, start, DESIGNS[OURS]) for calls in histories(2)]

    assert len(explored) == 16
    assert not any(one.broken for one in explored)
    assert any(one.on_again for one in explored)


def test_three_calls_never_turn_on_what_was_acknowledged_off(measured: list[str]) -> None:
    """From ON. The devices are alike to our rule, which asks no clock: the first is device 0."""
    explored = [explore(calls, ON, DESIGNS[OURS]) for calls in histories(3) if calls[0].device == 0]

    assert len(explored) == 96
    assert not any(one.broken for one in explored)
    assert sum(one.on_again for one in explored) > 20
    worlds = sum(one.worlds for one in explored)
    measured.append(f"consent: {len(explored)} histories of three calls, {worlds:,} worlds, no ON")


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != OURS])
def test_the_rivals_fail_in_the_same_model(name: str) -> None:
    """With two calls already: the phone says OFF, and a device that never saw it says ON."""
    seen_to_fail = [calls for calls in histories(2) if explore(calls, ON, DESIGNS[name]).broken]

    ways = {tuple((call.device, call.on) for call in calls) for calls in seen_to_fail}
    assert ((0, False), (1, True)) in ways
