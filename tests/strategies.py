"""Hypothesis strategies and builders: positions, rings, fences, pings, residents and walks."""

import math
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec
from hypothesis import strategies as st

from engine.consent.record import Record
from engine.consent.sync import Requested, Said, marketing, resolve
from engine.offers.gates import Attention
from engine.offers.offer import Brand, Offer
from engine.ping import Ping
from engine.pipeline import Engine, EngineSettings
from engine.residents import Limits, ResidentSettings
from engine.store.port import ResidentRow
from geofences.fence import Fence
from geofences.geojson import parse_fence
from geofences.globe import GEOD
from geofences.measure import make_fence

Ring: TypeAlias = list[list[float]]

seam_lons = st.sampled_from(
    [180.0, -180.0, math.nextafter(180, 0), math.nextafter(-180, 0), 179.9995, -179.9995]
)
pole_lats = st.sampled_from([90.0, -90.0, math.nextafter(90, 0), 89.9995, -89.9995])
lons = st.floats(-180, 180) | seam_lons
lats = st.floats(-90, 90) | pole_lats
temperate_lats = st.floats(-65, 65)
radii_m = st.floats(0.01, 1_000_000.0) | st.floats(5.0, 500.0)


def wrap(lon: float) -> float:
    """Write a longitude within -180..180."""
    return lon if -180.0 <= lon <= 180.0 else (lon + 180.0) % 360.0 - 180.0


def star(lon: float, lat: float, rays_m: list[float]) -> Ring:
    """A closed ring with a corner at each of these distances, at even bearings around a centre."""
    bearings = [-360.0 * n / len(rays_m) for n in range(len(rays_m))]
    ring = [list(GEOD.fwd(lon, lat, b, m)[:2]) for b, m in zip(bearings, rays_m, strict=True)]
    return [*ring, ring[0]]


def feature(geometry: dict[str, Any], fence_id: str = "cafe", **properties: Any) -> dict[str, Any]:
    """A Feature of a brand, with whatever other properties."""
    return {
        "type": "Feature",
        "id": fence_id,
        "geometry": geometry,
        "properties": {"brand": "beans", **properties},
    }


def circle(lon: float, lat: float, radius_m: float, fence_id: str = "cafe") -> Fence:
    """A circular fence."""
    point = {"type": "Point", "coordinates": [lon, lat]}
    return parse_fence(feature(point, fence_id, radius_m=radius_m))


def polygon(*rings: Ring, fence_id: str = "cafe") -> Fence:
    """A fence of an outer ring and holes."""
    return parse_fence(feature({"type": "Polygon", "coordinates": list(rings)}, fence_id))


def corridor(line: Iterable[tuple[float, float]], width_m: float, fence_id: str = "cafe") -> Fence:
    """A fence along a line."""
    positions = [list(position) for position in line]
    geometry = {"type": "LineString", "coordinates": positions}
    return parse_fence(feature(geometry, fence_id, width_m=width_m))


def box_ring(west: float, south: float, east: float, north: float) -> Ring:
    """The closed ring of a box, counter-clockwise; west may be east of east, across the seam."""
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


@st.composite
def circles(draw: st.DrawFn, fence_id: str = "cafe") -> Fence:
    """A circle anywhere on the globe, of any radius."""
    return circle(draw(lons), draw(lats), draw(radii_m), fence_id)


@st.composite
def stars(draw: st.DrawFn, fence_id: str = "cafe", largest_m: float = 100_000.0) -> Fence:
    """A star of a shop's to a region's size, perhaps with a hole, perhaps across the seam."""
    lon, lat = draw(lons), draw(temperate_lats)
    size_m = draw(st.floats(20.0, largest_m) | st.floats(20.0, 500.0))
    rays = draw(st.lists(st.floats(0.5, 1.0), min_size=8, max_size=24))
    rings = [star(lon, lat, [size_m * ray for ray in rays])]
    if draw(st.booleans()):
        rings.append(star(lon, lat, [0.2 * size_m] * 6))
    return polygon(*rings, fence_id=fence_id)


@st.composite
def near(draw: st.DrawFn, fence: Fence) -> tuple[float, float]:
    """A position in or around a fence: anywhere near, or on a corner of one of its boxes."""
    box = draw(st.sampled_from(fence.boxes))
    wide, high = box.east - box.west, box.north - box.south
    lon = box.west + wide * draw(st.floats(-0.2, 1.2) | st.sampled_from([0.0, 0.5, 1.0]))
    lat = box.south + high * draw(st.floats(-0.2, 1.2) | st.sampled_from([0.0, 0.5, 1.0]))
    return wrap(lon), max(-90.0, min(90.0, lat))


# A town on a plane: metres east and north of a square in Helsinki, times from a Tuesday noon.

TOWN: Final = (24.94, 60.17)
NOON_MS: Final = 1_790_078_400_000
"""2026-09-22 12:00:00 UTC, a Tuesday."""
UNLIMITED: Final = Attention(per_day=1_000, per_week=1_000)
KEY: Final = b"a key of the tests"


