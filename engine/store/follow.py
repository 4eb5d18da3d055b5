"""Bring what is in the store into the engine: all of it at the start, then change by change.

There is one way by which fences, offers and preferences come into memory, whoever wrote them.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import orjson

from engine.changes import Changes
from engine.consent.protection import UNPROTECTED
from engine.pipeline import Engine
from engine.store.port import (
    Change,
    FenceRow,
    KeyRow,
    OfferRow,
    ResidentRow,
    Snapshot,
    Store,
    StoreUnavailable,
)
from engine.store.told import ResidentTold
from geofences.fence import Fence, FenceRejected
from geofences.geojson import parse_fence
from geofences.index import FenceIndex

log = logging.getLogger(__name__)

INLINE_MAX: Final = 100
"""Most things that are put one by one, where the loop is not held for long: 30 us each."""
READ_MAX: Final = 500
"""Most fences that are read and parsed at once."""
AGAIN_S: Final = 0.2
_INLINE_BYTES_MAX: Final = 64 * 1024
"""More GeoJSON than this is parsed in a thread, so that the loop is never held for long."""

_row: Final = msgspec.json.Decoder(ResidentRow)


def canary_id(node: str) -> str:
    """The made-up resident of a process; a letter in it is one that no client's id may have."""
    return f"/canary-{node}"


