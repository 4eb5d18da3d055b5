"""What every store must do: one class of tests, run on PostgreSQL and on its twin in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
import pytest

from engine.changes import (
    Changes,
    ClaimMade,
    ClaimRecalled,
    ClaimRefused,
    ClaimRow,
    OfferCount,
    PresenceRow,
    ResidentState,
    StayRow,
)
from engine.consent.record import ALL, Record, record_id
from engine.decision import OfferMade
from engine.offers.offer import Brand, Budget, Offer
from engine.residents import Limits, ResidentSettings
from engine.store.port import (
    AlreadyThere,
    BrandRow,
    Change,
    ClaimRecord,
    Committed,
    FeedLost,
    FenceRow,
    KeyRow,
    OfferRow,
    Redemption,
    RedemptionRefused,
    ResidentRow,
    Store,
    StoreUnavailable,
    VersionMoved,
    Written,
)
from engine.store.shared import as_told
from engine.store.told import ResidentTold

NOW_MS = 1_700_000_000_000
DAY = NOW_MS // 86_400_000

BRAND = Brand(id="cafe", name="Café «Ø»", categories=("food",))
OFFER = Offer(
    id="latte", brand="cafe", title="Latte", body="2 for 1", trigger="enter", budget=Budget(total=5)
)
SETTINGS = ResidentSettings(timezone="Europe/Helsinki", limits=Limits(per_day=2), follows=("cafe",))
KEY = KeyRow(
    id="k1", hash="ab" * 32, role="merchant", name="till", created_ms=NOW_MS, brands=("cafe",)
)

Switch = Callable[[], Awaitable[None]]


class Outage(NamedTuple):
    """A way to make a store unavailable, and available again."""

    begin: Switch
    end: Switch


def fence(id_: str, feature: bytes = b'{"type":"Feature"}', brand: str = "cafe") -> FenceRow:
    return FenceRow(id=id_, brand=brand, feature=feature)


def record(
    resident: str, version: int, effect: str = "grant", before: Record | None = None
) -> Record:
    return Record(
        subject=resident,
        actor="self",
        effect=effect,
        purpose="offers",
        actions=("use",),
        data=("precise_location",),
        scope=ALL,
        version=version,
        server_ms=NOW_MS + version,
        supersedes=record_id(before) if before else "",
    )


def claim(
    name: str,
    resident: str = "ann",
    *,
    before: int = 0,
    offer: str = "latte",
    total: int | None = None,
    per_day: int | None = None,
    day: int = DAY,
    made_ms: int = NOW_MS,
    code: str | None = None,
    decision: str | None = None,
) -> ClaimMade:
    return ClaimMade(
        resident=resident,
        decision=decision or f"decision-{name}",
        made=OfferMade(
            claim=name,
            offer=offer,
            brand="cafe",
            fence="door",
            title="Latte",
            body="2 for 1",
            code=code or f"code-{name}",
            expires_at_ms=NOW_MS + 60_000,
            consent_version=1,
        ),
        made_ms=made_ms,
        claims_before=before,
        budget_total=total,
        budget_day=per_day,
        day=day,
        why=b'{"gates":[]}',
    )


def claims(*made: ClaimMade) -> Changes:
    return Changes(claims=list(made))


def presence(resident: str, *fences: str, seen_ms: int = NOW_MS) -> Changes:
    stays = tuple(StayRow(id_, NOW_MS - 1_000, 60) for id_ in fences)
    return Changes(presences={resident: PresenceRow(resident, stays, seen_ms)})


def recall(name: str, resident: str = "ann") -> Changes:
    return Changes(recalls=[ClaimRecalled(name, resident, "consent_withdrawn")])


def both(first: Changes, *later: Changes) -> Changes:
    merged = Changes(presences={}, touches={}, claims=[], recalls=[], told=[])
    for changes in (first, *later):
        merged.merge(changes)
    return merged


def row(made: ClaimMade) -> ClaimRow:
    return ClaimRow(
        resident=made.resident, decision=made.decision, made=made.made, made_ms=made.made_ms
    )


def counted(offer: str, total: int, day: int, on_day: int) -> tuple[OfferCount, OfferCount]:
    return OfferCount(offer, None, total), OfferCount(offer, day, on_day)


async def state(store: Store, resident: str) -> ResidentState:
    (found,) = await store.read_states([resident], now_ms=NOW_MS)
    return found


class StoreContract:
    """Two stores on the same, empty state, as two processes: fixtures `store`, `other`."""

    # Opening and closing.

    async def test_a_closed_store_is_unavailable(self, store: Store) -> None:
        await store.close()
        await store.close()

        with pytest.raises(StoreUnavailable):
            await store.snapshot(now_ms=NOW_MS)

    async def test_opening_twice_is_an_error(self, store: Store) -> None:
        with pytest.raises(RuntimeError):
            await store.open()

    async def test_a_secret_is_made_once(self, store: Store, other: Store) -> None:
        made = await asyncio.gather(*(s.secret("codes") for s in (store, other) * 4))

        assert len(set(made)) == 1
        assert len(made[0]) == 32
        assert await store.secret("another") != made[0]

    # Brands, fences, offers, keys.

    async def test_a_brand_comes_back_with_its_version(self, store: Store, other: Store) -> None:
        renamed = msgspec.structs.replace(BRAND, name="New")

        assert await store.put_brand(BRAND) == Written(1, 1, created=True)
        assert await other.put_brand(renamed) == Written(2, 2, created=False)

        assert await store.read_brands(["nobody", "cafe", "cafe"]) == [BrandRow(renamed, 2)]

    async def test_an_offer_comes_back_until_it_is_deleted(self, store: Store) -> None:
        renamed = msgspec.structs.replace(OFFER, title="New")

        assert await store.put_offer(OFFER) == Written(1, 1, created=True)
        assert await store.put_offer(renamed) == Written(2, 2, created=False)
        assert await store.read_offers(["latte"]) == [OfferRow(renamed, 2)]

        assert await store.delete_offer("latte") == 3
        assert await store.delete_offer("latte") is None
        assert await store.read_offers(["latte"]) == []

    async def test_fences_are_written_together(self, store: Store) -> None:
        written = await store.put_fences([fence("b"), fence("a"), fence("c")])

        assert {w.number for w in written} == {1, 2, 3}
        assert all(w.version == 1 and w.created for w in written)
        assert [change.id for change in await store.changes_after(0)] == ["a", "b", "c"]
        assert await store.put_fences([]) == []

    async def test_an_unchanged_fence_draws_no_number(self, store: Store) -> None:
        await store.put_fences([fence("a"), fence("b")])

        written = await store.put_fences([fence("b"), fence("a", b"{}"), fence("c")])

        assert written == [
            Written(0, 1, created=False),
            Written(3, 2, created=False),
            Written(4, 1, created=True),
        ]
        assert await store.put_fences([fence("b")]) == [Written(0, 1, created=False)]
        assert await store.read_fences(["a", "b"]) == [
            FenceRow(id="a", brand="cafe", feature=b"{}", version=2),
            FenceRow(id="b", brand="cafe", feature=b'{"type":"Feature"}', version=1),
        ]

    async def test_a_deleted_fence_is_gone(self, store: Store) -> None:
        await store.put_fences([fence("a")])

        assert await store.delete_fence("a") == 2
        assert await store.delete_fence("a") is None
        assert await store.read_fences(["a"]) == []

    async def test_keys_come_and_go(self, store: Store) -> None:
        assert await store.put_key(KEY) == 1
        assert await store.put_key(msgspec.structs.replace(KEY, name="new")) == 2
        assert await store.read_keys(["k1"]) == [msgspec.structs.replace(KEY, name="new")]

        assert await store.delete_key("k1") == 3
        assert await store.delete_key("k1") is None
        assert await store.read_keys(["k1"]) == []

    # Residents.

    async def test_residents_are_made_all_or_none(self, store: Store) -> None:
        assert await store.create_residents({"cid": SETTINGS, "ann": ResidentSettings()}) == 2

        with pytest.raises(AlreadyThere) as told:
            await store.create_residents(dict.fromkeys(("bob", "cid", "ann"), SETTINGS))

        assert told.value.args == ("ann",)
        assert await store.read_residents(["ann", "bob", "cid"]) == [
            ResidentRow(id="ann", settings=ResidentSettings()),
            ResidentRow(id="cid", settings=SETTINGS),
        ]
        assert len(await store.changes_after(0)) == 2

    async def test_settings_are_replaced(self, store: Store) -> None:
        await store.create_residents({"ann": ResidentSettings()})

        assert await store.put_settings("ann", SETTINGS) == 2
        assert await store.put_settings("nobody", SETTINGS) is None
        assert await store.read_residents(["ann"]) == [ResidentRow(id="ann", settings=SETTINGS)]

    async def test_records_are_appended_in_order(self, store: Store, other: Store) -> None:
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS})
        first = record("ann", 1)
        then = record("ann", 2, "withdraw", first), record("ann", 2, "deny", first)

        assert await store.append_records("ann", (first,), version_before=0) == 3
        assert await other.append_records("ann", then, version_before=1) == 4

        assert await store.read_residents(["ann"]) == [
            ResidentRow(id="ann", settings=SETTINGS, version=2, records=(first, *then))
        ]

    async def test_records_need_the_version_before(self, store: Store) -> None:
        await store.create_residents({"ann": SETTINGS})
        await store.append_records("ann", (record("ann", 1),), version_before=0)

        with pytest.raises(VersionMoved) as told:
            await store.append_records("ann", (record("ann", 1),), version_before=0)
        with pytest.raises(ValueError, match="empty"):
            await store.append_records("ann", (), version_before=1)

        assert told.value.current == 1
        assert await store.append_records("bob", (record("bob", 1),), version_before=0) is None
        assert len(await store.changes_after(0)) == 2

    async def test_of_many_writers_one_appends(self, store: Store, other: Store) -> None:
        await store.create_residents({"ann": SETTINGS})

        outcomes = await asyncio.gather(
            *(
                s.append_records("ann", (record("ann", 1),), version_before=0)
                for s in (store, other) * 5
            ),
            return_exceptions=True,
        )

        assert outcomes.count(2) == 1
        assert sum(isinstance(outcome, VersionMoved) for outcome in outcomes) == 9

    # The feed.

    async def test_the_feed_tells_every_write_in_order(self, store: Store, other: Store) -> None:
        await store.put_brand(BRAND)
        await other.put_fences([fence("door")])
        await store.put_offer(OFFER)
        await other.create_residents({"ann": SETTINGS})
        await store.put_key(KEY)
        await other.delete_offer("latte")

        assert await store.changes_after(0) == [
            Change(1, "brand", "cafe"),
            Change(2, "fence", "door"),
            Change(3, "offer", "latte"),
            Change(4, "resident", "ann"),
            Change(5, "key", "k1"),
            Change(6, "offer", "latte"),
        ]
        assert await store.changes_after(2, limit=2) == [
            Change(3, "offer", "latte"),
            Change(4, "resident", "ann"),
        ]
        assert await store.changes_after(0, limit=1) == [Change(1, "brand", "cafe")]
        assert await store.changes_after(6) == []

    async def test_numbers_have_no_gaps_under_concurrency(self, store: Store, other: Store) -> None:
        """A reader that follows while many write sees each number once, in order."""
        seen: list[int] = []

        async def follow() -> None:
            while len(seen) < 60:
                seen.extend(c.number for c in await store.changes_after(seen[-1] if seen else 0))
                await store.wait_for_change(0.05)

        async with asyncio.timeout(20):
            await asyncio.gather(
                follow(),
                *(
                    s.put_fences([fence(f"f{n}"), fence(f"g{n}")])
                    for n, s in enumerate((store, other) * 15)
                ),
            )

        assert seen == list(range(1, 61))

    async def test_a_wait_ends_when_another_process_writes(
        self, store: Store, other: Store
    ) -> None:
        await store.wait_for_change(0.0)
        waiting = asyncio.create_task(store.wait_for_change(30.0))
        await asyncio.sleep(0)

        await other.put_brand(BRAND)

        async with asyncio.timeout(5):
            await waiting

    async def test_a_write_between_two_waits_ends_the_second_at_once(
        self, store: Store, other: Store
    ) -> None:
        await store.wait_for_change(0.0)
        await other.put_brand(BRAND)

        async with asyncio.timeout(5):
            await store.wait_for_change(30.0)
            await store.wait_for_change(0.01)

    async def test_a_pruned_feed_is_told(
        self, store: Store, prune: Callable[[int], Awaitable[None]]
    ) -> None:
        for _ in range(4):
            await store.put_key(KEY)
        await prune(2)

        for number in (0, 1, 2):
            with pytest.raises(FeedLost):
                await store.changes_after(number)
        assert [c.number for c in await store.changes_after(3)] == [4]
        assert await store.put_key(KEY) == 5

    async def test_a_feed_that_is_behind_its_reader_is_told(self, store: Store) -> None:
        """As after a restore from a backup."""
        await store.put_brand(BRAND)

        with pytest.raises(FeedLost):
            await store.changes_after(7)

    # The snapshot.

    async def test_an_empty_snapshot(self, store: Store) -> None:
        snapshot = await store.snapshot(now_ms=NOW_MS)

        assert snapshot.number == 0
        assert not any(msgspec.structs.astuple(snapshot)[1:])

    async def test_a_snapshot_holds_everything(self, store: Store) -> None:
        old_ms, late = NOW_MS - 9 * 86_400_000, claim("c2", "bob", day=DAY - 3)
        await store.put_brand(BRAND)
        await store.put_fences([fence("door")])
        await store.put_offer(OFFER)
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS})
        await store.append_records("bob", (record("bob", 1),), version_before=0)
        await store.put_key(KEY)
        await store.commit(both(presence("ann", "door"), claims(claim("c1", made_ms=old_ms))))
        await store.commit(claims(late))
        await store.commit(presence("cid", "door"))
        await store.commit(presence("cid"))

        residents: list[ResidentTold] = []
        snapshot = await store.snapshot(now_ms=NOW_MS, take=residents.extend)

        assert snapshot.number == 7
        assert snapshot.brands == (BrandRow(BRAND, 1),)
        assert snapshot.fences == (msgspec.structs.replace(fence("door"), version=1),)
        assert snapshot.offers == (OfferRow(OFFER, 1),)
        assert snapshot.keys == (KEY,)
        assert residents == [
            as_told(ResidentRow(id="ann", settings=SETTINGS)),
            as_told(
                ResidentRow(id="bob", settings=SETTINGS, version=1, records=(record("bob", 1),))
            ),
        ]
        assert snapshot.states == (
            ResidentState(
                resident="ann",
                stays=(StayRow("door", NOW_MS - 1_000, 60),),
                seen_ms=NOW_MS,
                claims_by_offer={"latte": 1},
                older_ms_by_offer={"latte": old_ms},
                claims_count=1,
            ),
            ResidentState(
                resident="bob",
                claims=(row(late),),
                claims_by_offer={"latte": 1},
                claims_count=1,
            ),
        )
        assert snapshot.counts == counted("latte", 2, DAY, 1)

    async def test_days_that_are_over_everywhere_are_left_out(self, store: Store) -> None:
        """UTC-12 is the last zone in which a day ends."""
        noon_ms = DAY * 86_400_000 + 12 * 3_600_000
        made = [claim(f"c{n}", before=n, day=DAY - 2 + n) for n in range(4)]
        await store.commit(claims(*made))

        before_noon = await store.read_counts(["latte", "none"], now_ms=noon_ms - 1)
        at_noon = await store.read_counts(["latte", "none"], now_ms=noon_ms)

        assert [count.day for count in before_noon] == [None, DAY - 1, DAY, DAY + 1]
        assert [count.day for count in at_noon] == [None, DAY, DAY + 1]
        assert (await store.snapshot(now_ms=noon_ms)).counts == tuple(at_noon)

    # Presence.

    async def test_an_empty_group_changes_nothing(self, store: Store) -> None:
        assert await store.commit(Changes()) == Committed()

    async def test_presence_is_replaced_and_ended(self, store: Store) -> None:
        await store.commit(presence("ann", "door", "square"))
        await store.commit(presence("ann", "door", seen_ms=NOW_MS - 5))
        assert await state(store, "ann") == ResidentState(
            resident="ann", stays=(StayRow("door", NOW_MS - 1_000, 60),), seen_ms=NOW_MS - 5
        )

        await store.commit(presence("ann"))

        assert await state(store, "ann") == ResidentState(resident="ann")
        assert (await store.snapshot(now_ms=NOW_MS)).states == ()

    async def test_a_touch_only_raises(self, store: Store) -> None:
        await store.commit(presence("ann", "door"))
        for seen_ms, expected_ms in ((NOW_MS - 1, NOW_MS), (NOW_MS + 1, NOW_MS + 1)):
            await store.commit(Changes(touches={"ann": seen_ms, "bob": seen_ms}))
            assert (await state(store, "ann")).seen_ms == expected_ms

        assert await state(store, "bob") == ResidentState(resident="bob")

    async def test_a_touch_comes_with_the_presence(self, store: Store) -> None:
        await store.commit(both(presence("ann", "door"), Changes(touches={"ann": NOW_MS + 5})))
        assert (await state(store, "ann")).seen_ms == NOW_MS + 5

        await store.commit(both(presence("ann"), Changes(touches={"ann": NOW_MS + 9})))
        assert await state(store, "ann") == ResidentState(resident="ann")

    async def test_a_touch_of_somebody_outside_leaves_no_time(self, store: Store) -> None:
        await store.commit(both(claims(claim("c1")), Changes(touches={"ann": NOW_MS + 9})))
        assert (await state(store, "ann")).seen_ms is None

        await store.commit(presence("ann", "door"))
        assert (await state(store, "ann")).seen_ms == NOW_MS

    async def test_states_come_in_the_order_asked(self, store: Store) -> None:
        await store.commit(presence("b", "door"))

        states = await store.read_states(["z", "b", "a"], now_ms=NOW_MS)

        assert [found.resident for found in states] == ["z", "b", "a"]

    # Claims.

    async def test_a_claim_is_kept_whole(self, store: Store, other: Store) -> None:
        made = claim("c1")

        assert await store.commit(claims(made)) == Committed(counts=counted("latte", 1, DAY, 1))

        kept = ClaimRecord(
            row=row(made), state="made", recall_reason=None, redemption=None, why=made.why
        )
        assert await other.claim_by_code("code-c1") == kept
        assert await other.claim_by_id("c1") == kept
        assert await other.claim_by_id("decision-c1") == kept
        assert await other.claim_by_code("c1") is None
        assert await other.claim_by_id("code-c1") is None
        assert await state(other, "ann") == ResidentState(
            resident="ann", claims=(row(made),), claims_by_offer={"latte": 1}, claims_count=1
        )

    async def test_claims_of_a_group_follow_one_another(self, store: Store) -> None:
        done = await store.commit(
            claims(claim("c1"), claim("b1", "bob"), claim("c2", before=1, offer="tea"))
        )

        assert done == Committed(counts=(*counted("latte", 2, DAY, 2), *counted("tea", 1, DAY, 1)))
        assert (await state(store, "ann")).claims_by_offer == {"latte": 1, "tea": 1}

    async def test_a_moved_count_is_a_conflict(self, store: Store, other: Store) -> None:
        await store.commit(claims(claim("c1")))

        done = await other.commit(claims(claim("c2"), claim("c3", before=1), claim("b1", "bob")))

        assert done.refused == (ClaimRefused("c2", "conflict"), ClaimRefused("c3", "conflict"))
        assert done.counts == counted("latte", 2, DAY, 2)
        assert (await state(store, "ann")).claims_count == 1
        assert await store.claim_by_id("c2") is None

    async def test_a_budget_refuses_one_over(self, store: Store) -> None:
        done = await store.commit(
            claims(*(claim(f"c{n}", f"r{n}", total=3, per_day=2) for n in range(3)))
        )
        then = await store.commit(
            claims(*(claim(f"d{n}", f"q{n}", total=3, per_day=2, day=DAY + 1) for n in range(2)))
        )

        assert done.refused == (ClaimRefused("c2", "budget_day"),)
        assert then.refused == (ClaimRefused("d1", "budget_total"),)
        assert then.counts == counted("latte", 3, DAY + 1, 1)

    async def test_what_rests_on_a_refused_claim_is_refused(self, store: Store) -> None:
        done = await store.commit(
            claims(claim("c1", total=0), claim("c2", before=1, offer="tea"), claim("b1", "bob"))
        )

        assert done.refused == (ClaimRefused("c1", "budget_total"), ClaimRefused("c2", "conflict"))
        assert (await state(store, "ann")).claims_count == 0
        assert done.counts == (*counted("latte", 1, DAY, 1), *counted("tea", 0, DAY, 0))

    @pytest.mark.parametrize(
        "twice",
        [
            claim("c1", "bob", decision="d9", code="k9"),
            claim("c9", "bob", code="code-c1"),
            claim("c9", before=1, decision="decision-c1"),
        ],
        ids=["id", "code", "decision"],
    )
    @pytest.mark.parametrize("in_one_group", [True, False])
    async def test_the_same_claim_twice_is_a_conflict(
        self, store: Store, twice: ClaimMade, in_one_group: bool
    ) -> None:
        if in_one_group:
            done = await store.commit(claims(claim("c1"), twice))
        else:
            await store.commit(claims(claim("c1")))
            done = await store.commit(claims(twice))

        assert done == Committed(
            refused=(ClaimRefused(twice.made.claim, "conflict"),),
            counts=counted("latte", 1, DAY, 1),
        )

    async def test_a_refused_claim_does_not_refuse_the_presence(self, store: Store) -> None:
        await store.commit(both(presence("ann", "door"), claims(claim("c1", total=0))))

        assert (await state(store, "ann")).stays != ()

    async def test_old_claims_are_counted_and_the_newest_dated(self, store: Store) -> None:
        """A cool-down may be longer than the days of which claims are read back whole."""
        edge_ms = NOW_MS - 8 * 86_400_000
        made = [
            claim(f"c{n}", before=n, made_ms=made_ms)
            for n, made_ms in enumerate((edge_ms - 9, edge_ms - 2, edge_ms - 1, edge_ms))
        ]
        await store.commit(claims(*made))
        await store.commit(recall("c2"))

        assert await state(store, "ann") == ResidentState(
            resident="ann",
            claims=(row(made[3]),),
            claims_by_offer={"latte": 3},
            older_ms_by_offer={"latte": edge_ms - 2},
            claims_count=4,
        )

    # Recalls.

    async def test_a_recall_returns_budget_and_cap(self, store: Store, other: Store) -> None:
        await store.commit(claims(claim("c1", total=1)))

        assert await other.commit(recall("c1")) == Committed(counts=counted("latte", 0, DAY, 0))
        assert await store.commit(recall("c1")) == Committed()
        assert await store.commit(recall("none")) == Committed()

        kept = await store.claim_by_id("c1")
        assert kept is not None
        assert (kept.state, kept.recall_reason) == ("recalled", "consent_withdrawn")
        assert await state(store, "ann") == ResidentState(resident="ann", claims_count=1)
        assert (await store.commit(claims(claim("c2", before=1, total=1)))).refused == ()

    async def test_a_recall_frees_budget_in_its_own_group(self, store: Store) -> None:
        await store.commit(claims(claim("c1", total=1)))

        done = await store.commit(both(claims(claim("b1", "bob", total=1)), recall("c1")))

        assert done == Committed(counts=counted("latte", 1, DAY, 1))

    async def test_a_claim_can_be_recalled_in_its_own_group(self, store: Store) -> None:
        done = await store.commit(both(claims(claim("c1"), claim("b1", "bob")), recall("c1")))

        assert done == Committed(counts=counted("latte", 1, DAY, 1))
        kept = await store.claim_by_id("c1")
        assert kept is not None
        assert kept.state == "recalled"

    # Concurrency.

    async def test_a_budget_is_never_one_over(self, store: Store, other: Store) -> None:
        """Two processes commit groups for the same offers at once, in opposite orders."""
        offers = [f"o{n}" for n in range(5)]

        def group(n: int) -> Changes:
            order = offers if n % 2 else offers[::-1]
            return claims(
                *(claim(f"c{n}-{o}", f"r{n}-{o}", offer=o, total=12, per_day=12) for o in order)
            )

        async with asyncio.timeout(30):
            done = await asyncio.gather(
                *(s.commit(group(n)) for n, s in enumerate((store, other) * 15))
            )

        refused = [refusal for committed in done for refusal in committed.refused]
        assert len(refused) == 30 * 5 - 5 * 12
        assert {refusal.reason for refusal in refused} == {"budget_total"}
        assert await store.read_counts(offers, now_ms=NOW_MS) == [
            OfferCount(offer, day, 12) for offer in offers for day in (None, DAY)
        ]

    async def test_of_claims_at_once_a_resident_gets_one(self, store: Store, other: Store) -> None:
        async with asyncio.timeout(30):
            done = await asyncio.gather(
                *(
                    s.commit(claims(claim(f"a{n}", "ann"), claim(f"b{n}", "bob")))
                    for n, s in enumerate((store, other) * 10)
                )
            )

        assert sum(len(committed.refused) for committed in done) == 38
        assert (await state(store, "ann")).claims_count == 1
        assert (await state(store, "bob")).claims_count == 1

    async def test_groups_of_the_same_residents_never_deadlock(
        self, store: Store, other: Store
    ) -> None:
        """New rows and old ones, written, touched, claimed and recalled in every order."""
        residents = [f"r{n}" for n in range(12)]

        def group(n: int) -> Changes:
            mixed = residents[n % 12 :] + residents[: n % 12]
            if n % 2:
                mixed.reverse()
            parts = [presence(resident, "door") for resident in mixed[:5]]
            parts.append(Changes(touches=dict.fromkeys(mixed[5:9], NOW_MS + n)))
            parts.append(presence(mixed[9]))
            parts += [claims(claim(f"c{n}-{r}", r, offer=f"o{n % 3}")) for r in mixed[8:11]]
            parts += [recall(f"c{n - 1}-{resident}", resident) for resident in mixed]
            return both(*parts)

        async with asyncio.timeout(30):
            await asyncio.gather(*(s.commit(group(n)) for n, s in enumerate((store, other) * 30)))

        snapshot = await store.snapshot(now_ms=NOW_MS)
        standing = [claim_ for found in snapshot.states for claim_ in found.claims]
        assert sum(c.claims for c in snapshot.counts if c.day is None) == len(standing)

    # Redemption.

    async def test_a_code_is_used_once_under_concurrency(self, store: Store, other: Store) -> None:
        await store.commit(claims(claim("c1")))
        uses = [
            Redemption(id=f"r{n}", claim="c1", offer="latte", brand="cafe", at_ms=NOW_MS, till="2")
            for n in range(10)
        ]

        outcomes = await asyncio.gather(
            *(s.redeem(use) for s, use in zip((store, other) * 5, uses, strict=True)),
            return_exceptions=True,
        )

        (won,) = (n for n, outcome in enumerate(outcomes) if outcome is None)
        assert [str(told) for told in outcomes if told is not None] == ["already_redeemed"] * 9
        assert await other.redemption(f"r{won}") == uses[won]
        kept = await other.claim_by_id("c1")
        assert kept is not None
        assert kept.redemption == f"r{won}"

    async def test_a_redemption_is_taken_back(self, store: Store) -> None:
        await store.commit(claims(claim("c1")))
        use = Redemption(id="r1", claim="c1", offer="latte", brand="cafe", at_ms=NOW_MS)
        await store.redeem(use)

        assert await store.roll_back("r1") is True
        assert await store.roll_back("r1") is False
        assert await store.redemption("r1") is None
        await store.redeem(use)
        assert await store.redemption("r1") == use

    async def test_what_cannot_be_redeemed(self, store: Store) -> None:
        await store.commit(claims(claim("c1"), claim("b1", "bob"), claim("d1", "dot")))
        await store.commit(recall("c1"))

        async def refusal(claim_id: str, at_ms: int, redemption: str = "r9") -> str:
            with pytest.raises(RedemptionRefused) as told:
                await store.redeem(
                    Redemption(
                        id=redemption, claim=claim_id, offer="latte", brand="cafe", at_ms=at_ms
                    )
                )
            return told.value.code

        use = Redemption(
            id="r1", claim="b1", offer="latte", brand="cafe", at_ms=NOW_MS + 60_000 - 1
        )
        await store.redeem(use)
        assert await refusal("c1", NOW_MS) == "recalled"
        assert await refusal("b1", NOW_MS + 60_000) == "already_redeemed"
        assert await refusal("d1", NOW_MS + 60_000) == "expired"
        assert await refusal("d1", NOW_MS, "r1") == "already_redeemed"
        assert await refusal("none", NOW_MS) == "unknown_claim"
