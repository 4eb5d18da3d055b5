"""What every store must do to stay bounded: forget what is old and not needed any more."""

from collections.abc import AsyncIterator
from typing import Final

import pytest

from engine.store.audit import AuditFilter, Author
from engine.store.kept import KEPT_MS
from engine.store.port import Change, FeedLost, Rows, Store
from engine.store.pruning import Pruned
from engine.store.told import ResidentTold
from tests.contract_store import BRAND, KEY, NOW_MS, OFFER, SETTINGS, fence

ALL_OLD: Final = -1_000
"""An age below zero: even what was written just now is older."""
YOUNG: Final = 3_600_000


async def import_of(*rows: Rows) -> AsyncIterator[Rows]:
    for part in rows:
        yield part


async def prune(store: Store, *, changes_ms: int = YOUNG, **more: int | None) -> Pruned:
    """Forget, where nobody else is at it."""
    given = {"now_ms": NOW_MS, "audit_ms": None} | more
    done = await store.prune(changes_ms=changes_ms, **given)  # type: ignore[arg-type]
    assert done is not None
    return done


class PruningContract:
    """The part of the contract about it; `store` and `other` have one state, which is empty."""

    async def test_young_lines_of_the_feed_stay(self, store: Store) -> None:
        for _ in range(3):
            await store.put_key(KEY)

        assert await prune(store) == Pruned()
        assert len(await store.changes_after(0)) == 3

    async def test_old_lines_go_but_for_the_newest(self, store: Store, other: Store) -> None:
        """Whoever has read to the end goes on; numbers go on; whoever is behind is told."""
        assert await prune(store, changes_ms=ALL_OLD) == Pruned()
        for _ in range(4):
            await store.put_key(KEY)

        assert await prune(other, changes_ms=ALL_OLD) == Pruned(changes=3)
        assert await prune(store, changes_ms=ALL_OLD) == Pruned()
        for behind in (0, 1, 2, 3):
            with pytest.raises(FeedLost):
                await store.changes_after(behind)
        assert await other.changes_after(4) == []
        assert await store.put_key(KEY) == 5
        assert await other.changes_after(4) == [Change(5, "key", KEY.id)]
        assert await prune(store) == Pruned()

    async def test_no_more_lines_at_once_than_were_asked_for(self, store: Store) -> None:
        for _ in range(6):
            await store.put_key(KEY)

        gone = [await prune(store, changes_ms=ALL_OLD, rows_max=2) for _ in range(4)]

        assert [done.changes for done in gone] == [2, 2, 1, 0]

    async def test_whoever_was_away_begins_again_with_all_of_it(
        self, store: Store, other: Store
    ) -> None:
        """A snapshot holds what the lines told that are gone, and ends where the feed goes on."""
        await store.put_brand(BRAND)
        reached = (await other.snapshot(now_ms=NOW_MS)).number
        await store.put_fences([fence("door")])
        await store.create_residents({"ann": SETTINGS})
        await prune(store, changes_ms=ALL_OLD)

        with pytest.raises(FeedLost):
            await other.changes_after(reached)
        residents: list[ResidentTold] = []
        snapshot = await other.snapshot(now_ms=NOW_MS, take=residents.extend)
        assert [row.brand for row in snapshot.brands] == [BRAND]
        assert [row.id for row in snapshot.fences] == ["door"]
        assert [row.id for row in residents] == ["ann"]
        assert await other.changes_after(snapshot.number) == []

    async def test_what_an_import_wrote_is_known_as_long_as_its_line(
        self, store: Store, other: Store
    ) -> None:
        first = await store.put_together(import_of(Rows(brands=(BRAND,))))
        second = await store.put_together(import_of(Rows(fences=(fence("door"),), offers=(OFFER,))))
        told = await store.changes_after(0)
        assert [line.number for line in told] == [first.number, second.number]

        assert await prune(store, changes_ms=ALL_OLD) == Pruned(changes=1, batches=1)
        assert await other.read_batch(told[0].id) == {}
        assert await other.read_batch(told[1].id) == {"fence": ["door"], "offer": [OFFER.id]}
        await store.put_key(KEY)
        assert await prune(store, changes_ms=ALL_OLD) == Pruned(changes=1, batches=1)
        assert await other.read_batch(told[1].id) == {}
        third = await store.put_together(
            import_of(Rows(fences=(fence("gate"),))),
        )
        (line,) = await store.changes_after(third.number - 1)
        assert await store.read_batch(line.id) == {"fence": ["gate"]}

    async def test_old_entries_of_the_audit_log_go(self, store: Store, other: Store) -> None:
        """By when they were made, whatever their order; numbers are not given twice."""
        for at_ms in (NOW_MS - 1_000, NOW_MS - 5_000, NOW_MS - 3_000):
            by = Author(at_ms=at_ms, key="k", name="desk", role="operator", action="PUT /x")
            await store.put_key(KEY, by=by)
        everything = await store.audit(AuditFilter(), limit=9)

        assert await prune(other, audit_ms=None) == Pruned()
        assert await prune(other, audit_ms=5_000) == Pruned()
        assert await prune(other, audit_ms=2_000, rows_max=1) == Pruned(entries=1)
        assert await prune(other, audit_ms=2_000, rows_max=9) == Pruned(entries=1)
        (left,) = await store.audit(AuditFilter(), limit=9)
        assert left.author.at_ms == NOW_MS - 1_000
        await store.put_key(KEY, by=left.author)
        newest = (await store.audit(AuditFilter(), limit=1))[0]
        assert newest.number > max(entry.number for entry in everything)

    async def test_calls_whose_time_is_over_go(self, store: Store) -> None:
        for n in range(4):
            await store.keep_call("k1", f"call {n}", b"", now_ms=NOW_MS + n)
        over_ms = NOW_MS + KEPT_MS + 2

        assert await prune(store, now_ms=over_ms, rows_max=2) == Pruned(calls=2)
        assert await prune(store, now_ms=over_ms, rows_max=2) == Pruned(calls=1)
        assert await prune(store, now_ms=over_ms) == Pruned()
        assert await store.keep_call("k1", "call 3", b"", now_ms=over_ms) is not None
