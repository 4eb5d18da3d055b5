"""Types of single values in requests, with the limits that the API's description shows."""

from collections.abc import Container
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final
from zoneinfo import available_timezones

from msgspec import Meta

from engine.consent.lanes import CHANNELS, PURPOSES
from engine.web.problem import FieldError

ID_PATTERN: Final = r"^[A-Za-z0-9._~:-]{1,128}(?![\s\S])"
"""Its end is written so because ``$`` would let a line feed follow."""

Id = Annotated[str, Meta(pattern=ID_PATTERN, description="1 to 128 of `A-Z a-z 0-9 . _ ~ : -`.")]
ResidentId = Annotated[
    str, Meta(min_length=1, max_length=128, description="A resident's id; `me` for its own key.")
]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(min_length=1, max_length=2_000)]
Word = Annotated[str, Meta(min_length=1, max_length=100)]
Words = Annotated[tuple[Word, ...], Meta(max_length=50)]
Zone = Annotated[
    str, Meta(min_length=1, max_length=100, description="IANA zone.", examples=["Europe/Helsinki"])
]
Language = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}(?![\s\S])",
        description="BCP 47 tag.",
        examples=["fi"],
    ),
]
Channel = Annotated[str, Meta(extra_json_schema={"enum": list(CHANNELS)})]
Purpose = Annotated[str, Meta(extra_json_schema={"enum": list(PURPOSES)})]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset.")]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Seconds = Annotated[int, Meta(ge=0, le=366 * 86_400)]
Lon = Annotated[float, Meta(ge=-180, le=180, description="Degrees east, WGS 84.")]
Lat = Annotated[float, Meta(ge=-90, le=90, description="Degrees north, WGS 84.")]
Position = tuple[Lon, Lat]
Limit = Annotated[int, Meta(ge=1, le=1_000, description="Most items in one answer.")]
Cursor = Annotated[str, Meta(max_length=400, description="`next` of the answer before.")]
IfMatch = Annotated[
    str, Meta(max_length=40, description="ETag of the latest preferences that were shown.")
]


@lru_cache(maxsize=1)
def zones() -> frozenset[str]:
    """All IANA zones that this machine knows."""
    return frozenset(available_timezones())


def zone_errors(path: str, zone: str) -> list[FieldError]:
    """What is wrong with a zone's name, if anything."""
    return one_of(path, zone, zones(), "an IANA zone such as Europe/Helsinki")


def one_of(
    path: str, value: str, allowed: Container[str], wanted: str, code: str = "not_one_of"
) -> list[FieldError]:
    """An error unless the value is one of those allowed."""
    if value in allowed:
        return []
    return [FieldError(path, code, f"Must be {wanted}.")]


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def ms_of(instant: datetime) -> int:
    """Unix milliseconds of an instant."""
    return (instant - EPOCH) // timedelta(milliseconds=1)
