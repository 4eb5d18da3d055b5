"""A world by its seed: processes, residents with their devices, and whatever may go wrong.

First there is a storm of faults, then a calm in which all has to come right again. After everything
that happens the invariant is looked at; see `books`.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson

from engine.decision import OfferMade
from engine.offers.offer import Brand
from engine.residents import ResidentSettings
from engine.store.port import FenceRow, KeyRow
from engine.web.context import Context
from engine.web.pings import PingBody
from engine.web.preferences import Acknowledged
from engine.web.problem import Refused
from tests.sim.books import BRANDS, Books
from tests.sim.clockwork import Agenda
from tests.sim.database import Weather, run
from tests.sim.process import Build, Heard, Process, Said
from tests.strategies import KEY, NOON_MS, feature, offer, town

S: Final = 1_000_000
"""Microseconds in a second."""
STORM_US: Final = 4 * S
"""So long things go wrong."""
REST_US: Final = 3_500_000
"""So long everybody has for coming right: a lease and a margin, and some tries."""
END_US: Final = 1_200_000
"""So long offers are to come again."""
PATIENCE_US: Final = 12 * S
"""So long a device waits for an answer."""
DOORS: Final = 7
FAULTS: Final = ("kill", "stop", "freeze", "freeze", "freeze", "tear", "tear", "still")
PROCESSES_MIN: Final = 2
NAMES: Final = ("ann", "bob", "cho")
OURS: Final = Build()


@dataclass(slots=True)
class Device:
    """One of a resident's: which version it has seen, and whether it waits for an answer."""

    seen: int = 0
    waits: bool = False


@dataclass(slots=True)
class Resident:
    """Somebody on their way from door to door, with two devices."""

    name: str
    key: KeyRow
    home: int = 0
    """Which process they mostly come to."""
    door: int = 0
    devices: tuple[Device, Device] = field(default_factory=lambda: (Device(), Device()))
    heard: Heard = field(default_factory=Heard)
    streams: list[Process] = field(default_factory=list)
    """Which processes they hear of their offers from, on all devices together."""


