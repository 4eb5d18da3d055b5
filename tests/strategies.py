"""Hypothesis strategies and builders for geometry: positions, rings, Features and fences."""

import math
from typing import Any, TypeAlias

from hypothesis import strategies as st

from geofences.fence import Fence
from geofences.geojson import parse_fence
from geofences.globe import GEOD

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
