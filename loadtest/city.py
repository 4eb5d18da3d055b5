"""A made-up city: its streets, merchants and residents, and the pings that these send.

One seed gives one city, to the byte, in every process: all chance comes from `random.Random`
instances that are seeded here, and nothing depends on the order of a set. The demo, the load test
and the tests all live in it. The place is real, so that maps and zones work; every name in it is
invented.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from random import Random
from typing import Any, Final, Self

from loadtest import walks
from loadtest.merchants import Merchants, Shop, make_merchants
from loadtest.streets import RIVER_WIDTH_M, Point, Streets, make_streets

HOUR_MS: Final = 3_600_000
ALL_SHARE: Final = 0.6
SOME_SHARE: Final = 0.25
"""Of the residents: opted in for all brands, and for some; the others said nothing at all."""
_CELL_M: Final = 400.0


@dataclass(frozen=True, slots=True)
class Resident:
    """Somebody who lives in the city; `brands` None: opted in for all."""

    id: str
    timezone: str
    opted_in: bool
    brands: tuple[str, ...] | None
    home: int
    """Crossing at which every walk begins."""
    work: int
    likes: tuple[int, ...]
    """Shops to drop in at, as places in the city's list."""
    speed_mps: float
    noise_sd_m: float
    """Standard deviation of the phone's error on one axis, under open sky."""


@dataclass(frozen=True, slots=True)
class City:
    """All of it; make one with `City.make`."""

    seed: int
    streets: Streets
    merchants: Merchants
    residents: list[Resident]

    @classmethod
    def make(
        cls,
        seed: int,
        *,
        residents: int,
        shops: int = 120,
        timezone: str = "Europe/Helsinki",
    ) -> Self:
        """Make the city of a seed.

        Args:
            seed: equal arguments give an equal city.
            residents: how many, >= 0; the first n are the same however many there are.
            shops: how many, >= 1; the city grows with them, at about one to every 1.2 blocks.
            timezone: IANA zone of brands, offers and residents; see `daytime_zone`.

        Cost: about 5 ms for the default, 0.5 s for 10,000 shops and 10,000 residents.
        """
        side = max(10, math.ceil(math.sqrt(shops / 1.2)) + 1)
        streets = make_streets(Random(f"{seed}:streets"), side=side)
        merchants = make_merchants(
            Random(f"{seed}:merchants"), streets, shops=shops, timezone=timezone
        )
        nearby = _by_cell(merchants.shops)
        people = [
            _make_resident(seed, number, streets, merchants, nearby, timezone=timezone)
            for number in range(residents)
        ]
        return cls(seed=seed, streets=streets, merchants=merchants, residents=people)

    @property
    def brands(self) -> list[dict[str, Any]]:
        """Bodies for ``PUT /v1/brands/{id}``, each with its `id`."""
        return self.merchants.brands

    @property
    def fences(self) -> list[dict[str, Any]]:
        """GeoJSON Features, one for each shop."""
        return self.merchants.fences

    @property
    def offers(self) -> list[dict[str, Any]]:
        """Bodies for ``PUT /v1/offers/{id}``, each with its `id`; one for each brand."""
        return self.merchants.offers

    def walk(
        self, resident: Resident, start_ms: int, *, seconds: float, interval_s: float
    ) -> Iterator[dict[str, Any]]:
        """The pings of one resident in the order of their delivery.

        Args:
            resident: one of this city's.
            start_ms: Unix milliseconds of the first fix, at home; part of the walk's seed, so
                that the same resident walks another way another day.
            seconds: until when fixes are taken, excluded.
            interval_s: time between two fixes, > 0.

        Yields:
            Bodies for ``POST /v1/pings``. About 1.5 in 100 come late, by at most five fixes; 0.4
            in 100 come twice; and every 25 minutes or so the phone is silent for some minutes.
        """
        rng = self._walk_rng(resident, start_ms)
        truth = self.true_positions(resident, start_ms, seconds=seconds, interval_s=interval_s)
        taken = walks.fixes(
            rng,
            truth,
            resident=resident.id,
            start_ms=start_ms,
            sd_m=resident.noise_sd_m,
            interval_s=interval_s,
        )
        return walks.delivered(rng, taken)

    def true_positions(
        self, resident: Resident, start_ms: int, *, seconds: float, interval_s: float
    ) -> Iterator[tuple[float, Point, walks.Stretch]]:
        """Where the resident of `walk` really is: second, metres east and north, and stretch."""
        shops, edges = self.merchants.shops, self.streets.edges
        calls = [
            (edges[shops[n].edge].a, edges[shops[n].edge].b, shops[n].door, shops[n].at)
            for n in resident.likes
        ]
        rng = Random(f"{self.seed}:{resident.id}:{start_ms}:way")
        ways = walks.journey(rng, self.streets, home=resident.home, work=resident.work, calls=calls)
        parts = walks.stretches(rng, ways, speed_mps=resident.speed_mps)
        return walks.sampled(parts, seconds=seconds, interval_s=interval_s)

    def _walk_rng(self, resident: Resident, start_ms: int) -> Random:
        """Chance of one walk's noise; not that of its way, so that each can be had alone."""
        return Random(f"{self.seed}:{resident.id}:{start_ms}:noise")

    @staticmethod
    def daytime_zone(now_ms: int) -> str:
        """An IANA zone in which it is between 13:00 and 14:00 at `now_ms`.

        Quiet hours (21:00 to 08:00) then leave a demo alone for the next seven hours, whenever
        it is started.
        """
        ahead_h = 13 - now_ms // HOUR_MS % 24
        # The names are signed as in POSIX: Etc/GMT-3 is three hours ahead of Greenwich.
        return f"Etc/GMT{-ahead_h:+d}" if ahead_h else "Etc/GMT"


