"""What is remembered of each resident, in memory."""

import msgspec


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many offers a resident wants at most, over all brands; None: the city's default."""

    per_day: int | None = None
    per_week: int | None = None


class ResidentSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a resident set about themselves, besides consent."""

    timezone: str = "UTC"
    language: str = "en"
    limits: Limits = Limits()
    follows: tuple[str, ...] = ()
    """Brands whose offers come first."""