def town(east_m: float, north_m: float = 0.0) -> tuple[float, float]:
    """The position so many metres from the square."""
    metres = math.hypot(east_m, north_m)
    bearing = math.degrees(math.atan2(east_m, north_m))
    lon, lat, _ = GEOD.fwd(*TOWN, bearing, metres)
    return lon, lat


def place(
    fence_id: str = "cafe",
    east_m: float = 0.0,
    north_m: float = 0.0,
    *,
    radius_m: float = 50.0,
    brand: str = "beans",
    tags: tuple[str, ...] = (),
) -> Fence:
    """A circular fence in the town."""
    fence = circle(*town(east_m, north_m), radius_m, fence_id)
    return make_fence(fence_id, brand, fence_id, tags, fence.shape)


def ping(
    east_m: float = 0.0,
    at_s: float = 0.0,
    north_m: float = 0.0,
    *,
    resident: str = "ann",
    accuracy_m: float | None = 9.0,
    ping_id: str | None = None,
    late_s: float = 0.0,
    mock: bool = False,
) -> Ping:
    """A ping in the town, `at_s` after noon, received `late_s` after it was taken."""
    lon, lat = town(east_m, north_m)
    at_ms = NOON_MS + round(at_s * 1_000)
    return Ping(
        resident=resident,
        at_ms=at_ms,
        lon=lon,
        lat=lat,
        accuracy_m=accuracy_m,
        id=ping_id,
        received_ms=at_ms + round(late_s * 1_000),
        mock=mock,
    )


def offer(offer_id: str = "free-cup", **fields: Any) -> Offer:
    """A live offer of the cafe on entering."""
    given = {
        "brand": "beans",
        "title": "A cup",
        "body": "Free today",
        "trigger": "enter",
        "status": "live",
    }
    if "tags" not in fields:
        given["fences"] = ("cafe",)  # type: ignore[assignment]
    return msgspec.convert({"id": offer_id, **given, **fields}, Offer)


def records_of(
    *calls: Iterable[Requested], resident: str = "ann", now_ms: int = NOON_MS
) -> tuple[Record, ...]:
    """What a resident says in several calls, each from the latest settings, one after the other."""
    row = ResidentRow(id=resident, settings=ResidentSettings())
    for call in calls:
        said = Said(actor="self", now_ms=now_ms, if_match=row.version)
        made = resolve(row, call, said).records
        row = msgspec.structs.replace(row, version=row.version + 1, records=row.records + made)
    return row.records


def say(
    engine: Engine,
    *calls: Iterable[Requested],
    resident: str = "ann",
    now_ms: int = NOON_MS,
    timezone: str = "UTC",
    limits: Limits | None = None,
    follows: tuple[str, ...] = (),
) -> None:
    """Let an engine know all that a resident ever said."""
    records = records_of(*calls, resident=resident, now_ms=now_ms)
    settings = ResidentSettings(timezone=timezone, limits=limits or Limits(), follows=follows)
    engine.put_resident(resident, settings, len(calls), records, now_ms=now_ms)


def engine_of(
    fences: Iterable[Fence] = (),
    offers: Iterable[Offer] = (),
    *,
    brands: Iterable[Brand] = (Brand(id="beans", name="Beans"),),
    residents: Iterable[str] = ("ann",),
    attention: Attention = UNLIMITED,
    kept_fixes_max: int = 150,
    next_fix: bool = False,
) -> Engine:
    """An engine with a town in it, whose residents opted in to all offers."""
    settings = EngineSettings(attention=attention, kept_fixes_max=kept_fixes_max, next_fix=next_fix)
    engine = Engine(secret=KEY, settings=settings)
    for brand in brands:
        engine.put_brand(brand)
    engine.put_fences(list(fences))
    for each in offers:
        engine.put_offer(each)
    for resident in residents:
        say(engine, marketing(opted_in=True), resident=resident)
    return engine


@st.composite
def walks(draw: st.DrawFn, pings_max: int = 40, gap_max_s: int = 1_000) -> list[Ping]:
    """One resident's way through the town in the order of time, with jumps and gaps."""
    steps = draw(
        st.lists(
            st.tuples(
                st.integers(0, gap_max_s) | st.integers(1_799, 1_802),
                st.integers(-12, 12),
                st.integers(-2, 2),
                st.sampled_from([None, 0.0, 5.0, 9.0, 40.0, 151.0]),
            ),
            min_size=1,
            max_size=pings_max,
        )
    )
    at_s = 0
    walk = []
    for number, (gap_s, east, north, accuracy_m) in enumerate(steps):
        at_s += gap_s
        walk.append(
            ping(25.0 * east, at_s, 25.0 * north, accuracy_m=accuracy_m, ping_id=f"{number:03}")
        )
    return walk
