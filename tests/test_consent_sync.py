"""How preferences change: narrowing always, widening from the latest settings only."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.consent.lanes import (
    ACTIONS,
    CATEGORIES,
    EVERYTHING,
    PURPOSES,
    every_purpose,
    lane,
    lanes,
    name_of,
)
from engine.consent.record import ALL, Notice, Record, Scope, record_id
from engine.consent.standing import standing_of
from engine.consent.sync import (
    DAY_MS,
    PreconditionFailed,
    PreconditionRequired,
    Requested,
    Said,
    TooManyRecords,
    marketing,
    resolve,
    standing,
    stop,
)
from engine.residents import ResidentSettings
from engine.store.port import ResidentRow
from tests.strategies import NOON_MS, records_of

ON: Final = marketing(True)
OFF: Final = marketing(False)
NEVER_TEA: Final = marketing(False, ["tea"])
CONTACT: Final = Requested(
    effect="grant", purpose="offers", actions=("contact",), data=("contact_point",)
)


def kept(*calls: Sequence[Requested]) -> ResidentRow:
    """A resident who made these calls."""
    return ResidentRow(
        id="ann", settings=ResidentSettings(), version=len(calls), records=records_of(*calls)
    )


def said(if_match: int | None = None) -> Said:
    """By the resident, at noon."""
    return Said(actor="self", now_ms=NOON_MS, if_match=if_match)


@pytest.mark.parametrize("if_match", [None, 0, 1, 7])
@pytest.mark.parametrize("call", [OFF, NEVER_TEA, stop(), (*NEVER_TEA, *OFF)])
def test_narrowing_always_works(call: Sequence[Requested], if_match: int | None) -> None:
    """Whatever version a device has seen, or none, all of a narrowing is accepted."""
    done = resolve(kept(ON, NEVER_TEA), call, said(if_match))

    assert done.refused == ()
    assert [r.effect for r in done.records] == [c.effect for c in call]
    assert {r.version for r in done.records} == {3}


@pytest.mark.parametrize(("calls", "if_match"), [([], None), ([], 0), ([ON], 1), ([ON, OFF], 2)])
def test_widening_works_from_the_latest(calls: list[Sequence[Requested]], if_match: int) -> None:
    """The version last seen is the latest, or there is none yet."""
    done = resolve(kept(*calls), ON, said(if_match))

    assert done.refused == ()
    assert [r.effect for r in done.records] == ["grant", "grant"]


def test_widening_needs_a_version() -> None:
    """Without one it is refused once anything was said (428)."""
    with pytest.raises(PreconditionRequired):
        resolve(kept(ON), ON, said())


@pytest.mark.parametrize("if_match", [0, 1, 3])
def test_widening_from_an_older_version_is_told_what_changed(if_match: int) -> None:
    """It is refused with what was said since (412), nothing if the version is one of tomorrow."""
    row = kept(ON, OFF)

    with pytest.raises(PreconditionFailed) as failed:
        resolve(row, ON, said(if_match))

    assert failed.value.current == 2
    assert failed.value.difference == tuple(r for r in row.records if r.version > if_match)


def test_an_unseen_version_is_refused_at_the_start_too() -> None:
    """A device that has seen more than there is has seen something else (412)."""
    with pytest.raises(PreconditionFailed):
        resolve(kept(), ON, said(4))


@pytest.mark.parametrize("if_match", [None, 0])
def test_a_mixed_call_narrows_and_lists_what_it_refused(if_match: int | None) -> None:
    """Its narrowings apply in their order, its widenings come back."""
    done = resolve(kept(ON), (CONTACT, *NEVER_TEA, *ON), said(if_match))

    assert [(r.effect, r.scope) for r in done.records] == [("deny", Scope(brand="tea"))] * 2
    assert done.refused == (CONTACT, *ON)


def test_a_mixed_call_from_the_latest_applies_whole() -> None:
    """With the latest version everything is accepted, in the order asked."""
    done = resolve(kept(ON), (*OFF, CONTACT), said(1))

    assert [r.effect for r in done.records] == ["withdraw", "withdraw", "grant"]
    assert done.refused == ()


def test_asking_nothing_changes_nothing() -> None:
    """An empty call needs no version and makes no record."""
    done = resolve(kept(ON), (), said())

    assert (done.records, done.refused) == ((), ())


@pytest.mark.parametrize(
    ("data", "asked_ms", "expected_ms"),
    [
        (("precise_location",), None, NOON_MS + 90 * DAY_MS),
        (("contact_point",), None, NOON_MS + 365 * DAY_MS),
        (("contact_point", "precise_location"), None, NOON_MS + 90 * DAY_MS),
        (("precise_location",), NOON_MS + DAY_MS, NOON_MS + DAY_MS),
        (("precise_location",), NOON_MS + 91 * DAY_MS, NOON_MS + 90 * DAY_MS),
        (("contact_point",), NOON_MS - 1, NOON_MS - 1),
    ],
)
def test_grants_end(data: tuple[str, ...], asked_ms: int | None, expected_ms: int) -> None:
    """After 12 months, 3 for precise location, or sooner if the resident says so."""
    asked = msgspec.structs.replace(CONTACT, data=data, expires_ms=asked_ms)

    (record,) = resolve(kept(), (asked,), said()).records

    assert record.expires_ms == expected_ms


def test_a_no_does_not_end() -> None:
    """Denies and withdrawals have no expiry, even where one was asked for."""
    asked = [msgspec.structs.replace(r, expires_ms=NOON_MS) for r in (*NEVER_TEA, *OFF)]

    assert {r.expires_ms for r in resolve(kept(ON), asked, said()).records} == {None}


def test_records_are_chained() -> None:
    """Each names the hash of the one before it, across calls; another text is another hash."""
    records = records_of(ON, NEVER_TEA, stop(), ON)

    assert records[0].supersedes == ""
    assert all(after.supersedes == record_id(before) for before, after in pairwise(records))
    assert len({record_id(record) for record in records}) == len(records)


def test_a_record_keeps_the_circumstances() -> None:
    """Who, on which device, by which notice and with which proof is part of what is kept."""
    notice = Notice("n", "3", "fi")
    circumstances = Said(
        actor="agent", now_ms=NOON_MS, device="phone", notice=notice, client_ms=5, proof="p-1"
    )

    (record,) = resolve(kept(), (CONTACT,), circumstances).records

    assert record == Record(
        subject="ann",
        actor="agent",
        effect="grant",
        purpose="offers",
        actions=("contact",),
        data=("contact_point",),
        scope=ALL,
        version=1,
        server_ms=NOON_MS,
        client_ms=5,
        expires_ms=NOON_MS + 365 * DAY_MS,
        notice=notice,
        device="phone",
        proof="p-1",
        call_records=1,
    )


def test_a_call_says_how_many_records_it_made() -> None:
    """Of what was accepted, so that the last of them can't be dropped unseen."""
    done = resolve(kept(ON), (CONTACT, *NEVER_TEA), said())

    assert [(r.effect, r.call_records) for r in done.records] == [("deny", 2), ("deny", 2)]


