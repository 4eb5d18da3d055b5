"""A clock that jumps by hours while the service runs: what rests on it, and what must not.

The phones' clocks are right or follow the jump, as each test says; the monotonic clock goes on.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from engine.app import clock_ms
from engine.consent.standing import standing_of
from engine.consent.suspension import confirm, suspend
from engine.residents import ResidentSettings
from engine.store.memory import MemoryStore
from engine.store.port import ResidentRow
from tests.test_web_preferences import PREFERENCES, USE, change, newcomer, patch
from tests.web_town import Town, daytime_zone, offer, town

HOUR_MS: Final = 3_600_000
JUMPS_H: Final = (5, -5, 30, -30)
MARKETING: Final = f"{PREFERENCES}/marketing"


class Clock:
    """The machine's clock, put right or wrong by hand."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def __call__(self) -> int:
        """Unix milliseconds, as the machine has it."""
        return clock_ms() + self._ahead_ms

    def jump(self, hours: float) -> None:
        """Put it forward, or back."""
        self._ahead_ms += int(hours * HOUR_MS)


ALWAYS: Final = {"week": [{"days": [1, 2, 3, 4, 5, 6, 7], "from_hour": 0, "to_hour": 24}]}


async def willing(here: Town, **more: Any) -> str:
    """Key of a resident who takes offers at any hour."""
    key = await newcomer(here)
    reply = await patch(here, key, USE | more, change("grant", **ALWAYS, **more))
    assert reply.status == 200, reply
    return key


async def ping(here: Town, key: str, **more: Any) -> Any:
    """The answer to a ping in the café, whose time is the service's."""
    told = here.ping(**more)
    del told["resident"]
    return await here.must("POST", "/v1/pings", told, key=key)


async def cafe(here: Town, **more: Any) -> None:
    """A café with an offer."""
    await here.brand("cafe")
    await here.must("PUT", "/v1/offers/bun", offer("cafe", caps={"cool_down_s": 0}, **more))


@pytest.mark.parametrize("hours", JUMPS_H)
async def test_the_service_goes_on(tmp_path: Path, hours: float) -> None:
    """The lease does not notice; pings are stamped by the new time, and what was told stands."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock, attention_per_day=9, attention_per_week=9) as here:
        await cafe(here, claim_ttl_s=7 * 24 * 3_600)
        key = await willing(here)
        before = await ping(here, key)
        clock.jump(hours)
        other = await willing(here)
        after = await ping(here, other)
        lost = await here.must("GET", "/readyz")
        codes = [told["offer"]["code"] for told in (before, after)]
        redeemed = [await here.call("POST", "/v1/redemptions", {"code": code}) for code in codes]

        assert [event["kind"] for event in after["events"]] == ["enter"]
        assert after["at_ms"] - before["at_ms"] == pytest.approx(hours * HOUR_MS, abs=60_000)
        assert lost["ready"]
        assert [reply.status for reply in redeemed] == [201, 201]
        assert not here.ctx.feed.stale


async def test_phones_that_are_right_while_the_service_is_not(tmp_path: Path) -> None:
    """Ahead: fixes count for presence and are too old for an offer. Behind: they are refused."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock) as here:
        await cafe(here)
        key = await willing(here)
        clock.jump(3)
        ahead = await ping(here, key, at_ms=clock_ms())
        clock.jump(-6)
        behind = await ping(here, key, at_ms=clock_ms())
        clock.jump(3)
        right = await ping(here, key)

    assert (ahead["status"], [e["kind"] for e in ahead["events"]]) == ("decided", ["enter"])
    assert (ahead["offer"], ahead["withheld"]) == (None, "too_old")
    assert (behind["status"], behind["reject"]["code"]) == ("rejected", "clock_ahead")
    assert (right["status"], right["events"]) == ("decided", [])


