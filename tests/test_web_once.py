"""Idempotency-Key: a call that is sent twice is done once."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.store.kept import KEPT_MS
from engine.store.memory import MemoryStore
from engine.store.port import KeyRow, StoreUnavailable
from engine.web.once import DOING_MS_MAX
from tests.web_town import Town, fence, offer, town

BRAND = {"name": "Café Aino"}


async def entries(here: Town) -> int:
    """How many things were written so far."""
    return len((await here.must("GET", "/v1/audit?limit=1000"))["items"])


async def test_the_same_call_is_done_once_and_answered_twice(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await here.resident()
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        code = (await here.must("POST", "/v1/pings", here.ping(), key=key))["offer"]["code"]
        for method, path, body in (
            ("PUT", "/v1/brands/tea", BRAND),
            ("PUT", "/v1/fences/f", fence("cafe")),
            ("PUT", "/v1/offers/cake", offer("cafe")),
            ("POST", "/v1/redemptions", {"code": code}),
            ("DELETE", "/v1/offers/cake", None),
            ("DELETE", "/v1/fences/f", None),
        ):
            name = f"{method}-{path}"
            first = await here.call(method, path, body, Idempotency_Key=name)
            written = await entries(here)
            again = await here.call(method, path, body, Idempotency_Key=f'"{name}"')

            assert (again.status, again.body) == (first.status, first.body)
            assert again.status < 300
            assert again.headers.get("ETag") == first.headers.get("ETag")
            assert again.headers["Idempotent-Replay"] == "true"
            assert "Idempotent-Replay" not in first.headers
            assert await entries(here) == written
        me = "/v1/residents/me/preferences/marketing"
        off = [
            await here.must("PUT", me, {"opted_in": False}, key=key, Idempotency_Key="off-1")
            for _ in range(3)
        ]
        assert len({one["version"] for one in off}) == 1


async def test_of_calls_at_once_one_is_done(tmp_path: Path) -> None:
    """The others come too early, or get its answer."""
    async with town(tmp_path) as here:
        before = await entries(here)
        wanted = {"role": "sender", "name": "gateway"}
        replies = await asyncio.gather(
            *(here.call("POST", "/v1/keys", wanted, Idempotency_Key="once") for _ in range(20))
        )

        assert sorted(reply.status for reply in replies) == [201] + [409] * 19
        codes = {reply.code for reply in replies if reply.status == 409}
        assert codes <= {"idempotency_in_progress", "secret_shown_once"}
        assert await entries(here) == before + 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/keys", {"role": "sender", "name": "gateway"}),
        ("/v1/residents", {}),
    ],
)
async def test_the_text_of_a_key_is_never_kept(tmp_path: Path, path: str, body: Any) -> None:
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        made = await here.must("POST", path, body, Idempotency_Key="once")
        again = await here.call("POST", path, body, Idempotency_Key="once")

        assert (again.status, again.code) == (409, "secret_shown_once")
        assert made["key"] not in str(store.shared.calls)
        assert made["id"] not in str(store.shared.calls)


async def test_a_key_stands_for_one_call_of_one_caller(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        merchant = await here.key("merchant", brands=["cafe"])
        told = {"Idempotency_Key": "once"}
        await here.must("PUT", "/v1/brands/cafe", BRAND, **told)
        others = [
            await here.call("PUT", "/v1/brands/cafe", {"name": "Other"}, **told),
            await here.call("PUT", "/v1/brands/tea", BRAND, **told),
            await here.call("PUT", "/v1/brands/cafe", BRAND, If_Match='"1"', **told),
            await here.call("DELETE", "/v1/fences/cafe-1", **told),
        ]
        another = await here.call("PUT", "/v1/brands/cafe", {"name": "X"}, key=merchant, **told)

        assert {(one.status, one.code) for one in others} == {(422, "idempotency_key_reused")}
        assert another.status == 200


async def test_what_was_refused_may_be_sent_again(tmp_path: Path) -> None:
    """A refusal did nothing, so it is not kept: the cause may be gone."""
    async with town(tmp_path) as here:
        told = {"Idempotency_Key": "once"}
        refused = await here.call("PUT", "/v1/fences/f", fence("cafe"), **told)
        await here.must("PUT", "/v1/brands/cafe", BRAND)
        done = await here.call("PUT", "/v1/fences/f", fence("cafe"), **told)
        missing = await here.call("DELETE", "/v1/offers/none", Idempotency_Key="gone")

        assert (refused.code, done.status, missing.status) == ("unknown_brand", 201, 404)


class Breaking(MemoryStore):
    """A store whose answers to writes of keys and fences are lost."""

    breaks = False

    async def put_key(self, key: KeyRow, **more: Any) -> int:
        number = await super().put_key(key, **more)
        if self.breaks:
            raise StoreUnavailable("the answer was lost")
        return number

    async def put_fences(self, *fences: Any, **more: Any) -> Any:
        written = await super().put_fences(*fences, **more)
        if self.breaks:
            raise StoreUnavailable("the answer was lost")
        return written


async def test_what_may_have_been_done_is_not_done_again(tmp_path: Path) -> None:
    """Unless twice is the same as once."""
    store = Breaking()
    async with town(tmp_path, store) as here:
        await here.brand("cafe")
        store.breaks = True
        key = {"role": "sender", "name": "gateway"}
        lost = await here.call("POST", "/v1/keys", key, Idempotency_Key="key-1")
        written = await here.call("PUT", "/v1/fences/f", fence("cafe"), Idempotency_Key="fence-1")
        store.breaks = False
        again = await here.call("POST", "/v1/keys", key, Idempotency_Key="key-1")
        put = await here.call("PUT", "/v1/fences/f", fence("cafe"), Idempotency_Key="fence-1")

        assert (lost.status, written.status) == (503, 503)
        assert (again.status, again.code) == (409, "idempotency_lost")
        assert put.status == 200


async def test_a_call_whose_server_died_is_lost_and_forgotten_after_a_day(tmp_path: Path) -> None:
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        told = {"Idempotency_Key": "once"}
        await here.must("PUT", "/v1/brands/cafe", BRAND, **told)
        ((call, kept),) = store.shared.calls.items()
        ages = []
        for at_ms in (0, DOING_MS_MAX + 1, KEPT_MS + 1):
            store.shared.calls[call] = msgspec.structs.replace(
                kept, at_ms=here.ctx.clock_ms() - at_ms, state="doing", answer=None
            )
            ages.append(await here.call("PUT", "/v1/brands/cafe", BRAND, **told))

        assert [age.status for age in ages] == [409, 409, 200]
        assert ages[0].code == "idempotency_in_progress"
        assert ages[0].headers["Retry-After"] == "1"
        assert ages[1].code == "idempotency_lost"


@pytest.mark.parametrize("name", ["", "a b", "x" * 256, "ä", '"', 'a"b'])
async def test_a_bad_key_is_refused(tmp_path: Path, name: str) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("PUT", "/v1/brands/cafe", BRAND, Idempotency_Key=name)

        assert (reply.status, reply.code) == (422, "invalid_parameter")
        assert reply.body["errors"][0]["path"] == "Idempotency-Key"


async def test_pings_and_questions_take_no_notice(tmp_path: Path) -> None:
    """A ping has its own id; a question changes nothing."""
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        await here.brand("cafe")
        where = {"positions": [[0, 0]]}
        for _ in range(2):
            await here.must("POST", "/v1/pings", here.ping(), Idempotency_Key="once")
            await here.must("POST", "/v1/fences/covering", where, Idempotency_Key="once")

        assert store.shared.calls == {}
