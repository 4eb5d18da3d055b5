"""What every store must do for the window of events; run on PostgreSQL and on its twin."""

import asyncio

import msgspec
import pytest

from engine.changes import Changes, TransitionTold
from engine.decision import Event
from engine.store.port import Redemption, RedemptionRefused, Store
from engine.store.window import EventPage, EventRow, EventsLost
from tests.contract_store import (
    NOW_MS,
    SETTINGS,
    both,
    claim,
    claims,
    presence,
    recall,
    record,
)

ENTERED = Event("door", "enter", NOW_MS, 0.9)
AGE_MAX_MS = 3_600_000
EVENTS_MAX = 1_000


def transition(
    resident: str = "ann", brand: str = "cafe", *, shared: bool = False, event: Event = ENTERED
) -> Changes:
    """A transition, with nothing else."""
    return Changes(told=[TransitionTold(resident, brand, event, shared)])


async def read(store: Store, after: int = 0, **wanted: object) -> EventPage:
    """Number what is new, and read."""
    await store.number_events()
    return await store.events_after(after, **wanted)  # type: ignore[arg-type]


async def told(store: Store, after: int = 0, **wanted: object) -> list[tuple[int, str, str]]:
    """Number, name and the claim or the kind of each event."""
    found = []
    for event in (await read(store, after, **wanted)).events:
        body = msgspec.json.decode(event.body)
        about = {"transition": "kind", "preferences": "version"}.get(event.name, "claim")
        found.append((event.number, event.name, str(body[about])))
    return found


