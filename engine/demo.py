"""A made-up city that lives: its residents walk and post pings over real HTTP, and offers happen.

The demo is a client like any other. It registers the city with the operator's key, makes a
sender's key, and sends each walk's pings when they are due, by the client that app makers copy
from: in batches, again after a failure, and only where the last decision says that it matters.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterator
from typing import Any, Final

import aiohttp
import msgspec

from engine.client.client import Client
from engine.client.outbox import Outbox
from engine.decision import Decision, OfferMade
from engine.ping import Ping
from loadtest.city import City, Resident

INTERVAL_S: Final = 4.0
"""Between two fixes of one phone."""
HEAD_START_S: Final = 600.0
"""Walks begin up to this long ago, so that the streets are full at once."""
CONNECTIONS: Final = 16
WALK_S: Final = 12 * 3_600.0
LINGER_MS: Final = 100
"""How long a ping waits for others of the same moment."""

Body = dict[str, Any]


class DemoFailed(Exception):
    """The service refused something that the demo needs; the text says what."""


class Demo:
    """The city's merchants and residents against one service.

    Args:
        url: of the service, without a path.
        operator_key: with which the city is registered.
        city: who lives there.
        say: takes one line for a person to read.
    """

    def __init__(self, url: str, operator_key: str, city: City, say: Callable[[str], None]) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {operator_key}"}
        self._city = city
        self._say = say
        self._titles = {brand["id"]: brand["name"] for brand in city.brands}
        self.pings = 0
        self.spared = 0
        """Pings that could not have mattered, and were not sent."""
        self.offers = 0

    async def run(self, *, now_ms: Callable[[], int], progress: Callable[[str], None]) -> None:
        """Register the city, then let its residents walk until cancelled."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(self._url, connector=connector) as session:
            await self._register(session, progress)
            made = await self._call(session, "POST", "/v1/keys", {"role": "sender", "name": "demo"})
            progress("the residents set out")
            await self._walk(made["key"], now_ms)

    async def _register(
        self, session: aiohttp.ClientSession, progress: Callable[[str], None]
    ) -> None:
        """Write brands, then fences, then offers and residents, several at once."""
        city = self._city
        for kind, bodies in (
            ("brands", city.brands),
            ("fences", city.fences),
            ("offers", city.offers),
        ):
            await _side_by_side(
                [self._call(session, "PUT", f"/v1/{kind}/{body['id']}", body) for body in bodies]
            )
            progress(f"{len(bodies)} {kind} registered")
        await _side_by_side([self._register_one(session, r) for r in city.residents])
        opted_in = sum(resident.opted_in for resident in city.residents)
        progress(f"{len(city.residents)} residents registered, {opted_in} opted in")

    async def _register_one(self, session: aiohttp.ClientSession, resident: Resident) -> None:
        """Make one resident known and let them say what they want, unless they said it before."""
        path = f"/v1/residents/{resident.id}"
        settings = {"timezone": resident.timezone}
        made = await self._call(
            session, "POST", "/v1/residents", {"resident": resident.id, **settings}, may_be=409
        )
        if made is None:
            await self._call(session, "PATCH", path, settings)
            said = await self._call(session, "GET", f"{path}/preferences")
            if said["version"]:
                return
        if resident.opted_in:
            choice: Body = {"opted_in": True}
            if resident.brands is not None:
                choice["brands"] = list(resident.brands)
            await self._call(session, "PUT", f"{path}/preferences/marketing", choice)

    async def _call(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        may_be: int = 0,
    ) -> Any:
        """Call the API as the operator; None for the status that may be."""
        async with session.request(method, path, json=body, headers=self._headers) as answer:
            if answer.status == may_be:
                return None
            if answer.status >= 400:
                text = await answer.text()
                raise DemoFailed(f"{method} {path} was answered {answer.status}: {text}")
            return await answer.json()

    async def _walk(self, key: str, now_ms: Callable[[], int]) -> None:
        """Send every ping when it is due, less those that could not matter."""
        async with Client(
            self._url,
            key,
            on_offer=self._tell,
            on_decision=self._count,
            outbox=Outbox(linger_ms=LINGER_MS),
        ) as client:
            for due in self._due(now_ms()):
                wait_s = (due[-1].at_ms - now_ms()) / 1_000
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                if refused := client.outbox.stopped:
                    raise DemoFailed(f"pings are refused: {refused.code}: {refused.detail}")
                for ping in due:
                    who, at_ms = ping.resident, ping.at_ms
                    if client.due(ping.lon, ping.lat, at_ms=at_ms, resident=who):
                        client.fix(ping)
                    else:
                        self.spared += 1

    def _due(self, start_ms: int) -> Iterator[list[Ping]]:
        """All residents' pings from now on, grouped by the quarter of a second."""
        walks = [self._walk_of(resident, start_ms) for resident in self._city.residents]
        group: list[Ping] = []
        for ping in heapq.merge(*walks, key=lambda ping: ping.at_ms):
            if group and ping.at_ms // 250 != group[0].at_ms // 250:
                yield group
                group = []
            group.append(ping)
        if group:
            yield group

    def _walk_of(self, resident: Resident, start_ms: int) -> Iterator[Ping]:
        """One resident's pings from now on; they set out some time ago."""
        number = self._city.residents.index(resident)
        share = number / len(self._city.residents)
        began_ms = start_ms - int(HEAD_START_S * 1_000 * share)
        walk = self._city.walk(resident, began_ms, seconds=WALK_S, interval_s=INTERVAL_S)
        return (msgspec.convert(ping, Ping) for ping in walk if ping["at_ms"] >= start_ms)

    def _count(self, ping: Ping, decision: Decision) -> None:
        """Count a ping that was answered."""
        del ping, decision
        self.pings += 1

    def _tell(self, offer: OfferMade, decision: Decision) -> None:
        """One line for an offer that was made; whose it is stays with the resident."""
        del decision
        self.offers += 1
        brand = self._titles.get(offer.brand, offer.brand)
        self._say(f"{self.offers:>5}  {brand}: {offer.title}  [{offer.code}]")


async def _side_by_side(calls: list[Any]) -> None:
    """Await all; the first failure is raised when the others have ended."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
