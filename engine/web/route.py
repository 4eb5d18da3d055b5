"""What a route is: a typed function, the address where it stands, and who may call it.

A handler is an async function whose parameters say what it needs: `ctx` the service, `key` the
caller, `by` the author of a write for the audit log (None for residents, whose say is its own
record), `body` the request's body (a type to decode it into, or `bytes`); every other parameter is
one of the path, of the query, or the header If-Match. It returns an Answer of its return type.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, BinaryIO, Final, Generic, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web

T = TypeVar("T")

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
HEADERS: Final = {
    "if_match": "If-Match",
    "if_none_match": "If-None-Match",
    "last_event_id": "Last-Event-ID",
}
"""Parameters that come in headers."""
ALSO_IN_QUERY: Final = frozenset({"last_event_id"})
"""Those of them that may come in the query as well, for clients that can set no header."""


def is_ndjson(content_type: str | None) -> bool:
    """Whether a body of this Content-Type is a stream of lines."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() == NDJSON


@dataclass(slots=True)
class Answer(Generic[T]):
    """What a handler returns; `Raw` where the bytes are there, a file where they are many."""

    value: T | msgspec.Raw | BinaryIO
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON
    cost: int = 1
    """What the call counts for the rate of its key."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a handler's annotations say."""

    key: bool
    by: bool
    body: Any
    """The type to decode a body into, `bytes`, or None: no body is read."""
    parameters: type[msgspec.Struct] | None
    """The parameters of the path, the query and the headers, as one record."""
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row of the route table."""

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    tag: str
    roles: tuple[str, ...] = ()
    """Who may call; empty: anybody, without a key."""
    statuses: tuple[int, ...] = (200,)
    """Of success."""
    codes: tuple[str, ...] = ()
    """Of errors, besides those that its shape brings with it."""
    content_type: str = JSON
    forms: tuple[str, ...] = ()
    """Media types of a body that is an Upload; any other is told by its beginning."""
    body: Any = None
    """What the description shows where the handler decodes the bytes by itself; a tuple of types
    means one of them."""
    result: Any = None
    """Likewise for an answer that the handler encodes by itself."""
    example: Any = None
    """A body, for the description."""
    answer: Any = None
    """What that body is answered, for the description."""
    about: str = ""
    """What the description says beyond the summary, CommonMark."""
    stream: Callable[..., Awaitable[web.StreamResponse]] | None = None
    """What answers in parts: a body of the type NDJSON; of a socket or of events, every request."""
    socket: bool = False
    """Whether it is a WebSocket."""
    events: bool = False
    """Whether every request is answered by Server-Sent Events."""
    waits: bool = False
    """Whether calls wait for commits, so that only so many are let in at once."""
    once: bool = False
    """Whether a call with an Idempotency-Key is done once."""
    secret: bool = False
    """Whether the answer holds a secret, which is not kept."""

    def signature(self) -> Signature:
        """Read the handler's annotations."""
        hints = get_type_hints(self.handler, include_extras=True)
        answer = hints.pop("return")
        hints.pop("ctx")
        hints.pop("exchange", None)
        key = hints.pop("key", None) is not None
        by = hints.pop("by", None) is not None
        body = hints.pop("body", None)
        if self.events:
            return Signature(key, by, body, self._parameters(hints), self.result)
        result = None if self.socket else get_args(answer)[0]
        return Signature(key, by, body, self._parameters(hints), result)

    def _parameters(self, hints: dict[str, Any]) -> type[msgspec.Struct] | None:
        """One record of all parameters, with the defaults of the function."""
        if not hints:
            return None
        given = getattr(self.handler, "__kwdefaults__", None) or {}
        fields = [(n, t, given[n]) if n in given else (n, t) for n, t in hints.items()]
        return msgspec.defstruct(f"{self.handler.__name__}_parameters", fields, kw_only=True)

    @property
    def name(self) -> str:
        """The route as logs and metrics have it."""
        return f"{self.method} {self.path}"

    @property
    def summary(self) -> str:
        """First line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().split("\n")[0]

    def place_of(self, parameter: str) -> str:
        """`path`, `query` or `header`."""
        if parameter in HEADERS:
            return "header"
        return "path" if f"{{{parameter}}}" in self.path else "query"

    def all_codes(self) -> tuple[str, ...]:
        """Every code that a call can be refused with."""
        signature, codes = self.signature(), ["internal", *self.codes]
        if self.roles:
            codes += ["unauthenticated", "wrong_role", "too_many_requests"]
        if signature.body is not None:
            codes += ["malformed_json", "unreadable_request", "slow_body", "body_too_large"]
            codes.append("unsupported_encoding")
            if self.forms:
                codes += ["too_many_rows", "overloaded"]
            elif signature.body is not bytes:
                codes.append("invalid_body")
        if signature.parameters is not None:
            codes.append("invalid_parameter")
            if "if_none_match" in signature.parameters.__struct_fields__:
                codes.append("version_moved")
        if self.socket:
            codes.append("upgrade_required")
        if self.stream is not None:
            codes.append("stopping")
        if self.waits or self.socket or self.events:
            codes.append("overloaded")
        if self.once:
            codes += ["idempotency_key_reused", "idempotency_in_progress", "idempotency_lost"]
            codes += ["invalid_parameter", "store_unavailable"]
        if self.secret:
            codes.append("secret_shown_once")
        return tuple(dict.fromkeys(codes))


def is_nothing(result: Any) -> bool:
    """Whether a handler's answer has no body."""
    return result in (None, NoneType)
