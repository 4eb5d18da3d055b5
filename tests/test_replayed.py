"""Receipts brought back after a restore: every "no" of theirs holds again, and no "yes"."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from engine.consent.record import ALL, Record, Scope, record_id
from engine.consent.replayed import OutOfChain, noes
from engine.consent.standing import standing_of
from engine.consent.suspension import confirm, suspend
from engine.consent.sync import Requested, Said, marketing, resolve, stop
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from engine.web.history import receipt_of
from tests.consent_oracle import answer
from tests.strategies import NOON_MS
from tests.test_consent_rule import ours, record, some_question, some_record
from tests.web_town import town

CASES: Final = 600
ON: Final = marketing(True)
NEVER_BANK: Final = marketing(False, ["bank"])
BANK: Final = Scope(brand="bank")


def chained(before: Sequence[Record], *said: Record) -> tuple[Record, ...]:
    """What was said so far, and more, each a version of its own."""
    records = list(before)
    for one in said:
        version = records[-1].version + 1 if records else 1
        name = record_id(records[-1]) if records else ""
        records.append(msgspec.structs.replace(one, supersedes=name, version=version))
    return tuple(records)


def kept(records: Sequence[Record]) -> ResidentRow:
    version = records[-1].version if records else 0
    return ResidentRow(
        id="ann", settings=ResidentSettings(), version=version, records=tuple(records)
    )


def saying(records: Sequence[Record], *calls: Iterable[Requested]) -> tuple[Record, ...]:
    """The same and what the resident says then, call after call, from the latest settings."""
    for call in calls:
        row = kept(records)
        said = Said(actor="self", now_ms=NOON_MS, if_match=row.version)
        records = (*row.records, *resolve(row, call, said).records)
    return tuple(records)


def restored(records: Sequence[Record]) -> tuple[Record, ...]:
    """What a restore makes of a backup."""
    row = kept(records)
    before = record_id(records[-1]) if records else ""
    return (*records, suspend("ann", row.version, before, because="A test.", now_ms=NOON_MS))


def confirmed(records: Sequence[Record]) -> tuple[Record, ...]:
    """The same after the operator confirmed."""
    made = confirm(kept(records), because="A test.", now_ms=NOON_MS)
    return (*records, made) if made else tuple(records)


def likely(rng: random.Random) -> Record:
    """Anything that a resident may say, mostly yes to offers."""
    if rng.random() < 0.4:
        return some_record(rng)
    scope = rng.choice((ALL, ALL, Scope(brand="beans"), Scope(category="food")))
    both = {"actions": ("use", "contact"), "data": ("precise_location", "contact_point")}
    return record("grant", purpose="offers", scope=scope, **both)


def test_nothing_is_allowed_that_would_not_be_had_nothing_been_lost() -> None:
    """Whatever was said before and after the backup, and after the restore; by the slow rule.

    The operator confirms every grant, before the receipts come or after. Without the receipts that
    would be wrong, as counted; and what was denied at the end is denied again.
    """
    rng = random.Random(20_265)
    seen: Counter[str] = Counter()
    for _ in range(CASES):
        backup = chained((), *(likely(rng) for _ in range(rng.randrange(4))))
        truth = chained(backup, *(some_record(rng) for _ in range(rng.randrange(1, 4))))
        fresh = [likely(rng) for _ in range(rng.choice((0, 0, 1)))]
        lost = [*truth[len(backup) :], *rng.sample(backup, rng.randrange(len(backup) + 1))]
        rng.shuffle(lost)
        now = chained(restored(backup), *fresh)
        early = rng.random() < 0.5
        now = confirmed(now) if early else now
        whole = saying(now, *noes(now, lost).values())
        whole = whole if early else confirmed(whole)
        for _ in range(4):
            asked = some_question(rng)
            true = answer(chained(truth, *fresh), asked)
            got = ours(whole, asked)
            assert got != "allow" or true == "allow", (backup, lost, fresh, asked)
            if true == "denied" and not fresh:
                assert got == "denied"
            seen[got] += 1
            seen["wrong without"] += ours(confirmed(now), asked) == "allow" != true

    assert min(seen["allow"], seen["denied"], seen["wrong without"]) > 50


def test_a_no_comes_back_and_a_yes_does_not() -> None:
    """Once: receipts that are brought back again say nothing new, in whatever order they come."""
    backup = saying((), ON)
    truth = saying(backup, NEVER_BANK, marketing(True, ["cafe"]))
    now = saying(restored(backup), ON)

    again = noes(now, reversed(truth))

    assert [(one.effect, one.scope) for one in again["self"]] == [("deny", BANK)] * 2
    whole = saying(now, *again.values())
    assert [s.record.scope for s in standing_of(whole) if s.record.effect == "grant"] == [ALL] * 2
    assert noes(whole, truth) == {}


def test_a_no_that_was_lifted_later_is_none() -> None:
    backup = saying((), ON)
    truth = saying(backup, NEVER_BANK, marketing(True, ["bank"]))

    assert noes(restored(backup), truth) == {}


def test_what_was_taken_back_is_confirmed_by_nobody() -> None:
    """And what was granted anew since the restore stays, for another scope."""
    backup = saying((), marketing(True, ["bank"]))
    truth = saying(backup, stop())
    now = saying(restored(backup), ON)

    whole = confirmed(saying(now, *noes(now, truth).values()))

    assert [held.record.scope for held in standing_of(whole)] == [ALL] * 2


def test_a_no_is_whose_it_was() -> None:
    """A guardian's, which a minor does not lift, even where the minor said it later too; a
    browser's, which is a floor; and each is said again once, unless it stands as theirs."""
    backup = saying((), ON)
    guardians = chained(backup, record("deny", actor="guardian", scope=BANK))
    truth = chained(
        guardians,
        record("deny", scope=BANK),
        record("deny", actor="signal", actions=("share",), data=("profile",)),
    )
    now = saying(restored(backup), NEVER_BANK)

    again = noes(now, truth)

    told = [(speaker, one.scope, one.actions) for speaker, all_ in again.items() for one in all_]
    assert told == [
        ("guardian", BANK, ("use", "contact")),
        ("signal", ALL, ("share",)),
    ]
    whole = chained(now, *(record("deny", actor=who, **fields(one)) for who, one in each(again)))
    assert noes(whole, truth) == {}


