"""The one record of a resident's position at a time, and the limits that it must keep.

Every sender's format becomes this record in `ingest`; nothing behind it knows where it came from.
"""

import math

import msgspec

from engine.decision import Reject

CLOCK_AHEAD_MAX_MS = 60_000
"""How far a phone's clock may run ahead of ours before its fix is refused."""

AGE_MAX_MS = 7 * 24 * 3_600_000
"""How old a fix may be when it arrives; older ones cannot change anything that is still kept."""

AT_MS_END = 1 << 47
"""In the year 6429: below it every calendar and every sender's JSON library hold a time exactly."""

ID_LENGTH_MAX = 128
"""Longest resident id and ping id, in characters."""


class Ping(msgspec.Struct, gc=False, kw_only=True, omit_defaults=True):
    """One position of one resident, WGS 84.

    Not frozen for one reason: the rim stamps `received_ms` after decoding, which a copy would
    make dearer than the decoding itself. Nothing else ever writes to it.
    """

    at_ms: int
    """When the phone took the fix, Unix milliseconds by its own clock."""
    lon: float
    """Degrees east, -180 to 180."""
    lat: float
    """Degrees north, -90 to 90."""
    resident: str = ""
    """Whose position, 1 to 128 printable characters; a resident's own key fills it in."""
    accuracy_m: float | None = None
    """Radius of the circle that holds the true position 68 times in 100; null: unknown."""
    id: str | None = None
    """The sender's own name for the fix; part of what makes two fixes equal."""
    speed_mps: float | None = None
    heading_deg: float | None = None
    mock: bool = False
    """The phone says that the position is made up."""
    next_fix: bool = False
    """The phone asks when and where its next fix would matter."""
    received_ms: int = 0
    """When we received it, Unix milliseconds; always overwritten by the rim."""


def order_key(ping: Ping) -> tuple[int, str, float, float]:
    """The place of a fix among its resident's fixes; equal keys mean the same fix sent again."""
    return (ping.at_ms, ping.id or "", ping.lon, ping.lat)


def refusal(ping: Ping, *, age_max_ms: int | None = AGE_MAX_MS) -> Reject | None:
    """Say why a ping can't be used at all, or None.

    Args:
        ping: stamped with `received_ms`.
        age_max_ms: None lifts the limit on age, as a replay of old recordings needs.

    Returns:
        The first broken limit; it names the field and never repeats the value, which is a position.
    """
    if not (-180.0 <= ping.lon <= 180.0):
        return _LON if math.isfinite(ping.lon) else _NOT_FINITE
    if not (-90.0 <= ping.lat <= 90.0):
        return _LAT if math.isfinite(ping.lat) else _NOT_FINITE
    if not 0 < len(ping.resident) <= ID_LENGTH_MAX or not ping.resident.isprintable():
        return _RESIDENT
    if ping.id is not None and not (0 < len(ping.id) <= ID_LENGTH_MAX and ping.id.isprintable()):
        return _ID
    if ping.accuracy_m is not None and not 0.0 <= ping.accuracy_m < math.inf:
        return _ACCURACY
    if not 0 <= ping.at_ms < AT_MS_END:
        return _AT
    ahead_ms = ping.at_ms - ping.received_ms
    if ahead_ms > CLOCK_AHEAD_MAX_MS:
        return _AHEAD
    if age_max_ms is not None and -ahead_ms > age_max_ms:
        return _ANCIENT
    return None


_NOT_FINITE = Reject("not_finite", "lon and lat must be finite numbers of degrees.")
_LON = Reject("lon_out_of_range", "lon must be from -180 to 180 degrees east.")
_LAT = Reject("lat_out_of_range", "lat must be from -90 to 90 degrees north.")
_RESIDENT = Reject("resident_invalid", "resident must be 1 to 128 printable characters.")
_ID = Reject("id_invalid", "id must be 1 to 128 printable characters, or left out.")
_ACCURACY = Reject("accuracy_invalid", "accuracy_m must be 0 or more metres, or null if unknown.")
_AT = Reject("at_ms_invalid", "at_ms must be Unix milliseconds, 0 to 2**47.")
_AHEAD = Reject("clock_ahead", "at_ms must not be more than 60 s ahead of the server's clock.")
_ANCIENT = Reject("too_old", "at_ms must not be more than 7 days in the past.")

REJECT_CODES = tuple(
    reject.code
    for reject in (
        _NOT_FINITE,
        _LON,
        _LAT,
        _RESIDENT,
        _ID,
        _ACCURACY,
        _AT,
        _AHEAD,
        _ANCIENT,
    )
)
