"""A process of the service in virtual time: the real composition, and who is served by it.

All of the service is the real one, from the store's port to the handlers of the routes; only HTTP
is left out. What leaves is told to the witness in the very step in which it is given to the
transport.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast

import msgspec

from engine.app import assemble
from engine.config import Config
from engine.decision import Decision, OfferMade
from engine.delivery.answer import Answerer
from engine.delivery.flow import Flow
from engine.delivery.tail import Reader, Wanted
from engine.ping import Ping
from engine.store.port import KeyRow, Store, StoreUnavailable
from engine.web import events
from engine.web.context import Context
from engine.web.merging import MergeBody, Merged, merge_residents
from engine.web.pings import PingBody, post_pings
from engine.web.preferences import (
    Acknowledged,
    MarketingBody,
    PreferencesPatch,
    patch_preferences,
    post_stop,
    put_marketing,
)
from engine.web.problem import Refused
from engine.web.redemptions import RedemptionBody, redeem
from tests.sim.clockwork import Agenda, ProcessLoop
from tests.sim.database import LEASE_MS, Database, Link
from tests.strategies import NOON_MS

CONFIG: Final = Config(
    operator_key="operator",
    attention_per_day=10_000,
    attention_per_week=10_000,
    lease_ms=LEASE_MS,
    canary_s=4,
    change_age_max_s=10**9,
)
SKEW_MAX_MS: Final = 200
"""So far a process' wall clock is from the right time."""
TILL: Final = KeyRow(id="till", hash="till", role="operator", name="till", created_ms=0)
SENDER: Final = KeyRow(id="sender", hash="sender", role="sender", name="sender", created_ms=0)


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a device: what it says, and what it has seen so far."""

    number: int
    resident: str
    on: bool
    brands: tuple[str, ...] | None = None
    """None: all."""
    stop: bool = False
    expires_ms: int | None = None
    """Of an "on": it ends here, Unix milliseconds; None: not in this world."""
    seen: int


class Witness(Protocol):
    """Who sees what leaves and what is acknowledged, at the moment when it happens."""

    def left(self, process: "Process", how: str, resident: str, made: OfferMade) -> None:
        """An offer was given to the transport, or its code was taken at a till."""

    def acknowledged(self, said: Said, version: int) -> None:
        """A resident was told that what they said is in force."""

    def merged(self, stays: str, goes: str, version: int) -> None:
        """It was told that one resident has become another, whose version is this one."""


def _nothing(_: Context) -> None:
    """The service as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What the processes of a world are made of; another than ours is there to be caught."""

    answerer: type[Answerer] = Answerer
    database: type[Database] = Database
    change: Callable[[Context], None] = _nothing
    """Changes the parts before anybody is served."""
    heeds_if_match: bool = True


class Process:
    """One process, from its start to its end.

    Args:
        name: for the trace.
        agenda, database, witness: of the world.
        rng: its own chance.
        build: what it is made of.
        failed: called when a part of it can't go on.
    """

    def __init__(
        self,
        name: str,
        agenda: Agenda,
        database: Database,
        rng: random.Random,
        witness: Witness,
        build: Build,
        failed: Callable[[], None],
    ) -> None:
        self.name = name
        self._agenda = agenda
        self._rng = rng
        self._witness = witness
        self._build = build
        self._failed = failed
        self._rate, self._began_ms = rng.uniform(0.98, 1.02), rng.randrange(10**9)
        self._skew_ms = rng.randrange(-SKEW_MAX_MS, SKEW_MAX_MS)
        # Of what asyncio asks of a loop it has as much as the service uses.
        self.loop = ProcessLoop(agenda, rng, rate=self._rate)  # type: ignore[abstract]
        self.link = Link(database, agenda, self.loop, self.mono_ms)
        self.ctx: Context | None = None
        self.serves = self.ended = False
        self._stopped = asyncio.Event()
        self._flows: dict[str, Flow[None]] = {}
        self.loop.start(self._live())

    def mono_ms(self) -> int:
        """Its monotonic clock, which is neither right nor anybody else's."""
        return self._began_ms + int(self._agenda.now_us * self._rate / 1_000)

    def clock_ms(self) -> int:
        """Its wall clock, Unix milliseconds."""
        return NOON_MS + self._skew_ms + self._agenda.now_us // 1_000

    @property
    def acts(self) -> bool:
        """Whether it may act on what residents say, as far as it knows."""
        ctx = self.ctx
        return ctx is not None and not ctx.engine.preferences.is_stale(self.mono_ms())

    @property
    def stops(self) -> bool:
        """Whether it ends in order."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End in order."""
        self.serves = False
        self._stopped.set()

    def kill(self) -> None:
        """End now, in the middle of everything."""
        self.serves, self.ended = False, True
        self.loop.kill()
        self.link.die(self._rng)

    def clear_away(self) -> None:
        """After the end of the world: end whatever never ended."""
        self.loop.kill()
        self.link.cut()
        self.loop.clear_away()

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                ctx = self.ctx = await assemble(
                    CONFIG,
                    cast("Store", self.link),
                    stack,
                    self._failed,
                    answerer=self._build.answerer,
                    clock_ms=self.clock_ms,
                    mono_ms=self.mono_ms,
                    loaded=lambda: None,
                )
                self._build.change(ctx)
                self.serves = True
                await self._stopped.wait()
            self.ended = True
        except StoreUnavailable:
            self._failed()

    def serve(
        self, call: Callable[[Context], Awaitable[Any]], reply: Callable[[Any], None]
    ) -> None:
        """A request came: answer it, with what the handler gives or with why not."""
        self.loop.start(self._serve(call, reply))

    async def _serve(
        self, call: Callable[[Context], Awaitable[Any]], reply: Callable[[Any], None]
    ) -> None:
        answer: Any = Refused("stopping")
        if self.serves and self.ctx is not None:
            try:
                answer = await call(self.ctx)
            except Refused as refused:
                answer = refused
            except StoreUnavailable:
                answer = Refused("store_unavailable")
        reply(answer)

    # What a request does.

    async def ping(self, ctx: Context, body: PingBody) -> OfferMade | None:
        """A ping of its own, answered by itself."""
        answer = await post_pings(ctx, SENDER, msgspec.json.encode(body))
        made = msgspec.json.decode(cast("msgspec.Raw", answer.value))["offer"]
        if made is None:
            return None
        offer = msgspec.convert(made, OfferMade)
        self._witness.left(self, "answer", body.resident or "", offer)
        return offer

    async def stream_ping(self, ctx: Context, body: PingBody) -> None:
        """A ping in a stream, whose sender may be slow to read."""
        resident = body.resident or ""
        flow = self._flows.get(resident)
        if flow is None:
            outlet = _SlowReader(self, self._rng, self._witness)
            flow = self._flows[resident] = Flow(
                ctx.answerer, outlet, pings_max=50, bytes_max=10_000, turn_pings_max=10
            )
            self.loop.start(_to_the_end(flow))
        ping = Ping(
            resident=resident,
            at_ms=body.at_ms,
            lon=body.lon,
            lat=body.lat,
            accuracy_m=body.accuracy_m,
            received_ms=ctx.clock_ms(),
        )
        await flow.add([ping], 100, None)

    async def say(self, ctx: Context, key: KeyRow, said: Said) -> Acknowledged:
        """What a resident says, until it is acknowledged."""
        if said.stop:
            answer = await post_stop(ctx, key, None, resident="me")
        else:
            seen = said.seen
            if not self._build.heeds_if_match:
                seen = (await ctx.store.read_residents([said.resident]))[0].version
            if_match = f'"{seen}"' if said.on else None
            if said.expires_ms is None:
                body = MarketingBody(
                    opted_in=said.on, brands=said.brands, device="phone", client_ms=said.number
                )
                answer = await put_marketing(ctx, key, body, None, resident="me", if_match=if_match)
            else:
                for_a_while = _for_a_while(said)
                answer = await patch_preferences(
                    ctx, key, for_a_while, None, resident="me", if_match=if_match
                )
        done = cast("Acknowledged", answer.value)
        self._witness.acknowledged(said, done.version)
        return done

    async def merge(self, ctx: Context, stays: str, goes: str) -> None:
        """An operator finds that two residents are one person."""
        body = MergeBody(resident=goes)
        answer = await merge_residents(ctx, TILL, body, None, resident=stays)
        self._witness.merged(stays, goes, cast("Merged", answer.value).version)

    async def redeem(self, ctx: Context, resident: str, made: OfferMade) -> None:
        """A code at a till."""
        await redeem(ctx, TILL, RedemptionBody(code=made.code))
        self._witness.left(self, "till", resident, made)

    async def tell_offers(self, ctx: Context, key: KeyRow, heard: "Heard") -> None:
        """A resident's stream of offers, until the process ends."""
        phone = _SlowPhone(self, self._rng, self._witness, key.resident or "", heard)
        withheld: set[str] = set()
        exchange = SimpleNamespace(request=SimpleNamespace(writer=phone), connection=phone)
        with ctx.tail.subscribed(Wanted(resident=key.resident)) as subscription:
            reader = Reader(ctx.store, ctx.tail, subscription, heard.number)
            await events._Answer(
                ctx,
                key,
                cast("Any", exchange),
                cast("Any", SimpleNamespace(prepared=True)),
                reader,
                lambda event: ctx.views.of_resident(event, withheld),
                b"",
            ).run()


