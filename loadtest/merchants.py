"""The merchants of a made-up city: shops along its streets, their fences and their offers."""

import math
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from loadtest.streets import Point, Streets, to_lon_lat

SET_BACK_M: Final = 14.0
"""From the middle of the street to the middle of a shop."""
CHAIN_SHARE: Final = 0.35
"""Of all shops, those that belong to a chain."""

CATEGORIES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "cafe": (
        ("A filter coffee on us", "With any pastry, at the counter."),
        ("Second cup free", "Stay a while: the refill is on the house."),
    ),
    "restaurant": (
        ("Lunch for two, one pays", "The cheaper dish is free until three."),
        ("Dessert with your dinner", "Ask for today's, with any main dish."),
    ),
    "bakery": (
        ("Three rolls for two", "Warm from the oven, while they last."),
        ("Yesterday's bread, half price", "Still good, and not thrown away."),
    ),
    "bookshop": (
        ("A tenth off any paperback", "Also those on the table by the door."),
        ("Children's hour", "A picture book at half price after school."),
    ),
    "clothes": (
        ("A fifth off knitwear", "Everything woollen on the ground floor."),
        ("Two shirts, one price", "The second one at half the price."),
    ),
    "florist": (
        ("A bunch for the way home", "Seasonal flowers at a third off."),
        ("A pot plant free", "With any bouquet over fifteen."),
    ),
    "bicycle_shop": (
        ("Free brake check", "Roll in; it takes five minutes."),
        ("A tenth off lights", "Before the evenings grow dark."),
    ),
    "gym": (
        ("A day on trial", "Bring shoes; towels are here."),
        ("First month at half price", "Sign up at the desk today."),
    ),
}
"""Category -> offers, each a title and a body."""

_OWNERS: Final = (
    "Abelin", "Brask", "Corvane", "Dunmarsh", "Elvery", "Fosk", "Galbrin", "Hestor", "Ivarra",
    "Jellis", "Kestmar", "Lorrin", "Mavelle", "Norbeck", "Orsley", "Pellin", "Quenby", "Rosmer",
    "Sallow", "Tervane", "Ulbrick", "Vessel", "Wendle", "Yarrin", "Zellan",
)  # fmt: skip
_SIGNS: Final[dict[str, tuple[str, ...]]] = {
    "cafe": ("Coffee", "Espresso Bar", "Tea and Cake"),
    "restaurant": ("Kitchen", "Table", "Noodles"),
    "bakery": ("Bakery", "Oven", "Bread"),
    "bookshop": ("Books", "Pages", "Reading Room"),
    "clothes": ("Outfitters", "Wool", "Tailors"),
    "florist": ("Flowers", "Garden", "Petals"),
    "bicycle_shop": ("Wheels", "Cycles", "Spokes"),
    "gym": ("Gym", "Climbing", "Fitness"),
}
_TRIGGERS: Final = {"enter": 0.55, "dwell": 0.2, "pass": 0.15, "exit": 0.1}


@dataclass(frozen=True, slots=True)
class Shop:
    """A shop: `door` is the point of the street in front of it, `at` the middle of the shop."""

    id: str
    brand: str
    name: str
    category: str
    edge: int
    door: Point
    at: Point
    along: Point
    """Unit vector of the street it stands at."""


@dataclass(frozen=True, slots=True)
class Merchants:
    """Shops, and the bodies that register their brands, fences and offers."""

    shops: list[Shop]
    brands: list[dict[str, Any]]
    fences: list[dict[str, Any]]
    offers: list[dict[str, Any]]


def make_merchants(rng: Random, streets: Streets, *, shops: int, timezone: str) -> Merchants:
    """Open `shops` shops along the built streets, some of chains, each with a fence.

    Offers: one for each chain, at all its shops by tag, and one for each other shop by fence.
    """
    brands = _make_brands(rng, shops=shops, timezone=timezone)
    built = [n for n, edge in enumerate(streets.edges) if edge.built]
    placed = [
        _place(rng, streets, built, number, brand)
        for number, brand in enumerate(_brand_of_each_shop(rng, brands, shops=shops))
    ]
    fences = [_fence(rng, shop) for shop in placed]
    by_brand: dict[str, list[str]] = {}
    for shop in placed:
        by_brand.setdefault(shop.brand, []).append(shop.id)
    opened = [brand for brand in brands if brand["id"] in by_brand]
    offers = [_offer(rng, brand, by_brand[brand["id"]], timezone=timezone) for brand in opened]
    return Merchants(shops=placed, brands=opened, fences=fences, offers=offers)


def _make_brands(rng: Random, *, shops: int, timezone: str) -> list[dict[str, Any]]:
    """As many brands as can be needed; the first ones are the chains."""
    brands = []
    categories = sorted(CATEGORIES)
    for number in range(shops):
        category = categories[rng.randrange(len(categories))]
        lap, owner = divmod(number, len(_OWNERS))
        sign = _SIGNS[category][lap % 3]
        branch = f" No. {lap // 3 + 1}" if lap >= 3 else ""
        brands.append(
            {
                "id": f"brand-{number:04}",
                "name": f"{_OWNERS[owner]}'s {sign}{branch}",
                "categories": [category],
                "timezone": timezone,
            }
        )
    return brands


