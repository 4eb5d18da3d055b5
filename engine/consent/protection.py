"""What protects a resident whatever they grant: their own zones, and their age."""

import msgspec

from engine.consent.zones import Zone


class Protection(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of it, kept and changed as one, since few have any."""

    zones: tuple[Zone, ...] = ()
    """By name."""
    age_band: str | None = None
    """A key of `law.AGE_BANDS`; None: nobody told, which means an adult."""


UNPROTECTED = Protection()
