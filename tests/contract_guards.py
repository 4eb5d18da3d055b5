"""What every store must do with what protects residents, and with the texts of notices."""

import pytest

from engine.consent.notices import NoticeText, hash_of
from engine.consent.protection import Protection
from engine.consent.zones import Zone
from engine.residents import ResidentSettings
from engine.store.audit import AuditFilter, Author
from engine.store.guards import NoticeThere, ProtectionRow
from engine.store.port import Change, Store, VersionMoved

NOW_MS = 1_700_000_000_000
HOME = Zone(
    name="home",
    kind="private",
    geometry={"type": "Point", "coordinates": [24.94, 60.17]},
    radius_m=150.0,
    version=1,
)
BY = Author(at_ms=NOW_MS, key="k", name="desk", role="operator", action="PUT /x")


def text(words: str, **fields: str) -> NoticeText:
    named = {"id": "offers", "version": "1", "locale": "fi"} | fields
    return NoticeText(text_hash=hash_of(words), at_ms=NOW_MS, text=words, **named)


class GuardContract:
    """The part of the contract about them; `store` is open and empty."""

    async def test_protection_is_replaced_and_told_to_the_feed(self, store: Store) -> None:
        number = await store.create_residents(
            {"ann": ResidentSettings(), "bob": ResidentSettings()}
        )
        young = Protection(age_band="under_13")

        first = await store.put_protection("ann", Protection((HOME,)), version_before=0, by=BY)
        second = await store.put_protection("ann", young, version_before=1)

        row = ProtectionRow(resident="ann", protection=young, version=2)
        assert (first, second) == (number + 1, number + 2)
        assert await store.changes_after(number) == [
            Change(number + 1, "protection", "ann"),
            Change(number + 2, "protection", "ann"),
        ]
        assert await store.read_protections(["ann", "bob", "nobody"]) == [row]
        assert (await store.snapshot(now_ms=NOW_MS)).protections == (row,)
        (entry,) = await store.audit(AuditFilter(kind="protection"), limit=9)
        assert (entry.id, entry.version, entry.outcome) == ("ann", 1, "created")

    async def test_what_is_drawn_comes_back_as_it_was(self, store: Store) -> None:
        await store.create_residents({"ann": ResidentSettings()})
        await store.put_protection("ann", Protection((HOME,), "16_17"), version_before=0)

        (row,) = await store.read_protections(["ann"])

        assert row.protection == Protection((HOME,), "16_17")

    async def test_protection_rests_on_its_version(self, store: Store) -> None:
        await store.create_residents({"ann": ResidentSettings()})
        await store.put_protection("ann", Protection((HOME,)), version_before=0)
        for stale in (0, 2):
            with pytest.raises(VersionMoved) as moved:
                await store.put_protection("ann", Protection(), version_before=stale)
            assert moved.value.current == 1
        assert await store.put_protection("nobody", Protection(), version_before=0) is None

    async def test_a_notice_is_kept_once_and_never_changes(self, store: Store) -> None:
        assert await store.put_notice(text("Näytä"), by=BY)
        assert not await store.put_notice(text("Näytä"), by=BY)
        with pytest.raises(NoticeThere):
            await store.put_notice(text("Muu"), by=BY)
        assert await store.put_notice(text("Muu", version="2"))

        assert await store.read_notice("offers", "1", "fi") == text("Näytä")
        assert await store.read_notice("offers", "1", "sv") is None
        assert [(n.version, n.text) for n in await store.list_notices("offers", limit=9)] == [
            ("1", ""),
            ("2", ""),
        ]
        assert await store.list_notices("other", limit=9) == []
        assert len(await store.list_notices(None, limit=1)) == 1
        assert len(await store.audit(AuditFilter(kind="notice"), limit=9)) == 1