FULL: Final = 4
"""Records of `kept(ON, NEVER_TEA)`."""


def test_nothing_more_is_turned_on_beyond_the_limit() -> None:
    """From the latest version too; in a mixed call it is refused, and its narrowings apply."""
    row = kept(ON, NEVER_TEA)

    with pytest.raises(TooManyRecords):
        resolve(row, ON, said(2), records_max=FULL)
    with pytest.raises(PreconditionFailed):
        resolve(row, ON, said(1), records_max=FULL)
    done = resolve(row, (*ON, *OFF), said(2), records_max=FULL)
    assert ([r.effect for r in done.records], done.refused) == (["withdraw", "withdraw"], ON)
    assert resolve(row, ON, said(2), records_max=FULL + 1).refused == ()


@pytest.mark.parametrize("call", [OFF, stop(), marketing(False, ["ink"])])
def test_turning_off_works_beyond_the_limit(call: Sequence[Requested]) -> None:
    """It leaves a record where it changes something, and once it holds, no more of them."""
    row = kept(ON, NEVER_TEA)

    once = resolve(row, call, said(), records_max=1)
    after = msgspec.structs.replace(row, version=3, records=row.records + once.records)
    again = resolve(after, call, said(), records_max=1)
    unlimited = (*row.records, *resolve(row, call, said()).records)

    assert 0 < len(once.records) <= 2
    assert [(held.record.scope, held.lanes) for held in standing_of(after.records)] == [
        (held.record.scope, held.lanes) for held in standing_of(unlimited)
    ]
    assert (again.records, again.refused, again.narrows) == ((), (), True)


