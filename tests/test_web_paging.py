"""Lists in pages while others write: what is there all the time comes once, in order."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from geofences.fence import BBox
from tests.web_town import OPERATOR, Town, fence, offer, town

COUNT = 30


async def pages(here: Town, path: str, limit: int, between: Any) -> list[str]:
    """The ids of all pages; something is written between each two."""
    seen: list[str] = []
    cursor, number = "", 0
    while cursor is not None:
        page = await here.must("GET", f"{path}?limit={limit}{cursor and '&cursor=' + cursor}")
        assert len(page["items"]) <= limit
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        await between(number)
        number += 1
    return seen


@pytest.mark.parametrize("limit", [1, 7, 30, 1_000])
@pytest.mark.parametrize("path", ["/v1/brands", "/v1/fences", "/v1/offers", "/v1/keys"])
async def test_a_list_is_stable_while_others_write(tmp_path: Path, path: str, limit: int) -> None:
    """Things come and go before, at and behind the cursor, the last one listed too."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        kind = path.removeprefix("/v1/").removesuffix("s")
        stay = {await make(here, kind, f"m{n:02}") for n in range(COUNT)}
        go = [await make(here, kind, f"m{4 * n:02}-gone") for n in range(8)]

        async def between(number: int) -> None:
            await asyncio.gather(
                make(here, kind, f"a{number}"),
                make(here, kind, f"m{2 * number:02}-new"),
                make(here, kind, f"z{number}"),
                *([drop(here, kind, go.pop())] if go else []),
            )

        seen = await pages(here, path, limit, between)

        assert seen == sorted(set(seen))
        assert stay <= set(seen)


@pytest.mark.parametrize("side", [0.004, 0.02, 0.16, 0.5, 5.0, 60.0])
async def test_fences_in_a_box_are_listed_whatever_its_size(tmp_path: Path, side: float) -> None:
    """Small boxes are asked of the index, large ones of the store: with the same answer, once each.

    The seam at 180 degrees is amid them; a merchant is told of its own alone.
    """
    rng = random.Random(20_266)
    places = {
        f"f{n:03}": (rng.gauss(0, side / 2 + 0.01) % 360 - 180, rng.gauss(0, 0.4 * side))
        for n in range(120)
    }
    half = side / 2
    box = (180 - half, -half, half - 180, half)
    async with town(tmp_path) as here:
        for brand in ("cafe", "bank"):
            await here.brand(brand)
        whose = {name: "cafe" if n % 3 else "bank" for n, name in enumerate(places)}
        await here.must(
            "POST",
            "/v1/fences/import",
            collection(places, whose),
            Content_Type="application/geo+json",
        )
        ids = {f.id: f.boxes for f in here.ctx.engine.fences if f.id in places}
        wanted = [name for name, boxes in ids.items() if any(_touch(one, box) for one in boxes)]
        query = f"/v1/fences?bbox={','.join(map(str, box))}"
        till = await here.key("merchant", brands=["bank"])
        for key, mine in ((OPERATOR, wanted), (till, [n for n in wanted if whose[n] == "bank"])):
            seen, cursor = list[str](), ""
            while cursor is not None:
                page = await here.must("GET", f"{query}&limit=7{cursor}", key=key)
                seen += [one["id"] for one in page["items"]]
                cursor = page["next"] and f"&cursor={page['next']}"
            assert seen == mine
        assert 10 < len(wanted) < len(places)


def collection(places: dict[str, tuple[float, float]], whose: dict[str, str]) -> dict[str, Any]:
    """Circles at these places."""
    return {
        "type": "FeatureCollection",
        "features": [
            {**fence(whose[name], lon=lon, lat=lat), "id": name}
            for name, (lon, lat) in places.items()
        ],
    }


def _touch(one: BBox, box: tuple[float, float, float, float]) -> bool:
    """Whether a box without the seam in it has something in common with one that crosses it."""
    west, south, east, north = box
    crosses = one.east >= west or one.west <= east
    return crosses and one.south <= north and one.north >= south


async def make(here: Town, kind: str, name: str) -> str:
    """Write a thing; its id."""
    if kind == "key":
        made = await here.must("POST", "/v1/keys", {"role": "sender", "name": name})
        return str(made["id"])
    bodies = {"brand": {"name": name}, "fence": fence("cafe"), "offer": offer("cafe")}
    await here.must("PUT", f"/v1/{kind}s/{name}", bodies[kind])
    return name


async def drop(here: Town, kind: str, name: str) -> None:
    """Delete a thing; brands stay, they only change."""
    if kind == "brand":
        await here.must("PUT", f"/v1/brands/{name}", {"name": "renamed"})
        return
    await here.must("DELETE", f"/v1/{kind}s/{name}")
