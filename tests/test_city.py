"""The made-up city is the same in every process, and its residents move and err as people do."""

import math
import os
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import msgspec
import pytest
from pyproj import Geod
from shapely.geometry import LineString, MultiLineString, Point, Polygon, shape

from engine.web.brands import BrandBody
from engine.web.offers import OfferBody
from geofences.geojson import parse_fence
from loadtest.city import HOUR_MS, City, city_map_svg
from loadtest.merchants import SET_BACK_M
from loadtest.streets import to_lon_lat, to_plane
from loadtest.walks import LATE_MAX_MS, SPEED_MAX_MPS, SPEED_MIN_MPS

ROOT = Path(__file__).resolve().parent.parent
START_MS = 1_790_000_000_000
DIGEST = """
import hashlib, json
from loadtest.city import City, city_map_svg
city = City.make(7, residents=12)
walks = [list(city.walk(r, 1_790_000_000_000, seconds=1800, interval_s=5)) for r in city.residents]
text = json.dumps([city.brands, city.fences, city.offers, walks]) + repr(city.residents)
print(hashlib.sha256((text + city_map_svg(city)).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def city() -> City:
    """The city that the tests of this file look at."""
    return City.make(11, residents=60)


def walk_of_an_hour(city: City, number: int) -> list[dict[str, Any]]:
    """One resident's pings as they are delivered."""
    resident = city.residents[number]
    return list(city.walk(resident, START_MS, seconds=3600, interval_s=5))


def distance_m(ping: dict[str, Any], at: tuple[float, float]) -> float:
    """From a ping to a point of the plane."""
    return math.dist(to_plane(ping["lon"], ping["lat"]), at)


def test_equal_seeds_give_equal_bytes_under_any_hash_seed() -> None:
    """Neither the process nor the order of its sets shows in the city or in the walks."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "7")
    }

    assert len(digests) == 1


def test_another_seed_gives_another_city(city: City) -> None:
    """The seed reaches streets, merchants and residents."""
    other = City.make(12, residents=60)

    assert other.streets.nodes != city.streets.nodes
    assert other.fences != city.fences
    assert other.residents != city.residents


def test_more_residents_leave_the_first_ones_as_they_were(city: City) -> None:
    """A load test of another size still walks the same people."""
    assert City.make(11, residents=5).residents == city.residents[:5]


def test_metres_are_those_of_the_ellipsoid() -> None:
    """The plane and WGS 84 agree to one in a thousand, at the city's edge too."""
    geod = Geod(ellps="WGS84")
    for x, y in [(700.0, 0.0), (0.0, -700.0), (-700.0, 700.0), (3_000.0, 3_000.0)]:
        _, _, far_m = geod.inv(*to_lon_lat((0.0, 0.0)), *to_lon_lat((x, y)))

        assert far_m == pytest.approx(math.hypot(x, y), rel=1e-3)


def test_every_crossing_can_be_walked_to(city: City) -> None:
    """The river cuts nobody off: there are bridges."""
    bridges = [edge for edge in city.streets.edges if edge.street.endswith("Bridge")]
    reached, queue = {0}, [0]
    while queue:
        queue += [n for _, n in city.streets.ways[queue.pop()] if n not in reached]
        reached.update(queue)

    assert bridges
    assert len(reached) == len(city.streets.nodes)


def test_shortest_path_is_no_longer_than_any_other(city: City) -> None:
    """A* agrees with relaxing all edges until nothing changes."""
    streets = city.streets
    best_m = [math.inf] * len(streets.nodes)
    best_m[3] = 0.0
    for _ in streets.nodes:
        for here, ways in enumerate(streets.ways):
            for length_m, there in ways:
                best_m[there] = min(best_m[there], best_m[here] + length_m)

    for goal in range(0, len(streets.nodes), 7):
        path = [streets.nodes[n] for n in streets.shortest_path(3, goal)]
        walked_m = sum(math.dist(a, b) for a, b in pairwise(path))
        assert walked_m == pytest.approx(best_m[goal])


