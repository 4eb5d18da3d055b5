"""A town for faults: fences in a row, offers with budgets and caps, and residents who want them.

Numbers are small against the demand, so that every limit is reached while things break.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from loadtest.city import City
from tests.running import Service

LON: Final = 24.9
LAT: Final = 60.17
STEP_DEG: Final = 0.02
"""Between two fences: 1.1 km."""
RADIUS_M: Final = 60.0
AT_ONCE: Final = 32
"""Administrative calls under way at a time."""

CAPS: Final = {"per_resident_day": 2, "per_resident_total": 2, "cool_down_s": 0}
ONE_EACH: Final = {"per_resident_total": 1, "cool_down_s": 0}


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Town:
    """What was registered.

    Attributes:
        zone: in which it is daytime, of everybody and everything.
        fences: how many; fence n is `f-n`, of the brand `b-n`, with the offer `o-n`.
        residents: who wants offers.
        budget_total, budget_day: of every third offer, from the first and from the second.
        per_day: offers that each resident wants a day at most.
    """

    zone: str
    fences: int
    residents: tuple[str, ...]
    budget_total: int
    budget_day: int
    per_day: int

    @classmethod
    def of(
        cls,
        prefix: str,
        *,
        residents: int,
        fences: int = 12,
        budget_total: int = 40,
        budget_day: int = 60,
        per_day: int = 12,
    ) -> "Town":
        """A town whose residents' ids begin with a prefix."""
        names = tuple(f"{prefix}-{number:03}" for number in range(residents))
        zone = City.daytime_zone(now_ms())
        return cls(zone, fences, names, budget_total, budget_day, per_day)

    def place(self, fence: int) -> tuple[float, float]:
        """The middle of a fence, longitude and latitude."""
        return LON + STEP_DEG * fence, LAT

    def brand(self) -> dict[str, Any]:
        """Body of any brand."""
        return {"name": "A café", "categories": ["cafe"], "timezone": self.zone}

    def fence(self, number: int) -> dict[str, Any]:
        """Body of a fence."""
        return {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": list(self.place(number))},
            "properties": {"brand": f"b-{number}", "name": "A door", "radius_m": RADIUS_M},
        }

    def offer(self, number: int) -> dict[str, Any]:
        """Body of an offer: by turns with a budget, with a budget a day, and once a resident."""
        limits: dict[str, Any] = (
            {"caps": CAPS, "budget": {"total": self.budget_total}},
            {"caps": CAPS, "budget": {"per_day": self.budget_day}},
            {"caps": ONE_EACH},
        )[number % 3]
        return {
            "brand": f"b-{number}",
            "title": "A bun",
            "body": "With any coffee.",
            "fences": [f"f-{number}"],
            "trigger": "enter",
            "status": "live",
            "claim_ttl_s": 3_600,
        } | limits

    async def register(self, service: Service) -> None:
        """Write all of it to a service."""
        numbers = range(self.fences)
        await side_by_side(service.must("PUT", f"/v1/brands/b-{n}", self.brand()) for n in numbers)
        await side_by_side(service.must("PUT", f"/v1/fences/f-{n}", self.fence(n)) for n in numbers)
        await side_by_side(service.must("PUT", f"/v1/offers/o-{n}", self.offer(n)) for n in numbers)
        await side_by_side(self.settle(service, resident) for resident in self.residents)

    async def settle(self, service: Service, resident: str) -> None:
        """Make one resident known who wants offers, up to the town's number a day."""
        await service.must("POST", "/v1/residents", {"resident": resident, "timezone": self.zone})
        limits = {"per_day": self.per_day, "per_week": 7 * self.per_day}
        await service.must("PATCH", f"/v1/residents/{resident}", {"limits": limits})
        await opt(service, resident, wanted=True)


async def opt(service: Service, resident: str, *, wanted: bool, version: int = 0) -> int:
    """Have a resident opt in or out; the version of their preferences after it."""
    said = await service.must(
        "PUT",
        f"/v1/residents/{resident}/preferences/marketing",
        {"opted_in": wanted},
        headers={"If-Match": f'"{version}"'} if version else {},
    )
    return int(said["version"])


async def side_by_side(calls: Iterable[Awaitable[object]]) -> None:
    """Run calls, a bounded number of them at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(call: Awaitable[object]) -> None:
        async with places:
            await call

    await asyncio.gather(*map(one, calls))