class Follower:
    """Keeps an engine and the table of keys in step with the store.

    Args:
        store: read from.
        engine: brought into step.
        keys: SHA-256 of a key -> its row; changed in place.
        node: this process' id among those that follow the feed.
        clock_ms: Unix milliseconds.
        write: takes what the engine wants to have made durable because of a change.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        keys: dict[str, KeyRow],
        *,
        node: str = "",
        clock_ms: Callable[[], int],
        write: Callable[[Changes], None],
    ) -> None:
        self._store = store
        self._engine = engine
        self._keys = keys
        self._node = node
        self._clock_ms = clock_ms
        self._write = write
        self._later: asyncio.Task[None] | None = None
        """The last of the tasks that bring much in; the next one waits for it."""

    def take_residents(self, told: list[ResidentTold]) -> None:
        """Take over some of all residents, before anything else."""
        now_ms = self._clock_ms()
        for row in told:
            self._engine.take_resident(row.id, row.settings, row.version, row.said, now_ms=now_ms)

    async def load(self, snapshot: Snapshot) -> None:
        """Take over everything else, before the first ping is answered."""
        for brand in snapshot.brands:
            self._engine.put_brand(brand.brand)
        self._engine.put_fences(await asyncio.to_thread(_parsed, snapshot.fences))
        for offer in snapshot.offers:
            self._engine.put_offer(offer.offer)
        for row in snapshot.protections:
            self._engine.put_protection(row.resident, row.protection)
        self._engine.restore(snapshot.states, snapshot.counts)
        for key in snapshot.keys:
            self._keys[key.hash] = key

    async def apply(self, changes: list[Change]) -> asyncio.Task[None] | None:
        """Take over what changed; of each thing as it is now, which may be newer than the change.

        What residents say is in memory when this returns. Many fences, and all that changes of the
        city while they are made ready, come in later and together, by the task that is given: so
        that an import never keeps anybody's "no" waiting.
        """
        ids = _by_kind(changes)
        residents, keys = ids.pop("resident", None), ids.pop("key", None)
        protected, canaries = ids.pop("protection", None), ids.pop("canary", ())
        if residents:
            await self._apply_residents(residents)
        if protected:
            await self._apply_protections(protected)
        if self._node in canaries:
            await self._apply_canary()
        if keys:
            await self._apply_keys(keys)
        return await self._take_city(ids) if ids else None

    async def _take_city(self, ids: dict[str, list[str]]) -> asyncio.Task[None] | None:
        """Take over what changed of the city, now or later."""
        before = self._later
        if before is not None and before.done():
            before = None
        if before is None and "batch" not in ids and sum(map(len, ids.values())) <= INLINE_MAX:
            await self._apply_few(ids)
            return None
        self._later = asyncio.create_task(self._apply_later(ids, before))
        return self._later

    async def _apply_residents(self, ids: list[str]) -> None:
        rows = await self._store.read_residents(ids, ahead=True)
        self._put_residents(rows)
        for gone in set(ids) - {row.id for row in rows}:
            self._engine.drop_resident(gone)
        if changed := self._engine.take_changes():
            self._write(changed)

    async def _apply_protections(self, ids: list[str]) -> None:
        rows = await self._store.read_protections(ids, ahead=True)
        found = {row.resident: row for row in rows}
        for resident in ids:
            row = found.get(resident)
            self._engine.put_protection(resident, row.protection if row else UNPROTECTED)
        if changed := self._engine.take_changes():
            self._write(changed)

    async def _apply_canary(self) -> None:
        """What our own made-up resident says; others are nothing to us."""
        body = await self._store.read_canary(self._node)
        if body is not None:
            row = _row.decode(body)
            self._engine.put_canary(row.id, row.version, row.records, now_ms=self._clock_ms())

    async def _apply_few(self, ids: dict[str, list[str]]) -> None:
        """Take over a few brands, fences and offers, in the order in which they build on another.

        All of it is read before any is put, so that what was written together goes live together.
        """
        brands = await self._store.read_brands(ids.get("brand", []))
        fences = await self._read_fences(ids.get("fence", []))
        offers = await self._store.read_offers(ids.get("offer", []))
        for brand in brands:
            self._engine.put_brand(brand.brand)
        if "fence" in ids:
            self._engine.put_fences(fences)
            for gone in set(ids["fence"]) - {fence.id for fence in fences}:
                self._engine.drop_fence(gone)
        self._put_offers(ids.get("offer", []), offers)

    async def _apply_later(
        self, ids: dict[str, list[str]], before: asyncio.Task[None] | None
    ) -> None:
        """Take over much of the city: made ready beside the service, then put in at once."""
        if before is not None:
            await asyncio.wait([before])
        while True:
            try:
                await self._apply_many(ids)
                return
            except StoreUnavailable:
                await asyncio.sleep(AGAIN_S)

    async def _apply_many(self, ids: dict[str, list[str]]) -> None:
        ids = dict(ids)
        for batch in ids.pop("batch", []):
            for kind, more in (await self._store.read_batch(batch)).items():
                ids[kind] = more if kind not in ids else ids[kind] + more
        fence_ids = ids.get("fence", [])
        if len(fence_ids) <= INLINE_MAX:
            await self._apply_few(ids)
            return
        brands = await self._store.read_brands(ids.get("brand", []))
        fences = []
        for start in range(0, len(fence_ids), READ_MAX):
            fences += await self._read_fences(fence_ids[start : start + READ_MAX])
        offers = await self._store.read_offers(ids.get("offer", []))
        index = await asyncio.to_thread(_changed, self._engine.fences, fence_ids, fences)
        for brand in brands:
            self._engine.put_brand(brand.brand)
        self._engine.swap_fences(index)
        self._put_offers(ids.get("offer", []), offers)
        await asyncio.to_thread(index.clear)

    async def _read_fences(self, ids: list[str]) -> list[Fence]:
        rows = await self._store.read_fences(ids) if ids else []
        if sum(len(row.feature) for row in rows) > _INLINE_BYTES_MAX:
            return await asyncio.to_thread(_parsed, rows)
        return _parsed(rows)

    def _put_offers(self, ids: list[str], rows: list[OfferRow]) -> None:
        found = {row.offer.id: row.offer for row in rows}
        for offer_id in ids:
            if offer_id in found:
                self._engine.put_offer(found[offer_id])
            else:
                self._engine.drop_offer(offer_id)

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


def _changed(index: FenceIndex, ids: list[str], fences: list[Fence]) -> FenceIndex:
    """The index with these fences as they are, and without those that are no more."""
    return index.changed(fences, set(ids) - {fence.id for fence in fences})


def _by_kind(changes: Iterable[Change]) -> dict[str, list[str]]:
    """The ids of each kind."""
    ids: dict[str, list[str]] = {}
    for change in changes:
        ids.setdefault(change.kind, []).append(change.id)
    return ids


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
