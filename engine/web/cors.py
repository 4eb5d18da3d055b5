"""Pages of other origins: which may call, and what they may send and see (CORS).

Keys travel in the header Authorization, never in a cookie, so a page can do no more than whoever
gave it a key; no credentials of the browser's own are ever asked for.
"""

from collections.abc import Iterable
from typing import Final

from aiohttp import web

_SENDS: Final = (
    "Authorization, Content-Type, Content-Encoding, If-Match, If-None-Match, Idempotency-Key, "
    "Last-Event-ID, X-Request-Id"
)
_SEES: Final = (
    "ETag, Idempotent-Replay, Link, Location, RateLimit, RateLimit-Policy, Retry-After, "
    "X-Request-Id"
)
_KEPT_S: Final = "600"


class Cors:
    """What `cors_origins` says: origins with a comma between, `*` for all, empty for none."""

    def __init__(self, origins: str) -> None:
        self._origins = frozenset(filter(None, (one.strip() for one in origins.split(","))))

    def headers(self, origin: str) -> dict[str, str]:
        """What lets the page that asked see the answer; nothing where it may not.

        Args:
            origin: of the page, as the header says; empty: there is none.
        """
        if not self._origins:
            return {}
        if "*" in self._origins:
            allowed = "*"
        elif origin in self._origins:
            allowed = origin
        else:
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": allowed,
            "Access-Control-Expose-Headers": _SEES,
            "Vary": "Origin",
        }

    def preflight(self, request: web.Request, methods: Iterable[str]) -> web.Response | None:
        """The answer to a browser that asks first; None: it is no such question, or not allowed."""
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or asked is None:
            return None
        headers = self.headers(request.headers.get("Origin", ""))
        if "Access-Control-Allow-Origin" not in headers:
            return None
        headers["Access-Control-Allow-Methods"] = ", ".join(sorted(methods))
        headers["Access-Control-Allow-Headers"] = _SENDS
        headers["Access-Control-Max-Age"] = _KEPT_S
        return web.Response(status=204, headers=headers)
