"""The floor: what the law denies whatever a resident says. It only ever denies.

Rules come in packs, which are data with their sources: an operator switches them on. One pack is
always on, that of minors, since nobody has an age band unless an operator or a guardian set one.
What a pack says is its reading of a law by people who are no lawyers.

A pack may also name places near which no fence may be used for offers. The data of the places comes
with the pack: a shipped one says how near is too near, and the city adds where.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np
import shapely

from engine.consent.lanes import (
    ACTIONS,
    CATEGORIES,
    PURPOSES,
    every_purpose,
    lanes,
)
from geofences.fence import Circle, Fence, FenceRejected
from geofences.geojson import parse_fence

AGE_BANDS: Final[dict[str, str]] = {
    "under_13": "Younger than 13 years.",
    "13_to_15": "13 to 15 years.",
    "16_17": "16 or 17 years.",
    "adult": "18 years or older; the same as no band.",
}
"""Age band -> its meaning, from the most protected to the least."""

SIGNALS: Final[dict[str, str]] = {
    "gpc": "Global Privacy Control, the header `Sec-GPC: 1`: nothing is shared and nothing sold.",
}
"""Signal -> what it means. One that was seen stays; that it is absent later is no opt-in."""

GPC_SOURCE: Final = (
    "W3C Global Privacy Control; Cal. Code Regs. tit. 11, 7025 (opt-out preference signals)"
)
GPC_LANES: Final = sum(
    every_purpose(action, category) for action in ("share", "sell") for category in CATEGORIES
)

FOOT_M: Final = 0.3048
_DEGREE_M: Final = 111_320.0
_SLACK: Final = 1.01
"""How far a distance on the map of a place may be off: in doubt it is too near."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Lanes that a law denies."""

    code: str
    source: str
    """Where the law says so."""
    purposes: tuple[str, ...] | None = None
    """None: every one."""
    actions: tuple[str, ...] | None = None
    data: tuple[str, ...] | None = None
    ages: tuple[str, ...] | None = None
    """To whom it applies; None: to everybody."""

    @property
    def lanes(self) -> int:
        """The lanes that it denies."""
        return sum(
            lanes(purpose, self.actions or ACTIONS, self.data or CATEGORIES)
            for purpose in self.purposes or PURPOSES
        )


