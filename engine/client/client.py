"""The client over HTTP: it sends what waits, in the background, until it is answered.

    async with Client(url, key, on_offer=show, file=folder / "passby.json") as client:
        if client.due(lon, lat):
            client.fix(Ping(at_ms=now_ms(), lon=lon, lat=lat, accuracy_m=12.0))
        await client.opt_out()

All that it decides is in `outbox.py`, `choices.py` and `watch.py`, without a network; this file
only sends, waits, calls back and keeps.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Literal, ParamSpec, Self

import aiohttp
import msgspec

from engine.client import kept
from engine.client.change import Change
from engine.client.choices import ME, Choice, Choices, Outcome, Preferences
from engine.client.errors import NotSaid, Stopped, Unreachable
from engine.client.outbox import Answered, Outbox, encode
from engine.client.reply import Problem, Reply
from engine.client.watch import Watch
from engine.decision import Decision, Event, OfferMade
from engine.ping import Ping

P = ParamSpec("P")

ANSWER_S: Final = 30.0
SILENCE_S: Final = 60.0
"""The service says every 15 s that a stream is still there."""
KEEP_EVERY_S: Final = 2.0
"""Between two writes of the file while fixes come in; what a resident says is written at once."""
CLAIMS_MAX: Final = 1_000
"""Most claims remembered, so that none is told twice."""
WATCHES_MAX: Final = 100_000
"""Most residents whose next fix is remembered; of one that was let go every fix is due."""


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Client:
    """One phone with a resident's key, or a gateway with a sender's.

    Args:
        url: of the service, without a path.
        key: a resident's or a sender's.
        on_offer: told each offer once, with the decision that it is of.
        on_event: told each enter, dwell, exit and pass, likewise.
        on_decision: told every fix that is done, with its decision.
        file: where what waits outlives the process; None: nowhere.
        outbox: the queue and its limits.
        choices: what the resident says and waits, and its back-off.
        session: to share connections with others; it stays open.

    Attributes:
        not_kept: why the file could not be written the last time, as on a full disk; None: it was.
            What waits is sent all the same, and would be lost with the process. The loop's
            exception handler is told once; the file is written again as soon as it can be.
    """

    def __init__(  # noqa: PLR0913 (keywords, each of use by itself)
        self,
        url: str,
        key: str,
        *,
        on_offer: Callable[[OfferMade, Decision], None] | None = None,
        on_event: Callable[[Event, Decision], None] | None = None,
        on_decision: Callable[[Ping, Decision], None] | None = None,
        file: Path | None = None,
        outbox: Outbox | None = None,
        choices: Choices | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.outbox = Outbox() if outbox is None else outbox
        self.choices = Choices() if choices is None else choices
        self._url, self._key, self._file = url.rstrip("/"), key, file
        self._on_offer, self._on_event, self._on_decision = on_offer, on_event, on_decision
        self._session, self._owns_session = session, session is None
        self._watches: OrderedDict[str, Watch] = OrderedDict()
        self._told: OrderedDict[str, None] = OrderedDict()
        self._waiters: dict[str, asyncio.Future[Outcome]] = {}
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._kept_s = float("-inf")
        self.not_kept: OSError | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Take up what was kept, and begin to send."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        if self._file is not None and (found := kept.read(self._file)) is not None:
            self.outbox.restore(found.fixes, now_ms())
            self.choices.restore(found.choices)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop sending and keep what waits; `drained` before it waits for the answers."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._keep()
        for waiter in self._waiters.values():
            waiter.cancel()
        if self._owns_session and self._session is not None:
            await self._session.close()

    def fix(self, ping: Ping) -> bool:
        """Queue a position; False where it may not be used (`on`), and nothing is kept of it.

        One without an `id` is given one; each asks when the next would matter. Of a sender, the
        ping says whose it is, and the service alone knows whether it may be used.
        """
        if not self._lets(ping.resident):
            return False
        ping = msgspec.structs.replace(ping, id=ping.id or _new_id(), next_fix=True)
        self.outbox.add(ping, now_ms())
        self._idle.clear()
        self._wake.set()
        return True

    def due(self, lon: float, lat: float, *, at_ms: int | None = None, resident: str = "") -> bool:
        """Whether a fix here and now could matter; a phone that asks saves its battery.

        Between two questions the phone may sleep, wake by a distance filter, or use a coarse
        position. Of a sender, `resident` says whose.
        """
        if not self._lets(resident):
            return False
        watch = self._watches.get(resident)
        now = now_ms() if at_ms is None else at_ms
        return watch is None or watch.due(now, lon, lat)

    @property
    def on(self) -> bool | None:
        """Whether the resident's positions may be used, as far as this phone knows.

        By the settings that it read last, also before it was started anew (`file`), and by what
        was said on it since. None: it does not know yet, and takes no position.
        """
        return self.choices.on

    async def opt_out(self, *brands: str) -> int:
        """Turn offers off, for all brands or for those named: here at once, however long it takes.

        Returns:
            The version of the settings by which it is in force everywhere. Without a network this
            waits until there is one; the "off" is kept, and holds on this phone, in any case.

        Raises:
            NotSaid: the service refused it; it holds on this phone nevertheless.
            Stopped: the key is no good any more; likewise.
        """
        return await self._narrow(self._choice("off", brands=brands or None))

    async def stop(self) -> int:
        """Turn everything off, whatever the purpose; otherwise as `opt_out`."""
        return await self._narrow(self._choice("stop"))

    async def opt_in(self, *brands: str) -> int:
        """Turn offers on, for all brands or for those named; it holds when this returns.

        Raises:
            NotSaid: the settings were changed elsewhere since `preferences` was read, or another
                "off" of this phone came first.
            Stopped: the key is no good any more.
        """
        choice = self._choice("on", brands=brands or None)
        self.choices.widen(choice)
        return await self._said(choice)

    async def change(self, *changes: Change) -> int:
        """Change the settings in all detail: what narrows holds here at once, as `opt_out` does;
        what widens holds when this returns, as `opt_in` does, and goes after what narrows.

        Returns:
            The version of the settings by which all of it is in force.

        Raises:
            NotSaid: a grant rests on settings that were changed elsewhere, or a change is not one
                that the service knows; what narrows is said nevertheless.
            Stopped: the key is no good any more.
            ValueError: there is none.
        """
        narrowing = tuple(change for change in changes if not change.widens)
        widening = tuple(change for change in changes if change.widens)
        said: list[Awaitable[int]] = []
        if narrowing:
            said.append(self._narrow(self._choice("change", changes=narrowing)))
        if widening:
            choice = self._choice("change", changes=widening)
            self.choices.widen(choice)
            said.append(self._said(choice))
        if not said:
            raise ValueError("name a change")
        return max(await asyncio.gather(*said))

    async def preferences(self) -> Preferences:
        """Read the latest settings, for showing them; `opt_in` rests on the ones read last.

        Raises: as `latest`. Without a network nothing has changed: `on` says what is known.
        """
        latest = await self.latest()
        self.choices.learn(latest)
        self._keep()
        return latest

    async def latest(self) -> Preferences:
        """Read the latest settings, which nobody is shown, so that nothing rests on them.

        Raises:
            NotSaid: the service refused.
            Unreachable: it can't be asked now.
        """
        reply = await self._send("GET", f"{ME}/preferences", {}, None)
        if not reply.done:
            problem = reply.problem()
            if reply.passes or not problem.code:
                raise Unreachable(problem.detail)
            raise NotSaid(problem)
        try:
            return msgspec.json.decode(reply.body, type=Preferences)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unreachable("the answer is none of the service") from None

    def hear(self, latest: Preferences) -> None:
        """Act on what was said elsewhere: an "off" holds here, an "on" only once it is shown."""
        if not latest.located and not self.choices.off:
            self.choices.off = True
            self._turned_off()
            self._keep()

    def open(self, path: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Open a stream of events; one that is silent for `SILENCE_S` breaks off."""
        assert self._session is not None
        return self._session.get(
            self._url + path,
            headers={"Authorization": f"Bearer {self._key}"},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_S, sock_read=SILENCE_S),
        )

    async def drained(self) -> None:
        """Wait until nothing waits to be sent any more.

        Raises:
            Stopped: what waits can't be sent; it is kept.
        """
        while len(self.outbox) or len(self.choices):
            if stopped := self.outbox.stopped or self.choices.stopped:
                raise Stopped(f"{stopped.code}: {stopped.detail}")
            await self._idle.wait()

    def use(self, key: str) -> None:
        """Go on with another key, after the old one was refused."""
        self._key = key
        self.outbox.resume()
        self.choices.resume()
        self._idle.clear()
        self._wake.set()

    def _lets(self, resident: str) -> bool:
        """Whether a fix may be taken; of a sender, `resident` says whose."""
        return bool(self.choices.on) or (bool(resident) and not self.choices.off)

    def _narrow(self, choice: Choice) -> Awaitable[int]:
        """Let a "no" hold here, before anything is awaited; what is awaited is its answer."""
        self.choices.narrow(choice)
        if self.choices.off:
            self._turned_off()
        return self._said(choice)

    def _turned_off(self) -> None:
        """Let go of what waits to be sent, and of what the next fix would be for."""
        self.outbox.forget()
        self._watches.clear()

    def _choice(
        self,
        kind: Literal["on", "off", "stop", "change"],
        *,
        brands: tuple[str, ...] | None = None,
        changes: tuple[Change, ...] = (),
    ) -> Choice:
        now = now_ms()
        return Choice(kind=kind, brands=brands, changes=changes, client_ms=now, id=_new_id())

    async def _said(self, choice: Choice) -> int:
        """Keep what was said, send it, and wait for what becomes of it."""
        self._keep()
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters[choice.id] = waiter
        self._idle.clear()
        self._wake.set()
        try:
            outcome = await waiter
        finally:
            self._waiters.pop(choice.id, None)
        if outcome.refused is not None:
            raise NotSaid(outcome.refused)
        assert outcome.version is not None
        return outcome.version

    async def _run(self) -> None:
        """Send what is due, what the resident said before any position, for ever."""
        while True:
            self._wake.clear()
            if call := self.choices.take(now_ms()):
                reply = await self._send(call.method, call.path, call.headers, call.body)
                outcome = self.choices.settle(reply, now_ms(), chance=random.random())
                self._tell_outcome(outcome)
                self._keep()
            elif pings := self.outbox.take(now_ms()):
                headers = {"Content-Type": "application/json"}
                reply = await self._send("POST", "/v1/pings", headers, encode(pings))
                for done in self.outbox.settle(reply, now_ms(), chance=random.random()):
                    self._tell(done)
                self._keep_sometimes()
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Wait until something is due or changes."""
        self._keep_sometimes()
        self._fail_waiters()
        if not len(self.outbox) + len(self.choices) or self.outbox.stopped or self.choices.stopped:
            self._idle.set()
        dues = [due for due in (self.choices.due_ms(), self.outbox.due_ms()) if due is not None]
        wait_s = max(0, min(dues) - now_ms()) / 1_000 if dues else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()

    async def _send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> Reply:
        """One request; whatever goes wrong on the way is a reply that did not come."""
        assert self._session is not None
        told = {"Authorization": f"Bearer {self._key}", **headers}
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=body,
                headers=told,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=ANSWER_S),
            ) as answer:
                lower = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(answer.status, lower, await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Reply()

    def _tell(self, done: Answered) -> None:
        """Call back for one fix that is done, unless the resident turned it off meanwhile."""
        ping, decision = done.ping, done.decision
        if self.choices.off:
            return
        self._watch(ping.resident).follow(ping, decision)
        _call_back(self._on_decision, ping, decision)
        for event in decision.events:
            _call_back(self._on_event, event, decision)
        offer = decision.offer
        if offer is None or offer.claim in self._told or not self.choices.lets(offer.brand):
            return
        self._told[offer.claim] = None
        if len(self._told) > CLAIMS_MAX:
            self._told.popitem(last=False)
        _call_back(self._on_offer, offer, decision)

    def _watch(self, resident: str) -> Watch:
        """What the resident's phone waits for; the one that was silent longest is let go."""
        watch = self._watches.pop(resident, None) or Watch()
        self._watches[resident] = watch
        if len(self._watches) > WATCHES_MAX:
            self._watches.popitem(last=False)
        return watch

    def _tell_outcome(self, outcome: Outcome | None) -> None:
        """Wake whoever waits for what the resident said."""
        waiter = self._waiters.get(outcome.choice.id) if outcome is not None else None
        if waiter is not None and outcome is not None and not waiter.done():
            waiter.set_result(outcome)

    def _fail_waiters(self) -> None:
        """Tell those who wait for what can't come."""
        stopped, waiting = self.choices.stopped, self.choices.ids()
        for choice_id, waiter in self._waiters.items():
            if waiter.done():
                continue
            if stopped is not None:
                waiter.set_exception(Stopped(f"{stopped.code}: {stopped.detail}"))
            elif choice_id not in waiting:
                waiter.set_exception(NotSaid(Problem("overtaken", 'An "off" came first.')))

    def _keep_sometimes(self) -> None:
        """Write the file, unless it was written a moment ago."""
        if time.monotonic() - self._kept_s >= KEEP_EVERY_S:
            self._keep()

    def _keep(self) -> None:
        """Write what waits, so that either the old file or the new one is there, and whole."""
        if self._file is None:
            return
        self._kept_s = time.monotonic()
        before = self.not_kept
        try:
            kept.write(self._file, kept.Kept(self.outbox.kept(), self.choices.kept()))
        except OSError as error:
            self.not_kept = error
            if before is None:
                message = f"{self._file} can't be written: make room there, or name another file"
                told = {"message": message, "exception": error}
                asyncio.get_running_loop().call_exception_handler(told)
        else:
            self.not_kept = None


def _new_id() -> str:
    """One that nobody else makes, and that sorts by when it was made: of two fixes of one
    millisecond the service takes the one with the lower id for the earlier one."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def _call_back(listener: Callable[P, None] | None, *args: P.args, **kwargs: P.kwargs) -> None:
    """Tell the app; a fault of its own must not end the sending, and goes where the loop's go."""
    if listener is None:
        return
    try:
        listener(*args, **kwargs)
    except Exception as error:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "a listener failed", "exception": error})