class WindowContract:
    """Two stores on the same, empty state, as two processes have them."""

    async def test_an_empty_window(self, store: Store) -> None:
        assert await store.number_events() == 0
        assert await store.events_after(0) == EventPage((), 0, 0)

    async def test_a_group_tells_what_it_made(self, store: Store, other: Store) -> None:
        left = Event("door", "exit", NOW_MS + 5, 0.5, dwell_s=60, assumed=True)
        made = claim("c1")
        await store.commit(
            both(
                transition(),
                transition("bob", shared=True, event=left),
                presence("ann", "door"),
                claims(made),
            )
        )

        assert (await read(other)).events == (
            EventRow(
                number=1,
                at_ms=NOW_MS,
                name="transition",
                brand="cafe",
                resident=None,
                body=b'{"fence":"door","kind":"enter","at_ms":%d,"confidence":0.9,"brand":"cafe"}'
                % NOW_MS,
            ),
            EventRow(
                number=2,
                at_ms=NOW_MS + 5,
                name="transition",
                brand="cafe",
                resident="bob",
                body=b'{"fence":"door","kind":"exit","at_ms":%d,"confidence":0.5,"dwell_s":60,'
                b'"assumed":true,"brand":"cafe"}' % (NOW_MS + 5),
            ),
            EventRow(
                number=3,
                at_ms=NOW_MS,
                name="offer",
                brand="cafe",
                resident="ann",
                body=msgspec.json.encode(made.made),
            ),
        )

    async def test_only_what_became_durable_is_told(self, store: Store) -> None:
        await store.commit(both(transition(), claims(claim("c1", total=0), claim("b1", "bob"))))
        with pytest.raises(RedemptionRefused):
            await store.redeem(
                Redemption(id="r1", claim="c1", offer="latte", brand="cafe", at_ms=NOW_MS)
            )
        await store.commit(recall("none"))

        assert await told(store) == [(1, "transition", "enter"), (2, "offer", "b1")]

    async def test_a_recall_is_told_once_and_after_its_offer(self, store: Store) -> None:
        await store.commit(both(claims(claim("c1")), recall("c1")))
        await store.commit(both(claims(claim("c2", before=1)), recall("c1")))
        await store.commit(both(transition(), recall("c2")))

        page = await read(store)

        assert await told(store) == [
            (1, "offer", "c1"),
            (2, "recall", "c1"),
            (3, "offer", "c2"),
            (4, "transition", "enter"),
            (5, "recall", "c2"),
        ]
        assert (page.events[4].brand, page.events[4].resident) == ("cafe", "ann")
        assert msgspec.json.decode(page.events[4].body) == {
            "claim": "c2",
            "offer": "latte",
            "brand": "cafe",
            "reason": "consent_withdrawn",
        }

    async def test_redemptions_and_what_was_taken_back(self, store: Store, other: Store) -> None:
        await store.commit(claims(claim("c1")))
        use = Redemption(id="r1", claim="c1", offer="latte", brand="cafe", at_ms=NOW_MS, till="2")
        await store.redeem(use)
        await other.roll_back("r1")
        await other.roll_back("r1")

        (used, back) = (await read(store, 1)).events

        assert (used.name, used.at_ms, used.brand, used.resident) == (
            "redemption",
            NOW_MS,
            "cafe",
            None,
        )
        about = {"redemption": "r1", "claim": "c1", "offer": "latte", "brand": "cafe", "till": "2"}
        assert msgspec.json.decode(used.body) == {**about, "rolled_back": False}
        assert back.name == "redemption"
        assert msgspec.json.decode(back.body) == {**about, "rolled_back": True}

    async def test_what_a_resident_says_is_told(self, store: Store) -> None:
        await store.create_residents({"ann": SETTINGS})
        await store.append_records("ann", (record("ann", 1),), version_before=0)
        await store.put_settings("ann", SETTINGS)

        (event,) = (await read(store)).events

        assert (event.name, event.brand, event.resident) == ("preferences", None, "ann")
        assert msgspec.json.decode(event.body) == {"version": 1}

    async def test_readers_get_what_they_ask_for(self, store: Store) -> None:
        await store.commit(both(transition("ann", "bar", shared=True), transition(shared=True)))
        await store.commit(both(claims(claim("c1"), claim("b1", "bob")), recall("c1")))

        assert [n for n, *_ in await told(store)] == [1, 2, 3, 4, 5]
        assert [n for n, *_ in await told(store, 2)] == [3, 4, 5]
        assert [n for n, *_ in await told(store, brands=["bar", "tea"])] == [1]
        assert await told(store, brands=[]) == []
        assert [n for n, *_ in await told(store, resident="ann")] == [3, 5]
        assert [n for n, *_ in await told(store, 3, resident="ann")] == [5]

    async def test_a_page_says_how_far_it_goes(self, store: Store) -> None:
        await store.commit(both(*(transition(brand=brand) for brand in "abab")))

        few = await read(store, brands=["a"], limit=1)
        rest = await read(store, few.reached, brands=["a"], limit=2)

        assert ([e.number for e in few.events], few.reached, few.newest) == ([1], 1, 4)
        assert ([e.number for e in rest.events], rest.reached) == ([3], 4)
        assert await read(store, 4) == EventPage((), 4, 4)

    async def test_the_window_is_bounded_by_count(self, store: Store, other: Store) -> None:
        for _ in range(5):
            await store.commit(transition())
        await store.number_events()

        assert await other.prune_events(age_max_ms=AGE_MAX_MS, events_max=2) == 3
        assert await other.prune_events(age_max_ms=AGE_MAX_MS, events_max=2) == 0

        for number in (0, 2):
            with pytest.raises(EventsLost) as lost:
                await store.events_after(number)
            assert lost.value.goes_on == 3
        assert [n for n, *_ in await told(store, 3)] == [4, 5]

    async def test_the_window_is_bounded_by_age(self, store: Store) -> None:
        await store.commit(both(transition(), claims(claim("c1"))))
        await store.number_events()
        assert await store.prune_events(age_max_ms=AGE_MAX_MS, events_max=EVENTS_MAX) == 0

        assert await store.prune_events(age_max_ms=-1_000, events_max=EVENTS_MAX) == 2

        assert await store.events_after(2) == EventPage((), 2, 2)
        with pytest.raises(EventsLost):
            await store.events_after(1)
        await store.commit(transition())
        assert await told(store, 2) == [(3, "transition", "enter")]

    async def test_a_window_that_is_behind_its_reader_is_told(self, store: Store) -> None:
        """As after a restore from a backup."""
        await store.commit(transition())
        await store.number_events()

        with pytest.raises(EventsLost) as lost:
            await store.events_after(7)

        assert lost.value.goes_on == 1

    async def test_nothing_is_missed_and_nothing_comes_twice(
        self, store: Store, other: Store
    ) -> None:
        """Readers that follow while two processes commit, and either gives the numbers."""
        total, groups = 120, 40
        seen: dict[int, list[EventRow]] = {0: [], 1: []}

        async def follow(place: int, reader: Store) -> None:
            at = 0
            while len(seen[place]) < total:
                await reader.number_events()
                page = await reader.events_after(at, limit=7)
                seen[place] += page.events
                at = page.reached
                await asyncio.sleep(0)

        def group(n: int) -> Changes:
            events = (Event("door", "pass", n * 10 + place, 1.0) for place in range(3))
            return both(*(transition(event=event) for event in events))

        async def commit(writer: Store, numbers: range) -> None:
            for number in numbers:
                await writer.commit(group(number))

        async with asyncio.timeout(30):
            await asyncio.gather(
                follow(0, store),
                follow(1, other),
                *(commit(s, range(n, groups, 4)) for n, s in enumerate((store, other) * 2)),
            )

        assert seen[0] == seen[1]
        assert [event.number for event in seen[0]] == list(range(1, total + 1))
        assert sorted(event.at_ms for event in seen[0]) == sorted(
            n * 10 + place for n in range(groups) for place in range(3)
        )
        for writer in range(4):
            own = [e.at_ms for e in seen[0] if e.at_ms // 10 % 4 == writer]
            assert own == sorted(own)

    async def test_a_wait_ends_with_a_commit_of_ones_own(self, store: Store) -> None:
        await store.wait_for_events(0.0)
        await store.commit(transition())

        async with asyncio.timeout(5):
            await store.wait_for_events(30.0)

        await store.wait_for_events(0.001)

    async def test_a_wait_ends_when_another_process_gives_numbers(
        self, store: Store, other: Store
    ) -> None:
        await store.wait_for_events(0.0)
        await other.commit(transition())
        await other.number_events()

        async with asyncio.timeout(5):
            await store.wait_for_events(30.0)

        assert await told(store) == [(1, "transition", "enter")]
