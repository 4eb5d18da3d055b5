import itertools
import math
import random
import tracemalloc
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geofences.fence import Corridor, Fence, FenceRejected, Position
from geofences.geojson import parse_fence, to_feature
from geofences.globe import GEOD, short_way
from geofences.index import FenceIndex
from geofences.measure import covers, depth_m
from tests.strategies import feature, wrap

Floats = npt.NDArray[np.float64]
Line = list[tuple[float, float]]

WIDTH_ERROR_MAX = 0.003
"""Of the width: how far the fixed polygon's side may be from where the geodesic has it."""

EVERYWHERE: list[tuple[Line, float]] = [
    ([(13.4, 52.5), (13.41, 52.502), (13.405, 52.51), (13.42, 52.505)], 20.0),
    ([(13.4, 52.5), (13.9, 52.7), (14.5, 52.4)], 12.0),
    ([(0.0, 0.0), (1.0, 0.5)], 1.0),
    ([(24.9, 60.1), (30.0, 60.0)], 500.0),
    ([(24.9, 60.1), (24.901, 60.101)], 20_000.0),
    ([(0.0, 75.0), (3.0, 75.0)], 20_000.0),
    ([(179.9, -17.0), (-179.8, -17.1), (179.7, -17.2)], 100.0),
    ([(180.0, -17.0), (-180.0, -17.1)], 100.0),
    ([(10.0, 85.0), (60.0, 85.5)], 2_000.0),
    ([(0.0, 89.95), (120.0, 89.97), (-120.0, 89.96), (0.0, 89.95)], 1_000.0),
    ([(0.0, -89.95), (180.0, -89.95)], 3_000.0),
    ([(20.0, 89.9), (20.0, 90.0), (-70.0, 90.0), (-70.0, 89.8)], 400.0),
    ([(-65.3, -90.0), (90.2, -89.93), (65.9, -89.79), (-144.8, -89.885)], 200.0),
]


def corridor(line: Line, width_m: float, **properties: Any) -> Fence:
    positions = [list(position) for position in line]
    geometry = {"type": "LineString", "coordinates": positions}
    return parse_fence(feature(geometry, width_m=width_m, **properties))


def shape(fence: Fence) -> Corridor:
    assert isinstance(fence.shape, Corridor)
    return fence.shape


def geodesic_to_line_m(line: Line, points: Floats) -> Floats:
    """The WGS84 distance of each point to a line whose edges are straight in lon/lat.

    Looked for in 200 places along each edge, then by golden section around the nearest.
    """
    best = np.full(len(points), math.inf)
    golden = (math.sqrt(5) - 1) / 2

    for (lon0, lat0), (lon1, lat1) in itertools.pairwise(line):
        start, way = (lon0, lat0), (short_way(lon1 - lon0), lat1 - lat0)

        def away_m(share: Floats, start: Position = start, way: Position = way) -> Floats:
            lon = (start[0] + share * way[0] + 540.0) % 360.0 - 180.0
            lat = start[1] + share * way[1]
            return np.asarray(GEOD.inv(points[:, 0], points[:, 1], lon, lat)[2])

        shares = np.linspace(0.0, 1.0, 201)
        coarse = np.stack([away_m(np.full(len(points), share)) for share in shares])
        nearest = coarse.argmin(0)
        low, high = shares[np.maximum(nearest - 1, 0)], shares[np.minimum(nearest + 1, 200)]
        best = np.minimum(best, coarse.min(0))
        for _ in range(40):
            one, other = high - golden * (high - low), low + golden * (high - low)
            at_one, at_other = away_m(one), away_m(other)
            best = np.minimum(best, np.minimum(at_one, at_other))
            high, low = (
                np.where(at_one < at_other, other, high),
                np.where(at_one < at_other, low, one),
            )
    return best


def on_the_side(fence: Fence, count: int) -> Floats:
    """Positions on the corridor's boundary, spread over its edges, not on the cut."""
    outline = shape(fence).geometry.boundary
    places = shapely.get_coordinates(shapely.segmentize(outline, outline.length / 1_000))
    places = places[(abs(places[:, 0]) < 180.0) & (abs(places[:, 1]) < 90.0)]
    chosen = np.random.default_rng(1).choice(len(places), min(count, len(places)), replace=False)
    return np.asarray(places[chosen])


@pytest.mark.parametrize(("line", "width_m"), EVERYWHERE)
def test_the_side_is_half_a_width_from_the_line(line: Line, width_m: float) -> None:
    """By the geodesic, in a town, in a long line, over a pole and across the antimeridian."""
    fence = corridor(line, width_m)
    off_m = abs(geodesic_to_line_m(line, on_the_side(fence, 300)) - width_m / 2)

    assert off_m.max() <= WIDTH_ERROR_MAX * width_m
    assert fence.inradius_m == width_m / 2
    assert all(covers(fence, *position) for position in line)


