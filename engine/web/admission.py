"""Who is let in: the key, its role, its rate, and how many may wait at once."""

from dataclasses import dataclass

from engine.decision import Decision, Reject
from engine.delivery.answer import shed
from engine.ping import Ping
from engine.store.port import KeyRow
from engine.web.auth import Gate
from engine.web.context import Context
from engine.web.problem import Refused
from engine.web.rate import RateLimiter


class Admission:
    """The door that all routes share."""

    def __init__(self, ctx: Context) -> None:
        self.waiting = Places(ctx.config.waiting_max)
        """Where a request may wait for a commit."""
        self.imports = Places(ctx.config.imports_max)
        self._ctx = ctx
        self._gate = Gate(ctx.keys)
        self._limiter = RateLimiter(
            per_second=ctx.config.requests_per_second_max, burst_s=ctx.config.rate_burst_s
        )

    def key_of(self, header: str | None) -> KeyRow:
        """The key of a request; `unauthenticated` is refused."""
        return self._gate.key_of(header)

    def admit(self, key: KeyRow, roles: tuple[str, ...]) -> None:
        """Let a key in, or refuse with `too_many_requests` or `wrong_role`."""
        if self._limiter.on:
            mono_ms = self._ctx.mono_ms()
            if not self._limiter.take(key.id, mono_ms):
                wait_s = self._limiter.wait_s(key.id, mono_ms)
                raise Refused("too_many_requests", headers={"Retry-After": str(wait_s)})
        if key.role not in roles:
            raise Refused("wrong_role", f"This call needs a key of the role {' or '.join(roles)}.")

    def charge(self, key: KeyRow, cost: int) -> None:
        """Count what a request cost beyond the one that let it in."""
        if self._limiter.on and cost > 1:
            self._limiter.charge(key.id, cost - 1, self._ctx.mono_ms())

    def headers(self, key: KeyRow) -> dict[str, str]:
        """What is left to the key; nothing where there is no limit."""
        if not self._limiter.on:
            return {}
        return self._limiter.headers(key.id, self._ctx.mono_ms())

    def meter(self, key: KeyRow, *, paid: int) -> "Meter":
        """What counts the pings of a stream, of which some are paid for."""
        return Meter(self._ctx, self._limiter, key, paid)


@dataclass(slots=True)
class Places:
    """Some places; a block that is entered takes one for as long as it runs.

    Raises:
        Refused: `overloaded`, where none is left.
    """

    most: int
    taken: int = 0

    def check(self) -> None:
        """See whether there is one."""
        if self.taken >= self.most:
            raise Refused("overloaded")

    def __enter__(self) -> None:
        """Take one."""
        self.check()
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.taken -= 1


class Meter:
    """Counts the pings of one stream for the rate of its key.

    Like a batch, a slice is answered whole if anything is left, and what follows waits for it:
    pings beyond the rate are `shed`, and say how long to wait.
    """

    def __init__(self, ctx: Context, limiter: RateLimiter, key: KeyRow, paid: int) -> None:
        self._ctx = ctx
        self._limiter = limiter
        self._key = key.id
        self._paid = paid

    def pay(self, items: list[Ping | Decision]) -> list[Ping | Decision]:
        """The items if the key may have them answered, else what they are answered instead."""
        if not self._limiter.on:
            return items
        covered = min(self._paid, len(items))
        self._paid -= covered
        cost, mono_ms = len(items) - covered, self._ctx.mono_ms()
        if not cost:
            return items
        if self._limiter.take(self._key, mono_ms, tokens=cost):
            return items
        wait_s = self._limiter.wait_s(self._key, mono_ms)
        why = Reject("too_many_requests", f"The key's rate is spent; wait {wait_s} s.")
        return [shed(item, why) if isinstance(item, Ping) else item for item in items]
