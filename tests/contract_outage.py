"""What every method of every store must do when the store is away."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from engine.consent.protection import UNPROTECTED
from engine.store.audit import AuditFilter
from engine.store.port import FencePage, Redemption, Rows, Store, StoreUnavailable
from engine.store.rights import new_erasure
from tests.contract_guards import text
from tests.contract_rights import merging
from tests.contract_store import (
    BRAND,
    KEY,
    NOW_MS,
    OFFER,
    SETTINGS,
    Outage,
    fence,
    presence,
    record,
)


async def no_rows() -> AsyncIterator[Rows]:
    yield Rows()


CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "secret": lambda s: s.secret("codes"),
    "snapshot": lambda s: s.snapshot(now_ms=NOW_MS),
    "changes_after": lambda s: s.changes_after(0),
    "newest_change": lambda s: s.newest_change(),
    "follow": lambda s: s.follow("n1", 0, renewed_ms=1),
    "announce": lambda s: s.announce(),
    "join": lambda s: s.join("n1", lease_ms=2_000),
    "leave": lambda s: s.leave("n1"),
    "read_nodes": lambda s: s.read_nodes(),
    "bury": lambda s: s.bury([]),
    "put_canary": lambda s: s.put_canary("n1", b"{}"),
    "read_canary": lambda s: s.read_canary("n1"),
    "wait_for_change": lambda s: s.wait_for_change(0.0),
    "number_events": lambda s: s.number_events(),
    "events_after": lambda s: s.events_after(0),
    "wait_for_events": lambda s: s.wait_for_events(0.0),
    "prune_events": lambda s: s.prune_events(age_max_ms=0, events_max=0),
    "read_brands": lambda s: s.read_brands(["cafe"]),
    "read_fences": lambda s: s.read_fences(["door"]),
    "page_fence_ids": lambda s: s.page_fence_ids(after="", brands=None, limit=1),
    "page_fences": lambda s: s.page_fences(FencePage(limit=1, bytes_max=1)),
    "read_offers": lambda s: s.read_offers(["latte"]),
    "read_residents": lambda s: s.read_residents(["ann"]),
    "read_keys": lambda s: s.read_keys(["k1"]),
    "read_states": lambda s: s.read_states(["ann"], now_ms=NOW_MS),
    "read_counts": lambda s: s.read_counts(["latte"], now_ms=NOW_MS),
    "put_brand": lambda s: s.put_brand(BRAND),
    "put_fences": lambda s: s.put_fences([fence("door")]),
    "delete_fence": lambda s: s.delete_fence("door"),
    "put_offer": lambda s: s.put_offer(OFFER),
    "delete_offer": lambda s: s.delete_offer("latte"),
    "create_residents": lambda s: s.create_residents({"bob": SETTINGS}),
    "put_settings": lambda s: s.put_settings("ann", SETTINGS),
    "append_records": lambda s: s.append_records("ann", (record("ann", 1),), version_before=0),
    "import_residents": lambda s: s.import_residents([]),
    "put_together": lambda s: s.put_together(no_rows()),
    "read_batch": lambda s: s.read_batch("b1"),
    "audit": lambda s: s.audit(AuditFilter(), limit=1),
    "keep_call": lambda s: s.keep_call("k1", "once", b"", now_ms=NOW_MS),
    "end_call": lambda s: s.end_call("k1", "once", NOW_MS, None),
    "free_call": lambda s: s.free_call("k1", "once", NOW_MS),
    "prune": lambda s: s.prune(now_ms=NOW_MS, changes_ms=0, audit_ms=0),
    "read_protections": lambda s: s.read_protections(["ann"]),
    "put_protection": lambda s: s.put_protection("ann", UNPROTECTED, version_before=0),
    "put_notice": lambda s: s.put_notice(text("Show")),
    "read_notice": lambda s: s.read_notice("offers", "1", "fi"),
    "list_notices": lambda s: s.list_notices(None, limit=1),
    "claims_of": lambda s: s.claims_of("ann", limit=1),
    "erase_resident": lambda s: s.erase_resident("ann", new_erasure()),
    "retain": lambda s: s.retain(presence_before_ms=0, claims_before_ms=0),
    "put_pairing": lambda s: s.put_pairing("c1", "ann", until_ms=1, now_ms=0),
    "take_pairing": lambda s: s.take_pairing("c1", now_ms=0),
    "merge_residents": lambda s: s.merge_residents(merging("ann", "bob")),
    "read_merged": lambda s: s.read_merged("ann"),
    "put_key": lambda s: s.put_key(KEY),
    "delete_key": lambda s: s.delete_key("k1"),
    "commit": lambda s: s.commit(presence("ann", "door")),
    "claim_by_code": lambda s: s.claim_by_code("code-1"),
    "claim_by_id": lambda s: s.claim_by_id("1"),
    "redeem": lambda s: s.redeem(
        Redemption(id="r1", claim="c1", offer="latte", brand="cafe", at_ms=NOW_MS)
    ),
    "redemption": lambda s: s.redemption("r1"),
    "roll_back": lambda s: s.roll_back("r1"),
}
"""One call of each method that asks the store something."""

AT_HAND = {"open", "close", "when_applied"}
"""Those that ask it nothing."""


class OutageContract:
    """Fixture `store`, and `outage`, which makes it unavailable."""

    async def test_every_method_is_called_when_the_store_is_away(self) -> None:
        methods = {name for name, _ in inspect.getmembers(Store, inspect.isfunction)}

        assert {name for name in methods if name[0] != "_"} == CALLS.keys() | AT_HAND

    @pytest.mark.parametrize("method", CALLS)
    async def test_away_means_unavailable(self, store: Store, outage: Outage, method: str) -> None:
        await outage.begin()

        with pytest.raises(StoreUnavailable) as told:
            await CALLS[method](store)

        assert "ann" not in str(told.value)
        await outage.end()
        assert await store.read_brands([]) == []
