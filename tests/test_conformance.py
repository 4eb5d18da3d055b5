"""Cases of other projects: what they say of a geometry or a document, we say too.

The cases stay outside the project; where they are not there, these tests skip and say so. Each
prints how many cases passed of how many, and every exception stands here with its reason.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import shapely

from geofences.fence import Area, Corridor, Fence, FenceRejected
from geofences.geojson import parse_fence
from geofences.index import FenceIndex
from geofences.measure import covers

SHARED = Path(os.environ.get("PASSBY_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(),
    reason=f"NO CONFORMANCE CASES at {SHARED}: set PASSBY_SHARED_DATA to where they are",
)

TAKEN = {"Point", "LineString", "MultiLineString", "Polygon", "MultiPolygon"}


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of one file."""
    with gzip.open(SHARED / "conformance" / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def features(document: Any) -> Iterator[dict[str, Any]]:
    """The Features in a document, a bare geometry being the geometry of one.

    A collection with a member that RFC 7946 (7.1) does not let it have is none.
    """
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and "coordinates" in document:
        yield {}
    elif kind == "FeatureCollection" and isinstance(document.get("features"), list):
        for member in document["features"]:
            yield from features(member)
    elif kind == "Feature":
        yield document
    else:
        yield {"type": "Feature", "geometry": document}


def read(feature: Any) -> tuple[Fence | None, set[str]]:
    """Read a Feature of another project; brand, radius and width are supplied to it."""
    sizes = {"radius_m": 50, "width_m": 50}
    if isinstance(feature.get("properties") or {}, dict):
        feature = feature | {"properties": sizes | (feature.get("properties") or {})}
    try:
        own = feature.get("id")
        return parse_fence(feature, fence_id="case" if own is None else None, brand="b"), set()
    except FenceRejected as rejected:
        return None, {problem.code for problem in rejected.problems}


def test_jts_agrees_on_every_predicate_we_use(measured: list[str]) -> None:
    """Covers, intersects, contains, within, disjoint, coveredBy and isValid, as JTS has them.

    Not asked: the one case on which GEOS, by its own account, answers otherwise than JTS.
    """
    every = [case for case in cases("jts_predicates") if case["geos_agrees"]]
    failed = []
    for case in every:
        # Some cases hold NaN on purpose, of which numpy would warn.
        with np.errstate(invalid="ignore"):
            a = shapely.from_wkt(case["a"])
        name = {"isValid": "is_valid", "coveredBy": "covered_by"}.get(case["op"], case["op"])
        others = [] if case["b"] is None else [shapely.from_wkt(case["b"])]
        if bool(getattr(shapely, name)(a, *others)) != case["expected"]:
            failed.append((case["file"], case["case"], case["op"]))

    measured.append(f"JTS predicates: {len(every) - len(failed)} / {len(every)}")
    assert len(every) == 4_567
    assert failed == []


def test_jts_agrees_on_points_in_areas_by_the_calls_we_make(measured: list[str]) -> None:
    """A prepared area's intersects, by geometry and by coordinates, is covers for a point.

    Not asked: a point that is empty, which no position is.
    """
    every = [
        case
        for case in cases("jts_predicates")
        if case["op"] == "covers"
        and case["point_in_area"]
        and "POLYGON" in case["a"]
        and "EMPTY" not in case["b"]
    ]
    failed = []
    for case in every:
        area, points = shapely.from_wkt(case["a"]), shapely.get_parts(shapely.from_wkt(case["b"]))
        shapely.prepare(area)
        by_geometry = all(area.intersects(point) for point in points)
        by_coordinates = all(shapely.intersects_xy(area, point.x, point.y) for point in points)
        if not by_geometry == by_coordinates == case["expected"]:
            failed.append((case["file"], case["case"]))

    measured.append(f"JTS covers, points in areas: {len(every) - len(failed)} / {len(every)}")
    assert len(every) == 13
    assert failed == []


# Valid GeoJSON that is no fence, and why. Where no reason stands, the type is not taken.
GEOJSONHINT_REFUSED = {
    "good/good-geometrycollection.geojson": {"type_not_supported"},
    "good/good-multipoint.geojson": {"type_not_supported"},
    # RFC 7946 allows it; a fence without a place is none.
    "good/nullgeometry.geojson": {"geometry_missing"},
    # Latitudes below -100: no place on the earth.
    "good/issue82.geojson": {"out_of_range"},
}
# What RFC 7946 lets a parser accept and we refuse; clockwise rings and a fourth number we take.
GEOJSONHINT_SHOULD = {
    # Of two types the last counts: a Feature, with a member that no Feature may have.
    "bad/bad-duplicate-properties.geojson": {"semantics_changed", "geometry_missing"},
    "bad/geometrycollection_nested.geojson": {"type_not_supported"},
    "bad/geometrycollection_single.geojson": {"type_not_supported"},
}


def test_geojsonhint_agrees_on_what_is_geojson(measured: list[str]) -> None:
    """What must be refused is; what is valid is read, but for what is no fence."""
    every = cases("geojsonhint_cases")
    failed = []
    for case in every:
        try:
            document = orjson.loads(case["text"])
        except orjson.JSONDecodeError:
            codes, some = {"not_json"}, True
        else:
            outcomes = [read(feature) for feature in features(document)]
            codes = set().union(*(codes for _, codes in outcomes))
            some = not outcomes or any(fence is None for fence, _ in outcomes)
        if case["class"].startswith("must"):
            right = some
        else:
            allowed = GEOJSONHINT_REFUSED | GEOJSONHINT_SHOULD
            right = codes == allowed.get(case["file"], set())
        if not right:
            failed.append((case["file"], sorted(codes)))

    measured.append(f"geojsonhint: {len(every) - len(failed)} / {len(every)}")
    assert failed == []


def test_turf_agrees_on_what_is_valid(measured: list[str]) -> None:
    """Polygons, points and lines; the other types are refused as such."""
    every = cases("turf_boolean_valid")
    failed = []
    for case in every:
        for feature in features(case["geojson"]):
            fence, codes = read(feature)
            if feature["geometry"]["type"] not in TAKEN:
                right = codes == {"type_not_supported"}
            else:
                right = (fence is not None) == case["valid"]
            if not right:
                failed.append((case["file"], sorted(codes)))

    measured.append(f"turf boolean-valid: {len(every) - len(failed)} / {len(every)}")
    assert failed == []


ANTIMERIDIAN_REFUSED = {
    # Longitudes over 180.
    "over-180": {"out_of_range"},
    "issues-187": {"out_of_range"},
    # The ring crosses itself, and the expected result is not valid either.
    "force-north-pole": {"self_crossing"},
    "overlap": {"self_crossing"},
    # The ring crosses itself; nothing is expected but that it ends.
    "issues-182": {"self_crossing"},
}
ANTIMERIDIAN_OTHERWISE = {
    "both-poles": "wound clockwise; taken at its word it is all that lies outside: we turn it",
    "issues-171": "the expected result has lost one of the two holes",
}
ANTIMERIDIAN_HOLES_TURNED = {
    # Nothing is expected of a hole wound the wrong way: it is the same hole the other way round.
    "one-ccw-hole": "one-hole",
    "simple-with-ccw-hole": None,
}


def test_our_cut_is_the_antimeridian_packages(measured: list[str]) -> None:
    """The same region, but for crossings that the package rounds to 7 decimals."""
    every = {case["name"]: case for case in cases("antimeridian_cases")}
    failed = []
    for name, case in every.items():
        fence, codes = read({"type": "Feature", "geometry": case["input"]})
        expected = every[ANTIMERIDIAN_HOLES_TURNED.get(name) or name]["fixed_flat"]
        if fence is None or not isinstance(fence.shape, Area):
            right = codes == ANTIMERIDIAN_REFUSED.get(name)
        elif expected is None:
            right = fence.shape.geometry.equals(shapely.from_geojson(json.dumps(case["input"])))
        else:
            ours = fence.shape.geometry
            theirs = shapely.from_geojson(json.dumps(expected))
            if isinstance(fence.shape, Corridor):
                # Of lines that were cut a corridor is that of the whole: no joint shows.
                along, _ = read({"type": "Feature", "geometry": expected})
                assert along is not None
                assert isinstance(along.shape, Corridor)
                theirs = along.shape.geometry
            off = ours.symmetric_difference(theirs).area
            right = off <= 1e-7 * ours.length or name in ANTIMERIDIAN_OTHERWISE
        if not right:
            failed.append((name, sorted(codes)))

    taken = len(every) - len(failed) - len(ANTIMERIDIAN_REFUSED) - len(ANTIMERIDIAN_OTHERWISE)
    measured.append(f"antimeridian, the same region: {taken} / {len(every)}")
    assert len(every) == 33
    assert failed == []


REAL = {
    "amsterdam_tourism": {"read": 770},
    "chicago": {"read": 1_543, "self_crossing": 7},
    # Natural Earth's outlines at six decimals: most cross themselves somewhere in ten thousands.
    "complex_world": {"read": 6, "self_crossing": 9, "too_many_vertices": 1},
    "helsinki_centre_osm": {"read": 1_822},
    "nyc_taxi_zones": {"read": 263},
    "wien_tourism": {"read": 810, "parts_overlap": 1},
}


@pytest.fixture(scope="module")
def real() -> dict[str, list[tuple[Fence | None, set[str]]]]:
    """All real fences, by file: what was read, or why not."""
    outcomes = {}
    for name in REAL:
        with gzip.open(SHARED / f"fences_{name}.geojson.gz") as file:
            document = orjson.loads(file.read())
        outcomes[name] = [
            read(feature | {"id": f"{name}-{n}"}) for n, feature in enumerate(document["features"])
        ]
    return outcomes


@pytest.mark.parametrize("name", REAL)
def test_real_fences_are_read_or_refused_for_a_reason(
    real: dict[str, list[tuple[Fence | None, set[str]]]], name: str
) -> None:
    """As many as GEOS finds valid, and never another error."""
    tally = Counter(
        "read" if fence else sorted(codes - {"zero_area"})[0] for fence, codes in real[name]
    )

    assert tally == REAL[name]


def test_real_places_are_where_they_are(
    real: dict[str, list[tuple[Fence | None, set[str]]]],
) -> None:
    """All real fences in one index: the index says what each fence says for itself."""
    fences = [fence for outcomes in real.values() for fence, _ in outcomes if fence]
    index = FenceIndex.load(fences)
    by_name = {fence.name: fence for fence in fences}

    assert [f.name for f in index.covering(-87.63, 41.88)] == ["Loop"]
    assert covers(by_name["Lesotho"], 28.3, -29.5)
    assert not covers(by_name["South Africa"], 28.3, -29.5)
    assert covers(by_name["Antarctica"], 77.0, -90.0)
    assert by_name["Antarctica"] in index.covering(180.0, -85.0)
    for fence in fences[::40]:
        box = fence.boxes[0]
        middle = ((box.west + box.east) / 2, (box.south + box.north) / 2)
        by_each = sorted(f.id for f in fences if covers(f, *middle))
        assert [f.id for f in index.covering(*middle)] == by_each
