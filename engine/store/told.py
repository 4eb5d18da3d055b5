"""Residents as a process takes them into memory when it starts."""

from collections.abc import Callable

import msgspec

from engine.consent.saying import Saying
from engine.residents import ResidentSettings


class ResidentTold(msgspec.Struct, frozen=True, gc=False):
    """A resident as a process takes them into memory: of the records only what counts there."""

    id: str
    settings: ResidentSettings
    version: int
    said: tuple[Saying, ...]
    """In the order in which it was said."""
    record_ids: tuple[bytes, ...]
    """Of the records that said it, 16 bytes each."""


TakeResidents = Callable[[list[ResidentTold]], None]
"""Takes some of them over; they may be many in all."""
