"""Residents as a process takes them into memory when it starts."""

from collections.abc import Callable

import msgspec

from engine.consent.saying import Sayings
from engine.residents import ResidentSettings


class ResidentTold(msgspec.Struct, frozen=True, gc=False):
    """A resident as a process takes them into memory: of the records only what counts there."""

    id: str
    settings: ResidentSettings
    version: int
    said: Sayings


TakeResidents = Callable[[list[ResidentTold]], None]
"""Takes some of them over; they may be many in all."""