def test_stop_withdraws_every_lane() -> None:
    """Whatever was granted, to whomever and for whatever, nothing of it stands."""
    every = tuple(
        Requested(
            effect="grant", purpose=p, actions=tuple(ACTIONS), data=tuple(CATEGORIES), scope=scope
        )
        for p in PURPOSES
        for scope in (ALL, Scope(brand="beans"), Scope(category="food"))
    )
    said_lanes = 0
    for one in stop():
        said_lanes |= lanes(one.purpose, one.actions, one.data)

    assert said_lanes == EVERYTHING
    assert standing(records_of(every), NOON_MS) != []
    assert standing(records_of(every, stop()), NOON_MS) == []


def test_standing_leaves_out_what_has_expired() -> None:
    """A grant is shown up to the instant at which it ends."""
    records = records_of(ON)

    assert len(standing(records, NOON_MS + 90 * DAY_MS - 1)) == 2
    assert [s.record.data for s in standing(records, NOON_MS + 90 * DAY_MS)] == [("contact_point",)]


def test_lanes_have_one_bit_each_and_a_name() -> None:
    """256 lanes, no two alike, each readable again."""
    every = [lane(p, a, c) for p in PURPOSES for a in ACTIONS for c in CATEGORIES]

    assert len(set(every)) == 256
    assert sum(every) == EVERYTHING
    assert [name_of(one) for one in (every[0], every[-1])] == [
        "offers:use:precise_location",
        "security:sell:inferred_interests",
    ]
    assert every_purpose("use", "precise_location").bit_count() == len(PURPOSES)


two_devices = st.lists(
    st.tuples(st.sampled_from(["phone", "tablet"]), st.sampled_from(["on", "off", "look"])),
    max_size=12,
)


@given(two_devices)
@settings(deadline=None)
def test_no_device_turns_on_what_another_turned_off_unseen(steps: list[tuple[str, str]]) -> None:
    """Whatever two devices do, on stands only where its device had seen every off before it."""
    row = kept()
    seen = {"phone": 0, "tablet": 0}
    last_off = 0
    for device, what in steps:
        if what == "look":
            seen[device] = row.version
            continue
        call = ON if what == "on" else OFF
        try:
            made = resolve(row, call, said(seen[device])).records
        except PreconditionFailed:
            assert seen[device] < row.version
            continue
        row = msgspec.structs.replace(row, version=row.version + 1, records=row.records + made)
        if what == "off":
            last_off = row.version
        else:
            assert seen[device] >= last_off
        seen[device] = row.version if seen[device] == row.version - 1 else seen[device]

    assert bool(standing_of(row.records)) == any(
        r.effect == "grant" and r.version > last_off for r in row.records
    )


def test_a_record_of_the_first_version_keeps_its_id() -> None:
    """However many fields there are by now: its id stands in its successor and in its receipt."""
    stored = (
        b'{"subject":"ann","actor":"self","effect":"grant","purpose":"offers","actions":["use"],'
        b'"data":["precise_location"],"scope":{"all":true},"version":1,"server_ms":1790000000000,'
        b'"client_ms":null,"expires_ms":1797776000000,"channels":null,"week":null,"places":[],'
        b'"notice":null,"device":null,"proof":null,"supersedes":""}'
    )

    record = msgspec.json.decode(stored, type=Record)

    assert record_id(record) == "38256b6895a754f0a9e05d7dd372051d"
    assert msgspec.json.decode(msgspec.json.encode(record)) == msgspec.json.decode(stored)


def test_every_record_has_a_salt_of_its_own() -> None:
    """So that equal things said have unlike hashes, in one call and in two."""
    salts = set()
    for seed in (b"a" * 32, b"b" * 32):
        made = resolve(kept(), ON, Said(actor="self", now_ms=NOON_MS, seed=seed)).records
        assert made == resolve(kept(), ON, Said(actor="self", now_ms=NOON_MS, seed=seed)).records
        salts |= {record.salt for record in made}

    assert len(salts) == 4
    assert {len(str(salt)) for salt in salts} == {32}
