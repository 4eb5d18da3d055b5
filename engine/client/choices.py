"""What a resident says on a phone: a "no" holds on it at once, a "yes" only when it is confirmed.

A narrowing is kept until the service has acknowledged it, goes before everything else, and is sent
without a precondition, so it can't be refused. A widening rests on the version of the settings that
the resident saw; if they changed elsewhere since, the service refuses it and says how, and the app
shows the latest settings and asks again. Nothing here asks again by itself.
"""

from collections import deque
from typing import Final, Literal

import msgspec

from engine.client.change import CONTACT, LOCATION, Change, Scope
from engine.client.reply import REFUSED_FOR_GOOD, Problem, Reply
from engine.client.retry import Retry

LOCATION_LANE: Final = "offers:use:precise_location"
ME: Final = "/v1/residents/me"
CEILING_MS: Final = 30_000
"""Of the back-off: what a resident said should not wait for minutes."""


class Choice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that the resident said."""

    kind: Literal["on", "off", "stop", "change"]
    brands: tuple[str, ...] | None = None
    """Of "on" and "off"; None: all."""
    changes: tuple[Change, ...] = ()
    """Of "change": all of them widen, or none does."""
    client_ms: int
    id: str
    """Its own, so that it is said once even if an answer is lost."""
    tries: int = 0
    """How often nobody could say whether it was done, so that it is said anew."""
    seen: int = 0
    """Of a widening: the version of the settings that the resident saw."""

    @property
    def widens(self) -> bool:
        """Whether it turns something on."""
        return self.kind == "on" or any(change.widens for change in self.changes)

    @property
    def of_location(self) -> bool:
        """Whether it decides if positions may be used for offers at all."""
        if self.kind == "change":
            return any(change.of_location for change in self.changes)
        return self.brands is None

    def silences(self, brand: str) -> bool:
        """Whether a brand's offers must not be shown while it waits."""
        if self.kind == "change":
            return any(change.silences(brand) for change in self.changes)
        return not self.widens and (self.brands is None or brand in self.brands)

    def parts(self) -> tuple[Change, ...]:
        """What it changes."""
        if self.kind == "change":
            return self.changes
        scopes = [Scope(all=True)] if self.brands is None else [Scope(brand=b) for b in self.brands]
        return tuple(
            Change(
                effect="grant" if self.widens else "withdraw",
                purpose="offers",
                actions=(action,),
                data=(data,),
                scope=scope,
            )
            for scope in scopes
            for action, data in (LOCATION, CONTACT)
        )


