"""The street graph of a made-up city: an irregular grid, a river with bridges, and parks.

Everything is in metres in a plane around the city's centre, x east and y north. The projection is
equirectangular, which over the few kilometres of a city is true to better than one in a thousand.
"""

import heapq
import math
from dataclasses import dataclass, field
from random import Random
from typing import Final

Point = tuple[float, float]

CENTRE_LON: Final = 24.94
CENTRE_LAT: Final = 60.17
BLOCK_M: Final = 130.0
"""Mean distance between two crossings."""
RIVER_WIDTH_M: Final = 44.0
BRIDGE_EVERY: Final = 3
"""Every so many north-south streets cross the river; the others end at the bank."""

_M_PER_DEGREE_LAT: Final = 111_415.2
_M_PER_DEGREE_LON: Final = 55_513.5
"""Along the meridian and the parallel of the centre, on the ellipsoid of WGS 84."""

_FIRST: Final = (
    "Alder", "Amber", "Anchor", "Barley", "Beacon", "Candle", "Cinder", "Clover", "Copper",
    "Curlew", "Damson", "Ember", "Fennel", "Finch", "Foundry", "Garnet", "Hazel", "Heron",
    "Juniper", "Kestrel", "Lantern", "Larch", "Linnet", "Magpie", "Marble", "Mulberry", "Nettle",
    "Osprey", "Pebble", "Pepper", "Quarry", "Quill", "Rowan", "Saffron", "Sorrel", "Spindle",
    "Tanner", "Teasel", "Thistle", "Velvet", "Weaver", "Willow",
)  # fmt: skip
_ALONG: Final = ("Street", "Row", "Road", "Parade")
_ACROSS: Final = ("Lane", "Hill", "Gate", "Walk")


@dataclass(frozen=True, slots=True)
class Edge:
    """A stretch of street between two crossings; `built` where houses can stand along it."""

    a: int
    b: int
    street: str
    built: bool


@dataclass(slots=True)
class Streets:
    """Crossings and the stretches between them; one connected piece."""

    nodes: list[Point]
    edges: list[Edge]
    river: list[Point]
    parks: list[tuple[Point, ...]]
    ways: list[list[tuple[float, int]]] = field(default_factory=list)
    """Of each crossing: length in metres and the crossing at the other end."""

    def __post_init__(self) -> None:
        """Index the stretches by crossing."""
        self.ways = [[] for _ in self.nodes]
        for edge in self.edges:
            length_m = math.dist(self.nodes[edge.a], self.nodes[edge.b])
            self.ways[edge.a].append((length_m, edge.b))
            self.ways[edge.b].append((length_m, edge.a))

    def shortest_path(self, start: int, goal: int) -> list[int]:
        """Crossings from start to goal, both included, by the shortest way (A*).

        Equal lengths go by the lower crossing number, so that the answer is always the same.
        """
        goal_at = self.nodes[goal]
        best_m, came = {start: 0.0}, {start: start}
        queue = [(math.dist(self.nodes[start], goal_at), start)]
        while queue:
            _, here = heapq.heappop(queue)
            if here == goal:
                break
            for length_m, there in self.ways[here]:
                sum_m = best_m[here] + length_m
                if sum_m < best_m.get(there, math.inf):
                    best_m[there], came[there] = sum_m, here
                    heapq.heappush(queue, (sum_m + math.dist(self.nodes[there], goal_at), there))
        path = [goal]
        while path[-1] != start:
            path.append(came[path[-1]])
        return path[::-1]


def to_lon_lat(point: Point) -> tuple[float, float]:
    """Longitude and latitude of a point of the plane, rounded to about a centimetre."""
    return (
        round(CENTRE_LON + point[0] / _M_PER_DEGREE_LON, 7),
        round(CENTRE_LAT + point[1] / _M_PER_DEGREE_LAT, 7),
    )


def to_plane(lon: float, lat: float) -> Point:
    """The inverse of `to_lon_lat`, up to its rounding."""
    return ((lon - CENTRE_LON) * _M_PER_DEGREE_LON, (lat - CENTRE_LAT) * _M_PER_DEGREE_LAT)


def _river_y(x: float, half_m: float) -> float:
    """Where the middle of the river is; two bends, from west to east."""
    return -0.22 * half_m + 0.16 * half_m * math.sin(2.4 * math.pi * x / (2 * half_m) + 0.7)