def test_fences_are_valid_and_of_every_kind(city: City) -> None:
    """Circles of 25 to 80 m; buildings that shapely calls valid, some with a hole, wound right."""
    circles = [f for f in city.fences if f["geometry"]["type"] == "Point"]
    polygons = [
        Polygon(f["geometry"]["coordinates"][0], f["geometry"]["coordinates"][1:])
        for f in city.fences
        if f["geometry"]["type"] == "Polygon"
    ]

    assert len(city.fences) == len({f["id"] for f in city.fences}) == 120
    assert len(circles) > len(polygons) > 10
    assert all(25 <= f["properties"]["radius_m"] <= 80 for f in circles)
    assert all(p.is_valid and p.exterior.is_ccw for p in polygons)
    assert any(p.interiors for p in polygons)
    assert not any(ring.is_ccw for p in polygons for ring in p.interiors)


def test_each_shop_stands_in_its_own_fence_and_beside_its_street(city: City) -> None:
    """Who stands at the counter is inside; the street is as far as it should be."""
    for shop, fence in zip(city.merchants.shops, city.fences, strict=True):
        edge = city.streets.edges[shop.edge]
        street = LineString([city.streets.nodes[edge.a], city.streets.nodes[edge.b]])

        assert edge.built
        assert street.distance(Point(shop.at)) == pytest.approx(SET_BACK_M)
        if fence["geometry"]["type"] == "Polygon":
            assert shape(fence["geometry"]).covers(Point(to_lon_lat(shop.at)))


def test_offers_fit_their_brands_and_fences(city: City) -> None:
    """One offer a brand, at fences or tags that are the brand's own, with a dwell where due."""
    brand_of = {f["id"]: f["properties"]["brand"] for f in city.fences}
    tags = {tag for f in city.fences for tag in f["properties"]["tags"]}
    kinds = {offer["trigger"] for offer in city.offers}
    brands = {brand["id"] for brand in city.brands}

    assert [o["brand"] for o in city.offers] == [b["id"] for b in city.brands]
    assert set(brand_of.values()) == brands
    assert kinds == {"enter", "dwell", "exit", "pass"}
    assert any("budget" in offer for offer in city.offers)
    for offer in city.offers:
        assert ("dwell_s" in offer) == (offer["trigger"] == "dwell")
        assert ("fences" in offer) != ("tags" in offer)
        assert all(brand_of[fence] == offer["brand"] for fence in offer.get("fences", []))
        assert tags.issuperset(offer.get("tags", []))


def test_bodies_are_what_the_service_takes(city: City) -> None:
    """Brands, offers and fences pass the checks that they meet over HTTP."""
    for brand in city.brands:
        msgspec.convert(brand, BrandBody)
    for offer in city.offers:
        msgspec.convert(offer, OfferBody)
    for feature in city.fences:
        assert parse_fence(feature).id == feature["id"]


def test_residents_choose_all_some_or_nothing(city: City) -> None:
    """Each choice is there, and a choice of some names brands that exist."""
    brands = {brand["id"] for brand in city.brands}
    everything = [r for r in city.residents if r.opted_in and r.brands is None]
    nothing = [r for r in city.residents if not r.opted_in]
    some = [r for r in city.residents if r.opted_in and r.brands is not None]

    assert len(everything) > len(some) > 0
    assert nothing
    assert all(r.brands and brands.issuperset(r.brands) for r in some)


def test_true_positions_stay_on_streets_and_in_shops(city: City) -> None:
    """Nobody walks through the river or across a block."""
    nodes = city.streets.nodes
    streets = MultiLineString([[nodes[e.a], nodes[e.b]] for e in city.streets.edges])
    for resident in city.residents[:10]:
        for _, at, _ in city.true_positions(resident, START_MS, seconds=3600, interval_s=5):
            assert streets.distance(Point(at)) <= SET_BACK_M + 1e-6


def test_speeds_are_those_of_people_on_foot(city: City) -> None:
    """Nobody walks faster than 1.6 m/s; who goes on in a straight line does at least 1.1."""
    for resident in city.residents[:10]:
        way = list(city.true_positions(resident, START_MS, seconds=3600, interval_s=5))
        for (_, a, part), (_, b, part_after) in pairwise(way):
            speed_mps = math.dist(a, b) / 5

            assert speed_mps <= SPEED_MAX_MPS + 1e-9
            if part is part_after and part.a != part.b:
                assert speed_mps >= SPEED_MIN_MPS - 1e-9