class Call(msgspec.Struct, frozen=True):
    """A request to make."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Outcome(msgspec.Struct, frozen=True):
    """What became of a choice: in force from `version` on, or refused and why."""

    choice: Choice
    version: int | None = None
    refused: Problem | None = None


class Held(msgspec.Struct, frozen=True):
    """A grant or a deny that holds."""

    effect: str
    lanes: tuple[str, ...]


class Preferences(msgspec.Struct, frozen=True):
    """What holds of all that the resident said, on whatever device."""

    version: int
    standing: tuple[Held, ...]

    @property
    def located(self) -> bool:
        """Whether a grant lets positions be used for offers."""
        return any(h.effect == "grant" and LOCATION_LANE in h.lanes for h in self.standing)


class Kept(msgspec.Struct):
    """What of the choices outlives the process."""

    off: bool = False
    known: bool = False
    version: int = 0
    narrowing: list[Choice] = []
    widening: list[Choice] = []


class _Version(msgspec.Struct):
    version: int


class Choices:
    """What was said and is not acknowledged yet.

    Attributes:
        off: the resident turned all off on this phone; no fix is taken or sent until "on" is
            confirmed or `learn` says that it is on.
        known: the settings were read or turned on once, now or before a restart, so that a phone
            that is not off is on.
        version: of the settings that this phone saw last.
        stopped: why nothing is sent any more (the key or the address is wrong), or None.
    """

    def __init__(self, *, retry: Retry | None = None) -> None:
        self._retry = retry or Retry(ceiling_ms=CEILING_MS)
        self._narrowing: deque[Choice] = deque()
        self._widening: deque[Choice] = deque()
        self._in_flight: Choice | None = None
        self.off = self.known = False
        self.version = 0
        self.stopped: Problem | None = None

    def __len__(self) -> int:
        return len(self._narrowing) + len(self._widening)

    @property
    def on(self) -> bool | None:
        """Whether positions may be used, as far as this phone knows; None: it does not know."""
        return False if self.off else self.known or None

    def narrow(self, choice: Choice) -> None:
        """Say "off" or "stop", or take back or deny; from here on it holds on this phone."""
        if choice.of_location:
            self.off = True
        self._narrowing.append(choice)
        self._widening = deque(
            left for one in self._widening if (left := _less(one, choice)) is not None
        )

    def widen(self, choice: Choice) -> None:
        """Say "on" or grant, on the ground of the settings seen last; it holds when confirmed."""
        self._widening.append(msgspec.structs.replace(choice, seen=self.version))

    def ids(self) -> set[str]:
        """Of the choices that wait."""
        return {choice.id for choice in (*self._narrowing, *self._widening)}

    def lets(self, brand: str) -> bool:
        """Whether an offer of the brand may be shown, as far as this phone knows."""
        return not self.off and not any(choice.silences(brand) for choice in self._narrowing)

    def learn(self, preferences: Preferences) -> None:
        """Take in the latest settings; an "off" that is not acknowledged yet stays."""
        self.version, self.known = max(self.version, preferences.version), True
        if not any(choice.of_location for choice in self._narrowing):
            self.off = not preferences.located

    def due_ms(self) -> int | None:
        """When there is something to send, Unix ms; None: not before something changes."""
        if self.stopped is not None or self._in_flight is not None or not len(self):
            return None
        return self._retry.not_before_ms

    def take(self, now_ms: int) -> Call | None:
        """The next request if one is due, narrowings first; it is in flight until `settle`."""
        due_ms = self.due_ms()
        if due_ms is None or due_ms > now_ms:
            return None
        self._in_flight = (self._narrowing or self._widening)[0]
        return _call(self._in_flight)

    def settle(self, reply: Reply, now_ms: int, *, chance: float) -> Outcome | None:
        """Take in what the choice in flight was answered; None where it has to wait.

        Args:
            reply: the answer; one with the status 0 where none came.
            now_ms: Unix milliseconds.
            chance: 0 to 1, drawn evenly.
        """
        choice, self._in_flight = self._in_flight, None
        if choice is None:
            return None
        if reply.done and (version := _version(reply.body)) is not None:
            self._retry.succeeded(now_ms, asked_ms=reply.asks_to_wait_ms(now_ms))
            self._confirm(choice, version)
            return Outcome(choice, version=version)
        problem = reply.problem()
        if reply.status in REFUSED_FOR_GOOD and problem.code != "unknown_resident":
            self.stopped = problem
            return None
        if problem.code == "idempotency_lost" and not choice.widens:
            # A "no" may be said twice, and must not be said never.
            if self._narrowing and self._narrowing[0] is choice:
                self._narrowing[0] = msgspec.structs.replace(choice, tries=choice.tries + 1)
            return None
        if reply.passes or problem.code == "idempotency_in_progress":
            self._retry.failed(now_ms, chance=chance, asked_ms=reply.asks_to_wait_ms(now_ms))
            return None
        self._drop(choice)
        return Outcome(choice, refused=problem)

    def resume(self) -> None:
        """Send again, with another key or to another address."""
        self.stopped = None

    def kept(self) -> Kept:
        """What is to be kept for the next start."""
        return Kept(self.off, self.known, self.version, list(self._narrowing), list(self._widening))

    def restore(self, kept: Kept) -> None:
        """Take up what an earlier process kept."""
        self.off, self.known, self.version = kept.off, kept.known, kept.version
        self._narrowing, self._widening = deque(kept.narrowing), deque(kept.widening)

    def _confirm(self, choice: Choice, version: int) -> None:
        """A choice is in force."""
        self._drop(choice)
        # An "off" said while the "on" was on its way is still the last word.
        turns_on = choice.kind == "on" or (choice.widens and choice.of_location)
        if turns_on and not any(one.of_location for one in self._narrowing):
            self.off, self.known = False, True
        # Where nobody but this phone spoke in between, what was seen is still the latest.
        if self.version == version - 1:
            self.version = version
        self._widening = deque(
            msgspec.structs.replace(one, seen=version) if one.seen == version - 1 else one
            for one in self._widening
        )

    def _drop(self, choice: Choice) -> None:
        """Let go of a choice, if it still waits."""
        for waiting in (self._narrowing, self._widening):
            if waiting and waiting[0] is choice:
                waiting.popleft()


def _less(widening: Choice, no: Choice) -> Choice | None:
    """What is left of an "on" that waits after a "no" that was said later.

    The "no" is sent first, so what it is about must not be turned on after it.
    """
    if no.kind == "stop":
        return None
    if widening.kind == "on" and no.kind == "off":
        return _less_brands(widening, no.brands)
    kept = tuple(one for one in widening.parts() if not any(p.takes_back(one) for p in no.parts()))
    if len(kept) == len(widening.parts()):
        return widening
    if not kept:
        return None
    return msgspec.structs.replace(widening, kind="change", brands=None, changes=kept)


def _less_brands(widening: Choice, brands: tuple[str, ...] | None) -> Choice | None:
    """The same, of offers on and offers off."""
    if brands is None:
        return None
    if widening.brands is None:
        return widening  # to all others; the "off" of a brand goes before it and outlasts it
    left = tuple(brand for brand in widening.brands if brand not in brands)
    return msgspec.structs.replace(widening, brands=left) if left else None


def _call(choice: Choice) -> Call:
    """The request that says it."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"{choice.id}-{choice.tries}"}
    if choice.kind == "stop":
        return Call("POST", f"{ME}/stop", headers, b"")
    if choice.widens:
        headers["If-Match"] = f'"{choice.seen}"'
    if choice.kind == "change":
        changes = {"changes": choice.changes, "client_ms": choice.client_ms}
        return Call("PATCH", f"{ME}/preferences", headers, msgspec.json.encode(changes))
    body: dict[str, object] = {"opted_in": choice.kind == "on", "client_ms": choice.client_ms}
    if choice.brands is not None:
        body["brands"] = choice.brands
    path = f"{ME}/preferences/marketing"
    return Call("PUT", path, headers, msgspec.json.encode(body))


def _version(body: bytes) -> int | None:
    """The version that an acknowledgement names; None where it is none."""
    try:
        return msgspec.json.decode(body, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
