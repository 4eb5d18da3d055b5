"""Idempotency-Key: a call that is sent twice is done once, and answered twice.

After draft-ietf-httpapi-idempotency-key-header. The key is taken in the store before anything is
done, so that of calls at once one is done, on whatever server. Only what was done is kept: a
refusal changed nothing and is worked out anew. A call of which nobody knows whether it was done
(the store's answer was lost, or the server died) is not done again, unless doing it twice is the
same as once. The text of a new key is never kept: its call is refused the second time.
"""

import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from engine.store.kept import Kept, KeptAnswer
from engine.store.port import KeyRow, StoreUnavailable
from engine.web.context import Context
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer, Route

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replay"
DOING_MS_MAX: Final = 600_000
"""A call that is not done after this never will be: its server is gone."""

_SANE: Final = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?')
_UNDECIDED: Final = frozenset({"store_unavailable", "not_live", "internal"})
"""Refusals that do not say that nothing was done."""
_encode: Final = msgspec.json.Encoder().encode


class Once:
    """Does the calls of a service that carry an Idempotency-Key."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._secret = b""

    async def call(
        self,
        route: Route,
        key: KeyRow,
        header: str,
        sent: tuple[bytes, ...],
        do: Callable[[], Awaitable[Answer[Any]]],
    ) -> Answer[Any]:
        """Do it, or give the answer that was given before.

        Args:
            sent: what makes it the same call: its address, conditions and body.

        Raises:
            Refused: of the call itself, or `idempotency_key_reused`, `idempotency_in_progress`,
                `idempotency_lost`, `secret_shown_once`.
        """
        name, at_ms, store = _name(header), self._ctx.clock_ms(), self._ctx.store
        fingerprint = await self._fingerprint(route, sent)
        kept = await store.keep_call(key.id, name, fingerprint, now_ms=at_ms)
        if kept is not None:
            return _again(kept, fingerprint, route, at_ms)
        try:
            answer = await do()
        except BaseException as error:
            with contextlib.suppress(StoreUnavailable):
                if _is_lost(route, error):
                    await store.end_call(key.id, name, at_ms, None)
                else:
                    await store.free_call(key.id, name, at_ms)
            raise
        with contextlib.suppress(StoreUnavailable):
            # It is done, whether we can remember it or not.
            await store.end_call(key.id, name, at_ms, _kept(answer, route))
        return answer

    async def _fingerprint(self, route: Route, sent: tuple[bytes, ...]) -> bytes:
        """Of a call; with a secret, because a body can be guessed that holds little."""
        if not self._secret:
            self._secret = await self._ctx.store.secret("calls")
        digest = hashlib.blake2b(route.name.encode(), key=self._secret, digest_size=32)
        for part in sent:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()


def _name(header: str) -> str:
    """What the client calls the call."""
    sane = _SANE.fullmatch(header.strip())
    if sane is None:
        told = "Must be 1 to 255 visible ASCII characters, such as a random UUID."
        wrong = FieldError(HEADER, "invalid_idempotency_key", told)
        raise Refused("invalid_parameter", errors=(wrong,))
    return sane[1]


def _again(kept: Kept, fingerprint: bytes, route: Route, now_ms: int) -> Answer[Any]:
    """The answer to a call that was sent before."""
    if kept.fingerprint != fingerprint:
        raise Refused("idempotency_key_reused")
    if kept.state == "lost" or (kept.state == "doing" and kept.at_ms <= now_ms - DOING_MS_MAX):
        raise Refused("idempotency_lost")
    if kept.answer is None:
        raise Refused("idempotency_in_progress", headers={"Retry-After": "1"})
    if route.secret:
        raise Refused("secret_shown_once")
    answer = kept.answer
    return Answer(
        None if answer.body is None else msgspec.Raw(answer.body),
        answer.status,
        {**answer.headers, REPLAYED: "true"},
        answer.content_type,
    )


def _is_lost(route: Route, error: BaseException) -> bool:
    """Whether nobody knows if a call that failed was done, and doing it again would be more."""
    if route.method != "POST":
        return False
    return not isinstance(error, Refused) or error.problem.code in _UNDECIDED


def _kept(answer: Answer[Any], route: Route) -> KeptAnswer:
    """An answer as it is kept: without its body if that holds a secret."""
    body: bytes | None = None
    if answer.value is not None and not route.secret:
        value = answer.value
        body = bytes(value) if isinstance(value, msgspec.Raw) else _encode(value)
    return KeptAnswer(
        status=answer.status,
        headers=dict(answer.headers),
        content_type=answer.content_type,
        body=body,
    )
