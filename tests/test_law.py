"""The floor: packs are data with sources, they only deny, and places keep fences away."""

import json
from importlib.resources import files
from itertools import pairwise
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.app import read_laws
from engine.config import SettingRefused
from engine.consent.index import PreferenceIndex
from engine.consent.lanes import EVERYTHING, MATCH_NEED, lane, lanes
from engine.consent.law import (
    AGE_BANDS,
    GPC_LANES,
    MINORS,
    Laws,
    Pack,
    PackRefused,
    Places,
    Rule,
    protects_less,
    read_pack,
)
from engine.consent.protection import Protection
from engine.consent.sync import marketing, opt_out_of_sale
from engine.pipeline import Engine
from geofences.geojson import parse_fence
from tests.strategies import NOON_MS, engine_of, offer, ping, place, records_of, say, town

SHIPPED: Final = sorted(p.name for p in (files("engine.consent") / "packs").iterdir())
CLINIC: Final = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": list(town(0.0))},
    "properties": {"radius_m": 40.0},
}


def near_clinic(buffer_m: float, feature: dict[str, Any] | None = None) -> Laws:
    """No fence within so many metres of a clinic."""
    places = Places(
        code="clinic", source="a test", buffer_m=buffer_m, features=(feature or CLINIC,)
    )
    return Laws([Pack(id="t", title="t", places=(places,))])


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_pack_names_its_sources(name: str) -> None:
    """Each rule says where the law says so; the setting takes it by its name."""
    pack = read_pack((files("engine.consent") / "packs" / name).read_bytes())

    assert name == f"{pack.id}.json"
    sources = [rule.source for rule in pack.rules] + [near.source for near in pack.places]
    assert sources
    assert all(len(source) > 10 for source in sources)
    assert read_laws(pack.id).packs == (MINORS, pack)


def test_the_distances_are_those_of_the_laws() -> None:
    """2,000 feet of the Washington act, 1,850 of New York's."""
    laws = read_laws("us-wa-mhmda, us-ny-gbl-394-g")
    metres = [near.buffer_m for pack in laws.packs for near in pack.places]

    assert metres == pytest.approx([2_000 * 0.3048, 1_850 * 0.3048])
    assert not laws.has_places  # the data of the places is the city's to add


@pytest.mark.parametrize("names", ["no-such-pack", "./no/such/file.json"])
def test_a_pack_that_is_not_there_is_refused_at_the_start(names: str) -> None:
    with pytest.raises(SettingRefused, match="law_packs"):
        read_laws(names)


