"""A crowd that walks from fence to fence as fast as it is answered, and writes down every answer.

What a client has read is the only truth here: the ledger is what the database is held against.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.fault_town import Town, now_ms
from tests.running import Reply, Service

AGAIN_S: Final = 0.05
"""Between a refusal and the next try."""
LAST_ANSWER_S: Final = 20.0
REFUSALS: Final = frozenset({"not_durable", "stale", "overloaded"})
"""What a ping may be told instead of an answer."""

Json = dict[str, Any]


@dataclass(slots=True)
class Ledger:
    """All that clients were answered."""

    claims: dict[str, Json] = field(default_factory=dict)
    """By id: the offer made, with its `resident` and `decision`."""
    refused: Counter[str] = field(default_factory=Counter)
    withheld: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    """What no answer may be."""
    entered_again: list[str] = field(default_factory=list)
    """Enters that were told to somebody who was inside."""

    def note(self, ping: Json, reply: Reply) -> None:
        """Write an answer down."""
        if reply.status == 503:
            self.refused[reply.code] += 1
            if reply.code not in REFUSALS or "Retry-After" not in reply.headers:
                self.wrong.append(f"a refusal {reply.code} with {sorted(reply.headers)}")
            return
        if reply.status != 200:
            self.wrong.append(f"a status {reply.status}: {reply.body}")
            return
        self.answered += 1
        made, decision = reply.body["offer"], reply.body["decision"]
        if reply.body["withheld"]:
            self.withheld[reply.body["withheld"]] += 1
        if made is None:
            return
        told = made | {"resident": ping["resident"], "decision": decision}
        before = self.claims.setdefault(made["claim"], told)
        if before != told:
            self.wrong.append(f"the claim {made['claim']} was told in two ways")
        if before is not told and reply.body["status"] != "duplicate":
            self.wrong.append(f"the claim {made['claim']} was made twice")


@dataclass(slots=True)
class Walker:
    """One resident's phone.

    Attributes:
        asked: the ping that was sent and whose answer was not read.
        last: the last ping that was answered.
        inside: fences entered and not left, as far as the phone was told.
        unsure: those of them that it may have left by a fix whose answer it never got.
    """

    resident: str
    town: Town
    turn: int
    asked: Json | None = None
    last: Json | None = None
    inside: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    visited: int = 0

    def next_ping(self) -> Json:
        """The next fix, in the next fence: it enters there, and leaves the fence before the last.

        (It takes two fixes outside of a fence to leave it.)
        """
        fence = (self.turn + self.visited) % self.town.fences
        self.visited += 1
        return self.ping(*self.town.place(fence))

    def ping(self, lon: float, lat: float) -> Json:
        """A fix at a place, later than the one before."""
        before = self.last["at_ms"] if self.last is not None else 0
        asked = self.asked["at_ms"] if self.asked is not None else 0
        at_ms = max(now_ms(), before + 1, asked + 1)
        told = {"resident": self.resident, "at_ms": at_ms, "lon": lon, "lat": lat}
        return told | {"accuracy_m": 5.0}

    def again(self) -> Json:
        """The place of the last fix, a little later."""
        spot = self.asked or self.last
        assert spot is not None
        return self.ping(spot["lon"], spot["lat"])

    async def send(self, service: Service, ledger: Ledger, ping: Json) -> Reply:
        """Post a ping and write the answer down; `asked` stays if none was read."""
        self.asked = ping
        try:
            reply = await service.call("POST", "/v1/pings", ping)
        except (aiohttp.ClientError, OSError):
            self.unsure |= self.inside
            raise
        self.asked = None
        ledger.note(ping, reply)
        if reply.status == 200:
            self.last = ping
            ledger.entered_again += self._moved(reply.body["events"])
        else:
            self.unsure |= self.inside
        return reply

    def _moved(self, events: list[Json]) -> list[str]:
        """Follow what the phone was told; enters from inside."""
        again = []
        for event in events:
            fence, kind = event["fence"], event["kind"]
            if kind == "enter":
                if fence in self.inside - self.unsure:
                    again.append(f"{fence} was entered from inside")
                self.inside.add(fence)
            elif kind == "exit":
                self.inside.discard(fence)
            self.unsure.discard(fence)
        return again

    async def walk(self, service: Service, ledger: Ledger, stop: asyncio.Event) -> None:
        """Walk until told to stop or until the service is gone; a refused ping is sent again."""
        ping, refused = self.next_ping(), False
        while refused or not stop.is_set():
            try:
                reply = await self.send(service, ledger, ping)
            except (aiohttp.ClientError, OSError):
                return
            refused = reply.status != 200
            if refused:
                await asyncio.sleep(AGAIN_S)
            else:
                ping = self.next_ping()


class Crowd:
    """All residents of a town, walking side by side."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.ledger = Ledger()
        self.walkers = [Walker(name, town, turn) for turn, name in enumerate(town.residents)]
        self._stop = asyncio.Event()

    @contextlib.asynccontextmanager
    async def walking(self, *services: Service) -> AsyncIterator[None]:
        """Let everybody walk, by turns with one of the services, until the block ends.

        Everybody then gets their last answer, if the service still gives any.
        """
        self._stop.clear()
        tasks = [
            asyncio.create_task(
                walker.walk(services[place % len(services)], self.ledger, self._stop)
            )
            for place, walker in enumerate(self.walkers)
        ]
        try:
            yield
        finally:
            self._stop.set()
            _, late = await asyncio.wait(tasks, timeout=LAST_ANSWER_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks)

    @property
    def asking(self) -> list[Walker]:
        """Who has sent a ping and read no answer."""
        return [walker for walker in self.walkers if walker.asked is not None]
