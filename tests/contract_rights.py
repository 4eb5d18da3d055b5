"""What every store must do where residents ask what it holds on them, and that it forgets it."""

from typing import Any

import msgspec
import pytest

from engine.consent.protection import Protection
from engine.residents import ResidentSettings
from engine.store.audit import AuditFilter, Author
from engine.store.port import Redemption, Store, VersionMoved
from engine.store.rights import (
    ERASED,
    PAIRINGS_MAX,
    HeldClaim,
    Merge,
    Retained,
    new_erasure,
)
from engine.store.told import ResidentTold
from tests.contract_store import (
    KEY,
    NOW_MS,
    SETTINGS,
    both,
    claim,
    claims,
    presence,
    recall,
    record,
)

BY = Author(at_ms=NOW_MS, key="k", name="desk", role="operator", action="PUT /x")


class RightsContract:
    """The part of the contract about them; `store` is open and empty."""

    async def test_claims_come_newest_first_and_in_pages(self, store: Store) -> None:
        await store.create_residents({"ann": ResidentSettings(), "bob": ResidentSettings()})
        made = [
            claim("a", made_ms=NOW_MS),
            claim("c", made_ms=NOW_MS + 1, before=1),
            claim("b", made_ms=NOW_MS + 1, before=2),
        ]
        await store.commit(claims(*made, claim("other", "bob")))
        await store.commit(both(recall("a")))
        await store.redeem(Redemption(id="x", claim="b", offer="latte", brand="cafe", at_ms=NOW_MS))

        all_of_them = await store.claims_of("ann", limit=9)
        first = await store.claims_of("ann", limit=2)
        rest = await store.claims_of("ann", before=(NOW_MS + 1, "b"), limit=2)

        assert [held.row.made.claim for held in all_of_them] == ["c", "b", "a"]
        assert first + rest == all_of_them
        assert [(held.state, held.recall_reason) for held in all_of_them] == [
            ("made", None),
            ("made", None),
            ("recalled", "consent_withdrawn"),
        ]
        redeemed = all_of_them[1]
        assert redeemed == HeldClaim(
            row=redeemed.row, state="made", redemption="x", redeemed_ms=NOW_MS, till=None
        )
        assert await store.claims_of("nobody", limit=9) == []

    async def test_an_erased_resident_leaves_nothing_behind(self, store: Store) -> None:
        """What others need stays, without a name: hashes, counts, claims and the audit log."""
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS}, by=BY)
        salted = msgspec.structs.replace(record("ann", 2), salt="5a" * 16)
        await store.append_records("ann", (record("ann", 1),), version_before=0)
        await store.append_records("ann", (salted,), version_before=1, by=BY)
        await store.put_protection("ann", Protection(age_band="under_13"), version_before=0, by=BY)
        key = msgspec.structs.replace(KEY, id="phone", role="resident", resident="ann")
        await store.put_key(key)
        await store.put_key(KEY)
        made = both(
            claims(claim("a"), claim("b", "bob"), claim("c", before=1)), presence("ann", "f")
        )
        await store.commit(made)
        await store.redeem(Redemption(id="x", claim="c", offer="latte", brand="cafe", at_ms=NOW_MS))
        await store.number_events()
        before = (await store.snapshot(now_ms=NOW_MS)).number

        erasure = new_erasure()
        number = await store.erase_resident("ann", erasure, by=BY)

        assert await store.erase_resident("ann", erasure) is None
        assert [(c.kind, c.id) for c in await store.changes_after(before)] == [
            ("key", "phone"),
            ("resident", "ann"),
            ("resident", ""),
        ]
        residents: list[ResidentTold] = []
        after = await store.snapshot(now_ms=NOW_MS, take=residents.extend)
        assert number == after.number
        assert [row.id for row in residents] == ["bob"]
        assert after.keys == (KEY,)
        assert after.protections == ()
        assert [state.resident for state in after.states] == ["bob"]
        assert await store.claims_of("ann", limit=9) == []
        told = await store.events_after(0)
        assert {event.resident for event in told.events} == {None, "bob"}
        by_code = [await store.claim_by_code(f"code-{name}") for name in ("a", "c")]
        assert [one.redemption for one in by_code if one] == [None, "x"]
        nobodies = {one.row.resident for one in by_code if one}
        assert len(nobodies) == 2
        assert all(one.startswith(ERASED) for one in nobodies)
        assert {one.why for one in by_code if one} == {b'{"candidates":[],"allowed_by":[]}'}
        assert (await store.read_counts(["latte"], now_ms=NOW_MS))[0].claims == 3
        entries = await store.audit(AuditFilter(), limit=99)
        assert "ann" not in {entry.id for entry in entries}
        assert [e.outcome for e in entries if e.id == erasure] == [
            "deleted",
            "created",
            "updated",
            "created",
        ]

    async def test_an_erased_id_may_be_taken_anew(self, store: Store) -> None:
        """By somebody who has said nothing and has no claims."""
        await store.create_residents({"ann": SETTINGS})
        await store.append_records("ann", (record("ann", 1),), version_before=0)
        await store.commit(claims(claim("a")))
        await store.erase_resident("ann", new_erasure())

        await store.create_residents({"ann": ResidentSettings()})
        await store.retain(presence_before_ms=0, claims_before_ms=0)

        (row,) = await store.read_residents(["ann"])
        assert (row.version, row.records, row.settings) == (0, (), ResidentSettings())
        (state,) = await store.read_states(["ann"], now_ms=NOW_MS)
        assert (state.claims_count, state.claims) == (0, ())

    async def test_what_was_committed_after_an_erasure_is_forgotten_too(self, store: Store) -> None:
        """A decision made before it may become durable after it."""
        await store.create_residents({"ann": SETTINGS})
        await store.erase_resident("ann", new_erasure())
        await store.commit(both(claims(claim("a")), presence("ann", "f")))
        assert len(await store.claims_of("ann", limit=9)) == 1

        done = await store.retain(presence_before_ms=0, claims_before_ms=0)

        assert done == Retained()
        assert await store.claims_of("ann", limit=9) == []
        assert (await store.snapshot(now_ms=NOW_MS)).states == ()

    async def test_old_presence_and_old_claims_are_forgotten(self, store: Store) -> None:
        """At their limit they are kept; a few at a time; what is counted stays."""
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS, "eve": SETTINGS})
        for place, name in enumerate(("ann", "bob", "eve")):
            made = claims(claim(name, name, made_ms=NOW_MS + place))
            await store.commit(both(made, presence(name, "f", seen_ms=NOW_MS + place)))
        limits = {"presence_before_ms": NOW_MS + 2, "claims_before_ms": NOW_MS + 2}

        first = await store.retain(**limits, rows_max=1)
        second = await store.retain(**limits, rows_max=9)
        third = await store.retain(**limits)

        assert (first, second, third) == (
            Retained(presences=1, claims=1),
            Retained(presences=1, claims=1),
            Retained(),
        )
        states = await store.read_states(["ann", "bob", "eve"], now_ms=NOW_MS)
        assert [len(state.stays) for state in states] == [0, 0, 1]
        assert [len(state.claims) for state in states] == [0, 0, 1]
        assert (await store.read_counts(["latte"], now_ms=NOW_MS))[0].claims == 3
        assert await store.claim_by_code("code-ann") is not None

    async def test_a_pairing_code_is_used_once_and_in_time(self, store: Store) -> None:
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS})
        for name, whose, until_ms in (("a", "ann", 20), ("b", "bob", 20), ("late", "ann", 10)):
            assert await store.put_pairing(name, whose, until_ms=until_ms, now_ms=0)

        assert not await store.put_pairing("c", "nobody", until_ms=20, now_ms=0)
        assert await store.take_pairing("a", now_ms=19) == "ann"
        assert await store.take_pairing("a", now_ms=19) is None
        assert await store.take_pairing("late", now_ms=10) is None
        assert await store.take_pairing("late", now_ms=9) is None
        assert await store.take_pairing("never", now_ms=0) is None
        assert await store.take_pairing("b", now_ms=19) == "bob"

    async def test_a_resident_has_few_pairing_codes(self, store: Store) -> None:
        """A new one takes the place of the oldest."""
        await store.create_residents({"ann": SETTINGS})
        for number in range(PAIRINGS_MAX + 2):
            await store.put_pairing(f"c{number}", "ann", until_ms=100 + number, now_ms=0)
        taken = [
            await store.take_pairing(f"c{number}", now_ms=0) for number in range(PAIRINGS_MAX + 2)
        ]

        assert taken == [None, None] + ["ann"] * PAIRINGS_MAX

    async def test_two_residents_become_one(self, store: Store) -> None:
        """Keys, claims and those merged before go along; records stay where they were said."""
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS, "eve": SETTINGS})
        for who in ("ann", "bob", "eve"):
            await store.append_records(who, (record(who, 1),), version_before=0)
        key = msgspec.structs.replace(KEY, id="phone", role="resident", resident="bob")
        await store.put_key(key)
        await store.put_pairing("code", "bob", until_ms=100, now_ms=0)
        await store.put_protection("bob", Protection(age_band="16_17"), version_before=0)
        await store.commit(both(claims(claim("a"), claim("b", "bob")), presence("bob", "f")))
        await store.merge_residents(merging("bob", "eve", guard_stays=1))
        before = (await store.snapshot(now_ms=NOW_MS)).number

        young = Protection(age_band="16_17")
        number = await store.merge_residents(
            merging("ann", "bob", version_goes=2, protection=young, guard_goes=1), by=BY
        )

        ann, bob, eve = await store.read_residents(["ann", "bob", "eve"])
        assert (ann.merged_into, bob.merged_into, eve.merged_into) == (None, "ann", "ann")
        assert [(r.effect, r.version) for r in ann.records] == [("grant", 1), ("deny", 2)]
        assert [(r.effect, r.version) for r in bob.records[-2:]] == [("deny", 2), ("withdraw", 3)]
        assert (ann.version, bob.version) == (2, 3)
        assert await store.read_merged("ann") == [bob, eve]
        assert await store.read_merged("bob") == []
        assert [(c.kind, c.id) for c in await store.changes_after(before)] == [
            ("key", "phone"),
            ("protection", "ann"),
            ("protection", "bob"),
            ("resident", "ann"),
            ("resident", "bob"),
        ]
        assert number == before + 5
        assert await store.read_keys(["phone"]) == [msgspec.structs.replace(key, resident="ann")]
        guards = {row.resident: row for row in await store.read_protections(["ann", "bob"])}
        assert guards["ann"].protection == young
        assert (guards["bob"].protection, guards["bob"].version) == (Protection(), 2)
        assert await store.take_pairing("code", now_ms=0) is None
        held = await store.claims_of("ann", limit=9)
        assert {one.row.made.claim for one in held} == {"a", "b"}
        mine, gone = await store.read_states(["ann", "bob"], now_ms=NOW_MS)
        assert (mine.claims_count, gone.claims_count, gone.stays) == (2, 0, ())
        assert await store.merge_residents(merging("ann", "bob", version_stays=2)) is None
        assert await store.merge_residents(merging("bob", "ann")) is None
        assert await store.merge_residents(merging("ann", "nobody")) is None
        assert not await store.put_pairing("again", "bob", until_ms=100, now_ms=0)

    @pytest.mark.parametrize(
        "moved", ["version_stays", "version_goes", "guard_stays", "guard_goes"]
    )
    async def test_a_merge_rests_on_what_was_read(self, store: Store, moved: str) -> None:
        """Whoever of the two said or drew something meanwhile: nothing is done."""
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS})
        for who in ("ann", "bob"):
            await store.append_records(who, (record(who, 1),), version_before=0)
        before = await store.read_residents(["ann", "bob"])

        with pytest.raises(VersionMoved):
            await store.merge_residents(merging("ann", "bob", **{moved: 7}))

        assert await store.read_residents(["ann", "bob"]) == before

    async def test_whoever_was_merged_is_erased_along(self, store: Store) -> None:
        await store.create_residents({"ann": SETTINGS, "bob": SETTINGS})
        for who in ("ann", "bob"):
            await store.append_records(who, (record(who, 1),), version_before=0)
        await store.commit(claims(claim("b", "bob")))
        await store.merge_residents(merging("ann", "bob"))

        assert await store.erase_resident("ann", new_erasure()) is not None

        residents: list[ResidentTold] = []
        after = await store.snapshot(now_ms=NOW_MS, take=residents.extend)
        assert (residents, after.states) == ([], ())
        assert await store.retain(presence_before_ms=0, claims_before_ms=0) == Retained()


def merging(stays: str, goes: str, **fields: Any) -> Merge:
    """A merge of two who said one thing each."""
    at = {"version_stays": 1, "version_goes": 1, "guard_stays": 0, "guard_goes": 0} | fields
    return Merge(
        stays=stays,
        goes=goes,
        records=(record(stays, at["version_stays"] + 1, "deny"),),
        goes_records=(record(goes, at["version_goes"] + 1, "withdraw"),),
        settings=SETTINGS,
        **{"protection": None, **at},
    )
