"""Lists in pages while others write: what is there all the time comes once, in order."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.web_town import Town, fence, offer, town

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
