"""The city of the benchmarks: fences, offers, residents who walk or stand, and their pings.

30 x 30 km, 30 % of everything gathered around the centre. 70 % of the fences are circles, 30 %
irregular 24-gons, and half of those have a hole; radii are 50 to 150 m. All of it is drawn from
seeds, so that every run measures the same city. It has no streets: the made-up city of the demo
and the load test, which has, is `loadtest/city.py`.
"""

import math
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from engine.consent.record import Record
from engine.consent.sync import Said, marketing, resolve
from engine.offers.offer import Brand, Budget, Offer, OfferCaps
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from geofences.fence import Area, Circle, Fence
from geofences.measure import make_fence

Floats: TypeAlias = npt.NDArray[np.float64]

SIDE_M: Final = 30_000.0
WEST: Final = 13.4
SOUTH: Final = 52.5
M_PER_LON: Final = 111_320.0 * math.cos(math.radians(SOUTH))
M_PER_LAT: Final = 111_250.0
CLUSTERED_SHARE: Final = 0.3
CLUSTER_SD_M: Final = 4_000.0

CORNERS: Final = 24
HOLE_CORNERS: Final = 12
FENCES_PER_BRAND: Final = 100
TAG: Final = "shop"
DWELL_S: Final = 120

STEP_M: Final = 25.0
STEP_MS: Final = 15_000
STANDING_SHARE: Final = 0.35
NOISE_SD_M: Final = 3.0
ACCURACY_M: Final = 8.0


def lon_lat(xy_m: Floats) -> Floats:
    """Metres east and north of the city's corner, (..., 2), as degrees."""
    return xy_m / (M_PER_LON, M_PER_LAT) + (WEST, SOUTH)


def places(count: int, rng: np.random.Generator) -> Floats:
    """Places in the city, (count, 2) metres, 30 % of them around the centre."""
    xy_m = rng.uniform(0.0, SIDE_M, (count, 2))
    central = rng.random(count) < CLUSTERED_SHARE
    gathered = rng.normal(SIDE_M / 2, CLUSTER_SD_M, (count, 2))
    xy_m[central] = np.clip(gathered, 0.0, SIDE_M)[central]
    return xy_m


@lru_cache(maxsize=3)
def make_fences(count: int, seed: int = 1) -> tuple[Fence, ...]:
    """The fences of the city; about 10 s for 100,000, remembered for the benchmark that is next."""
    rng = np.random.default_rng(seed)
    centres_m, radii_m = places(count, rng), rng.uniform(50.0, 150.0, count)
    kinds, factors = rng.random(count), rng.uniform(0.7, 1.3, (count, CORNERS))
    centres: list[tuple[float, float]] = [(lon, lat) for lon, lat in lon_lat(centres_m).tolist()]
    fences = []
    for number in range(count):
        radius_m = float(radii_m[number])
        if kinds[number] < 0.7:
            shape: Circle | Area = Circle(*centres[number], radius_m)
        else:
            outer = _ring(centres_m[number], radius_m * factors[number])
            holes = []
            if kinds[number] >= 0.85:
                holes.append(_ring(centres_m[number], np.full(HOLE_CORNERS, 0.3 * radius_m)))
            shape = Area(shapely.Polygon(outer, holes))
        name = f"f{number:07}"
        fences.append(make_fence(name, _brand_id(number), name, (TAG,), shape))
    return tuple(fences)


def _ring(centre_m: Floats, rays_m: Floats) -> Floats:
    """A ring with a corner at each of these distances, at even bearings around a centre."""
    turns = np.arange(len(rays_m)) * (2 * math.pi / len(rays_m))
    return lon_lat(centre_m + rays_m[:, None] * np.stack((np.cos(turns), np.sin(turns)), axis=1))


def _brand_id(fence_number: int) -> str:
    return f"b{fence_number // FENCES_PER_BRAND:05}"


def make_brands(fences: int) -> list[Brand]:
    """The brands of so many fences, a hundred fences each."""
    ids = dict.fromkeys(map(_brand_id, range(fences)))
    return [Brand(id=name, name=name, categories=("food.cafe",)) for name in ids]


def make_offers(brands: list[Brand]) -> list[Offer]:
    """Two offers a brand, at all of its fences: one on entering, one on staying two minutes."""
    return [
        Offer(
            id=f"{brand.id}-{trigger}",
            brand=brand.id,
            title="Coffee for two",
            body="The second cup is on us until five o'clock.",
            trigger=trigger,
            dwell_s=DWELL_S if trigger == "dwell" else 0,
            tags=(TAG,),
            caps=OfferCaps(per_resident_day=1),
            budget=Budget(total=1_000_000),
            status="live",
        )
        for brand in brands
        for trigger in ("enter", "dwell")
    ]


def resident_id(number: int) -> str:
    """The id of a resident."""
    return f"r-{number:06}"


def opted_in(resident: str, *, now_ms: int) -> tuple[Record, ...]:
    """What a resident says who wants offers of everybody."""
    kept = ResidentRow(id=resident, settings=ResidentSettings())
    return resolve(kept, marketing(True), Said(actor="self", now_ms=now_ms)).records


def scattered(count: int, seed: int = 7) -> Floats:
    """Positions of pings that have nothing to do with each other, (count, 2) degrees."""
    return lon_lat(places(count, np.random.default_rng(seed)))


class Walk:
    """Residents who each walk 25 m a step in a direction that they change little, or stand still.

    What phones report is off by 3 m in each direction, that of those who stand too.
    """

    def __init__(self, residents: int, *, seed: int = 11) -> None:
        self._rng = np.random.default_rng(seed)
        self._at_m = places(residents, self._rng)
        self._heading = self._rng.uniform(0.0, 2 * math.pi, residents)
        self._rank = self._rng.permutation(residents) / residents

    def step(self, standing: float = STANDING_SHARE) -> Floats:
        """Let all take a step but the share that stands; what the phones report, (n, 2) degrees."""
        count = len(self._at_m)
        self._heading += self._rng.normal(0.0, 0.3, count)
        way = STEP_M * np.stack((np.cos(self._heading), np.sin(self._heading)), axis=1)
        self._at_m[self._rank >= standing] += way[self._rank >= standing]
        outside = ((self._at_m < 0.0) | (self._at_m > SIDE_M)).any(axis=1)
        self._at_m = np.clip(self._at_m, 0.0, SIDE_M)
        self._heading[outside] += math.pi
        return lon_lat(self._at_m + self._rng.normal(0.0, NOISE_SD_M, (count, 2)))


def bodies(positions: Floats, at_ms: int) -> list[bytes]:
    """The JSON of a ping of each resident, in the order of their numbers."""
    return [
        b'{"resident":"%b","at_ms":%d,"lon":%.7f,"lat":%.7f,"accuracy_m":%.1f}'
        % (resident_id(number).encode(), at_ms, lon, lat, ACCURACY_M)
        for number, (lon, lat) in enumerate(positions.tolist())
    ]


def batches(pings: list[bytes], size: int) -> list[bytes]:
    """The same pings as bodies of several."""
    return [
        b'{"pings":[' + b",".join(pings[start : start + size]) + b"]}"
        for start in range(0, len(pings), size)
    ]
