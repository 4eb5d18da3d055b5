"""What goes wrong by our own fault, told to operators only."""

import logging
import traceback
from typing import Final

from engine.store.port import StoreUnavailable
from engine.web.problem import Refused

LOG: Final = logging.getLogger("engine.web")


def log_fault(where: str, error: BaseException) -> None:
    """Log where a fault arose; what it says is left out, since it may hold what was sent."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("%s failed with %s:\n%s", where, type(error).__name__, frames)


def refusal(where: str, error: Exception) -> Refused:
    """What a client is told of an error; logged if it is a fault of ours."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, StoreUnavailable):
        return Refused("store_unavailable")
    log_fault(where, error)
    return Refused("internal")