BAD: Final = {
    "no JSON": b"{",
    "unknown field": b'{"id": "x", "title": "x", "allow": []}',
    "unknown purpose": (
        b'{"id":"x","title":"x","rules":[{"code":"c","source":"s","purposes":["war"]}]}'
    ),
    "unknown age": b'{"id":"x","title":"x","rules":[{"code":"c","source":"s","ages":["old"]}]}',
    "no place": (
        b'{"id":"x","title":"x","places":[{"code":"c","source":"s","buffer_m":1,"features":[{}]}]}'
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_pack_that_nobody_can_read_is_refused(name: str) -> None:
    with pytest.raises(PackRefused):
        read_pack(BAD[name])


def test_minors_are_protected_by_age() -> None:
    """The younger the more; nobody without a band, and no adult, is denied anything."""
    laws = Laws()
    floors = [laws.floor(band) for band in AGE_BANDS]

    assert laws.floor(None) == laws.floor("adult") == 0
    for younger, older in pairwise(floors):
        assert older & ~younger == 0
    assert MATCH_NEED & laws.floor("under_13") == MATCH_NEED
    assert laws.floor("13_to_15") & GPC_LANES == GPC_LANES
    assert laws.floor("16_17") & lane("offers", "use", "profile")
    assert not laws.floor("13_to_15") & MATCH_NEED
    assert protects_less("under_13", None)
    assert not protects_less(None, "16_17")


@settings(max_examples=200)
@given(
    st.lists(
        st.builds(
            Rule,
            code=st.just("r"),
            source=st.just("s"),
            purposes=st.none() | st.sampled_from([("offers",), ("loyalty", "research")]),
            actions=st.none() | st.sampled_from([("sell",), ("use", "contact")]),
            data=st.none() | st.sampled_from([("profile",), ("precise_location",)]),
            ages=st.none() | st.sampled_from([("under_13",), ("adult", "16_17")]),
        ),
        max_size=4,
    ),
    st.sampled_from([None, *AGE_BANDS]),
)
def test_a_rule_more_never_allows(rules: list[Rule], band: str | None) -> None:
    """Whatever a pack says, it denies: the floor only grows, and codes tell all of it."""
    before, after = Laws(), Laws([Pack(id="x", title="x", rules=tuple(rules))])

    assert before.floor(band) & ~after.floor(band) == 0
    assert after.floor(band) & ~EVERYTHING == 0
    assert bool(after.codes(EVERYTHING, band)) == bool(after.floor(band))


def test_a_floor_beats_every_grant_and_only_its_lanes() -> None:
    """A minor's grants stand and count for nothing where the law denies."""
    index, denied = PreferenceIndex(), lanes("offers", ("contact",), ("contact_point",))
    index.put("ann", 1, records_of(marketing(True)), "UTC", now_ms=NOON_MS, floor=denied)

    def told() -> str | None:
        return index.offer_refusal(
            "ann", "beans", (), (), "offers", "push", now_ms=NOON_MS, mono_ms=0
        )

    assert told() == "law"
    index.put_floor("ann", 0)
    assert told() is None
    index.put_floor("ann", EVERYTHING)
    entry = index.entry("ann", NOON_MS)
    assert entry is not None
    assert not entry.row.uses_location
    assert not entry.row.matches_all
    assert index.put_floor("nobody", 1) is None


def test_an_age_band_ends_what_it_forbids_at_once() -> None:
    """Where a child was is forgotten, and no ping of theirs is used any more."""
    engine = engine_of([place()], [offer()])
    assert engine.decide([ping()])[0].offer is not None
    engine.take_changes()

    engine.put_protection("ann", Protection(age_band="under_13"))

    assert [p.stays for p in engine.take_changes().presences.values()] == [()]
    assert engine.decide([ping(0.0, 60.0)])[0].status == "no_consent"
    say(engine, marketing(True), marketing(True))
    assert engine.decide([ping(0.0, 90.0)])[0].status == "no_consent"
    engine.put_protection("ann", Protection())
    assert engine.decide([ping(0.0, 120.0)])[0].status == "decided"


def test_a_signal_is_a_floor_that_only_a_grant_for_all_lifts() -> None:
    """Nothing is shared or sold; a brand's grant lifts nothing, one for all, made later, does."""
    index = PreferenceIndex()
    share = lanes("loyalty", ("share",), ("facility_use",))
    signal = tuple(
        msgspec.structs.replace(r, actor="signal") for r in records_of(opt_out_of_sale())
    )

    def told(*calls: Any) -> str | None:
        records = (*signal, *records_of(*calls))
        row = index.put("ann", 9, records, "UTC", now_ms=NOON_MS).row
        return row.refusal(share, "beans")

    grant = marketing(True, ["beans"])[0]
    brand = msgspec.structs.replace(
        grant, purpose="loyalty", actions=("share",), data=("facility_use",)
    )
    everybody = msgspec.structs.replace(brand, scope=marketing(True)[0].scope)
    assert told() == "law"
    assert told([brand]) == "law"
    assert told([everybody]) is None


@settings(max_examples=300, deadline=None)
@given(st.floats(-3_000, 3_000), st.floats(-3_000, 3_000), st.floats(5, 400))
def test_a_fence_near_a_place_is_found_by_its_distance(
    east_m: float, north_m: float, radius_m: float
) -> None:
    """Perimeter to perimeter; within 1 % of the distance it may be found a little early."""
    laws = near_clinic(609.6)
    away_m = (east_m**2 + north_m**2) ** 0.5 - radius_m - 40.0

    found = laws.near(place("shop", east_m, north_m, radius_m=radius_m))

    if away_m <= 609.6:
        assert found == "clinic"
    elif away_m > 609.6 * 1.02 + 3:
        assert found is None


def test_a_polygon_and_a_corridor_are_near_by_their_nearest_corner() -> None:
    hospital = {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [
                [list(town(x, y)) for x, y in ((0, 0), (200, 0), (200, 100), (0, 100), (0, 0))]
            ],
        },
        "properties": {},
    }
    laws = near_clinic(100.0, hospital)
    street = {
        "type": "Feature",
        "geometry": {
            "type": "LineString",
            "coordinates": [list(town(-500, 180)), list(town(900, 180))],
        },
        "properties": {"width_m": 20.0},
    }

    assert laws.near(parse_fence(street, fence_id="s", brand="b")) == "clinic"
    assert laws.near(place("far", 320.0, 50.0, radius_m=15)) is None
    assert laws.near(place("near", 310.0, 50.0, radius_m=15)) == "clinic"


def test_a_fence_near_a_place_makes_no_offer() -> None:
    """One that was there before the law was switched on is silent, and says so."""
    shop, far = place("cafe", 300.0), place("far", 2_000.0, tags=("door",))
    engine = Engine(secret=b"k", laws=near_clinic(609.6))
    quiet = engine_of([shop, far], [offer(), offer("far", tags=("door",))])
    for brand in quiet.book.brands.values():
        engine.put_brand(brand)
    engine.put_fences([shop, far])
    engine.put_offer(offer())
    engine.put_offer(offer("far", tags=("door",)))
    say(engine, marketing(True))

    (near,) = engine.decide([ping(300.0)])
    (away,) = engine.decide([ping(2_000.0, 60.0)])

    assert ([e.kind for e in near.events], near.offer, near.withheld) == (["enter"], None, "law")
    assert away.offer is not None
    engine.put_fences([place("cafe", 4_000.0)])
    assert engine.floor.forbidden == {}


def test_a_pack_of_a_file_is_read(tmp_path: Any) -> None:
    """What a city adds: its own pack, with places."""
    path = tmp_path / "city.json"
    near = {"code": "clinic", "source": "by-law 7", "buffer_m": 100.0, "features": [CLINIC]}
    path.write_text(json.dumps({"id": "city", "title": "City", "places": [near]}))

    laws = read_laws(str(path))

    assert laws.near(place("shop", 120.0, radius_m=10)) == "clinic"
