"""What a phone saves that follows the advice of `next_fix`, and what is missed for it.

The made-up city of the demo, `loadtest/city.py`: its residents walk to work and back, drop in at
shops and stay there, and their phones take a fix each ten seconds. One phone sends every fix;
another leaves out those before it has moved as far as it was told; a third, which can't tell how
far it moved, those before the time that it was told. All are decided by engines of the same city,
and what happened is compared: the events at fences where an offer waits, with their times.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from bench.table import Row
from bench.timing import told
from engine.consent.sync import Said, marketing, resolve
from engine.decision import Decision, NextFix
from engine.offers.gates import Attention
from engine.offers.offer import TRIGGERS, Brand
from engine.ping import Ping
from engine.pipeline import Engine, EngineSettings
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from engine.web.offers import OfferBody, offer_of
from geofences.geojson import parse_fence
from geofences.globe import GEOD
from loadtest.city import City, Resident

NOON_MS: Final = 1_779_969_600_000
"""Thursday 28 May 2026, 12:00 UTC: nobody's quiet hours in the city."""
INTERVAL_S: Final = 10.0
SAME_MS: Final = 300_000
"""An event this much later is the same one, told late; beyond, one was missed and another told."""

_STAYS: Final = ("enter", "dwell", "exit")

Sends = Callable[[Ping, Ping, NextFix], bool]
"""Whether a phone sends a fix, of the last one that it sent and what it was told then."""


class Seen(msgspec.Struct, frozen=True):
    """What came of one way of sending."""

    pings: int
    events: dict[tuple[str, str, str], list[int]]
    """Resident, fence and kind -> the times of the events."""


class Missed(msgspec.Struct, frozen=True):
    """How the events of a phone that left fixes out differ from those of one that did not."""

    events: int
    """Of the phone that sent every fix."""
    missed: int
    more: int
    late_s: float
    """In the mean, over those that were told."""


def every(last: Ping, fix: Ping, advice: NextFix) -> bool:
    """A phone that knows of no advice."""
    del last, fix, advice
    return True


def by_time(last: Ping, fix: Ping, advice: NextFix) -> bool:
    """A phone that can't tell how far it moved without a fix."""
    return fix.at_ms - last.at_ms >= 1_000 * advice.after_s


def by_way(last: Ping, fix: Ping, advice: NextFix) -> bool:
    """A phone that is woken when it has moved so far, or when it is time."""
    if fix.at_ms - last.at_ms >= 1_000 * advice.latest_s:
        return True
    return bool(GEOD.inv(last.lon, last.lat, fix.lon, fix.lat)[2] >= advice.radius_m)


WAYS: Final[dict[str, Sends]] = {"every fix": every, "by way": by_way, "by time": by_time}


def run(*, residents: int, shops: int, seconds: float) -> list[Row]:
    """Walk the city once for each way of sending, with the noise of phones.

    Once with those who want to hear of all brands, once with those who chose some.
    """
    rows = []
    with told(f"next_fix: {residents:,} residents"):
        city = City.make(1, residents=residents, shops=shops)
        for wish, chose in (("all brands", False), ("some brands", True)):
            walkers = [r for r in city.residents if r.opted_in and (r.brands is not None) == chose]
            results = {name: walk(city, walkers, seconds, sends) for name, sends in WAYS.items()}
            rows += [
                _row(f"next_fix, {wish}, {name}", shops, seen, results["every fix"])
                for name, seen in results.items()
            ]
    return rows


def _row(name: str, shops: int, seen: Seen, all_of_them: Seen) -> Row:
    """A line of the table; what was saved is in its note."""
    note = f"{seen.pings:,} pings"
    if seen is not all_of_them:
        saved = 1 - seen.pings / max(1, all_of_them.pings)
        notes = [f"{saved:.0%} of the pings saved"]
        for what, kinds in (("enters, dwells and exits", _STAYS), ("passes", ("pass",))):
            off = compare(all_of_them, seen, kinds)
            notes.append(
                f"{off.missed} of {off.events:,} {what} missed, {off.more} more, "
                f"{off.late_s:.1f} s late"
            )
        note = "; ".join(notes)
    return Row(name=name, fences=shops, note=note)