def _crossings(rng: Random, side: int) -> list[Point]:
    """A grid of crossings, each shifted a little, none of them in the river."""
    half_m = BLOCK_M * (side - 1) / 2
    nodes = []
    for row in range(side):
        for column in range(side):
            x = column * BLOCK_M - half_m + rng.uniform(-0.2, 0.2) * BLOCK_M
            y = row * BLOCK_M - half_m + rng.uniform(-0.2, 0.2) * BLOCK_M
            off_m = y - _river_y(x, half_m)
            bank_m = RIVER_WIDTH_M / 2 + 12
            if abs(off_m) < bank_m:
                y += math.copysign(bank_m, off_m) - off_m
            nodes.append((x, y))
    return nodes


def _names(rng: Random, side: int) -> tuple[list[str], list[str]]:
    """Names of the streets that run east (by row) and of those that run north (by column)."""
    words = list(_FIRST)
    rng.shuffle(words)

    def name(n: int, kinds: tuple[str, ...]) -> str:
        """Each word once with each kind before any comes again, then with a number."""
        lap, kind = divmod(n // len(words), len(kinds))
        return f"{words[n % len(words)]} {kinds[kind]}" + (f" {lap + 1}" if lap else "")

    return [name(n, _ALONG) for n in range(side)], [name(n, _ACROSS) for n in range(side)]


def make_streets(rng: Random, *, side: int) -> Streets:
    """Lay out a city of `side` by `side` crossings; the same generator state gives the same city.

    Cost: O(side squared).
    """
    half_m = BLOCK_M * (side - 1) / 2
    nodes = _crossings(rng, side)
    along, across = _names(rng, side)
    park_centres = _park_centres(rng, side)
    north = [y > _river_y(x, half_m) for x, y in nodes]
    edges: list[Edge] = []
    for at in range(side * side):
        row, column = divmod(at, side)
        if column + 1 < side and north[at] == north[at + 1] and rng.random() > 0.04:
            edges.append(Edge(at, at + 1, along[row], built=True))
        if row + 1 < side:
            crosses = north[at] != north[at + side]
            if not crosses and rng.random() > 0.04:
                edges.append(Edge(at, at + side, across[column], built=True))
            if crosses and column % BRIDGE_EVERY == 1:
                name = f"{across[column].split()[0]} Bridge"
                edges.append(Edge(at, at + side, name, built=False))
        corner = at + side + 1
        inland = column + 1 < side and row + 1 < side and north[at] == north[corner]
        if inland and rng.random() < 0.07:
            edges.append(Edge(at, corner, f"{along[row].split()[0]} Diagonal", built=True))
    edges = [_in_park(edge, park_centres) for edge in edges]
    around = (-side - 1, -side, -side + 1, 1, side + 1, side, side - 1, -1)
    parks = [tuple(nodes[centre + by] for by in around) for centre in park_centres]
    river = [(x * BLOCK_M / 4 - 1.1 * half_m, 0.0) for x in range(int(8.8 * half_m / BLOCK_M) + 1)]
    river = [(x, _river_y(x, half_m)) for x, _ in river]
    return _largest_piece(nodes, edges, river, parks)


def _park_centres(rng: Random, side: int) -> list[int]:
    """Crossings that lie in the middle of a park of four blocks, none beside another."""
    chosen: list[int] = []
    for _ in range(max(2, side * side // 60)):
        row, column = rng.randrange(2, side - 2), rng.randrange(2, side - 2)
        if all(max(abs(row - c // side), abs(column - c % side)) > 2 for c in chosen):
            chosen.append(row * side + column)
    return chosen


def _in_park(edge: Edge, park_centres: list[int]) -> Edge:
    """Turn a stretch that leads to the middle of a park into a footpath without houses."""
    if edge.a in park_centres or edge.b in park_centres:
        return Edge(edge.a, edge.b, "Park path", built=False)
    return edge


def _largest_piece(
    nodes: list[Point], edges: list[Edge], river: list[Point], parks: list[tuple[Point, ...]]
) -> Streets:
    """Keep only the largest set of crossings between which one can walk, and number them anew."""
    root = list(range(len(nodes)))

    def find(n: int) -> int:
        while root[n] != n:
            root[n] = root[root[n]]
            n = root[n]
        return n

    for edge in edges:
        root[find(edge.a)] = find(edge.b)
    sizes: dict[int, int] = {}
    for n in range(len(nodes)):
        sizes[find(n)] = sizes.get(find(n), 0) + 1
    largest = max(sizes, key=lambda piece: (sizes[piece], -piece))
    kept = [n for n in range(len(nodes)) if find(n) == largest]
    number = {old: new for new, old in enumerate(kept)}
    return Streets(
        nodes=[nodes[n] for n in kept],
        edges=[
            Edge(number[edge.a], number[edge.b], edge.street, edge.built)
            for edge in edges
            if edge.a in number and edge.b in number
        ],
        river=river,
        parks=parks,
    )