def _brand_of_each_shop(
    rng: Random, brands: list[dict[str, Any]], *, shops: int
) -> list[dict[str, Any]]:
    """A share of the shops goes to a few chains, each other one has a brand of its own."""
    chains = max(1, shops // 25)
    single = iter(brands[chains:])
    return [
        brands[rng.randrange(chains)] if n < chains or rng.random() < CHAIN_SHARE else next(single)
        for n in range(shops)
    ]


def _place(
    rng: Random, streets: Streets, built: list[int], number: int, brand: dict[str, Any]
) -> Shop:
    """Put a shop at a random point of a built street, on a random side of it."""
    at = built[rng.randrange(len(built))]
    edge = streets.edges[at]
    (ax, ay), (bx, by) = streets.nodes[edge.a], streets.nodes[edge.b]
    length_m = math.dist((ax, ay), (bx, by))
    ux, uy = (bx - ax) / length_m, (by - ay) / length_m
    part = rng.uniform(0.12, 0.88)
    side_m = rng.choice((-SET_BACK_M, SET_BACK_M))
    door = (ax + part * (bx - ax), ay + part * (by - ay))
    return Shop(
        id=f"shop-{number:04}",
        brand=brand["id"],
        name=f"{brand['name']}, {edge.street}",
        category=brand["categories"][0],
        edge=at,
        door=door,
        at=(door[0] - uy * side_m, door[1] + ux * side_m),
        along=(ux, uy),
    )


def _fence(rng: Random, shop: Shop) -> dict[str, Any]:
    """Three in four are circles, the others buildings, a third of those around a courtyard."""
    properties: dict[str, Any] = {
        "brand": shop.brand,
        "name": shop.name,
        "tags": [shop.category, f"of-{shop.brand}"],
    }
    geometry: dict[str, Any]
    if rng.random() < 0.75:
        properties["radius_m"] = round(rng.triangular(25.0, 80.0, 40.0), 1)
        geometry = {"type": "Point", "coordinates": list(to_lon_lat(shop.at))}
    else:
        length_m, depth_m = rng.uniform(34.0, 70.0), rng.uniform(30.0, 44.0)
        rings = [_building(shop, length_m, depth_m, corner_m=rng.choice((0.0, 10.0)))]
        if rng.random() < 0.35:
            # Behind the shop, so that who stands at the counter is not in the courtyard.
            rings.append(_courtyard(shop, length_m * 0.3, depth_m * 0.18))
        geometry = {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "id": shop.id, "geometry": geometry, "properties": properties}


def _ring(shop: Shop, corners: list[Point]) -> list[list[float]]:
    """A closed ring from corners in metres along the street and away from it."""
    (ux, uy), (x, y) = shop.along, shop.at
    # Away from the street: from the door to the middle of the shop.
    ax, ay = (x - shop.door[0]) / SET_BACK_M, (y - shop.door[1]) / SET_BACK_M
    ring = [list(to_lon_lat((x + s * ux + t * ax, y + s * uy + t * ay))) for s, t in corners]
    if ux * ay - uy * ax < 0:  # mirrored: the other side of the street
        ring.reverse()
    return [*ring, ring[0]]


def _building(shop: Shop, length_m: float, depth_m: float, *, corner_m: float) -> list[list[float]]:
    """A building that begins at the middle of the street; an L where `corner_m` is cut off."""
    half, near, far = length_m / 2, -SET_BACK_M, depth_m - SET_BACK_M
    corners = [(-half, near), (half, near), (half, far)]
    if corner_m:
        corners += [(-half + corner_m, far), (-half + corner_m, far - corner_m)]
        corners += [(-half, far - corner_m)]
    else:
        corners += [(-half, far)]
    return _ring(shop, corners)


def _courtyard(shop: Shop, length_m: float, depth_m: float) -> list[list[float]]:
    """A hole near the back of the building, wound the other way round as RFC 7946 asks."""
    half = length_m / 2
    return _ring(shop, [(-half, 6.0), (half, 6.0), (half, 6.0 + depth_m), (-half, 6.0 + depth_m)])[
        ::-1
    ]


def _offer(
    rng: Random, brand: dict[str, Any], shops: list[str], *, timezone: str
) -> dict[str, Any]:
    """An offer of a brand: at its one shop, or at all shops of the chain."""
    category = brand["categories"][0]
    title, body = rng.choice(CATEGORIES[category])
    trigger = rng.choices(list(_TRIGGERS), list(_TRIGGERS.values()))[0]
    offer: dict[str, Any] = {
        "id": brand["id"].replace("brand", "offer"),
        "brand": brand["id"],
        "title": title,
        "body": f"{body} At {brand['name']}.",
        "trigger": trigger,
        "timezone": timezone,
        "categories": [category],
        "channel": "push",
        "purpose": "offers",
        "caps": {"per_resident_day": 1, "cool_down_s": rng.choice((3_600, 6 * 3_600, 86_400))},
        "status": "live",
    }
    offer |= {"tags": [f"of-{brand['id']}"]} if len(shops) > 1 else {"fences": shops}
    if trigger == "dwell":
        offer["dwell_s"] = rng.choice((45, 60, 120))
    if rng.random() < 0.3:
        offer["budget"] = {"total": rng.choice((5, 20, 100))}
    if rng.random() < 0.5:
        offer["claim_ttl_s"] = rng.choice((1_800, 7_200))
    return offer
