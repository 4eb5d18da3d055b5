"""What goes wrong by our own fault, told to operators only."""

import logging
import traceback
from typing import Final

LOG: Final = logging.getLogger("engine.web")


def log_fault(where: str, error: BaseException) -> None:
    """Log where a fault arose; what it says is left out, since it may hold what was sent."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("%s failed with %s:\n%s", where, type(error).__name__, frames)