class World:
    """Everything that there is.

    Args:
        seed: of all chance in it.
        build: what the processes are made of.
    """

    def __init__(self, seed: int, build: Build = OURS) -> None:
        self.rng = random.Random(seed)
        self.agenda = Agenda()
        self._build = build
        self._storms = True
        self._rests = False
        """Nobody moves."""
        self._numbers = 0
        self._started = 0
        self.weather = Weather(
            slow=self.rng.choice((0.002, 0.01, 0.04)),
            deaf=self.rng.choice((0.0, 0.1, 0.5, 1.0)),
            fault_ms=self.rng.choice((300, 700, 1_500)),
        )
        self.books = Books(self.agenda)
        self.database = build.database(
            self.agenda, self._own_chance(), self.weather, self.books.executed
        )
        self.books.shared = self.database.store.shared
        self.residents = [Resident(name, _key(name)) for name in NAMES]
        self.processes: list[Process] = []
        self._gone: list[Process] = []
        self._under_way: dict[int, tuple[Process, Callable[[Any], None]]] = {}
        """Call -> who has it, and what its answer does."""
        self._settle()
        for _ in range(self.rng.choice((2, 2, 3))):
            self._start()
        for home, resident in enumerate(self.residents):
            resident.home = home
            self._soon(100, partial(self._walk, resident))
            self._soon(300, partial(self._listen, resident))
            for device in resident.devices:
                self._soon(300, partial(self._speak, resident, device))
        if self.rng.random() < 0.5:
            stays, goes = self.rng.sample(NAMES, 2)
            self._soon(2_000, partial(self._merge, stays, goes))
        self._soon(self.weather.fault_ms, self._go_wrong)

    def _own_chance(self) -> random.Random:
        return random.Random(self.rng.getrandbits(64))

    def _settle(self) -> None:
        """What is there before the first process starts."""
        store = self.database.store
        store.shared.secrets["claims"] = KEY
        for brand in BRANDS:
            run(store.put_brand(Brand(id=brand, name=brand)))
        doors = [f"door-{number}" for number in range(DOORS)]
        run(store.put_fences([_door(number, name) for number, name in enumerate(doors)]))
        for number, name in enumerate(doors):
            brand = BRANDS[number % len(BRANDS)]
            made = offer(name, brand=brand, fences=(name,), caps={"cool_down_s": 0})
            run(store.put_offer(made))
        run(store.create_residents({name: ResidentSettings() for name in NAMES}))
        for resident in self.residents:
            run(store.put_key(resident.key))

    def live(self) -> None:
        """Let everything happen, until the end or until the invariant is broken."""
        try:
            self._until(STORM_US)
            self._calm()
            self._until(STORM_US + REST_US)
            self._rests = False
            for resident in self.residents:
                resident.devices[0].seen = self._version(resident)
                self._say(resident, resident.devices[0], on=True, brands=BRANDS)
            before = self.books.seen.copy()
            self._until(STORM_US + REST_US + END_US)
            if not self.books.broken:
                self._check_all_is_well(before)
        finally:
            for process in (*self._gone, *self.processes):
                process.clear_away()

    def _until(self, when_us: int) -> None:
        agenda, books, processes = self.agenda, self.books, self.processes
        while not books.broken and agenda.step(when_us):
            if agenda.moved is not None:
                books.check(processes, agenda.moved)

    def _calm(self) -> None:
        """Nothing goes wrong any more, and everybody is there."""
        self._storms, self._rests = False, True
        self.books.note("calm")
        self.database.calm()
        for process in list(self.processes):
            process.link.tear(0, self.rng)
            process.loop.thaw()
            if process.stops:
                self._end(process)

    def _check_all_is_well(self, before: Counter[str]) -> None:
        """After a while of calm: everybody knows what was said, and offers come."""
        if len(self.processes) < PROCESSES_MIN or self._under_way:
            self.books.breaks("calls are under way, or processes missing, after the calm")
        for process in self.processes:
            if not process.acts:
                self.books.breaks(f"{process.name} does not act after the calm")
        since = self.books.seen - before
        if not since["answer"] + since["stream"] or not since["events"]:
            self.books.breaks("no offers come after the calm")

    def _soon(self, mean_ms: float, call: Callable[[], object]) -> None:
        """Have something happen after a while, which may be long, but not for ever."""
        pause_ms = min(self.rng.expovariate(1 / mean_ms), 4 * mean_ms)
        self.agenda.after(int(1_000 * pause_ms), call)

    def _version(self, resident: Resident) -> int:
        return self.books.shared.residents[resident.name].version

    # Processes.

    def _start(self) -> None:
        """Start a process."""
        self._started += 1
        process = Process(
            f"p{self._started}",
            self.agenda,
            self.database,
            self._own_chance(),
            self.books,
            self._build,
            lambda: self._end(process),
        )
        self.processes.append(process)
        self.books.note(f"{process.name} starts")

    def _end(self, process: Process) -> None:
        """A process is gone, in whatever state it is, and another one comes."""
        if process not in self.processes:
            return
        self.books.note(f"{process.name} is gone")
        process.kill()
        self.processes.remove(process)
        self._gone.append(process)
        for number, (at, _) in list(self._under_way.items()):
            if at is process:
                self._way(partial(self._hear, number, None))
        self._soon(400, self._start)

    def _go_wrong(self) -> None:
        """Something goes wrong somewhere."""
        if not self._storms:
            return
        self._soon(self.weather.fault_ms, self._go_wrong)
        if not self.processes:
            return
        process = self.rng.choice(self.processes)
        fault = self.rng.choice(FAULTS)
        for_us = int(10 ** self.rng.uniform(4.5, 6.7))
        self.books.note(f"{process.name}: {fault}, {for_us / S:.3f} s")
        self.books.seen[fault] += 1
        if fault == "kill":
            self._end(process)
        elif fault == "stop":
            process.stop()
            self.agenda.after(2 * S, lambda: self._end(process))
        elif fault == "freeze":
            process.loop.freeze(for_us)
        elif fault == "tear":
            process.link.tear(for_us, self.rng)
        else:
            self.database.stand_still(for_us // 2)

    # Residents.

    def _way(self, call: Callable[[], object]) -> None:
        """Have something arrive over a phone's network."""
        self._soon(5.0, call)

    def _ask(
        self,
        process: Process,
        call: Callable[[Context], Awaitable[Any]],
        reply: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """Send a request to a process; the reply comes, if at all, in its time."""

        def arrive() -> None:
            if not process.ended:
                process.serve(call, lambda result: self._way(lambda: reply(result)))

        self._way(arrive)

    def _any(self) -> Process | None:
        return self.rng.choice(self.processes) if self.processes else None

    def _walk(self, resident: Resident) -> None:
        """Go to the next door and tell where one is."""
        self._soon(120, partial(self._walk, resident))
        if not self.processes or self._rests:
            return
        at_home = self.rng.random() < 0.8
        home = self.processes[resident.home % len(self.processes)]
        process = home if at_home else self.rng.choice(self.processes)
        resident.door = (resident.door + 1) % DOORS
        lon, lat = PLACES[resident.door]
        at_ms = NOON_MS + self.agenda.now_us // 1_000
        body = PingBody(resident=resident.name, at_ms=at_ms, lon=lon, lat=lat, accuracy_m=5.0)
        if self.rng.random() < 0.3:
            self._ask(process, lambda ctx: process.stream_ping(ctx, body))
        else:
            self._ask(process, lambda ctx: process.ping(ctx, body), partial(self._got, resident))

    def _got(self, resident: Resident, made: OfferMade | Refused | None) -> None:
        """Go to a till with an offer's code, now and then."""
        if isinstance(made, OfferMade) and self.rng.random() < 0.3:
            self._soon(600, lambda: self._redeem(resident, made))

    def _redeem(self, resident: Resident, made: OfferMade) -> None:
        process = self._any()
        if process is not None:
            self._ask(process, lambda ctx: process.redeem(ctx, resident.name, made))

    def _listen(self, resident: Resident) -> None:
        """See to it that one hears of one's offers."""
        self._soon(500, partial(self._listen, resident))
        silent = [process for process in self.processes if process not in resident.streams]
        heard_by = any(process.serves for process in resident.streams)
        if (heard_by and self.rng.random() >= 0.02) or not silent:
            return
        # One stream a process: two would be told in the order of their places in memory.
        process, heard = self.rng.choice(silent), resident.heard
        resident.streams.append(process)
        self._ask(
            process,
            lambda ctx: process.tell_offers(ctx, resident.key, heard),
            lambda _: resident.streams.remove(process),
        )

    def _speak(self, resident: Resident, device: Device) -> None:
        """Turn something on or off, or look at what there is."""
        if not self._storms:
            return
        self._soon(900, partial(self._speak, resident, device))
        if device.waits:
            return
        brands = (self.rng.choice(BRANDS),) if self.rng.random() < 0.5 else None
        kind = self.rng.choice(("on", "on", "off", "off", "stop", "look"))
        if kind == "look":
            device.seen = self._version(resident)
        elif kind == "stop":
            self._say(resident, device, on=False, stop=True)
        else:
            ends = kind == "on" and self.rng.random() < 0.3
            for_ms = self.rng.randrange(300, 2_500) if ends else None
            self._say(resident, device, on=kind == "on", brands=brands, for_ms=for_ms)

    def _merge(self, stays: str, goes: str) -> None:
        """Make one of two residents, and again until it is known to be done."""
        process = self._any()
        if process is None:
            self._soon(300, partial(self._merge, stays, goes))
            return

        def hear(result: Any) -> None:
            if isinstance(result, Refused) and result.problem.code != "merged_resident":
                self._soon(300, partial(self._merge, stays, goes))

        self.books.note(f"{goes} is to become {stays}, says {process.name}")
        self._ask(process, lambda ctx: process.merge(ctx, stays, goes), hear)

    def _say(
        self,
        resident: Resident,
        device: Device,
        *,
        on: bool,
        brands: tuple[str, ...] | None = None,
        stop: bool = False,
        for_ms: int | None = None,
    ) -> None:
        """Say it to some process, and a "no" again and again until it is acknowledged."""
        self._numbers += 1
        said = Said(
            number=self._numbers,
            resident=resident.name,
            on=on,
            brands=brands,
            stop=stop,
            expires_ms=None if for_ms is None else NOON_MS + self.agenda.now_us // 1_000 + for_ms,
            seen=device.seen,
        )
        again = partial(self._say, resident, device, on=on, brands=brands, stop=stop, for_ms=for_ms)
        device.waits = True
        process = self._any()
        if process is None:
            self._soon(300, again)
            return
        number = said.number
        self.books.calls[number] = said
        what = "on" if on else "stop" if stop else "off"
        self.books.note(f"{resident.name}: call {number} to {process.name}: {what} {brands or ''}")
        self._under_way[number] = (process, partial(self._answered, device, said, again))
        self._ask(
            process,
            lambda ctx: process.say(ctx, resident.key, said),
            partial(self._hear, number),
        )
        self.agenda.after(PATIENCE_US, lambda: self._hear(number, None))

    def _hear(self, number: int, result: Any) -> None:
        """An answer to a call, or that there will be none."""
        if number in self._under_way:
            _, answered = self._under_way.pop(number)
            answered(result)

    def _answered(self, device: Device, said: Said, again: Callable[[], None], result: Any) -> None:
        device.waits = False
        if isinstance(result, Acknowledged):
            device.seen = max(device.seen, result.version)
            return
        code = result.problem.code if isinstance(result, Refused) else "no answer"
        self.books.seen[code] += 1
        self.books.note(f"{said.resident}: call {said.number}: {code}")
        if code == "stale_version":
            device.seen = result.problem.version
            if self.rng.random() < 0.5:
                device.waits = True
                self._soon(300, again)
        elif not said.on and code != "merged_resident":
            device.waits = True
            self._soon(300, again)


def _key(resident: str) -> KeyRow:
    return KeyRow(
        id=resident, hash=resident, role="resident", name=resident, created_ms=0, resident=resident
    )


PLACES: Final = [town(300.0 * number) for number in range(DOORS)]


def _door(number: int, name: str) -> FenceRow:
    """A circle around a door."""
    brand = BRANDS[number % len(BRANDS)]
    point = {"type": "Point", "coordinates": PLACES[number]}
    body = feature(point, name, radius_m=50, name=name, brand=brand)
    return FenceRow(id=name, brand=brand, feature=orjson.dumps(body))
