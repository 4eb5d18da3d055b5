"""How the tables of routes are written: who may call, what most can fail with, and the examples."""

from typing import Any, Final

from engine.web.examples import EXAMPLES
from engine.web.route import Route

OPERATOR: Final = ("operator",)
MERCHANTS: Final = ("operator", "merchant")
SENDERS: Final = ("operator", "sender")
RESIDENTS: Final = ("operator", "resident")
ANY_RESIDENT: Final = ("operator", "sender", "resident")
ROWS: Final = (
    "A row that can't be used is `rejected` and spoils no other. The body has a limit of its own "
    "(`import_bytes_max`), and may come with `Content-Encoding` gzip or zstd."
)
LIVE: Final = ("store_unavailable", "not_live")
"""What any write that must be live can fail with."""
IN_FORCE: Final = ("store_unavailable", "not_in_force")
"""What a resident's own say can fail with."""


def route(method: str, path: str, handler: Any, tag: str, **more: Any) -> Route:
    """A route with its examples."""
    body, answer = EXAMPLES.get(f"{method} {path}", (None, None))
    more.setdefault("once", method not in ("GET", "HEAD"))
    if "unknown_resident" in more.get("codes", ()):
        more["codes"] = (*more["codes"], "merged_resident")
    return Route(
        method=method, path=path, handler=handler, tag=tag, example=body, answer=answer, **more
    )
