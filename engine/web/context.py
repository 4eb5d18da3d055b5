"""What every handler needs, built once by the composition root."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.config import Config
from engine.store.port import KeyRow, Store
from engine.web.metrics import Metrics
from engine.web.rate import RateLimiter

if TYPE_CHECKING:
    from engine.delivery.answer import Answerer
    from engine.delivery.canary import Canary
    from engine.delivery.tail import Tail
    from engine.delivery.views import Views
    from engine.pipeline import Engine
    from engine.store.everywhere import Everywhere
    from engine.store.feed import Feed
    from engine.store.journal import Journal
    from engine.store.pruner import Pruner


PAIRING_TRIES_PER_S: Final = 2
PAIRING_BURST_S: Final = 30
"""Wrong pairing codes that one process takes, of all who try: 60 at once, then 2 a second. In its
ten minutes a code is guessed once in 10^12 times."""


def _pairing_tries() -> RateLimiter:
    return RateLimiter(per_second=PAIRING_TRIES_PER_S, burst_s=PAIRING_BURST_S)


@dataclass(slots=True, kw_only=True)
class Context:
    """The service's parts as the web sees them."""

    config: Config
    store: Store
    engine: "Engine"
    journal: "Journal"
    feed: "Feed"
    everywhere: "Everywhere"
    canary: "Canary"
    answerer: "Answerer"
    tail: "Tail"
    pruner: "Pruner"
    views: "Views"
    keys: dict[str, KeyRow]
    """SHA-256 of a key, hex -> its row; the change feed keeps it live."""
    clock_ms: Callable[[], int]
    """Unix milliseconds."""
    mono_ms: Callable[[], int]
    """The monotonic clock that leases are held against, milliseconds."""
    started_mono_ms: int
    metrics: Metrics
    pairing_tries: RateLimiter = field(default_factory=_pairing_tries)
    """Takes the wrong pairing codes."""


CONTEXT: Final = web.AppKey("context", Context)
"""Where the application keeps its Context."""
