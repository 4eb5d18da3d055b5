"""How residents are held in memory: what many say once, and each of their own packed."""

import gc
import random
import tracemalloc
from typing import Final

import msgspec

from engine.consent.index import PreferenceIndex
from engine.consent.lanes import OFFER_NEED
from engine.consent.record import Notice, Record, Scope, record_id
from engine.consent.row import FOREVER_MS, compile_row
from engine.consent.saying import KEPT, OWN, Saying, sayings_of
from engine.consent.standing import standing_of
from tests.strategies import NOON_MS
from tests.test_consent_rule import DAY_MS, HOUR_MS, record, some_question, some_record, told

_saying: Final = msgspec.json.Decoder(Saying)
HARD: Final = (
    ',"actor":"self"',
    "\r\n",
    '","version":1,"',
    "\\",
    '\\",',
    "ä\u2028,",
    ',"notice":null}',
)
"""Texts that look like a part of JSON."""


def brand(name: str, effect: str = "grant", **fields: object) -> Record:
    return record(effect, scope=Scope(brand=name), **fields)


def taken(index: PreferenceIndex, resident: str, records: list[Record]) -> None:
    """The records as they come from the store when a process starts."""
    index.take(resident, 1, sayings_of(records), "UTC", now_ms=NOON_MS)


def test_each_field_of_a_record_counts_or_does_not() -> None:
    """A field that is added to records must be put on one side or the other."""
    counting = set(Saying.__struct_fields__)

    assert counting.isdisjoint(OWN)
    assert counting | OWN == set(Record.__struct_fields__)


def test_what_is_said_is_a_line_of_its_own() -> None:
    """Whatever texts are in it, and with its own end and id."""
    rng = random.Random(20_272)
    for _ in range(2_000):
        one = msgspec.structs.replace(
            some_record(rng),
            subject=rng.choice(HARD),
            device=rng.choice((None, *HARD)),
            proof=rng.choice((None, *HARD)),
            notice=rng.choice((None, Notice(*(rng.choice(HARD) for _ in range(4))))),
            places=tuple(rng.sample(HARD, rng.randrange(3))),
            scope=rng.choice(
                (Scope(brand=rng.choice(HARD)), Scope(category=HARD[0]), Scope(all=True))
            ),
        )

        contents, kept = sayings_of((one, one))

        assert contents.splitlines() == 2 * [
            msgspec.json.encode(_saying.decode(msgspec.json.encode(one)))
        ]
        end_ms = FOREVER_MS if one.expires_ms is None else one.expires_ms
        assert list(KEPT.iter_unpack(kept)) == 2 * [(end_ms, bytes.fromhex(record_id(one)))]


def test_what_comes_from_the_store_is_what_was_said() -> None:
    """Loaded from the bodies of records, the index answers as one that was given the records."""
    rng = random.Random(20_271)
    for _ in range(300):
        records = [some_record(rng) for _ in range(rng.randrange(9))]
        live, loaded = PreferenceIndex(), PreferenceIndex()
        live.put("ann", 1, records, "UTC", now_ms=NOON_MS)
        taken(loaded, "ann", records)
        for _ in range(5):
            asked = some_question(rng)._replace(zone="UTC")
            assert told(loaded, asked) == told(live, asked)
            named = [
                index.allowing("ann", OFFER_NEED, asked.brand, ("food",), now_ms=asked.now_ms)
                for index in (live, loaded)
            ]
            assert named[0] == named[1]


def test_a_row_is_that_of_the_rule_whatever_its_residents_said_before() -> None:
    """The short way of records that do not touch each other, and the whole one, end alike."""
    rng = random.Random(20_272)
    index = PreferenceIndex()
    for number in range(2_000):
        records = [some_record(rng) for _ in range(rng.randrange(7))]
        entry = index.put(f"r{number}", 1, records, "UTC", now_ms=NOON_MS)
        row, until_ms = compile_row(standing_of(records), NOON_MS)
        assert msgspec.structs.replace(entry.row, standing=()) == row
        assert NOON_MS < entry.next_change_at_ms <= until_ms