def _by_cell(shops: list[Shop]) -> dict[tuple[int, int], list[int]]:
    """Shops by the square of 400 m in which they are."""
    cells: dict[tuple[int, int], list[int]] = {}
    for number, shop in enumerate(shops):
        cells.setdefault(_cell(shop.at), []).append(number)
    return cells


def _cell(point: Point) -> tuple[int, int]:
    return math.floor(point[0] / _CELL_M), math.floor(point[1] / _CELL_M)


def _make_resident(
    seed: int,
    number: int,
    streets: Streets,
    merchants: Merchants,
    nearby: dict[tuple[int, int], list[int]],
    *,
    timezone: str,
) -> Resident:
    """One resident, from a generator of their own."""
    rng = Random(f"{seed}:resident:{number}")
    home = rng.randrange(len(streets.nodes))
    work = _work(rng, streets, home)
    column, row = _cell(streets.nodes[work])
    around = [(column + x, row + y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    known = [n for cell in around for n in nearby.get(cell, ())]
    likes = tuple(rng.sample(known, min(4, len(known))))
    opted_in, brands = _choice(rng, merchants, likes)
    return Resident(
        id=f"resident-{number:05}",
        timezone=timezone,
        opted_in=opted_in,
        brands=brands,
        home=home,
        work=work,
        likes=likes,
        speed_mps=rng.uniform(1.18, 1.5),
        noise_sd_m=rng.triangular(2.5, 9.0, 4.0),
    )


def _work(rng: Random, streets: Streets, home: int) -> int:
    """A crossing 400 to 1,500 m from home, or the last one tried."""
    for _ in range(50):
        work = rng.randrange(len(streets.nodes))
        if 400.0 < math.dist(streets.nodes[home], streets.nodes[work]) < 1_500.0:
            break
    return work


def _choice(
    rng: Random, merchants: Merchants, likes: tuple[int, ...]
) -> tuple[bool, tuple[str, ...] | None]:
    """What a resident opted in for: all, the shops they like and some others, or nothing."""
    share = rng.random()
    if share < ALL_SHARE:
        return True, None
    if share >= ALL_SHARE + SOME_SHARE:
        return False, ()
    liked = {merchants.shops[n].brand for n in likes}
    others = rng.sample(merchants.brands, min(6, len(merchants.brands)))
    return True, tuple(sorted(liked.union(brand["id"] for brand in others)))


_INK: Final = {
    "cafe": "#a15c1b",
    "restaurant": "#b3372f",
    "bakery": "#c08a00",
    "bookshop": "#2f5da8",
    "clothes": "#7a3f98",
    "florist": "#c0417e",
    "bicycle_shop": "#1f7a8c",
    "gym": "#4b5563",
}


def city_map_svg(city: City) -> str:
    """A map of the city as one `<svg>` element: river, parks, streets and shops.

    One unit is a metre; x is east and y is south, of the centre of the city. `loadtest.streets.
    to_plane` places a longitude and latitude on it, with y negated.
    """
    nodes = city.streets.nodes
    half_m = max(max(abs(x), abs(y)) for x, y in nodes) + 60.0
    lines: dict[bool, list[str]] = {True: [], False: []}
    for edge in city.streets.edges:
        lines[edge.built].append(f"M{_xy(nodes[edge.a])}L{_xy(nodes[edge.b])}")
    parks = "".join(f"M{'L'.join(_xy(p) for p in park)}Z" for park in city.streets.parks)
    river = "L".join(_xy(p) for p in city.streets.river)
    shops = "".join(
        f'<circle cx="{shop.at[0]:.0f}" cy="{-shop.at[1]:.0f}" r="9" fill="{_INK[shop.category]}">'
        f"<title>{escape(shop.name)}</title></circle>"
        for shop in city.merchants.shops
    )
    box = f"{-half_m:.0f} {-half_m:.0f} {2 * half_m:.0f} {2 * half_m:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" '
        f'aria-label="Map of the made-up city with {len(city.merchants.shops)} shops">'
        f'<rect x="{-half_m:.0f}" y="{-half_m:.0f}" width="100%" height="100%" fill="#f4f1ea"/>'
        f'<path d="{parks}" fill="#cfe3c0"/>'
        f'<path d="M{river}" fill="none" stroke="#a9cfe4" stroke-width="{RIVER_WIDTH_M:.0f}"/>'
        f'<path d="{"".join(lines[False])}" fill="none" stroke="#d9cfb4" stroke-width="7"/>'
        f'<path d="{"".join(lines[True])}" fill="none" stroke="#ffffff" stroke-width="12"/>'
        f"{shops}</svg>"
    )


def _xy(point: Point) -> str:
    """A point of the plane as SVG writes it, y down."""
    return f"{point[0]:.0f} {-point[1]:.0f}"