def walk(city: City, walkers: Iterable[Resident], seconds: float, sends: Sends) -> Seen:
    """What happens when these residents of a city send their fixes so."""
    engine = _engine(city, wanted=sends is not every)
    awaited = {f.id for f in engine.fences if any(engine.book.waiting(f, t) for t in TRIGGERS)}
    pings, events = 0, defaultdict[tuple[str, str, str], list[int]](list)
    for resident in walkers:
        for decision in _sent(engine, _fixes(city, resident, seconds), sends):
            pings += 1
            for event in decision.events:
                if event.fence in awaited:
                    events[resident.id, event.fence, event.kind].append(event.at_ms)
    return Seen(pings, dict(events))


def _sent(engine: Engine, fixes: Iterable[Ping], sends: Sends) -> Iterable[Decision]:
    """The decisions on the fixes that a phone sends."""
    last: Ping | None = None
    advice: NextFix | msgspec.UnsetType = msgspec.UNSET
    for fix in fixes:
        if last is None or not isinstance(advice, NextFix) or sends(last, fix, advice):
            (decision,) = engine.decide([fix])
            engine.settle(engine.take_changes().claims, {}, ())
            last, advice = fix, decision.next_fix
            yield decision


def _fixes(city: City, resident: Resident, seconds: float) -> list[Ping]:
    """A resident's fixes as the phone takes them: each once, in their order."""
    given = city.walk(resident, NOON_MS, seconds=seconds, interval_s=INTERVAL_S)
    by_time: dict[int, dict[str, Any]] = {body["at_ms"]: body for body in given}
    fixes = [msgspec.convert(by_time[at_ms], Ping) for at_ms in sorted(by_time)]
    for fix in fixes:
        fix.received_ms = fix.at_ms
    return fixes


def _engine(city: City, *, wanted: bool) -> Engine:
    """An engine with a city in it."""
    settings = EngineSettings(attention=Attention(per_day=3, per_week=10), next_fix=wanted)
    engine = Engine(secret=b"passby bench: ids worth nothing", settings=settings)
    brands = {body["id"]: msgspec.convert(body, Brand) for body in city.brands}
    for brand in brands.values():
        engine.put_brand(brand)
    engine.put_fences([parse_fence(feature) for feature in city.fences])
    for body in city.offers:
        offer = msgspec.convert(body, OfferBody)
        engine.put_offer(offer_of(body["id"], offer, brands[offer.brand]))
    for resident in city.residents:
        if resident.opted_in:
            row = ResidentRow(id=resident.id, settings=ResidentSettings(timezone=resident.timezone))
            asked = marketing(True, resident.brands)
            said = resolve(row, asked, Said(actor="self", now_ms=NOON_MS)).records
            engine.put_resident(resident.id, row.settings, 1, said, now_ms=NOON_MS)
    return engine


def compare(all_of_them: Seen, seen: Seen, kinds: Sequence[str]) -> Missed:
    """Pair the events of each resident, fence and kind in their order."""
    events = missed = more = 0
    late_ms: list[int] = []
    for key in all_of_them.events.keys() | seen.events.keys():
        if key[2] not in kinds:
            continue
        waiting = list(all_of_them.events.get(key, ()))
        events += len(waiting)
        for at_ms in seen.events.get(key, ()):
            while waiting and waiting[0] < at_ms - SAME_MS:
                waiting.pop(0)
                missed += 1
            if waiting and waiting[0] <= at_ms + SAME_MS:
                late_ms.append(at_ms - waiting.pop(0))
            else:
                more += 1
        missed += len(waiting)
    return Missed(events, missed, more, sum(late_ms) / max(1, len(late_ms)) / 1_000)
