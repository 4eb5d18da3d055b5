"""ETag, If-Match and If-None-Match on brands, fences and offers, over HTTP."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.web_town import Reply, Town, fence, offer, town

BRAND = {"name": "Café Aino", "timezone": "Europe/Helsinki"}
THINGS = ("/v1/brands/cafe", "/v1/fences/cafe-1", "/v1/offers/bun")


def body(path: str, n: int) -> dict[str, Any]:
    """The n-th body of a thing, other than the ones before."""
    if "brands" in path:
        return BRAND | {"name": f"Café {n}"}
    if "fences" in path:
        return dict(fence("cafe", radius_m=60 + n))
    return offer("cafe", title=f"Bun {n}")


async def put(here: Town, path: str, n: int, **headers: str) -> Reply:
    return await here.call("PUT", path, body(path, n), **headers)


@pytest.mark.parametrize("path", THINGS)
async def test_a_write_rests_on_what_was_read(tmp_path: Path, path: str) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        first = await put(here, path, 1)
        tag = first.headers["ETag"]
        second = await put(here, path, 2, If_Match=f'"77", {tag}')
        late = await put(here, path, 3, If_Match=tag)
        weak = await put(here, path, 3, If_Match="W/" + second.headers["ETag"])
        there = await put(here, path, 4, If_Match="*")
        read = await here.call("GET", path)

        assert second.status == 200
        assert (late.status, late.code) == (weak.status, weak.code) == (412, "version_moved")
        assert late.headers["ETag"] == second.headers["ETag"]
        assert late.body["version"] == int(second.headers["ETag"].strip('"'))
        assert there.status == 200
        assert (read.headers["ETag"], read.body) == (there.headers["ETag"], there.body)


@pytest.mark.parametrize("path", THINGS)
async def test_only_what_is_not_there_is_made(tmp_path: Path, path: str) -> None:
    async with town(tmp_path) as here:
        if "brands" not in path:
            await here.brand("cafe")
        if "fences" in path:
            await here.must("DELETE", path)
        nothing = await put(here, path, 1, If_Match='"1"')
        made = await asyncio.gather(*(put(here, path, n, If_None_Match="*") for n in range(8)))
        (won,) = (one for one in made if one.status == 201)
        lost = [one for one in made if one.status != 201]

        assert (nothing.status, nothing.code, nothing.body["version"]) == (412, "version_moved", 0)
        assert "ETag" not in nothing.headers
        assert {(one.status, one.code) for one in lost} == {(412, "version_moved")}
        assert {one.headers["ETag"] for one in lost} == {won.headers["ETag"]}


@pytest.mark.parametrize("path", THINGS[1:])
async def test_a_deletion_rests_on_a_version_that_never_comes_back(
    tmp_path: Path, path: str
) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        tag = (await put(here, path, 1)).headers["ETag"]
        await put(here, path, 2)
        late = await here.call("DELETE", path, If_Match=tag)
        there = await here.call("GET", path)
        gone = await here.call("DELETE", path, If_Match=there.headers["ETag"])
        none = await here.call("DELETE", path, If_Match=tag)
        anew = await put(here, path, 1)

        assert (late.status, late.code) == (412, "version_moved")
        assert (there.status, gone.status, none.status) == (200, 204, 404)
        assert anew.status == 201
        assert anew.headers["ETag"] not in (tag, there.headers["ETag"])


@pytest.mark.parametrize("path", THINGS)
async def test_what_the_reader_has_is_not_sent_again(tmp_path: Path, path: str) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        tag = (await put(here, path, 1)).headers["ETag"]
        for known in (tag, f"W/{tag}", f'"0", {tag}', "*"):
            reply = await here.call("GET", path, If_None_Match=known)
            assert (reply.status, reply.headers["ETag"], reply.body) == (304, tag, "")
        await put(here, path, 2)
        assert (await here.call("GET", path, If_None_Match=tag)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"If_Match": "3"},
        {"If_Match": '"3'},
        {"If_Match": '"3",'},
        {"If_None_Match": '"3"'},
        {"If_None_Match": "*", "If_Match": '"3"'},
    ],
)
@pytest.mark.parametrize("path", THINGS)
async def test_what_is_no_condition_is_refused(
    tmp_path: Path, path: str, headers: dict[str, str]
) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        reply = await put(here, path, 9, **headers)

        assert (reply.status, reply.code) == (422, "invalid_parameter")
        assert reply.body["errors"][0]["code"] == "invalid_etag"


async def test_an_equal_write_keeps_the_etag(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        for path in THINGS:
            tag = (await put(here, path, 1)).headers["ETag"]
            again = await put(here, path, 1)
            assert (again.status, again.headers["ETag"]) == (200, tag)
