"""A polygon in wedges says what GEOS says of it, or nothing."""

import math

import numpy as np
import pytest
import shapely
import shapely.affinity

from geofences.fan import Fan, fan_of
from geofences.plane import Polygonal

AT = (13.4, 52.5)
PER_DEGREE_M = (67_900.0, 111_270.0)


def gear(rng: np.random.Generator, corners: int, radius_m: float) -> shapely.Polygon:
    """A polygon with teeth, now and then a hole, and its middle anywhere in or beside it."""
    turns = np.sort(rng.uniform(0.0, 2 * math.pi, corners))
    rays_m = radius_m * rng.uniform(0.2, 1.0, corners)
    shell = np.stack((np.cos(turns), np.sin(turns)), axis=1) * rays_m[:, None]
    made = shapely.make_valid(shapely.Polygon(shell + rng.uniform(-0.5, 0.5, 2) * radius_m))
    hole = shapely.Point(rng.uniform(-0.3, 0.3, 2) * radius_m).buffer(0.15 * radius_m)
    kept = shapely.difference(made, hole) if rng.random() < 0.5 else made
    largest: shapely.Polygon = max(shapely.get_parts(kept), key=shapely.area)
    return largest


def town(rng: np.random.Generator) -> shapely.MultiPolygon:
    """Polygons side by side, with the middle in none of them or in one."""
    parts = [shapely.affinity.translate(gear(rng, 9, 40.0), x, 15.0) for x in (-80.0, 80.0)]
    return shapely.MultiPolygon(parts)


def on_earth(xy_m: np.ndarray) -> tuple[float, float]:
    """A position on the map as lon and lat."""
    return (
        AT[0] + float(xy_m[0]) / PER_DEGREE_M[0],
        AT[1] + float(xy_m[1]) / PER_DEGREE_M[1],
    )


def fanned(shape: Polygonal) -> Fan | None:
    """A shape in wedges."""
    inside = bool(shapely.intersects_xy(shape, 0.0, 0.0))
    return fan_of(shape, AT, PER_DEGREE_M, inside=inside)


def shapes() -> list[tuple[Polygonal, Fan]]:
    """Shapes of many kinds, in wedges."""
    rng = np.random.default_rng(5)
    made: list[Polygonal] = [gear(rng, corners, 60.0) for corners in (3, 4, 7, 24, 60) * 8]
    made += [town(rng) for _ in range(10)]
    fans = [(shape, fanned(shape)) for shape in made]
    return [(shape, fan) for shape, fan in fans if fan is not None]


def positions(shape: Polygonal, rng: np.random.Generator) -> np.ndarray:
    """Around a shape, and right at its corners and edges: (n, 2) metres."""
    corners = shapely.get_coordinates(shape)
    ways = rng.random((len(corners) - 1, 1))
    on_edges = corners[:-1] * ways + corners[1:] * (1 - ways)
    around = rng.uniform(-130.0, 130.0, (150, 2))
    hard = np.concatenate((corners, on_edges))
    off_m = 10.0 ** rng.uniform(-9, 0, (len(hard), 1)) * rng.choice((-1.0, 1.0), (len(hard), 2))
    return np.concatenate((around, hard, hard + off_m))


def test_what_it_covers_is_what_geos_covers_except_for_doubts_beside_the_boundary() -> None:
    """Doubts are rare away from the boundary, and nothing but the truth is said at all."""
    rng = np.random.default_rng(6)
    asked = doubted = 0
    for shape, fan in shapes():
        outline = shape.boundary
        for xy_m in positions(shape, rng):
            told = fan.covers(*on_earth(xy_m))
            away_m = outline.distance(shapely.Point(xy_m))
            if told is None:
                doubted += away_m > 1e-4
            elif away_m > 1e-7:
                assert told == shape.intersects(shapely.Point(xy_m))
            else:
                pytest.fail("it was sure right on the boundary")
            asked += 1

    assert asked > 10_000
    assert doubted < 20


def test_it_reaches_as_far_as_geos_measures() -> None:
    """Whether an edge is near is what the distance says, or a doubt within a micrometre."""
    rng = np.random.default_rng(7)
    told = []
    for shape, fan in shapes():
        outline = shape.boundary
        for xy_m in positions(shape, rng)[:150]:
            true_m = outline.distance(shapely.Point(xy_m))
            for away_m in (0.0, 5.0, 28.0, 200.0, true_m - 1e-5, true_m + 1e-5):
                reached = fan.reaches(*on_earth(xy_m), max(away_m, 0.0))
                told.append(reached)
                if reached is not None:
                    assert reached == (true_m <= away_m)

    assert told.count(None) < 20
    assert {True, False} <= set(told)


def test_a_way_that_passes_by_meets_no_edge() -> None:
    """Of ways of 30 m that meet no edge, nearly all are known to."""
    rng = np.random.default_rng(8)
    free = known = 0
    for shape, fan in shapes():
        outline = shape.boundary
        for start in positions(shape, rng)[:150]:
            end = start + rng.normal(0.0, 20.0, 2)
            passes_by = fan.passes_by(*on_earth(start), *on_earth(end))
            meets = shapely.LineString((start, end)).intersects(outline)
            assert not (passes_by and meets)
            free += not meets
            known += passes_by

    assert known > 0.95 * free > 1_000


def test_no_fan_is_made_where_it_would_not_help() -> None:
    """With too many edges, too many in one wedge, or the middle on the boundary."""
    round_one = shapely.Point(0.0, 0.0).buffer(50.0, quad_segs=200)
    teeth = [(x / 50, 40.0 + 10.0 * (x % 2)) for x in range(100)]
    comb = shapely.Polygon([(0.0, -50.0), (-50.0, 0.0), *teeth, (50.0, 0.0)])
    corner = shapely.box(0.0, 0.0, 50.0, 50.0)

    assert [fanned(shape) for shape in (round_one, comb, corner)] == [None] * 3