async def test_who_followed_the_jump_is_late_until_time_catches_up(tmp_path: Path) -> None:
    """A fix before the newest one changes nothing: no exit and no enter is made up."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock) as here:
        await cafe(here)
        key = await willing(here)
        first = await ping(here, key)
        clock.jump(-2)
        late = [await ping(here, key), await ping(here, key, lon=25.5)]
        clock.jump(2)
        again = await ping(here, key)

    assert [event["kind"] for event in first["events"]] == ["enter"]
    assert [(told["status"], told["events"]) for told in late] == [("late", [])] * 2
    assert (again["status"], again["events"]) == ("decided", [])


async def test_a_rate_is_by_the_monotonic_clock(tmp_path: Path) -> None:
    """No jump fills a bucket, and none makes anybody wait longer than was told."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock, requests_per_second_max=1, rate_burst_s=3) as here:
        mono_ms = here.ctx.mono_ms()
        here.ctx.mono_ms = lambda: mono_ms
        spent = [(await here.call("GET", "/v1/brands")).status for _ in range(4)]
        clock.jump(10)
        forward = await here.call("GET", "/v1/brands")
        clock.jump(-20)
        back = await here.call("GET", "/v1/brands")
        mono_ms += 1_000
        later = await here.call("GET", "/v1/brands")

    assert spent == [200, 200, 200, 429]
    assert [(r.status, r.headers["Retry-After"]) for r in (forward, back)] == [(429, "1")] * 2
    assert later.status == 200


async def test_an_expired_grant_stays_expired(tmp_path: Path) -> None:
    """Once the clock has passed its end, putting it back revives nothing, whatever is said then."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock) as here:
        in_an_hour = datetime.fromtimestamp(clock() / 1_000 + 3_600, tz=UTC).isoformat()
        key = await willing(here, expires_at=in_an_hour)
        told = [await ping(here, key)]
        clock.jump(2)
        told.append(await ping(here, key))
        clock.jump(-2)
        told.append(await ping(here, key))
        assert (await patch(here, key, change("deny", scope={"brand": "other"}))).status == 200
        told.append(await ping(here, key))
        seen = (await here.call("GET", PREFERENCES, key=key)).headers["ETag"]
        assert (await patch(here, key, USE, seen=seen)).status == 200
        told.append(await ping(here, key))

    assert [one["status"] for one in told] == ["decided", *["no_consent"] * 3, "decided"]


async def test_what_was_said_last_counts_whatever_its_time(tmp_path: Path) -> None:
    """Versions order records, before and after a restart; their times may go back."""
    clock, store = Clock(), MemoryStore()
    versions, times, told = [], [], []
    async with town(tmp_path, store, clock_ms=clock) as here:
        key = await here.resident()
        for hours, wanted in ((-5, False), (-5, True), (20, False), (-20, True), (-1, False)):
            clock.jump(hours)
            seen = (await here.call("GET", PREFERENCES, key=key)).headers["ETag"]
            said = await here.call("PUT", MARKETING, {"opted_in": wanted}, key=key, If_Match=seen)
            versions.append(said.body["version"])
            times.append(said.body["receipts"][0]["record"]["server_ms"])
            told.append((wanted, (await ping(here, key))["status"]))
    async with town(tmp_path, MemoryStore(store.shared), clock_ms=clock) as here:
        told.append((False, (await ping(here, key))["status"]))

    assert versions == [2, 3, 4, 5, 6]
    assert times[1] < times[0] < times[2] > times[3] > times[4]
    assert told == [(wanted, "decided" if wanted else "no_consent") for wanted, _ in told]


def test_a_confirmation_counts_though_its_time_is_before_the_restore() -> None:
    """`passby reconfirm` on a clock that was put back since."""
    held = suspend("ann", 1, "", because="A backup was restored.", now_ms=9 * HOUR_MS)
    grant = msgspec.structs.replace(
        held,
        effect="grant",
        purpose="offers",
        actions=("use",),
        data=("precise_location",),
        server_ms=HOUR_MS,
        version=1,
    )
    row = ResidentRow(id="ann", settings=ResidentSettings(), version=2, records=(grant, held))

    confirmed = confirm(row, because="She said so.", now_ms=2 * HOUR_MS)

    assert confirmed is not None
    assert [one.suspended for one in standing_of((*row.records, confirmed))] == [False]


async def test_quiet_hours_are_those_of_the_clock(tmp_path: Path) -> None:
    """By night no offer, whichever way the night was come by."""
    clock = Clock()
    zone = daytime_zone(clock())
    told = []
    async with town(tmp_path, clock_ms=clock, attention_per_day=9, attention_per_week=9) as here:
        await cafe(here)
        for hours in (0, 11, -22, 11):
            clock.jump(hours)
            made = await here.must("POST", "/v1/residents", {"timezone": zone})
            await here.must("PUT", MARKETING, {"opted_in": True}, key=made["key"])
            answer = await ping(here, made["key"])
            told.append(answer["withheld"] or answer["offer"]["offer"])

    assert told == ["bun", "quiet_hours", "quiet_hours", "bun"]


async def test_caps_count_what_was_made_in_a_time_that_is_yet_to_come(tmp_path: Path) -> None:
    """An offer made before the clock was put back counts as today's: fewer offers, never more."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock) as here:
        await cafe(here)
        key = await willing(here)
        first = await ping(here, key)
        clock.jump(-30)
        stops = await here.must("PUT", MARKETING, {"opted_in": False}, key=key)
        await here.call(
            "PATCH",
            PREFERENCES,
            {"changes": [USE, change("grant", **ALWAYS)]},
            key=key,
            If_Match=f'"{stops["version"]}"',
        )
        second = await ping(here, key)

    assert first["offer"] is not None
    assert [event["kind"] for event in second["events"]] == ["enter"]
    assert second["withheld"] == "cool_down"