def _for_a_while(said: Said) -> PreferencesPatch:
    """The same as opting in, with an end."""
    assert said.expires_ms is not None
    end = datetime.fromtimestamp(said.expires_ms / 1_000, UTC).isoformat()
    scopes: list[dict[str, Any]] = [{"all": True}]
    if said.brands is not None:
        scopes = [{"brand": brand} for brand in said.brands]
    changes = [
        {
            "effect": "grant",
            "purpose": "offers",
            "actions": [action],
            "data": [data],
            "scope": scope,
            "expires_at": end,
        }
        for scope in scopes
        for action, data in (("use", "precise_location"), ("contact", "contact_point"))
    ]
    told = {"changes": changes, "device": "phone", "client_ms": said.number}
    return msgspec.convert(told, PreferencesPatch)


async def _to_the_end(flow: Flow[None]) -> None:
    """Answer a stream until the process ends, which cuts it off."""
    with contextlib.suppress(StoreUnavailable):
        await flow.run()


@dataclass(slots=True)
class Heard:
    """How far a resident has heard of their offers."""

    number: int | None = None


class _SlowReader:
    """Who reads the answers of a stream of pings, at times slowly."""

    def __init__(self, process: Process, rng: random.Random, witness: Witness) -> None:
        self._process = process
        self._rng = rng
        self._witness = witness

    async def open(self) -> None:
        """Be ready, sooner or later."""
        await pause(self._rng)

    async def write(self, decisions: list[Decision], shape: None) -> None:
        """They leave; then there is room again, sooner or later."""
        for decision in decisions:
            if decision.offer is not None:
                self._witness.left(self._process, "stream", decision.resident, decision.offer)
        await pause(self._rng)


