"""Why a document is refused: the closed table of codes, and the collector of problems."""

import math
from collections.abc import Mapping

from geofences.fence import Refusal

PROBLEMS_MAX = 20

CODES: Mapping[str, str] = {
    "not_a_feature": "The document is a JSON object whose `type` is `Feature`.",
    "semantics_changed": "A Feature has no `coordinates`, `geometries` or `features`, and a "
    "geometry no `geometry`, `properties` or `features` (RFC 7946, 7.1).",
    "bbox_malformed": "A `bbox` is an array of 4 numbers, or of 6 with altitudes. It is checked "
    "and otherwise ignored.",
    "properties_malformed": "`properties` is an object or null.",
    "id_missing": "A fence has an `id`, in the Feature or given by the caller.",
    "id_malformed": "An `id` is 1 to 128 of `A-Z a-z 0-9 . _ : ~ -`, or a number, which is taken "
    "as its text.",
    "brand_missing": "A fence has a `brand`, in `properties` or given by the caller.",
    "brand_malformed": "A `brand` is 1 to 128 of `A-Z a-z 0-9 . _ : ~ -`.",
    "name_malformed": "A `name` is text of at most 200 characters. Without one the id is the name.",
    "tags_malformed": "`tags` is an array of at most 32 texts of 1 to 64 characters.",
    "geometry_missing": "A fence has a `geometry` that is not null.",
    "geometry_malformed": "A `geometry` is an object with a `type` that is text.",
    "type_not_supported": "The geometry is a Polygon, a MultiPolygon, a Point with "
    "`properties.radius_m`, or a LineString or a MultiLineString with `properties.width_m`.",
    "coordinates_empty": "A geometry has `coordinates`, and no array in them is empty.",
    "coordinates_malformed": "`coordinates` is nested as RFC 7946 says for the type: a Point is a "
    "position, a LineString an array of positions, a Polygon an array of rings of positions, and a "
    "Multi-type an array of those.",
    "position_too_short": "A position has a longitude and a latitude. An altitude may follow and "
    "is ignored.",
    "not_a_number": "Longitude, latitude, `radius_m` and `width_m` are JSON numbers; true and "
    "false are not.",
    "not_finite": "A number is finite: no NaN, no infinity, nothing beyond a 64-bit float.",
    "out_of_range": "A longitude is within -180..180, a latitude within -90..90.",
    "too_many_vertices": "A fence has at most 100,000 positions, and so has the polygon of a "
    "corridor.",
    "too_few_points": "A ring has at least 4 positions, the last being the first again.",
    "ring_not_closed": "A ring's last position is the same as its first.",
    "zero_area": "A ring encloses an area.",
    "self_crossing": "A ring neither crosses nor touches itself.",
    "hole_outside_shell": "A hole lies within its polygon's outer ring.",
    "rings_overlap": "Holes of a polygon neither overlap nor cut it in two.",
    "parts_overlap": "The polygons of a MultiPolygon meet at single positions at most.",
    "radius_missing": "A Point has `properties.radius_m`, which makes it a circle.",
    "radius_out_of_range": "`radius_m` is above 0 and at most 1,000,000.",
    "line_too_short": "A line has at least 2 positions that are different places.",
    "width_missing": "A LineString has `properties.width_m`, which makes it a corridor.",
    "width_out_of_range": "`width_m` is 0.1 to 20,000.",
}
"""Every code of a refusal, and what would be right. docs/reference/fences.md publishes it."""


class Problems:
    """What is wrong with one document, in the order found, up to `PROBLEMS_MAX`."""

    def __init__(self) -> None:
        self.found: list[Refusal] = []

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def full(self) -> bool:
        """Whether there is no point in looking for more."""
        return len(self.found) >= PROBLEMS_MAX

    def refuse(self, code: str, path: str, here: str) -> None:
        """Note a problem: the code's rule says what would be right, `here` what there was."""
        if not self.full:
            self.found.append(Refusal(code, path, f"{CODES[code]} Here {here}."))

    def number(self, given: object, path: str) -> float | None:
        """Read a finite number, or note why it is none."""
        if not is_number(given):
            self.refuse("not_a_number", path, f"there is {told(given)}")
            return None
        try:
            value = float(given)  # type: ignore[arg-type]
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return value
        self.refuse("not_finite", path, "there is one that is not")
        return None


def is_number(given: object) -> bool:
    """Whether it is a JSON number: Python counts true and false as integers, JSON does not."""
    return isinstance(given, int | float) and not isinstance(given, bool)


def told(given: object) -> str:
    """Say what a JSON value is, in a few words."""
    if given is None:
        return "null"
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, str):
        return f'the text "{given[:40]}"' + (f" of {len(given)} characters" if given[40:] else "")
    if isinstance(given, list):
        return f"an array of {len(given)}"
    if isinstance(given, dict):
        return f"an object with type {told(given['type'])}" if "type" in given else "an object"
    if is_number(given):
        # Turning an integer of thousands of digits into text is quadratic, or refused by Python.
        huge = isinstance(given, int) and given.bit_length() > 64
        return "a huge number" if huge else f"the number {given}"
    return "no JSON value"
