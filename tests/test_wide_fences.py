"""Fences of a country's size beside those of shops: exact, and nobody has to wait for them."""

import asyncio
import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import shapely

from bench.city import make_fences, scattered
from bench.timing import in_turns
from geofences.fence import Area, Fence
from geofences.index import FenceIndex
from geofences.measure import make_fence
from tests.web_town import OPERATOR, town

SHOPS = 10_000
COUNTRIES = 20
HOLD_MAX_S = 0.25
"""Of the loop; what a thread holds of the interpreter counts, and a busy machine's pauses too."""


def country(corners: int, lon: float, lat: float, size: float, seed: int) -> shapely.Polygon:
    """A coast of many bays: a circle with waves of every length on it."""
    rng = np.random.default_rng(seed)
    turns, waves = np.arange(corners) * (2 * np.pi / corners), np.arange(2, 400)
    spectrum = np.zeros(corners // 2 + 1, dtype=complex)
    spectrum[waves] = rng.normal(0, 0.25 / waves) * np.exp(1j * rng.uniform(0, 6.28, len(waves)))
    radius = size * np.clip(1 + np.fft.irfft(spectrum, corners) * corners / 2, 0.3, 2.0)
    return shapely.Polygon(
        np.column_stack((lon + 1.7 * radius * np.cos(turns), lat + radius * np.sin(turns)))
    )


@pytest.fixture(scope="module")
def countries() -> list[Fence]:
    """Twenty around the city of the benchmarks, of 10,000 to 60,000 corners."""
    sizes = np.linspace(10_000, 60_000, COUNTRIES).astype(int).tolist()
    shapes = [country(n, 13.6, 52.6, 2 + 0.2 * k, k) for k, n in enumerate(sizes)]
    return [make_fence(f"land{n:02}", "b", "", (), Area(shape)) for n, shape in enumerate(shapes)]


def asking(ask: Callable[..., Any], rows: list[list[float]]) -> Callable[[], int]:
    def asked() -> int:
        for row in rows:
            ask(*row)
        return len(rows)

    return asked


def test_countries_do_not_slow_the_shops(countries: list[Fence]) -> None:
    """A country that covers a ping costs microseconds, whatever its coast; one elsewhere nothing.

    1.3 us each on an idle machine; the limits leave room for a busy one.
    """
    shops = make_fences(SHOPS)
    elsewhere = [
        make_fence(f"far{n:02}", "b", "", (), Area(country(20_000, -60.0 + 5 * n, 0.0, 2.0, n)))
        for n in range(COUNTRIES)
    ]
    alone, among = FenceIndex.load(shops), FenceIndex.load([*shops, *countries])
    beside = FenceIndex.load([*shops, *elsewhere])
    points = scattered(500)
    ways = np.hstack((points, points + np.array((3e-4, 1e-4)))).tolist()
    rows = points.tolist()

    took = in_turns(
        {
            "alone": asking(alone.covering, rows),
            "among": asking(among.covering, rows),
            "beside": asking(beside.covering, rows),
            "along alone": asking(alone.along, ways),
            "along among": asking(among.along, ways),
        },
        5,
    )

    least = {name: min(each) for name, each in took.items()}
    assert least["among"] - least["alone"] < 10.0 * COUNTRIES, least
    assert least["along among"] - least["along alone"] < 10.0 * COUNTRIES, least
    assert least["beside"] < 2 * least["alone"], least


def test_countries_and_shops_are_found_together(countries: list[Fence]) -> None:
    """Every country against every point, by shapely's covers on the whole geometry."""
    shops = make_fences(1_000)
    index = FenceIndex.load([*shops, *countries])
    rng = np.random.default_rng(3)
    coasts = np.concatenate([shapely.get_coordinates(c.shape.geometry) for c in countries])  # type: ignore[union-attr]
    points = np.concatenate((scattered(200), rng.choice(coasts, 600), rng.choice(coasts, 300)))
    points[-300:] += rng.normal(0, 1e-7, (300, 2))

    for point, found in zip(points.tolist(), index.covering_many(points), strict=True):
        at = shapely.Point(point)
        truth = [c.id for c in countries if c.shape.geometry.covers(at)]  # type: ignore[union-attr]
        assert [fence.id for fence in found if fence.id.startswith("land")] == truth
        assert index.covering(*point) == found


@pytest.mark.parametrize("kind", ["polygon", "corridor"])
async def test_the_loop_goes_on_while_a_country_is_put(tmp_path: Path, kind: str) -> None:
    """100,000 positions, or a short line that becomes as many, from the body to the answer."""
    if kind == "polygon":
        ring = np.round(shapely.get_coordinates(country(99_999, 10.0, 50.0, 3.0, 1)), 9).tolist()
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [ring]}
    else:
        geometry = {"type": "LineString", "coordinates": [[0, 60], [80, 61]]}
    feature = {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"brand": "land"} | ({"width_m": 2} if kind == "corridor" else {}),
    }
    body = orjson.dumps(feature)
    async with town(tmp_path) as here:
        await here.brand("land")
        put = here.session.put(
            "/v1/fences/country",
            data=io.BytesIO(body),
            headers={"Authorization": f"Bearer {OPERATOR}"},
        )
        longest_s, turns = 0.0, itertools.count()
        putting = asyncio.ensure_future(put.__aenter__())
        before_s = time.perf_counter()
        while not putting.done():
            await asyncio.sleep(0)
            now_s = time.perf_counter()
            longest_s, before_s = max(longest_s, now_s - before_s), now_s
            next(turns)
        answer = putting.result()

        assert answer.status == 201
        assert (await answer.read()).startswith(b'{"type":"Feature"')
        assert next(turns) > 20
        assert longest_s < HOLD_MAX_S
        fence = here.ctx.engine.fences.get("country")
        assert fence is not None
        assert shapely.get_num_coordinates(fence.shape.geometry) > 50_000  # type: ignore[union-attr]