@pytest.mark.parametrize(("line", "width_m"), EVERYWHERE)
def test_what_is_written_is_read_as_the_same_to_the_bit(line: Line, width_m: float) -> None:
    """Line, width and polygon; so the import of an export changes nothing."""
    fence = corridor(line, width_m, name="High Street", tags=["street"])
    written = orjson.dumps(to_feature(fence))

    again = parse_fence(orjson.loads(written))

    assert orjson.dumps(to_feature(again)) == written
    assert shapely.equals_identical(shape(again).geometry, shape(fence).geometry)
    assert shape(again).lines == shape(fence).lines == (tuple(line),)
    assert orjson.loads(written)["geometry"]["type"] == "LineString"


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """A line of metres to a hundred kilometres anywhere, poles and seam among them."""
    polar = st.sampled_from([90.0, -90.0]) | st.floats(-5, 0).map(lambda e: 90 - 10**e)
    lat = draw(st.floats(-85, 85) | polar)
    lon = draw(st.floats(-180, 180) | st.sampled_from([180.0, -180.0, 179.999]))
    reach = 10 ** draw(st.floats(-4, 0))
    wide = reach / max(1e-3, math.cos(math.radians(lat)))
    offsets = st.tuples(st.floats(-1, 1), st.floats(-1, 1))
    steps = draw(st.lists(offsets, min_size=2, max_size=6, unique=True))
    return [
        (wrap((lon + wide * x) % 360.0), max(-90.0, min(90.0, lat + reach * y))) for x, y in steps
    ]


def attempted(line: Line, width_m: float) -> tuple[Fence | None, set[str]]:
    try:
        return corridor(line, width_m), set()
    except FenceRejected as refused:
        return None, {problem.code for problem in refused.problems}


SHORT_AND_WINDING: Final[list[tuple[Line, float]]] = [
    (
        [
            (-85.5448757341353, 90.0),
            (179.99328402773608, 89.99947971866094),
            (-179.99328402773608, 90.0),
        ],
        19952.62314968879,
    ),
    (
        [
            (-70.98069750930716, -89.9979285600323),
            (-73.31660065356266, -90.0),
            (-77.04655240664351, -89.99992761520134),
            (-70.98069750930716, -90.0),
        ],
        1800.7421018694251,
    ),
    (
        [
            (-1.295486299568438e-06, 89.99892201381446),
            (1.6408449715616766e-13, 89.99882201381446),
            (0.05432026440078757, 89.99886355782954),
            (2.5319395279418127e-08, 89.99892201381446),
        ],
        19952.62314968879,
    ),
]
"""Of which GEOS' buffer has a sliver of a hole at its rim, crosses itself, or is several parts."""
LEFT_OUT: Final[Line] = [
    (-122.34437173759864, 90.0),
    (91.53601330823881, 89.99757223447284),
    (91.54601330823881, 89.87642647027201),
    (-48.23306564591178, 89.99758223447284),
    (-128.4639866917612, 89.67573506446028),
]
"""Whose bends GEOS' buffer leaves out: its side was 0.5 % of the width away."""


@given(lines(), st.floats(-1, 4.3).map(lambda e: 10**e))
@example(*SHORT_AND_WINDING[0])
@example(*SHORT_AND_WINDING[1])
@example(*SHORT_AND_WINDING[2])
@example(LEFT_OUT, 19952.62314968879)
@settings(max_examples=30, deadline=None)
def test_a_corridor_anywhere_is_right_or_refused(line: Line, width_m: float) -> None:
    """Within the error that is told, valid, and the same when it is read again."""
    fence, codes = attempted(line, width_m)
    if fence is None:
        assert codes <= {"too_many_vertices", "line_too_short"}
        return

    off_m = abs(geodesic_to_line_m(line, on_the_side(fence, 20)) - width_m / 2)
    assert off_m.max() <= WIDTH_ERROR_MAX * width_m + 1e-6
    assert shape(fence).geometry.is_valid
    again = parse_fence(orjson.loads(orjson.dumps(to_feature(fence))))
    assert shapely.equals_identical(shape(again).geometry, shape(fence).geometry)


