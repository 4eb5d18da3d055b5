"""Bring a file of fences into the store: what is good goes live together, the rest is told."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import orjson

from engine.offers.offer import Brand
from engine.replay import RowRefused
from engine.store.port import FenceRow, Store
from geofences.fence import Fence
from geofences.geojson import to_feature

ASK_AT_ONCE: Final = 5_000
"""How many fences are asked for in one read."""


class Imported(NamedTuple):
    """What an import did, or would do."""

    created: int
    updated: int
    unchanged: int
    rejected: tuple[RowRefused, ...]


async def import_fences(
    store: Store,
    fences: Sequence[Fence],
    rows: dict[str, int],
    new_brands: Iterable[Brand],
    *,
    dry_run: bool,
) -> Imported:
    """Write fences so that they go live together.

    Args:
        store: open.
        fences: with distinct ids.
        rows: fence id -> row of the file, for telling what was wrong.
        new_brands: brands that may be made if they are not there; a fence of any other brand that
            does not exist is rejected.
        dry_run: only tell what would be done.
    """
    made = {brand.id: brand for brand in new_brands}
    wanted = sorted({fence.brand for fence in fences})
    known = {row.brand.id for row in await store.read_brands(wanted)}
    missing = [made[name] for name in wanted if name not in known and name in made]
    allowed = known | {brand.id for brand in missing}
    good = [fence for fence in fences if fence.brand in allowed]
    rejected = tuple(
        RowRefused(rows[f.id], "unknown_brand", f"brand {f.brand} does not exist; make it first")
        for f in fences
        if f.brand not in allowed
    )
    there = await _there(store, good)
    written = [FenceRow(id=f.id, brand=f.brand, feature=orjson.dumps(to_feature(f))) for f in good]
    unchanged = sum(there.get(row.id) == (row.brand, row.feature) for row in written)
    created = sum(row.id not in there for row in written)
    if not dry_run:
        for brand in missing:
            await store.put_brand(brand)
        await store.put_fences(written)
    return Imported(created, len(written) - created - unchanged, unchanged, rejected)


async def _there(store: Store, fences: Sequence[Fence]) -> dict[str, tuple[str, bytes]]:
    """Brand and Feature of those fences that exist."""
    found: dict[str, tuple[str, bytes]] = {}
    for start in range(0, len(fences), ASK_AT_ONCE):
        ids = [fence.id for fence in fences[start : start + ASK_AT_ONCE]]
        found.update({r.id: (r.brand, r.feature) for r in await store.read_fences(ids)})
    return found