def test_walks_have_pauses_and_reach_shops(city: City) -> None:
    """In an hour a resident stands still for a while, and some stand in a shop they like."""
    inside = 0
    for resident in city.residents[:10]:
        way = list(city.true_positions(resident, START_MS, seconds=3600, interval_s=5))
        shops = [city.merchants.shops[n].at for n in resident.likes]
        inside += any(at == pytest.approx(shop) for _, at, _ in way for shop in shops)
        still = sum(part.a == part.b for _, _, part in way)

        assert 0 < still < len(way)
    assert inside >= 5


def test_noise_matches_the_accuracy_reported(city: City) -> None:
    """About 68 in 100 fixes lie within accuracy_m of the truth, and few beyond three times it."""
    within = beyond = total = 0
    for number, resident in enumerate(city.residents):
        way = city.true_positions(resident, START_MS, seconds=3600, interval_s=5)
        truth = {START_MS + round(at_s * 1000): at for at_s, at, _ in way}
        for ping in walk_of_an_hour(city, number):
            off_m = distance_m(ping, truth[ping["at_ms"]])
            within += off_m <= ping["accuracy_m"]
            beyond += off_m > 3 * ping["accuracy_m"]
            total += 1

    assert 0.64 < within / total < 0.72
    assert beyond / total < 0.002


def test_noise_lasts_from_fix_to_fix(city: City) -> None:
    """The error of 5 s later is much the same one: averaging a few fixes doesn't remove it."""
    product = square = 0.0
    for number, resident in enumerate(city.residents[:30]):
        way = city.true_positions(resident, START_MS, seconds=3600, interval_s=5)
        truth = {START_MS + round(at_s * 1000): at for at_s, at, _ in way}
        east_m = {
            ping["at_ms"]: to_plane(ping["lon"], ping["lat"])[0] - truth[ping["at_ms"]][0]
            for ping in walk_of_an_hour(city, number)
        }
        for at_ms, error_m in east_m.items():
            if at_ms + 5_000 in east_m:
                product += error_m * east_m[at_ms + 5_000]
                square += error_m * error_m

    assert 0.85 < product / square < 0.97


def test_delivery_has_gaps_late_and_duplicate_fixes(city: City) -> None:
    """What a network does is there: silence, late fixes within 120 s, and the same fix twice."""
    silences = late = twice = 0
    for number in range(len(city.residents)):
        times = [ping["at_ms"] for ping in walk_of_an_hour(city, number)]
        silences += sum(b - a >= 60_000 for a, b in pairwise(sorted(times)))
        twice += len(times) - len(set(times))
        newest_ms = 0
        for at_ms in times:
            assert newest_ms - at_ms <= LATE_MAX_MS
            late += at_ms < newest_ms
            newest_ms = max(newest_ms, at_ms)

    assert silences > 20
    assert late > 100
    assert twice > 30


def test_pings_are_what_the_service_takes(city: City) -> None:
    """Fields of the contract only, in range, in whole milliseconds."""
    always = {"resident", "at_ms", "lon", "lat", "accuracy_m", "speed_mps"}
    for ping in walk_of_an_hour(city, 0):
        assert ping.keys() - {"heading_deg"} == always
        assert isinstance(ping["at_ms"], int)
        assert 0 < ping["accuracy_m"] < 150
        assert 0 <= ping.get("heading_deg", 0.0) < 360


@pytest.mark.parametrize("hour", range(24))
def test_it_is_early_afternoon_in_the_daytime_zone(hour: int) -> None:
    """At any hour there is a zone in which quiet hours are far away."""
    now_ms = START_MS // HOUR_MS * HOUR_MS + hour * HOUR_MS + 59 * 60_000
    zone = ZoneInfo(City.daytime_zone(now_ms))

    assert datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(zone).hour == 13


def test_the_map_is_well_formed_and_shows_every_shop(city: City) -> None:
    """One element, parsed by an XML parser, with a circle for each shop."""
    root = ElementTree.fromstring(city_map_svg(city))

    assert root.tag.endswith("svg")
    assert len(root.findall("{*}circle")) == len(city.merchants.shops)