class Places(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Places near which no fence may be used for offers."""

    code: str
    source: str
    buffer_m: float
    """A fence is too near if any of it is within so many metres of a place's perimeter."""
    features: tuple[dict[str, Any], ...] = ()
    """GeoJSON Features, as fences are drawn."""


class Pack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operator switches on."""

    id: str
    title: str
    rules: tuple[Rule, ...] = ()
    places: tuple[Places, ...] = ()


class PackRefused(ValueError):
    """A pack can't be used; the text says why."""


MINORS: Final = Pack(
    id="minors",
    title="Minors",
    rules=(
        Rule(
            code="minors-under-13",
            source="16 CFR 312.5 (COPPA); Regulation (EU) 2016/679, Art. 8",
            purposes=tuple(p for p in PURPOSES if p not in ("service", "security")),
            ages=("under_13",),
        ),
        Rule(
            code="minors-sale",
            source="Cal. Civ. Code 1798.120(c)",
            actions=("share", "sell"),
            ages=("under_13", "13_to_15"),
        ),
        Rule(
            code="minors-profiling",
            source="Regulation (EU) 2022/2065, Art. 28(2)",
            purposes=("offers", "advertising"),
            actions=("use", "contact"),
            data=("profile", "travel_patterns", "facility_use", "purchase", "inferred_interests"),
            ages=("under_13", "13_to_15", "16_17"),
        ),
    ),
)
"""Always on."""

_pack: Final = msgspec.json.Decoder(Pack)


def read_pack(raw: bytes) -> Pack:
    """A pack of its JSON, with nothing in it that nobody knows.

    Raises:
        PackRefused: it can't be used.
    """
    try:
        pack = _pack.decode(raw)
    except msgspec.DecodeError as error:
        raise PackRefused(str(error)) from None
    for rule in pack.rules:
        for given, known in (
            (rule.purposes, PURPOSES),
            (rule.actions, ACTIONS),
            (rule.data, CATEGORIES),
            (rule.ages, AGE_BANDS),
        ):
            if unknown := set(given or ()) - set(known):
                raise PackRefused(f"{rule.code}: unknown {min(unknown)}")
    for near in pack.places:
        for place in near.features:
            try:
                parse_fence(place, fence_id="place", brand="-")
            except FenceRejected as error:
                raise PackRefused(f"{near.code}: a place is no fence: {error}") from None
    return pack


class Laws:
    """The packs that are switched on, ready to be asked.

    Args:
        packs: besides that of minors.
    """

    def __init__(self, packs: Iterable[Pack] = ()) -> None:
        self.packs = (MINORS, *packs)
        self.rules = tuple(rule for pack in self.packs for rule in pack.rules)
        self._floors = {
            band: sum_of(rule.lanes for rule in self.rules if _applies(rule, band))
            for band in (None, *AGE_BANDS)
        }
        self._near: list[tuple[str, Fence, float]] = [
            (near.code, parse_fence(place, fence_id="place", brand="-"), near.buffer_m)
            for pack in self.packs
            for near in pack.places
            for place in near.features
        ]
        self._tree = shapely.STRtree([_grown(place, far_m) for _, place, far_m in self._near])

    def floor(self, age_band: str | None) -> int:
        """The lanes that are denied to a resident of an age band; None: nobody told."""
        return self._floors[age_band]

    def codes(self, lanes: int, age_band: str | None) -> tuple[str, ...]:
        """The rules that deny any of these lanes to a resident of an age band."""
        return tuple(
            rule.code for rule in self.rules if _applies(rule, age_band) and rule.lanes & lanes
        )

    def near(self, fence: Fence) -> str | None:
        """The rule by which a fence is too near to a place, None if it is not.

        Exact to 1 % of the distance and on the side of no.
        """
        if not self._near:
            return None
        boxes = [shapely.box(*box) for box in fence.boxes]
        found = sorted({int(at) for box in boxes for at in self._tree.query(box)})
        for code, place, far_m in (self._near[at] for at in found):
            if _distance_m(place, fence) <= far_m * _SLACK:
                return code
        return None

    def source(self, code: str) -> str:
        """Where the law says so that a fence is too near."""
        places = (near for pack in self.packs for near in pack.places)
        return next(near.source for near in places if near.code == code)

    @property
    def has_places(self) -> bool:
        """Whether there is any place near which a fence may be too near."""
        return bool(self._near)


def sum_of(sets: Iterable[int]) -> int:
    """The union of sets of lanes."""
    union = 0
    for one in sets:
        union |= one
    return union


def protects_less(before: str | None, after: str | None) -> bool:
    """Whether a change of age band is a widening."""
    order = list(AGE_BANDS)
    return order.index(after or "adult") > order.index(before or "adult")


def _applies(rule: Rule, age_band: str | None) -> bool:
    return rule.ages is None or (age_band or "adult") in rule.ages


def _grown(place: Fence, far_m: float) -> shapely.Polygon:
    """A box that holds whatever is within so many metres of a place."""
    west = min(box.west for box in place.boxes)
    south = min(box.south for box in place.boxes)
    east = max(box.east for box in place.boxes)
    north = max(box.north for box in place.boxes)
    up = far_m * 1.02 / _DEGREE_M
    flattest = max(abs(south - up), abs(north + up))
    wide = up / max(0.01, float(np.cos(np.radians(min(89.0, flattest)))))
    return shapely.box(west - wide, south - up, east + wide, north + up)


def _distance_m(place: Fence, fence: Fence) -> float:
    """Metres between two fences on a flat map around the first, 0 where they meet."""
    lon, lat = _middle(place)
    return float(shapely.distance(_on_map(place, lon, lat), _on_map(fence, lon, lat)))


def _middle(fence: Fence) -> tuple[float, float]:
    if isinstance(fence.shape, Circle):
        return fence.shape.lon, fence.shape.lat
    middle = fence.shape.geometry.centroid
    return middle.x, middle.y


def _on_map(fence: Fence, lon: float, lat: float) -> Any:
    """A fence in metres east and north of a position."""
    east_m = _DEGREE_M * float(np.cos(np.radians(lat)))

    def flat(corners: Any) -> Any:
        east = (corners[:, 0] - lon + 540.0) % 360.0 - 180.0
        return np.column_stack((east * east_m, (corners[:, 1] - lat) * _DEGREE_M))

    shape = fence.shape
    if isinstance(shape, Circle):
        centre = shapely.transform(shapely.Point(shape.lon, shape.lat), flat)
        return shapely.buffer(centre, shape.radius_m, quad_segs=32)
    return shapely.transform(shape.geometry, flat)
