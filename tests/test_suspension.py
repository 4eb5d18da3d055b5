"""Grants of before a restore: they count for nothing until confirmed or given anew."""

from pathlib import Path
from typing import Final

from engine.consent.index import PreferenceIndex
from engine.consent.record import Record, record_id
from engine.consent.suspension import VERSIONS_SKIPPED, confirm, suspend
from engine.consent.sync import Requested, Said, marketing, resolve, standing, stop
from engine.residents import ResidentSettings
from engine.store.memory import MemoryStore
from engine.store.port import ResidentRow
from tests.web_town import SECRET_RESIDENT, town

NOON_MS: Final = 1_790_000_000_000 // 86_400_000 * 86_400_000 + 12 * 3_600_000


def said(row: ResidentRow, *changes: Requested) -> ResidentRow:
    """The resident after they said something on their latest settings."""
    told = Said(actor="self", now_ms=NOON_MS, if_match=row.version)
    return grown(row, *resolve(row, changes, told).records)


def grown(row: ResidentRow, *records: Record) -> ResidentRow:
    """The resident with more records."""
    return ResidentRow(
        id=row.id,
        settings=row.settings,
        version=records[-1].version,
        records=(*row.records, *records),
    )


def suspended(row: ResidentRow) -> ResidentRow:
    """The resident after a restore."""
    before = record_id(row.records[-1]) if row.records else ""
    return grown(row, suspend(row.id, row.version, before, because="A test.", now_ms=NOON_MS))


def confirmed(row: ResidentRow) -> ResidentRow:
    """The resident after the operator confirmed."""
    record = confirm(row, because="A test.", now_ms=NOON_MS)
    assert record is not None
    assert record.supersedes == record_id(row.records[-1])
    return grown(row, record)


def why_not(row: ResidentRow, brand: str = "cafe") -> str | None:
    """Why an offer of a brand may not reach the resident."""
    index = PreferenceIndex()
    index.put(row.id, row.version, row.records, "UTC", now_ms=NOON_MS)
    why = index.offer_refusal(row.id, brand, (), (), "offers", "push", now_ms=NOON_MS, mono_ms=0)
    assert why == index.redeemable(row.id, brand, (), NOON_MS, 0)
    return why


NEW: Final = ResidentRow(id="r", settings=ResidentSettings())
OPTED_IN: Final = said(NEW, *marketing(True))


def test_a_suspended_grant_allows_nothing_and_says_so() -> None:
    """Until it is confirmed; and the resident is shown nothing that holds."""
    row = suspended(OPTED_IN)

    assert (why_not(OPTED_IN), why_not(row), why_not(confirmed(row))) == (None, "suspended", None)
    assert standing(row.records, NOON_MS) == []
    assert len(standing(confirmed(row).records, NOON_MS)) == 2
    index = PreferenceIndex()
    entry = index.put(row.id, row.version, row.records, "UTC", now_ms=NOON_MS)
    assert not entry.row.uses_location
    assert index.allowing("r", entry.row.suspended, "cafe", (), now_ms=NOON_MS) == []


def test_a_grant_of_after_it_counts_and_lifts_no_other() -> None:
    """Of the same resident, only what was granted anew."""
    row = said(suspended(OPTED_IN), *marketing(True, ["cafe"]))

    assert (why_not(row, "cafe"), why_not(row, "bank")) == (None, "suspended")


def test_a_deny_holds_through_suspension_and_confirmation() -> None:
    """Any no wins, before as after."""
    row = said(OPTED_IN, *marketing(False, ["bank"]))

    assert why_not(suspended(row), "bank") == "denied"
    assert why_not(confirmed(suspended(row)), "bank") == "denied"


def test_what_is_withdrawn_while_suspended_is_not_confirmed() -> None:
    """A confirmation brings back only what still stands."""
    row = said(suspended(OPTED_IN), *stop())

    assert why_not(row) == "no_grant"
    assert confirm(row, because="A test.", now_ms=NOON_MS) is None


def test_nobody_without_a_suspended_grant_is_confirmed() -> None:
    """There is nothing to say about them."""
    for row in (NEW, OPTED_IN, suspended(NEW), confirmed(suspended(OPTED_IN))):
        assert confirm(row, because="A test.", now_ms=NOON_MS) is None


def test_no_version_of_before_equals_one_of_after() -> None:
    """A device that saw later settings, which are gone, can widen nothing by them."""
    assert suspended(OPTED_IN).version == OPTED_IN.version + VERSIONS_SKIPPED
    assert suspended(suspended(OPTED_IN)).version == OPTED_IN.version + 2 * VERSIONS_SKIPPED


async def test_a_resident_and_the_operator_see_what_is_suspended(tmp_path: Path) -> None:
    """In the preferences, grant by grant; in the metrics, how many residents."""
    store = MemoryStore()
    seen: list[tuple[int, int, str]] = []

    async def look() -> None:
        """What the resident reads, and the line of the metrics."""
        held = await here.must("GET", "/v1/residents/me/preferences", key=key)
        metrics = (await here.must("GET", "/metrics", key=None)).splitlines()
        line = next(li for li in metrics if li.startswith("passby_residents_suspended "))
        seen.append((len(held["standing"]), len(held["suspended"]), line.split()[1]))

    async with town(tmp_path, store) as here:
        key = await here.resident()
        await look()
        for change in (suspended, confirmed):
            (row,) = await store.read_residents([SECRET_RESIDENT])
            added = change(row).records[len(row.records) :]
            number = await store.append_records(SECRET_RESIDENT, added, version_before=row.version)
            assert number is not None
            await here.ctx.feed.reached(number)
            await look()

    assert seen == [(2, 0, "0.0"), (0, 2, "1.0"), (2, 0, "0.0")]
