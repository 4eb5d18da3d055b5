"""Which fences may touch a box, by id, a page at a time, and never the loop's for long.

The index answers a box at once and with all that is in it: 130 ms for a city of 100,000 fences, of
which a page has 100. So it is asked for small boxes alone, in tiles. A larger box holds much of
what there is: for that the store names fences by id, and each is held against the box, until there
are enough. A large box with hardly anything in it costs a walk over all ids.
"""

import asyncio
import math
from collections.abc import Iterator
from itertools import product
from typing import Final

from engine.store.port import KeyRow
from engine.web.auth import may_see
from engine.web.context import Context
from engine.web.problem import FieldError, Refused
from geofences.fence import BBox, Fence

TILE_DEG: Final = 0.01
"""Of the sides of a tile: of a million fences in a city it holds some hundred."""
TILES_MAX: Final = 64
"""Beyond so many tiles a box is a large one."""
WALK_IDS: Final = 2_000
"""How many ids are looked at before the loop may turn."""


async def ids_within(ctx: Context, key: KeyRow, bbox: str, after: str, count: int) -> list[str]:
    """The first ids after one of the caller's fences that may touch a box.

    Raises:
        Refused: it is no box.
    """
    boxes = _boxes(bbox)
    if sum(map(_tile_count, boxes)) <= TILES_MAX:
        return await _by_tiles(ctx, key, boxes, after, count)
    brands = None if key.role == "operator" else key.brands
    found: list[str] = []
    while len(found) < count:
        ids = await ctx.store.page_fence_ids(after=after, brands=brands, limit=WALK_IDS)
        found += [one for one in ids if _meets(ctx.engine.fences.get(one), boxes)]
        if len(ids) < WALK_IDS:
            break
        after = ids[-1]
    return found[:count]


async def _by_tiles(
    ctx: Context, key: KeyRow, boxes: list[BBox], after: str, count: int
) -> list[str]:
    """The same of small boxes."""
    found: list[str] = []
    for box in boxes:
        for tile in _tiles(box):
            there = ctx.engine.fences.within_box(tile)
            mine = (one.id for one in there if one.id > after and may_see(key, one.brand))
            found = sorted({*found, *mine})[:count]
            await asyncio.sleep(0)
    return found


def _tile_count(box: BBox) -> int:
    return _steps(box.east - box.west) * _steps(box.north - box.south)


def _steps(degrees: float) -> int:
    return max(1, math.ceil(degrees / TILE_DEG))


def _tiles(box: BBox) -> Iterator[BBox]:
    """A box in parts that have their edges in common."""
    wide, high = box.east - box.west, box.north - box.south
    columns, rows = _steps(wide), _steps(high)
    for column, row in product(range(columns), range(rows)):
        yield BBox(
            box.west + wide * column / columns,
            box.south + high * row / rows,
            box.east if column + 1 == columns else box.west + wide * (column + 1) / columns,
            box.north if row + 1 == rows else box.south + high * (row + 1) / rows,
        )


def _meets(fence: Fence | None, boxes: list[BBox]) -> bool:
    """Whether a fence is live here and may touch one of the boxes."""
    return fence is not None and any(
        one.west <= box.east
        and box.west <= one.east
        and one.south <= box.north
        and box.south <= one.north
        for one in fence.boxes
        for box in boxes
    )


def _boxes(text: str) -> list[BBox]:
    """The box that a query names; one with west > east crosses the antimeridian and becomes two."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise _bad_box() from None
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise _bad_box()
    if west <= east:
        return [BBox(west, south, east, north)]
    return [BBox(west, south, 180.0, north), BBox(-180.0, south, east, north)]


def _bad_box() -> Refused:
    told = "Must be west,south,east,north in degrees, with south <= north."
    return Refused("invalid_parameter", errors=(FieldError("bbox", "invalid_bbox", told),))
