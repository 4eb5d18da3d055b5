"""What a fence is: the values, their units, and what always holds of them.

Longitude comes before latitude, degrees on WGS84. The same meridian is written both 180 and -180;
everything here means both when it says one.
"""

import math
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec
import shapely

Position: TypeAlias = tuple[float, float]
"""Longitude and latitude, degrees."""


Line: TypeAlias = tuple[Position, ...]
"""Two different positions at least; edges go the short way."""


class BBox(NamedTuple):
    """A box in degrees that never crosses the antimeridian: west <= east and south <= north."""

    west: float
    south: float
    east: float
    north: float


class Circle(msgspec.Struct, frozen=True):
    """All positions whose WGS84 geodesic distance from the centre is at most `radius_m`."""

    lon: float
    lat: float
    radius_m: float


class Area(msgspec.Struct, frozen=True, eq=False):
    """A valid Polygon or MultiPolygon in planar lon/lat, cut at the antimeridian and prepared.

    An edge is the straight line between its ends in lon/lat, as RFC 7946 has it, not a geodesic.
    """

    geometry: shapely.Polygon | shapely.MultiPolygon


class Corridor(Area, frozen=True, eq=False):
    """An area that remembers the lines that it was drawn along, and how wide.

    The polygon is what counts. It was fixed when the fence was written; see `corridor`.
    """

    lines: tuple[Line, ...]
    """One or, where `several`, any number."""
    width_m: float
    """From side to side."""
    several: bool
    """Whether it came as a MultiLineString."""


class Shell(NamedTuple):
    """Two balls around a place in space that settle most questions about a shape.

    Every position of the globe nearer than `near_m` is covered, none farther than `far_m` is, in
    straight metres through the earth; between the two only the ruler knows.
    """

    x: float
    y: float
    z: float
    near_m: float
    """0 where nothing is known to be covered."""
    far_m: float


EVERYWHERE: Final = Shell(0.0, 0.0, 0.0, math.inf, math.inf)
"""Settles that all is covered."""
UNSETTLED: Final = Shell(0.0, 0.0, 0.0, 0.0, math.inf)
"""Settles nothing."""


class Ruler(Protocol):
    """What a shape has precomputed to answer questions about a position fast.

    Positions are finite and in range; `measure` checks that once for all rulers.
    """

    @property
    def shell(self) -> Shell:
        """What settles most questions without asking on."""

    def covers(self, lon: float, lat: float) -> bool:
        """Whether the position lies in the shape or on its boundary."""

    def depth_m(self, lon: float, lat: float) -> float:
        """Signed metres to the boundary, positive inside."""

    def meets(self, lon0: float, lat0: float, lon1: float, lat1: float) -> bool:
        """Whether the straight short-way segment has a position in common with the shape."""


class Fence(msgspec.Struct, frozen=True, eq=False):
    """A merchant's place. Make one with `measure.make_fence` or `geojson.parse_fence`.

    Equality is identity: an edited fence is another object, so "is this still the fence that I
    saw" is one pointer comparison.

    Attributes:
        boxes: each within -180..180 / -90..90; together they hold every spelling of every position
            that the shape covers. Several where it touches the seam or a pole.
        inradius_m: radius of the largest circle inside, metres, to a few percent; a circle's own,
            and half the width of a corridor.
        ruler: what `measure` has precomputed; nobody else's business.
    """

    id: str
    brand: str
    name: str
    tags: tuple[str, ...]
    shape: Circle | Area
    boxes: tuple[BBox, ...]
    inradius_m: float
    ruler: Ruler


class GeofenceError(Exception):
    """Something about a fence that its sender can put right."""


class Refusal(msgspec.Struct, frozen=True):
    """One thing wrong with a document.

    Attributes:
        code: stable, for clients and metrics, such as ``ring_not_closed``.
        path: where in the document, such as ``geometry.coordinates[0]``; empty for the whole of it.
        detail: a sentence on what was wrong and what would be right.
    """

    code: str
    path: str
    detail: str


class FenceRejected(GeofenceError):
    """A merchant's GeoJSON Feature cannot be registered.

    Attributes:
        problems: what is wrong, in the order of the document; never empty.
        fence_id: the Feature's id, if it had a usable one.
    """

    def __init__(self, problems: tuple[Refusal, ...], *, fence_id: str | None = None) -> None:
        told = "; ".join(f"{p.code} at {p.path or 'the document'}: {p.detail}" for p in problems)
        super().__init__(f"fence {fence_id or '(no id)'}: {told}")
        self.problems = problems
        self.fence_id = fence_id