def test_who_says_the_same_shares_a_row_and_nobody_leaves_one_behind() -> None:
    """In whatever order, and however long it holds; a row goes with the last who had it."""
    index = PreferenceIndex()
    first, second = brand("beans", expires_ms=NOON_MS + 1), brand("tea", "deny")
    later = msgspec.structs.replace(first, subject="bob", server_ms=5, expires_ms=NOON_MS + 9)

    one = index.put("ann", 1, [first, second], "UTC", now_ms=NOON_MS)
    other = index.put("bob", 7, [second, later], "UTC", now_ms=NOON_MS)

    assert one.row is other.row
    assert index.rows == 1
    assert (one.next_change_at_ms, other.next_change_at_ms) == (NOON_MS + 1, NOON_MS + 9)
    assert index.allowing("bob", OFFER_NEED, "beans", (), now_ms=NOON_MS) == [record_id(later)]

    del one, other
    index.put("ann", 2, [], "UTC", now_ms=NOON_MS)
    index.drop("bob")
    assert index.rows == 0


def test_who_has_grants_that_end_on_a_day_shares_when_to_look_again() -> None:
    """Before that day; on it, each has their own end."""
    index = PreferenceIndex()
    day_ms = (NOON_MS // DAY_MS + 3) * DAY_MS
    for name, end_ms in (("ann", day_ms + 5), ("bob", day_ms + 9), ("cho", day_ms)):
        index.put(name, 1, [record("grant", expires_ms=end_ms)], "UTC", now_ms=NOON_MS)

    def until_ms(now_ms: int) -> list[int]:
        entries = [index.entry(name, now_ms) for name in ("ann", "bob", "cho")]
        return [entry.next_change_at_ms for entry in entries if entry]

    def reasons(now_ms: int) -> list[str | None]:
        return [
            index.offer_refusal(name, "a", (), (), "offers", "push", now_ms=now_ms, mono_ms=0)
            for name in ("ann", "bob", "cho")
        ]

    ann, bob, cho = until_ms(day_ms - 1)
    assert ann is bob is cho
    assert ann == day_ms
    assert until_ms(day_ms)[:2] == [day_ms + 5, day_ms + 9]
    asked_ms = (day_ms, day_ms + 4, day_ms + 5, day_ms + 8, day_ms + 9)
    ended = {now_ms: [why == "no_grant" for why in reasons(now_ms)] for now_ms in asked_ms}
    assert ended == {
        day_ms: [False, False, True],
        day_ms + 4: [False, False, True],
        day_ms + 5: [True, False, True],
        day_ms + 8: [True, False, True],
        day_ms + 9: [True, True, True],
    }


def test_what_ends_is_let_go_and_does_not_come_back() -> None:
    """A grant that has ended is named no more, even where the clock is set back afterwards."""
    index = PreferenceIndex()
    short, long = (brand(name, expires_ms=NOON_MS + n) for n, name in enumerate(("a", "b"), 1))
    index.put("ann", 1, [short, long], "UTC", now_ms=NOON_MS)
    assert index.allowing("ann", OFFER_NEED, "a", (), now_ms=NOON_MS) == [record_id(short)]

    entry = index.entry("ann", NOON_MS + 1)

    assert entry is not None
    assert [ident for _, ident in entry.standing] == [record_id(long)]
    assert index.allowing("ann", OFFER_NEED, "a", (), now_ms=NOON_MS) == []
    assert index.put("ann", 1, [short, long], "UTC", now_ms=NOON_MS).row is entry.row
    later = index.entry("ann", NOON_MS + HOUR_MS)
    assert later is not None
    assert later.row.refusal(OFFER_NEED, "b") == "no_grant"


def test_a_floor_is_a_resident_s_own() -> None:
    """Two who say the same share a row again once the law no longer parts them."""
    index = PreferenceIndex()
    for name in ("ann", "bob"):
        index.put(name, 1, [record("grant")], "UTC", now_ms=NOON_MS)

    minor = index.put_floor("ann", OFFER_NEED)
    other = index.entry("bob", NOON_MS)
    assert minor is not None
    assert other is not None
    assert (minor.row.refusal(OFFER_NEED, "a"), other.row.refusal(OFFER_NEED, "a")) == ("law", None)

    index.put_floor("ann", 0)
    assert minor.row is other.row


def test_a_resident_takes_few_bytes_where_many_say_the_same() -> None:
    """Under 400 each, of three records, the name and all else included."""
    records = [brand(name, expires_ms=NOON_MS + HOUR_MS) for name in ("a", "b", "c")]
    index = PreferenceIndex()
    taken(index, "nobody", records)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(10_000):
            taken(index, f"r-{number:09}", records)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (after - before) / 10_000 < 400