def test_a_thin_corridor_over_a_pole_is_refused_before_it_is_drawn() -> None:
    """Its sides would need a corner each few millimetres: five million of them."""
    tracemalloc.start()
    try:
        fence, codes = attempted([(20.0, 89.9), (20.0, 90.0)], 0.1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (fence, codes) == (None, {"too_many_vertices"})
    assert peak < 5_000_000


def test_the_polygon_that_came_with_it_is_taken_even_if_we_would_draw_another() -> None:
    """A later version of a library may place a corner elsewhere; the fence must not move."""
    document = to_feature(corridor([(13.4, 52.5), (13.41, 52.5)], 20.0))
    (rings,) = document["properties"]["corridor"]["coordinates"]
    rings[0][3][1] += 1e-9

    fence = parse_fence(document)

    assert to_feature(fence) == document
    assert shapely.get_coordinates(shape(fence).geometry).tolist() == rings[0]


@pytest.mark.parametrize("edit", ["line", "width_m"])
def test_an_edited_line_or_width_gets_a_polygon_of_its_own(edit: str) -> None:
    """An answer that is edited and sent back is not held to the polygon that it came with."""
    document = to_feature(corridor([(13.4, 52.5), (13.41, 52.5)], 20.0))
    if edit == "line":
        document["geometry"] = {"type": "LineString", "coordinates": [[13.4, 52.5], [13.4, 52.6]]}
    else:
        document["properties"]["width_m"] = 30.0

    fence = parse_fence(document)

    without = {k: v for k, v in document["properties"].items() if k != "corridor"}
    fresh = parse_fence(document | {"properties": without})
    assert shapely.equals_identical(shape(fence).geometry, shape(fresh).geometry)
    assert to_feature(fence)["properties"]["corridor"] != document["properties"]["corridor"]


SQUARE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "damage",
    [
        {"coordinates": None},
        {"coordinates": []},
        {"coordinates": "x"},
        {"coordinates": [[[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]]},
        {"coordinates": [[[[*p, 5.0] for p in SQUARE]]]},
        {"coordinates": [[[[181 * lon, lat] for lon, lat in SQUARE]]]},
        {"coordinates": [[SQUARE[:3]]]},
        {"type": "Polygon", "coordinates": [SQUARE]},
        {"type": "Point", "coordinates": [1, 2]},
        {"type": 5},
        {"of": "0" * 16},
        {"of": None},
    ],
)
def test_a_polygon_that_is_not_whole_is_drawn_anew(damage: dict[str, Any]) -> None:
    """Whoever damages it has no other polygon taken for it, and no error."""
    whole = to_feature(corridor([(13.4, 52.5), (13.41, 52.5)], 20.0))
    properties = whole["properties"]
    damaged = properties | {"corridor": properties["corridor"] | damage}

    assert to_feature(parse_fence(whole | {"properties": damaged})) == whole
    nothing = properties | {"corridor": "x"}
    assert to_feature(parse_fence(whole | {"properties": nothing})) == whole


def test_several_lines_make_one_corridor_and_come_back_as_several() -> None:
    """A MultiLineString, of one line too, stays one."""
    lines = [[[13.4, 52.5], [13.41, 52.5]], [[13.405, 52.49], [13.405, 52.51]]]
    for given_lines in (lines, lines[:1]):
        geometry = {"type": "MultiLineString", "coordinates": given_lines}
        fence = parse_fence(feature(geometry, width_m=20))

        assert orjson.loads(orjson.dumps(to_feature(fence)["geometry"])) == geometry
        assert covers(fence, 13.4, 52.5)
        assert covers(fence, 13.405, 52.495) == (len(given_lines) == 2)
        assert not covers(fence, 13.4, 52.501)


def test_a_line_that_comes_back_on_itself_leaves_its_middle_out() -> None:
    """A round of a block is a ring, and the block is not in it."""
    block = [(13.4, 52.5), (13.41, 52.5), (13.41, 52.51), (13.4, 52.51), (13.4, 52.5)]
    fence = corridor(block, 20.0)

    assert len(shape(fence).geometry.boundary.geoms) == 2
    assert not covers(fence, 13.405, 52.505)
    assert depth_m(fence, 13.405, 52.5) == pytest.approx(10.0, rel=0.01)


def test_the_index_says_of_corridors_what_their_polygons_say() -> None:
    """Along the line, at its sides and beside, one and many, across the seam."""
    rng = random.Random(5)
    made = []
    for n, (line, width_m) in enumerate(EVERYWHERE):
        positions = [list(position) for position in line]
        geometry = {"type": "LineString", "coordinates": positions}
        made.append(parse_fence(feature(geometry, f"c{n:02}", width_m=width_m)))
    index = FenceIndex.load(made)
    points = np.concatenate([on_the_side(fence, 40) for fence in made])
    points += np.array([rng.choice((0.0, 1e-9, -1e-9)) for _ in range(2 * len(points))]).reshape(
        -1, 2
    )

    every = index.covering_many(points)

    truth = [
        [f for f in made if shape(f).geometry.covers(shapely.Point(point))]
        for point in points.tolist()
    ]
    assert [list(found) for found in every] == truth
    assert [list(index.covering(*point)) for point in points.tolist()] == truth
    assert sum(map(len, truth)) > 100
