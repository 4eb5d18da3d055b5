"""What a device is told of its resident's "no": in force, or to say it again."""

from pathlib import Path
from typing import Any

from engine.store.memory import MemoryStore
from engine.store.port import StoreUnavailable
from tests.web_town import SECRET_RESIDENT, Town, town

STOP = "/v1/residents/me/stop"
MARKETING = "/v1/residents/me/preferences/marketing"


class Torn(MemoryStore):
    """A store whose answer to the next write of records is lost, though it is made."""

    torn = False

    async def append_records(self, *given: Any, **more: Any) -> int | None:
        number = await super().append_records(*given, **more)
        if self.torn:
            self.torn = False
            raise StoreUnavailable("the answer was lost")
        return number


async def counted(here: Town) -> int:
    """How many withdrawals the metrics tell of."""
    lines = (await here.call("GET", "/metrics")).body.splitlines()
    (count,) = [line for line in lines if line.startswith("passby_revoke_to_silence_seconds_count")]
    assert any(line.startswith("# HELP passby_revoke_to_silence_seconds From") for line in lines)
    return int(float(count.split()[1]))


async def test_the_time_to_silence_is_told(tmp_path: Path) -> None:
    """Of what narrows, not of what widens."""
    async with town(tmp_path) as here:
        key = await here.resident()
        assert await counted(here) == 0
        await here.must("PUT", MARKETING, {"opted_in": False}, key=key)
        await here.must("POST", STOP, key=key)
        assert await counted(here) == 2


async def test_a_lost_answer_is_not_in_force_and_can_be_said_again(tmp_path: Path) -> None:
    """With the very same Idempotency-Key, since saying no twice is the same as once."""
    store = Torn()
    async with town(tmp_path, store) as here:
        key = await here.resident()
        store.torn = True
        once = {"Idempotency_Key": "said-once"}
        told = await here.call("POST", STOP, key=key, **once)
        assert (told.status, told.code) == (503, "not_in_force")
        assert "Retry-After" in told.headers
        again = await here.call("POST", STOP, key=key, **once)
        assert again.status == 200
        assert again.body["version"] == 3
        (row,) = await store.read_residents([SECRET_RESIDENT])
        assert row.version == 3


async def test_a_store_that_is_away_puts_nothing_in_force(tmp_path: Path) -> None:
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        key = await here.resident()
        store.available = False
        told = await here.call("PUT", MARKETING, {"opted_in": False}, key=key)
        assert (told.status, told.code) == (503, "not_in_force")
        store.available = True
        assert (await here.call("PUT", MARKETING, {"opted_in": False}, key=key)).status == 200