class _SlowPhone:
    """Who reads a resident's events, at times slowly."""

    def __init__(
        self,
        process: Process,
        rng: random.Random,
        witness: Witness,
        resident: str,
        heard: Heard,
    ) -> None:
        self._process = process
        self._rng = rng
        self._witness = witness
        self._resident = resident
        self._heard = heard

    async def write(self, text: bytes, *, drain: bool) -> None:
        """Frames leave."""
        assert not drain
        for name, number, data in frames(text):
            if number is not None:
                self._heard.number = number
            if name == "offer":
                made = msgspec.json.decode(data, type=OfferMade)
                self._witness.left(self._process, "events", self._resident, made)

    async def drained(self) -> None:
        """There is room again, sooner or later."""
        await pause(self._rng)


def frames(text: bytes) -> Iterator[tuple[str, int | None, bytes]]:
    """The events of a stream: name, id and data."""
    for frame in text.split(b"\n\n"):
        fields = dict(line.partition(b": ")[::2] for line in frame.split(b"\n") if line)
        number = int(fields[b"id"]) if b"id" in fields else None
        yield fields.get(b"event", b"").decode(), number, fields.get(b"data", b"")


async def pause(rng: random.Random) -> None:
    """Usually none; now and then a long one."""
    if rng.random() < 0.2:
        await asyncio.sleep(rng.random() ** 3)
