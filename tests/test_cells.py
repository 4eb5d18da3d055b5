import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geofences import cells
from geofences.fence import Fence
from geofences.index import FenceIndex
from geofences.measure import covers, meets
from tests.strategies import circle, polygon, star, wrap

M_PER_DEG = 111_000.0
PLACES = ((13.4, 52.5), (-70.0, -33.0), (0.0, 0.0), (25.0, 84.99), (179.895, -17.0))
"""A town in each quarter of the world, one where cells end to the north, one at the seam."""


def fence_at(rng: random.Random, lon: float, lat: float, fence_id: str) -> Fence:
    """A circle or a star of a shop's size, rarely of a town's or a country's."""
    radius_m = rng.choice((30.0, 80.0, 150.0, 900.0, 5_000.0, 300_000.0))
    spread = 300.0 / M_PER_DEG
    lon = wrap(lon + rng.uniform(-spread, spread) / max(0.01, math.cos(math.radians(lat))))
    lat += rng.uniform(-spread, spread)
    if rng.random() < 0.5 or lat > 80.0:
        return circle(lon, lat, radius_m, fence_id)
    rings = [star(lon, lat, [radius_m * rng.uniform(0.6, 1.0) for _ in range(16)])]
    if rng.random() < 0.5:
        rings.append(star(lon, lat, [0.3 * radius_m] * 8))
    return polygon(*rings, fence_id=fence_id)


@pytest.mark.parametrize("place", PLACES)
@given(st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_whoever_walks_sees_every_fence_as_it_is_now(place: tuple[float, float], seed: int) -> None:
    """Steps of metres, within cells and across them, while fences come, change and go."""
    rng = random.Random(seed)
    lon, lat = place
    shrink = max(0.01, math.cos(math.radians(lat)))
    index, held = FenceIndex(), dict[str, Fence]()
    for n in range(60):
        if n % 4 == 0:
            fence_id = f"f{rng.randrange(12):02}"
            if rng.random() < 0.25:
                index.remove(fence_id)
                held.pop(fence_id, None)
            else:
                held[fence_id] = fence_at(rng, *place, fence_id)
                index.put_many([held[fence_id]]) if rng.random() < 0.5 else index.replace(
                    held[fence_id]
                )
        step = rng.choice((0.0, 3.0, 25.0, 60.0, 400.0)) / M_PER_DEG
        lon0, lat0 = lon, lat
        lon = wrap(lon + rng.uniform(-step, step) / shrink)
        lat += rng.uniform(-step, step)
        by_id = [held[key] for key in sorted(held)]
        left = tuple(f for f in by_id if covers(f, lon0, lat0))

        covering, met = index.along(lon0, lat0, lon, lat, left)

        assert covering == index.covering(lon, lat)
        assert covering == tuple(f for f in by_id if covers(f, lon, lat))
        assert met == tuple(
            f
            for f in by_id
            if f not in covering and f not in left and meets(f, lon0, lat0, lon, lat)
        )


def test_a_country_beside_shops_is_settled_once_for_a_cell() -> None:
    """Deep in it the country is not asked again, and where it is far away it is not even there."""
    index = FenceIndex.load(
        [
            polygon(star(10.0, 50.0, [300_000.0] * 400), fence_id="country"),
            circle(10.0, 50.0, 50.0, "shop"),
        ]
    )

    assert [f.id for f in index.covering(10.0, 50.0)] == ["country", "shop"]
    ((*shell, _), _) = index._cells.around(10.0, 50.0, 10.0, 50.0) or ()
    assert shell[3:] == [math.inf, math.inf]
    assert list(index._cells.around(14.1, 52.6, 14.1, 52.6) or ()) == []


def test_cells_have_room_for_so_much_and_the_oldest_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever comes back to where a cell was let go finds the same."""
    monkeypatch.setattr(cells, "CELLS_BYTES_MAX", 2_000)
    fences = [circle(13.4 + n / 1_000, 52.5, 60.0, f"f{n:03}") for n in range(100)]
    index = FenceIndex.load(fences)
    for _, n in itertools.product(range(2), range(100)):
        assert index.covering(13.4 + n / 1_000, 52.5) == (fences[n],)
        assert 0 < index._cells.bytes_held <= 2_000


def test_a_fence_over_half_the_world_makes_every_cell_look_anew() -> None:
    """Where its box holds more cells than there are, those that are there are gone through."""
    index = FenceIndex.load([circle(13.4, 52.5, 60.0, "shop"), circle(-60.0, -30.0, 60.0, "far")])
    assert [f.id for f in index.covering(13.4, 52.5)] == ["shop"]
    assert [f.id for f in index.covering(-60.0, -30.0)] == ["far"]

    index.add(circle(13.0, 50.0, 1_000_000.0, "country"))

    assert [f.id for f in index.covering(13.4, 52.5)] == ["country", "shop"]
    assert [f.id for f in index.covering(-60.0, -30.0)] == ["far"]
    index.remove("country")
    assert [f.id for f in index.covering(13.4, 52.5)] == ["shop"]
