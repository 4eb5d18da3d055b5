"""When and where the next fix of a phone is due, after the `next_fix` of its last decision."""

import math
from typing import Final

import msgspec

from engine.decision import Decision
from engine.ping import Ping

EARTH_M: Final = 6_371_000.0
SPHERE_ERROR: Final = 1.006
"""A distance on the sphere may be this much shorter than the true one; the fix is then sooner."""


class Watch:
    """What one resident's phone waits for before it takes its next fix."""

    def __init__(self) -> None:
        self._from: Ping | None = None
        self._radius_m = 0.0
        self._latest_ms = 0

    def follow(self, ping: Ping, decision: Decision) -> None:
        """Take the advice of a decision; one without any lets every fix be due."""
        if self._from is not None and ping.at_ms < self._from.at_ms:
            return
        advice = decision.next_fix
        if isinstance(advice, msgspec.UnsetType):
            self._from = None
            return
        self._from, self._radius_m = ping, advice.radius_m
        self._latest_ms = ping.at_ms + 1_000 * advice.latest_s

    def due(self, now_ms: int, lon: float, lat: float) -> bool:
        """Whether a fix here and now could matter.

        Args:
            now_ms: Unix milliseconds, by the same clock as the fixes.
            lon: where the phone is, degrees east; a coarse position will do.
            lat: degrees north.
        """
        if self._from is None or now_ms >= self._latest_ms:
            return True
        away_m = SPHERE_ERROR * _distance_m(self._from.lon, self._from.lat, lon, lat)
        return away_m >= self._radius_m


def _distance_m(lon: float, lat: float, other_lon: float, other_lat: float) -> float:
    """The way between two positions on the sphere, by the haversine formula."""
    north, south = math.radians(lat), math.radians(other_lat)
    half = math.sin((south - north) / 2) ** 2
    half += math.cos(north) * math.cos(south) * math.sin(math.radians(other_lon - lon) / 2) ** 2
    return 2 * EARTH_M * math.asin(math.sqrt(min(1.0, half)))