def each(again: Mapping[Any, tuple[Requested, ...]]) -> list[tuple[str, Requested]]:
    """Who says what."""
    return [(speaker, one) for speaker, said in again.items() for one in said]


def fields(one: Requested) -> dict[str, Any]:
    """Of a record that says it."""
    return {"actions": one.actions, "data": one.data, "scope": one.scope}


def test_receipts_follow_on_what_is_kept() -> None:
    """With a gap, or of two branches, they are refused by name; of a backup before all, not."""
    backup = saying((), ON)
    one, two, three, *_ = saying(backup, NEVER_BANK, OFF_TEA)[2:]
    other = saying(backup, OFF_TEA)[2]
    now = restored(backup)

    with pytest.raises(OutOfChain) as gap:
        noes(now, [one, three])
    with pytest.raises(OutOfChain) as nowhere:
        noes(now, [two])
    with pytest.raises(OutOfChain) as branches:
        noes(now, [one, two, other])

    assert gap.value.ids == {record_id(three)}
    assert nowhere.value.ids == {record_id(two)}
    assert branches.value.ids & {record_id(one), record_id(other)}
    assert len(noes(restored(()), [*backup, one, two])["self"]) == 2


OFF_TEA: Final = marketing(False, ["tea"])
MINE: Final = "/v1/residents/me"


async def lost(data: Path) -> tuple[ResidentRow, list[dict[str, Any]]]:
    """A resident as a backup has them, and the receipts of what they said after it."""
    async with town(data) as here:
        key = await here.resident("ann")
        (row,) = await here.ctx.store.read_residents(["ann"])
        off = {"opted_in": False, "brands": ["bank"]}
        never = await here.must("PUT", f"{MINE}/preferences/marketing", off, key=key)
        stopped = await here.must("POST", f"{MINE}/stop", key=key)
        return row, never["receipts"] + stopped["receipts"]


async def test_over_http(tmp_path: Path) -> None:
    """What was lost holds from the answer on; what is wrong is told by its place."""
    row, receipts = await lost(tmp_path / "before")
    async with town(tmp_path / "after") as here:
        await here.ctx.store.create_residents({"ann": row.settings})
        await here.ctx.store.append_records("ann", restored(row.records), version_before=0)
        key, path = await here.key("resident", resident="ann"), f"{MINE}/receipts"
        before = await here.must("GET", f"{MINE}/preferences", key=key)
        done = await here.must("POST", path, {"receipts": receipts}, key=key)
        after = await here.must("GET", f"{MINE}/preferences", key=key)
        again = await here.must("POST", path, {"receipts": receipts[:1]}, key=key)

        assert [one["effect"] for one in before["standing"] + before["suspended"]] == ["grant"] * 2
        assert [(one["effect"], one["scope"]) for one in after["standing"]] == [
            ("deny", {"brand": "bank"})
        ] * 2
        assert after["suspended"] == []
        assert done["version"] == after["version"] == before["version"] + 1
        assert {one["record"]["proof"] for one in done["receipts"]} == {
            f"Receipts brought back after a restore, up to {receipts[2]['id']}."
        }
        assert (again["version"], again["changes"]) == (after["version"], [])

        history = await here.must("GET", f"{MINE}/history?limit=1", key=key)
        head = msgspec.convert(history["items"][0]["record"], Record)
        more = chained(
            [head], record("deny", scope=BANK), record("deny", actor="guardian", scope=ALL)
        )[1:]
        both = await here.must("POST", path, {"receipts": [*map(receipt_of, more)]}, key=key)
        assert both["version"] == after["version"] + 2
        speakers = [one["record"]["actor"] for one in both["receipts"]]
        assert list(dict.fromkeys(speakers)) == ["self", "guardian"]
        listed = await here.must("GET", f"{MINE}/history?limit={len(speakers)}", key=key)
        assert listed["items"] == both["receipts"][::-1]

        for place, wrong, told in wrongs(receipts):
            refused = await here.call("POST", path, {"receipts": wrong}, key=key)
            assert refused.code == "invalid_receipts"
            assert [(e["path"], e["code"]) for e in refused.body["errors"]] == [(place, told)]


def wrongs(receipts: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]], str]]:
    """Receipts with something wrong; where, and the code."""
    first, record = receipts[0], receipts[0]["record"]

    def but(**fields: Any) -> dict[str, Any]:
        made = msgspec.convert(record | fields, Record)
        return {"id": record_id(made), "record": msgspec.to_builtins(made)}

    at = "receipts[0].record"
    return [
        (f"{at}.subject", [but(subject="bob")], "foreign_receipt"),
        (
            "receipts[0].id",
            [{**first, "record": record | {"purpose": "loyalty"}}],
            "altered_receipt",
        ),
        (at, [but(scope={"brand": "no brand"})], "altered_receipt"),
        (at, [but(actions=[])], "altered_receipt"),
        (f"{at}.purpose", [but(purpose="fun")], "unknown_purpose"),
        (f"{at}.scope", [but(scope={})], "invalid_scope"),
        (f"{at}.supersedes", [but(supersedes="0" * 32)], "out_of_chain"),
    ]
