"""What every store must do for whoever administers: versions, the audit log, imports, calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from engine.offers.offer import Offer, OfferCaps
from engine.residents import ResidentSettings
from engine.store.audit import ABSENT, PRESENT, AuditEntry, AuditFilter, Author
from engine.store.kept import KEPT_MS, Kept, KeptAnswer
from engine.store.port import (
    BrandRow,
    Expected,
    FencePage,
    ForeignBrand,
    Redemption,
    ResidentRow,
    ResidentsImported,
    Rows,
    Store,
    Together,
    VersionMoved,
    Written,
)
from tests.contract_store import (
    BRAND,
    KEY,
    NOW_MS,
    OFFER,
    SETTINGS,
    claim,
    claims,
    fence,
    record,
)

Put = Callable[[Store, Expected], Awaitable[object]]
Named = Callable[[Store, str, Expected], Awaitable[object]]

RENAMED = msgspec.structs.replace(BRAND, name="New")
CHEAPER = msgspec.structs.replace(OFFER, title="Cheaper")
ANSWER = KeptAnswer(
    status=201, headers={"ETag": '"1"'}, content_type="application/json", body=b"{}"
)


def author(at_ms: int = NOW_MS, action: str = "PUT /v1/brands/{brand}") -> Author:
    return Author(
        at_ms=at_ms, key="k1", name="Aino", role="operator", action=action, request="request-1"
    )


async def parts(*given: Rows) -> AsyncIterator[Rows]:
    for part in given:
        yield part


async def told(store: Store, **wanted: object) -> list[tuple[str, str, int, str]]:
    """Entries of the audit log, oldest first, in short."""
    asked = msgspec.convert(wanted, AuditFilter)
    entries = await store.audit(asked, limit=1_000)
    return [(e.kind, e.id, e.version, e.outcome) for e in reversed(entries)]


class AdministrationContract:
    """Two stores on the same, empty state: fixtures `store` and `other`."""

    # Versions.

    async def test_a_write_rests_on_a_version(self, store: Store, other: Store) -> None:
        await store.put_brand(BRAND)
        await store.put_offer(OFFER)
        await store.put_fences([fence("door")])

        puts: tuple[Put, ...] = (
            lambda s, e: s.put_brand(RENAMED, expected=e),
            lambda s, e: s.put_offer(CHEAPER, expected=e),
            lambda s, e: s.put_fences([fence("door", b"{}")], expected=e),
            lambda s, e: s.delete_offer("latte", expected=e),
            lambda s, e: s.delete_fence("door", expected=e),
        )
        for put in puts:
            for wrong in (ABSENT, (9,), ()):
                with pytest.raises(VersionMoved) as moved:
                    await put(other, wrong)
                assert moved.value.current in (1, 2)
            await put(store, (7, moved.value.current))

        assert await store.read_brands(["cafe"]) == [BrandRow(RENAMED, 2)]
        assert await store.read_offers(["latte"]) == []
        assert await store.read_fences(["door"]) == []
        assert len(await store.changes_after(0)) == 8

    async def test_nothing_there_is_version_0(self, store: Store) -> None:
        for put in (
            lambda e: store.put_brand(BRAND, expected=e),
            lambda e: store.put_offer(OFFER, expected=e),
            lambda e: store.put_fences([fence("door")], expected=e),
            lambda e: store.delete_offer("none", expected=e),
            lambda e: store.delete_fence("none", expected=e),
        ):
            for wrong in (PRESENT, (1,)):
                with pytest.raises(VersionMoved) as moved:
                    await put(wrong)
                assert moved.value.current == 0
            await put(ABSENT)
        with pytest.raises(VersionMoved):
            await store.put_fences([fence("a"), fence("door")], expected=ABSENT)

        assert await store.read_fences(["a"]) == []
        assert await store.put_brand(BRAND, expected=PRESENT) == Written(0, 1, created=False)

    async def test_a_brand_replaces_nothing_of_another(self, store: Store, other: Store) -> None:
        """Not even what was not there when the author looked."""
        theirs = msgspec.structs.replace(fence("door"), brand="bank")
        offer = msgspec.structs.replace(OFFER, brand="bank")
        await other.put_fences([theirs, fence("gate")])
        await other.put_offer(offer)
        merchant = msgspec.structs.replace(author(), brands=("cafe", "bar"))
        rows = Rows(fences=(fence("a"), fence("door")))
        written = len(await store.changes_after(0))

        for write in (
            store.put_fences([fence("a"), fence("door")], by=merchant),
            store.put_fences([fence("door")], by=msgspec.structs.replace(merchant, brands=())),
            store.delete_fence("door", by=merchant),
            store.put_offer(OFFER, by=merchant),
            store.delete_offer("latte", by=merchant),
            store.put_together(parts(rows), by=merchant),
            store.put_together(parts(Rows(offers=(OFFER,))), by=merchant),
        ):
            with pytest.raises(ForeignBrand):
                await write

        assert [row.brand for row in await store.read_fences(["a", "door"])] == ["bank"]
        assert [row.offer for row in await store.read_offers(["latte"])] == [offer]
        assert len(await store.changes_after(0)) == written
        assert await told(store) == []
        await store.put_fences([fence("gate", b"{}")], by=merchant)
        await store.put_fences([fence("door")], by=author())
        assert await told(store) == [
            ("fence", "gate", 2, "updated"),
            ("fence", "door", 2, "updated"),
        ]
        assert await store.delete_fence("door", by=merchant)

    async def test_fences_come_in_pages(self, store: Store, other: Store) -> None:
        """By id, of whom they are asked for, and never more bytes than that and one fence."""
        given = [fence(f"f{n}", b"x" * 10, "cafe" if n % 2 else "bank") for n in range(9)]
        await other.put_fences([*given, fence("A", b"y" * 99)])

        async def page(**asked: object) -> tuple[list[str], bool]:
            defaults = {"limit": 100, "bytes_max": 10_000}
            rows, more = await store.page_fences(msgspec.convert(defaults | asked, FencePage))
            assert all(row.version == 1 and row.feature for row in rows)
            return [row.id for row in rows], more

        assert await page() == (["A", *(f"f{n}" for n in range(9))], False)
        assert await page(limit=2) == (["A", "f0"], True)
        assert await page(after="f6", limit=2) == (["f7", "f8"], False)
        assert await page(after="f8") == ([], False)
        assert await page(brands=("bank",), after="f1", limit=3) == (["f2", "f4", "f6"], True)
        assert await page(brands=()) == ([], False)
        assert await page(ids=("f3", "none", "f2", "f5"), after="f2") == (["f3", "f5"], False)
        assert await page(bytes_max=1) == (["A"], True)
        assert await page(after="A", bytes_max=30) == (["f0", "f1", "f2"], True)
        assert await page(after="A", bytes_max=31, limit=4) == (["f0", "f1", "f2", "f3"], True)

        ids = store.page_fence_ids
        assert await ids(after="f1", brands=None, limit=3) == ["f2", "f3", "f4"]
        assert await ids(after="f1", brands=("bank",), limit=9) == ["f2", "f4", "f6", "f8"]
        assert await ids(after="", brands=(), limit=9) == []

    async def test_of_two_brands_one_makes_a_thing(self, store: Store, other: Store) -> None:
        """Both at once, a single write against an import."""
        for round_ in range(20):
            id_ = f"door-{round_}"
            theirs = msgspec.structs.replace(fence(id_), brand="bank")
            mine = Rows(fences=(fence(f"a-{round_}"), fence(id_)))
            done = await asyncio.gather(
                store.put_fences([theirs], by=msgspec.structs.replace(author(), brands=("bank",))),
                other.put_together(
                    parts(mine), by=msgspec.structs.replace(author(), brands=("cafe",))
                ),
                return_exceptions=True,
            )
            lost = [isinstance(one, ForeignBrand) for one in done]
            assert sorted(lost) == [False, True], done
            (kept,) = await store.read_fences([id_])
            assert (kept.brand, kept.version) == ("cafe" if lost[0] else "bank", 1)
            assert len(await store.read_fences([f"a-{round_}"])) == lost[0]

    async def test_what_is_as_it_was_draws_no_number(self, store: Store, other: Store) -> None:
        await store.put_brand(BRAND, by=author())
        await store.put_offer(OFFER, by=author())

        assert await other.put_brand(BRAND, by=author()) == Written(0, 1, created=False)
        equal = msgspec.convert(msgspec.to_builtins(OFFER), Offer)
        spelt = msgspec.structs.replace(equal, caps=OfferCaps(cool_down_s=int("21600")))
        assert spelt == OFFER
        assert await other.put_offer(OFFER, by=author()) == Written(0, 1, created=False)
        assert await other.put_offer(spelt, by=author()) == Written(0, 1, created=False)
        assert len(await store.changes_after(0)) == len(await told(store)) == 2

    async def test_a_version_never_means_two_things(self, store: Store, other: Store) -> None:
        """What is made anew under an old id goes on from the version that was deleted."""
        await store.put_fences([fence("door")])
        await store.put_offer(OFFER)
        await store.put_offer(CHEAPER)
        await store.delete_fence("door")
        await store.delete_offer("latte")

        (made,) = await other.put_fences([fence("door", b"{}")])
        assert (made.version, made.created) == (2, True)
        assert await other.put_offer(OFFER) == Written(7, 3, created=True)
        with pytest.raises(VersionMoved):
            await store.delete_fence("door", expected=(1,))
        await store.delete_fence("door", expected=(2,))
        rows = Rows(fences=(fence("door"),))
        assert (await store.put_together(parts(rows))).created == 1
        assert (await store.read_fences(["door"]))[0].version == 3

    async def test_of_many_writers_on_one_version_one_wins(
        self, store: Store, other: Store
    ) -> None:
        both = (store, other) * 5
        for expected, won in ((ABSENT, 1), ((1,), 2)):
            puts: tuple[Named, ...] = (
                lambda s, n, e: s.put_brand(msgspec.structs.replace(BRAND, name=n), expected=e),
                lambda s, n, e: s.put_offer(msgspec.structs.replace(OFFER, title=n), expected=e),
                lambda s, n, e: s.put_fences([fence("door", n.encode())], expected=e),
            )
            for put in puts:
                async with asyncio.timeout(20):
                    done = await asyncio.gather(
                        *(put(s, f"{won} {n}", expected) for n, s in enumerate(both)),
                        return_exceptions=True,
                    )
                moved = [one for one in done if isinstance(one, VersionMoved)]
                assert len(moved) == 9
                assert {one.current for one in moved} == {won}

    # The audit log.

    async def test_every_write_with_an_author_is_told(self, store: Store, other: Store) -> None:
        by = author()
        await store.put_brand(BRAND, by=by)
        await other.put_brand(RENAMED, by=by)
        await store.put_fences([fence("b"), fence("a")], by=by)
        await store.put_fences([fence("b"), fence("a", b"{}")], by=by)
        await store.delete_fence("a", by=by)
        await store.put_offer(OFFER, by=by)
        await store.delete_offer("latte", by=by)
        await store.put_key(KEY, by=by)
        await store.put_key(KEY, by=by)
        await store.delete_key("k1", by=by)
        await store.create_residents({"bob": SETTINGS, "ann": SETTINGS}, by=by)
        await store.put_settings("ann", ResidentSettings(), by=by)
        await store.append_records("ann", (record("ann", 1),), version_before=0, by=by)
        await store.commit(claims(claim("c1")))
        await store.redeem(
            Redemption(id="x1", claim="c1", offer="latte", brand="cafe", at_ms=NOW_MS)
        )
        await store.roll_back("x1", by=by)

        assert await told(store) == [
            ("brand", "cafe", 1, "created"),
            ("brand", "cafe", 2, "updated"),
            ("fence", "a", 1, "created"),
            ("fence", "b", 1, "created"),
            ("fence", "a", 2, "updated"),
            ("fence", "a", 2, "deleted"),
            ("offer", "latte", 1, "created"),
            ("offer", "latte", 1, "deleted"),
            ("key", "k1", 0, "created"),
            ("key", "k1", 0, "updated"),
            ("key", "k1", 0, "deleted"),
            ("resident", "ann", 0, "created"),
            ("resident", "bob", 0, "created"),
            ("resident", "ann", 0, "updated"),
            ("resident", "ann", 1, "updated"),
            ("redemption", "x1", 0, "deleted"),
        ]
        entries = await store.audit(AuditFilter(), limit=100)
        assert {e.author for e in entries} == {by}
        assert {e.brand for e in entries if e.kind in ("brand", "fence", "offer")} == {"cafe"}
        assert {e.brand for e in entries if e.kind in ("key", "resident")} == {None}
        assert entries[0].brand == "cafe"

    async def test_what_is_not_written_is_not_told(self, store: Store) -> None:
        by = author()
        await store.put_brand(BRAND)
        with pytest.raises(VersionMoved):
            await store.put_brand(RENAMED, expected=ABSENT, by=by)
        await store.delete_fence("none", by=by)
        await store.delete_offer("none", by=by)
        await store.delete_key("none", by=by)
        await store.put_settings("none", SETTINGS, by=by)
        await store.append_records("none", (record("none", 1),), version_before=0, by=by)
        await store.roll_back("none", by=by)

        assert await told(store) == []

    async def test_the_log_is_filtered_and_paged(self, store: Store) -> None:
        rival = msgspec.structs.replace(BRAND, id="rival")
        await store.put_brand(BRAND, by=author(1))
        await store.put_brand(rival, by=author(2))
        await store.put_fences([fence("cafe")], by=author(3))
        await store.put_key(KEY, by=author(4))

        assert [one[:2] for one in await told(store, kind="brand")] == [
            ("brand", "cafe"),
            ("brand", "rival"),
        ]
        assert [one[0] for one in await told(store, id="cafe")] == ["brand", "fence"]
        assert [one[0] for one in await told(store, since_ms=3)] == ["fence", "key"]
        assert [one[1] for one in await told(store, brands=("rival",))] == ["rival"]
        assert await told(store, brands=()) == []
        first = await store.audit(AuditFilter(), limit=3)
        then = await store.audit(AuditFilter(before=first[-1].number), limit=3)
        assert [e.kind for e in first + then] == ["key", "fence", "brand", "brand"]
        assert first[0] == AuditEntry(
            number=first[0].number,
            author=author(4),
            kind="key",
            id="k1",
            brand=None,
            version=0,
            outcome="created",
        )

    # Imports.

    async def test_an_import_is_one_line_of_the_feed(self, store: Store, other: Store) -> None:
        await store.put_brand(BRAND)
        await store.put_fences([fence("b"), fence("c", b"{}")])
        rows = (
            Rows(brands=(BRAND,), fences=(fence("a"), fence("b"))),
            Rows(fences=(fence("c"),), offers=(OFFER,)),
        )

        planned = await store.put_together(parts(*rows), dry_run=True, by=author())
        assert planned == Together(0, created=2, updated=1, unchanged=2)
        assert len(await store.changes_after(0)) == 3
        done = await other.put_together(parts(*rows), by=author())
        assert done == Together(4, created=2, updated=1, unchanged=2)

        (line,) = await store.changes_after(3)
        assert line.kind == "batch"
        assert await store.read_batch(line.id) == {
            "fence": ["a", "c"],
            "offer": ["latte"],
        }
        assert [(f.id, f.version) for f in await store.read_fences(["a", "b", "c"])] == [
            ("a", 1),
            ("b", 1),
            ("c", 2),
        ]
        assert await told(store) == [
            ("fence", "a", 1, "created"),
            ("fence", "c", 2, "updated"),
            ("offer", "latte", 1, "created"),
        ]
        again = await store.put_together(parts(*rows), by=author())
        assert again == Together(0, created=0, updated=0, unchanged=5)
        assert await store.put_together(parts()) == Together(0, 0, 0, 0)
        assert await store.read_batch("none") == {}

    async def test_an_import_that_breaks_off_writes_nothing(self, store: Store) -> None:
        async def broken() -> AsyncIterator[Rows]:
            yield Rows(fences=(fence("a"),))
            raise ValueError("the file ends in the middle")

        with pytest.raises(ValueError, match="middle"):
            await store.put_together(broken(), by=author())

        assert await store.read_fences(["a"]) == []
        assert await store.changes_after(0) == []
        assert (await store.put_together(parts(Rows(fences=(fence("a"),))))).created == 1

    async def test_an_import_of_many_rows(self, store: Store) -> None:
        rows = [Rows(fences=tuple(fence(f"f{n}-{m}") for m in range(400))) for n in range(7)]

        done = await store.put_together(parts(*rows))

        assert (done.number, done.created) == (1, 2_800)
        (line,) = await store.changes_after(0)
        ids = await store.read_batch(line.id)
        assert ids["fence"] == sorted(one.id for part in rows for one in part.fences)

    async def test_an_import_never_widens_what_was_said(self, store: Store, other: Store) -> None:
        await store.create_residents({"ann": SETTINGS, "bob": ResidentSettings()})
        no = record("ann", 1, "withdraw")
        await store.append_records("ann", (no,), version_before=0)
        yes = [
            ResidentRow(id=name, settings=SETTINGS, records=(record(name, 1), record(name, 1)))
            for name in ("cid", "bob", "ann")
        ]
        silent = ResidentRow(id="dot", settings=SETTINGS)

        done = await other.import_residents([*yes, silent], by=author())

        assert done == ResidentsImported(
            6, frozenset(("cid", "dot")), frozenset(("bob", "cid", "dot"))
        )
        assert await store.read_residents(["ann", "bob", "cid", "dot"]) == [
            ResidentRow(id="ann", settings=SETTINGS, version=1, records=(no,)),
            ResidentRow(id="bob", settings=ResidentSettings(), version=1, records=yes[1].records),
            msgspec.structs.replace(yes[0], version=1),
            silent,
        ]
        assert sorted(await told(store)) == [
            ("resident", "bob", 1, "updated"),
            ("resident", "cid", 1, "created"),
            ("resident", "dot", 0, "created"),
        ]
        again = await store.import_residents([*yes, silent], by=author())
        assert again == ResidentsImported(0, frozenset(), frozenset())

    # Calls that are sent twice.

    async def test_a_call_is_kept_for_a_day(self, store: Store, other: Store) -> None:
        assert await store.keep_call("k1", "once", b"body", now_ms=NOW_MS) is None
        doing = Kept(fingerprint=b"body", at_ms=NOW_MS, state="doing")
        assert await other.keep_call("k1", "once", b"other", now_ms=NOW_MS + 1) == doing
        assert await other.keep_call("k2", "once", b"other", now_ms=NOW_MS + 1) is None

        await store.end_call("k1", "once", NOW_MS, ANSWER)
        done = Kept(fingerprint=b"body", at_ms=NOW_MS, state="done", answer=ANSWER)
        late_ms = NOW_MS + KEPT_MS - 1
        assert await other.keep_call("k1", "once", b"body", now_ms=late_ms) == done
        assert await other.keep_call("k1", "once", b"new", now_ms=late_ms + 1) is None
        await store.end_call("k1", "once", NOW_MS, None)
        kept = await store.keep_call("k1", "once", b"new", now_ms=late_ms + 2)
        assert kept == Kept(fingerprint=b"new", at_ms=late_ms + 1, state="doing")

    async def test_a_call_that_did_nothing_is_free(self, store: Store, other: Store) -> None:
        await store.keep_call("k1", "once", b"", now_ms=NOW_MS)
        await store.free_call("k1", "once", NOW_MS - 1)
        assert await other.keep_call("k1", "once", b"", now_ms=NOW_MS) is not None
        await store.free_call("k1", "once", NOW_MS)
        assert await other.keep_call("k1", "once", b"", now_ms=NOW_MS) is None

        await other.end_call("k1", "once", NOW_MS, None)
        lost = await store.keep_call("k1", "once", b"", now_ms=NOW_MS)
        assert lost == Kept(fingerprint=b"", at_ms=NOW_MS, state="lost")

    async def test_of_many_callers_one_does_it(self, store: Store, other: Store) -> None:
        async with asyncio.timeout(20):
            done = await asyncio.gather(
                *(s.keep_call("k1", "once", b"", now_ms=NOW_MS) for s in (store, other) * 10)
            )

        assert done.count(None) == 1
