"""The client against the real service, behind a gateway that fails as it is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from engine.client.change import Change, Scope, Week
from engine.client.choices import Choices, Preferences
from engine.client.client import Client, now_ms
from engine.client.errors import NotSaid, Stopped, Unreachable
from engine.client.outbox import Outbox
from engine.client.retry import Retry
from engine.decision import Decision, Event, OfferMade
from engine.ping import Ping
from tests.running import until
from tests.web_town import LAT, LON, Town, offer, town

WITHIN_S = 20.0


@dataclass
class Seen:
    """What the app was told."""

    offers: list[OfferMade] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)

    def listeners(self) -> dict[str, Callable[..., None]]:
        def event(told: Event, _: Decision) -> None:
            self.events.append(told.kind)

        return {
            "on_offer": lambda told, _: self.offers.append(told),
            "on_event": event,
            "on_decision": lambda _, told: self.statuses.append(told.status),
        }


@dataclass
class Gateway:
    """What stands between a phone and the service.

    Attributes:
        faults: what the next requests meet: `lost` (done, and the answer never comes), `refused`
            (503), `page` (somebody else's), else the service itself.
        offline: every request is cut off, without a word.
        bodies: of the requests for pings, as they came.
    """

    here: Town
    faults: list[str] = field(default_factory=list)
    offline: bool = False
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        fault = "cut" if self.offline else self.faults.pop(0) if self.faults else ""
        if fault == "refused":
            return web.Response(status=503, headers={"Retry-After": "0"})
        if fault == "page":
            return web.Response(text="<html>Welcome to our hotel</html>")
        body = await request.read()
        if fault != "cut":
            if request.path == "/v1/pings":
                self.bodies.append(body)
            passed = {
                name: value
                for name, value in request.headers.items()
                if name in ("Authorization", "If-Match", "Content-Type", "Idempotency-Key")
            }
            async with self.here.session.request(
                request.method, request.path, data=body, headers=passed
            ) as done:
                answer = web.Response(body=await done.read(), status=done.status)
                answer.headers.update({k: v for k, v in done.headers.items() if "R" in k[:2]})
        if fault:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer


@contextlib.asynccontextmanager
async def gateway(data: Path, **settings: Any) -> AsyncIterator[Gateway]:
    """A town with a café that offers, behind a gateway."""
    async with town(data, **settings) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        between = Gateway(here)
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", between.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        between.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield between
        finally:
            await runner.cleanup()


def client(between: Gateway, key: str, **more: Any) -> Client:
    """One that tries again at once, and, unless it is new, read the settings some time ago."""
    hasty: dict[str, Any] = {"base_ms": 5, "ceiling_ms": 20}
    choices = Choices(retry=Retry(**hasty))
    choices.known = more.pop("known", True)
    limits = more.pop("limits", {})
    return Client(
        between.url,
        key,
        outbox=Outbox(retry=Retry(**hasty), **limits),
        choices=choices,
        **more,
    )


def here(**more: Any) -> Ping:
    """A fix at the café's door."""
    return Ping(at_ms=now_ms(), lon=LON, lat=LAT, accuracy_m=5.0, **more)


async def drained(phone: Client) -> None:
    async with asyncio.timeout(WITHIN_S):
        await phone.drained()


async def test_offers_and_events_are_told_and_the_next_fix_is_known(tmp_path: Path) -> None:
    async with gateway(tmp_path) as between:
        seen, key = Seen(), await between.here.resident()
        async with client(between, key, **seen.listeners()) as phone:
            assert phone.due(LON, LAT)
            phone.fix(first := here())
            await drained(phone)
            for later_s in range(1, 6):
                far = msgspec.structs.replace(first, lon=LON + 0.1)
                far.at_ms += 1_000 * later_s
                if phone.due(far.lon, far.lat, at_ms=far.at_ms):
                    phone.fix(far)
                    await drained(phone)

            assert seen.events == ["enter", "exit"]
            assert seen.statuses == ["decided"] * 3, "two show the exit, and then nothing can come"
            assert [one.offer for one in seen.offers] == ["bun"]
            assert phone.due(LON, LAT)


async def test_a_lost_answer_costs_nothing(tmp_path: Path) -> None:
    """The same bytes again; `duplicate` brings the same claim, which is told once."""
    async with gateway(tmp_path) as between:
        seen, key = Seen(), await between.here.resident()
        between.faults = ["page", "refused", "lost", "lost"]
        async with client(between, key, **seen.listeners()) as phone:
            phone.fix(here())
            await drained(phone)
            phone.fix(here())
            await drained(phone)

        assert seen.statuses == ["duplicate", "decided"]
        assert [one.offer for one in seen.offers] == ["bun"]
        assert between.bodies[0] == between.bodies[1] == between.bodies[2]
        counts = await between.here.must("GET", "/v1/counts")
        assert counts["offers_made"] >= 1


async def test_what_waits_outlives_the_process(tmp_path: Path) -> None:
    async with gateway(tmp_path / "town") as between:
        seen, key, file = Seen(), await between.here.resident(), tmp_path / "phone.json"
        between.offline = True
        async with client(between, key, file=file) as phone:
            for number in range(5):
                phone.fix(here(id=f"f{number}"))
        between.offline = False
        async with client(between, key, file=file, **seen.listeners()) as phone:
            await drained(phone)

        assert seen.statuses == ["decided"] * 5
        assert len(seen.offers) == 1


async def test_a_body_that_is_too_large_is_split(tmp_path: Path) -> None:
    async with gateway(tmp_path, body_bytes_max=1_000) as between:
        seen, key = Seen(), await between.here.resident()
        async with client(between, key, **seen.listeners()) as phone:
            for _ in range(60):
                phone.fix(here())
            await drained(phone)

        assert len(seen.statuses) == 60
        assert max(map(len, between.bodies)) > 1_000 > min(map(len, between.bodies))


async def test_the_rate_is_kept_without_a_refusal(tmp_path: Path) -> None:
    async with gateway(tmp_path, requests_per_second_max=30, rate_burst_s=1) as between:
        seen, key = Seen(), await between.here.resident()
        limits = {"batch_max": 10}
        async with client(between, key, limits=limits, **seen.listeners()) as phone:
            for _ in range(50):
                phone.fix(here())
            await drained(phone)

        assert len(seen.statuses) == 50
        told = await between.here.must("GET", "/metrics", key=None)
        assert 'status="429"' not in told


async def test_a_deleted_key_stops_it_and_another_goes_on(tmp_path: Path) -> None:
    async with gateway(tmp_path) as between:
        seen, key = Seen(), await between.here.resident()
        listed = await between.here.must("GET", "/v1/keys")
        (mine,) = [one for one in listed["items"] if one["role"] == "resident"]
        other = await between.here.key("resident", resident=mine["resident"])
        await between.here.must("DELETE", f"/v1/keys/{mine['id']}")
        async with client(between, key, **seen.listeners()) as phone:
            phone.fix(here())
            with pytest.raises(Stopped, match="unauthenticated: Send"):
                await drained(phone)
            with pytest.raises(Stopped, match="unauthenticated"):
                await phone.opt_out("cafe")
            with pytest.raises(NotSaid, match="unauthenticated"):
                await phone.preferences()
            phone.use(other)
            await drained(phone)

        assert seen.statuses == ["decided"]
        assert seen.offers == [], "turned off here before it came"


async def test_off_holds_at_once_without_a_network_and_is_said_later(tmp_path: Path) -> None:
    """Nothing is taken or sent from then on, in this process and the next."""
    async with gateway(tmp_path / "town") as between:
        key, file = await between.here.resident(), tmp_path / "phone.json"
        between.offline = True
        async with client(between, key, file=file) as phone:
            phone.fix(here())
            saying = asyncio.create_task(phone.opt_out())
            await until(lambda: phone.choices.off, within_s=WITHIN_S)
            assert not phone.fix(here())
            assert not phone.due(LON, LAT)
            with pytest.raises(Unreachable, match="the answer was none"):
                await phone.preferences()
        with pytest.raises(asyncio.CancelledError):
            await saying
        async with client(between, key, file=file) as phone:
            assert not phone.fix(here())
            between.offline = False
            await drained(phone)

        assert between.bodies == []
        said = await between.here.must("GET", "/v1/residents/me/preferences", key=key)
        assert (said["version"], said["standing"]) == (2, [])


async def test_what_nobody_has_read_yet_is_a_no(tmp_path: Path) -> None:
    """A new phone takes no fix until it read the settings; a restart without a network knows them.

    Of a sender the service alone knows.
    """
    async with gateway(tmp_path / "town") as between:
        key, file = await between.here.resident(), tmp_path / "phone.json"
        between.offline = True
        async with client(between, key, known=False, file=file) as phone:
            assert phone.on is None
            assert not phone.due(LON, LAT)
            assert not phone.fix(here())
            assert phone.due(LON, LAT, resident="anna")
            assert phone.fix(here(resident="anna"))
            phone.outbox.forget()
            between.offline = False
            for fault in ("refused", "page"):
                between.faults = [fault]
                with pytest.raises(Unreachable):
                    await phone.preferences()
            assert phone.on is None
            assert (await phone.preferences()).located
            assert phone.on
        between.offline = True
        async with client(between, key, known=False, file=file) as phone:
            assert phone.on
            assert phone.fix(here())
            phone.hear(Preferences(version=2, standing=()))
            assert phone.on is False


async def test_on_rests_on_what_the_resident_saw(tmp_path: Path) -> None:
    """Another device spoke: refused with the difference, and accepted once it was seen."""
    async with gateway(tmp_path) as between:
        key = await between.here.resident()
        marketing = "/v1/residents/me/preferences/marketing"
        async with client(between, key) as phone:
            assert (await phone.preferences()).located
            assert await phone.opt_out() == 2
            await between.here.must("PUT", marketing, {"opted_in": False}, key=key)
            with pytest.raises(NotSaid, match="stale_version") as refused:
                await phone.opt_in()
            assert len(refused.value.problem.difference) > 0
            assert not phone.fix(here())

            assert not (await phone.preferences()).located
            between.faults = ["refused"]
            assert await phone.opt_in("cafe") == 4
            assert phone.fix(here())
            assert await phone.stop() == 5


async def test_an_off_overtakes_an_on_that_waits(tmp_path: Path) -> None:
    async with gateway(tmp_path) as between:
        key = await between.here.resident()
        between.offline = True
        async with client(between, key) as phone:
            phone.choices.learn(await _settings(between, key))
            on = asyncio.create_task(phone.opt_in("cafe"))
            await until(lambda: len(phone.choices) == 1, within_s=WITHIN_S)
            off = asyncio.create_task(phone.opt_out())
            await until(lambda: phone.choices.off, within_s=WITHIN_S)
            between.offline = False
            async with asyncio.timeout(WITHIN_S):
                assert await off == 2
                with pytest.raises(NotSaid, match="overtaken"):
                    await on


async def test_changes_in_detail_narrow_at_once_and_widen_when_confirmed(tmp_path: Path) -> None:
    """The "no" of a call goes first and is done, even where its "yes" is refused."""
    granted = Change(
        effect="grant",
        purpose="loyalty",
        actions=("contact",),
        data=("contact_point",),
        scope=Scope(all=True),
        channels=("email",),
        week=(Week(days=(6, 7), from_hour=10, to_hour=16),),
        expires_at="2100-01-01T00:00:00Z",
    )
    never = Change(
        effect="deny",
        purpose="offers",
        actions=("contact",),
        data=("contact_point",),
        scope=Scope(brand="pub"),
    )
    preferences = "/v1/residents/me/preferences"
    async with gateway(tmp_path) as between:
        key = await between.here.resident()
        async with client(between, key, file=tmp_path / "phone.json") as phone:
            await phone.preferences()
            assert await phone.change(granted, never) == 3
            between.offline = True
            saying = asyncio.create_task(phone.change(msgspec.structs.replace(never, scope=CAFE)))
            await until(lambda: not phone.choices.lets("cafe"), within_s=WITHIN_S)
            assert phone.choices.lets("bar")
            between.offline = False
            assert await saying == 4
            await between.here.must("POST", "/v1/residents/me/stop", key=key)
            with pytest.raises(NotSaid, match="stale_version"):
                await phone.change(msgspec.structs.replace(never, scope=BAR), granted)
            with pytest.raises(ValueError, match="name a change"):
                await phone.change()
        held = (await between.here.must("GET", preferences, key=key))["standing"]

    assert [(one["effect"], one["scope"]) for one in held] == [
        ("deny", {"brand": "pub"}),
        ("deny", {"brand": "cafe"}),
        ("deny", {"brand": "bar"}),
    ]


CAFE, BAR = Scope(brand="cafe"), Scope(brand="bar")


async def _settings(between: Gateway, key: str) -> Any:
    """What a phone read while it still had a network."""
    async with client(between, key) as before:
        between.offline = False
        latest = await before.preferences()
        between.offline = True
    return latest


async def test_a_listener_that_fails_ends_nothing(tmp_path: Path) -> None:
    """It is told to the loop, like any error that nobody awaits."""
    async with gateway(tmp_path) as between:
        key, told = await between.here.resident(), list[dict[str, Any]]()
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))

        def fail(ping: Ping, decision: Decision) -> None:
            raise RuntimeError

        async with client(between, key, on_decision=fail) as phone:
            phone.fix(here())
            await drained(phone)
            phone.fix(here())
            await drained(phone)

        assert [type(one["exception"]) for one in told] == [RuntimeError, RuntimeError]
