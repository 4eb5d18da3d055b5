"""Bring what is in the store into the engine: all of it at the start, then change by change.

There is one way by which fences, offers and preferences come into memory, whoever wrote them.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import orjson

from engine.changes import Changes
from engine.pipeline import Engine
from engine.store.port import Change, FenceRow, KeyRow, ResidentRow, Snapshot, Store
from geofences.fence import Fence, FenceRejected
from geofences.geojson import parse_fence

log = logging.getLogger(__name__)

_INLINE_BYTES_MAX = 64 * 1024
"""More GeoJSON than this is parsed in a thread, so that the loop is never held for long."""


class Follower:
    """Keeps an engine and the table of keys in step with the store.

    Args:
        store: read from.
        engine: brought into step.
        keys: SHA-256 of a key -> its row; changed in place.
        clock_ms: Unix milliseconds.
        write: takes what the engine wants to have made durable because of a change.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        keys: dict[str, KeyRow],
        *,
        clock_ms: Callable[[], int],
        write: Callable[[Changes], None],
    ) -> None:
        self._store = store
        self._engine = engine
        self._keys = keys
        self._clock_ms = clock_ms
        self._write = write

    async def load(self, snapshot: Snapshot) -> None:
        """Take over everything, before the first ping is answered."""
        for brand in snapshot.brands:
            self._engine.put_brand(brand.brand)
        self._engine.put_fences(await asyncio.to_thread(_parsed, snapshot.fences))
        for offer in snapshot.offers:
            self._engine.put_offer(offer.offer)
        self._put_residents(snapshot.residents)
        self._engine.restore(snapshot.states, snapshot.counts)
        for key in snapshot.keys:
            self._keys[key.hash] = key

    async def apply(self, changes: list[Change]) -> None:
        """Take over what changed; of each thing as it is now, which may be newer than the change.

        The kinds go in the order in which they build on each other.
        """
        ids: dict[str, list[str]] = {}
        for change in changes:
            ids.setdefault(change.kind, []).append(change.id)
        if brands := ids.get("brand"):
            for brand in await self._store.read_brands(brands):
                self._engine.put_brand(brand.brand)
        if fences := ids.get("fence"):
            await self._apply_fences(fences)
        if offers := ids.get("offer"):
            found = {row.offer.id: row.offer for row in await self._store.read_offers(offers)}
            for offer_id in offers:
                if offer_id in found:
                    self._engine.put_offer(found[offer_id])
                else:
                    self._engine.drop_offer(offer_id)
        if residents := ids.get("resident"):
            rows = await self._store.read_residents(residents)
            self._put_residents(rows)
            for gone in set(residents) - {row.id for row in rows}:
                self._engine.drop_resident(gone)
            if changed := self._engine.take_changes():
                self._write(changed)
        if keys := ids.get("key"):
            await self._apply_keys(keys)

    async def _apply_fences(self, ids: list[str]) -> None:
        rows = await self._store.read_fences(ids)
        if sum(len(row.feature) for row in rows) > _INLINE_BYTES_MAX:
            fences = await asyncio.to_thread(_parsed, rows)
        else:
            fences = _parsed(rows)
        self._engine.put_fences(fences)
        for gone in set(ids) - {row.id for row in rows}:
            self._engine.drop_fence(gone)

    async def _apply_keys(self, ids: list[str]) -> None:
        rows = await self._store.read_keys(ids)
        stale = set(ids)
        for key_hash in [h for h, row in self._keys.items() if row.id in stale]:
            del self._keys[key_hash]
        for row in rows:
            self._keys[row.hash] = row

    def _put_residents(self, rows: Iterable[ResidentRow]) -> None:
        now_ms = self._clock_ms()
        for row in rows:
            self._engine.put_resident(row.id, row.settings, row.version, row.records, now_ms=now_ms)


def _parsed(rows: Iterable[FenceRow]) -> list[Fence]:
    """Fences of stored Features; one that can't be read is left out, and loudly."""
    fences = []
    for row in rows:
        try:
            fences.append(parse_fence(orjson.loads(row.feature), fence_id=row.id, brand=row.brand))
        except (FenceRejected, orjson.JSONDecodeError) as error:
            # The kind alone: the text and the trace may quote positions.
            log.error("a stored fence can't be read and is left out: %s", type(error).__name__)
    return fences