async def test_a_code_ends_at_the_instant_that_was_told(tmp_path: Path) -> None:
    """It is refused while the clock is past it, and taken again once the clock is right."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock) as here:
        await cafe(here, claim_ttl_s=3_600)
        code = {"code": (await ping(here, await willing(here)))["offer"]["code"]}
        clock.jump(2)
        past = await here.call("POST", "/v1/redemptions", code)
        clock.jump(-2)
        right = await here.call("POST", "/v1/redemptions", code)
        clock.jump(-9)
        twice = await here.call("POST", "/v1/redemptions", code)

    assert (past.status, past.code) == (409, "expired")
    assert right.status == 201
    assert (twice.status, twice.code) == (409, "already_redeemed")


async def test_a_call_that_is_sent_again_after_a_jump_is_done_once(tmp_path: Path) -> None:
    """By hours; after more than a day forward the first one's time is over."""
    clock = Clock()
    wanted = {"name": "A", "categories": ["cafe"], "timezone": "UTC"}
    told = []
    async with town(tmp_path, clock_ms=clock) as here:
        for hours in (0, 6, -12, 6, 25):
            clock.jump(hours)
            reply = await here.call("PUT", "/v1/brands/a", wanted, Idempotency_Key="one")
            told.append((reply.status, reply.headers.get("Idempotent-Replay")))

    assert told == [(201, None), *[(201, "true")] * 3, (200, None)]


async def test_entries_of_the_audit_log_keep_their_order(tmp_path: Path) -> None:
    """Numbers order them; the time is that of the clock, for better or worse."""
    clock = Clock()
    async with town(tmp_path, clock_ms=clock) as here:
        for name, hours in (("a", 0), ("b", -7), ("c", 3)):
            clock.jump(hours)
            await here.brand(name)
        page = await here.must("GET", "/v1/audit?kind=brand")

    entries = page["items"]
    assert [entry["id"] for entry in entries] == ["c", "b", "a"]
    assert entries[1]["at_ms"] < entries[0]["at_ms"] < entries[2]["at_ms"]
