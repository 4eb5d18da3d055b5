"""A recorded stream gives the same bytes everywhere: on real buses, real people, and a golden."""

import gzip
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from engine.decision import encode
from engine.offers.gates import Attention
from engine.offers.offer import Brand, Budget, Offer
from engine.pipeline import EngineSettings
from engine.replay import (
    InputRefused,
    Replay,
    brand_id,
    opt_in_rule,
    read_fences,
    read_offers,
)
from geofences.fence import Fence
from tests.recordings import (
    StayPoint,
    at_ms,
    lines_of,
    messy,
    shared,
    shuffled,
    stay_points,
)
from tests.strategies import NOON_MS, circle, offer, ping, place, town

GOLDEN: Final = Path(__file__).parent / "golden"
ROOT: Final = Path(__file__).parent.parent


def command(pings: Path, fences: Path, offers: Path, *more: str, seed: int = 0) -> list[str] | Any:
    """Start `passby replay` in a process of its own, under a hash seed."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "import sys; from engine.cli import main; sys.exit(main())"),
            *("replay", str(pings), "--fences", str(fences), "--offers", str(offers), "--json"),
            *more,
        ],
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PASSBY_")},
            "PYTHONHASHSEED": str(seed),
            "PASSBY_ATTENTION_PER_DAY": "3",
            "PASSBY_ATTENTION_PER_WEEK": "9",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def summary_of(process: Any) -> dict[str, Any]:
    """What a replay printed at its end, without its rate."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary: dict[str, Any] = json.loads(out)
    del summary["pings_per_second"]
    return summary


def in_memory(
    fences: list[Fence], brands: list[Brand], offers: list[Offer], zone: str = "UTC"
) -> Replay:
    """A replay in this process, in which everybody has opted in."""
    return Replay(
        fences=fences,
        brands=brands,
        offers=offers,
        opted_in=lambda _: True,
        settings=EngineSettings(attention=Attention(3, 9)),
        timezone=zone,
    )


def ran(replay: Replay, lines: list[bytes], batch: int = 1_000) -> Replay:
    """The replay after these lines."""
    for _ in replay.run(lines, batch=batch):
        pass
    return replay


def kind_offers(brands: list[Brand]) -> list[dict[str, Any]]:
    """One offer a brand, at all its fences; that of the neighbourhoods runs out."""
    return [
        {
            "id": f"o-{brand.id}",
            "brand": brand.id,
            "title": "Come in",
            "body": "Something is free today",
            "tags": [brand.id],
            "trigger": "enter",
            "status": "live",
            "budget": {"total": 200} if brand.id == "neighborhood" else {},
        }
        for brand in brands
    ]


def test_chicago_is_the_same_everywhere(tmp_path: Path, measured: list[str]) -> None:
    """All buses of a month, made messy: one hash for two hash seeds and two sizes of batches."""
    fences_path = shared("fences_chicago.geojson.gz")
    neat = lines_of(shared("pings_chicago_shuttle.jsonl.gz"))
    fences, brands, _ = read_fences(fences_path, brand_by="kind")
    pings, offers = tmp_path / "pings.jsonl.gz", tmp_path / "offers.json"
    pings.write_bytes(gzip.compress(b"\n".join(messy(neat, 20_261)), 1))
    offers.write_text(json.dumps(kind_offers(brands)))
    more = ("--brand-by", "kind", "--timezone", "America/Chicago")

    runs = [
        command(pings, fences_path, offers, *more, "--batch", batch, seed=seed)
        for batch, seed in (("1000", 0), ("1", 7))
    ]
    straight = ran(in_memory(fences, brands, [], "America/Chicago"), neat)
    one, other = map(summary_of, runs)
    crooked = ran(in_memory(fences, brands, [], "America/Chicago"), shuffled(neat, 20_262))

    measured.append(f"Chicago: {json.dumps(one)}")
    assert one == other
    assert one["offers_made"] >= 500
    assert one["withheld"]["budget_total"] > 100
    assert min(one["by_status"][s] for s in ("duplicate", "late", "rejected")) > 50
    assert len(fences) > 1_500
    assert straight.statuses == {"decided": len(neat)}
    assert crooked.statuses["late"] > 10_000
    assert crooked.presence_hash() == straight.presence_hash()


def places_of(stays: list[StayPoint]) -> list[Fence]:
    """A fence of 150 m around each place where somebody stayed, once where several did."""
    fences: list[Fence] = []
    for stay in stays:
        near = any(fence.ruler.depth_m(stay.lon, stay.lat) > 75 for fence in fences)
        if not near:
            fences.append(circle(stay.lon, stay.lat, 150.0, f"p{len(fences):03}"))
    return fences


def test_beijing_is_found_where_it_stays(measured: list[str]) -> None:
    """A year of eleven people: nearly every stay of theirs is entered, and dwelt at, as it is."""
    lines = lines_of(shared("pings_beijing_geolife11.jsonl.gz"))
    stays = list(stay_points(lines))
    fences = places_of(stays)
    home = [Brand(id="beans", name="Beans")]
    dwell = [
        offer(f"o-{f.id}", fences=(f.id,), trigger="dwell", dwell_s=900, caps={"cool_down_s": 0})
        for f in fences
    ]
    told: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    replay = in_memory(fences, home, dwell, "Asia/Shanghai")
    for decisions in replay.run(lines, batch=500):
        for decision in decisions:
            for event in decision.events:
                told[decision.resident, event.kind].append(event.at_ms)
    # A stay that is cut by a silence, or that nobody is sure of, is not dwelt at in its time.
    slack_ms = 20 * 60_000
    dwelt = [
        stay
        for stay in stays
        if any(
            stay.from_ms - slack_ms <= at <= stay.until_ms + slack_ms
            for at in told[stay.resident, "dwell"]
        )
    ]
    again = in_memory(fences, home, dwell, "Asia/Shanghai")
    first = in_memory(fences, home, dwell, "Asia/Shanghai")
    ran(first, lines[:30_000], batch=1_000)
    ran(again, lines[:30_000], batch=7)

    measured.append(
        f"Beijing: {len(stays)} stays at {len(fences)} places, {len(dwelt)} dwelt at; "
        f"{json.dumps(replay.summary())}"
    )
    assert len(stays) > 100
    assert len(dwelt) >= 0.9 * len(stays)
    assert first.decisions_hash() == again.decisions_hash()
    assert replay.statuses.keys() == {"decided"} | (replay.statuses.keys() & {"duplicate", "late"})


# The golden: small, made up, and kept beside the tests.


def made_up_pings() -> list[bytes]:
    """An hour of a dozen residents: coming, staying, passing, late, twice, broken."""
    rng = random.Random(20_263)
    lines = []
    for number in range(12):
        east, north = rng.uniform(-300, 300), rng.uniform(-100, 100)
        at_s = rng.uniform(0, 60)
        while at_s < 3_600:
            if rng.random() < 0.1:
                at_s += rng.uniform(60, 600)
            east += rng.gauss(-east / 40, 25)
            north += rng.gauss(-north / 40, 12)
            one = ping(round(east, 1), round(at_s), round(north, 1), resident=f"r{number:02}")
            row: dict[str, Any] = {
                "resident": one.resident,
                "at_ms": one.at_ms,
                "lon": round(one.lon, 6),
                "lat": round(one.lat, 6),
                "accuracy_m": rng.choice((None, 5.0, 9.0, 20.0)),
            }
            if rng.random() < 0.05:
                row["id"] = f"fix-{round(at_s)}"
            if rng.random() < 0.02:
                row["mock"] = True
            lines.append(json.dumps(row, separators=(",", ":")).encode())
            at_s += rng.uniform(5, 60)
    return messy(sorted(lines, key=lambda line: (at_ms(line), line)), 20_264, share=0.08)


def circle_feature(fence: Fence, radius_m: float, kind: str) -> dict[str, Any]:
    """A Feature as a merchant would send it."""
    box = fence.boxes[0]
    middle = [round((box.west + box.east) / 2, 6), round((box.south + box.north) / 2, 6)]
    return {
        "type": "Feature",
        "id": fence.id,
        "geometry": {"type": "Point", "coordinates": middle},
        "properties": {"kind": kind, "name": fence.id, "radius_m": radius_m},
    }


def made_up_city() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Circles, a square with a hole, one fence that is refused, and offers of all triggers."""
    features = [
        circle_feature(place("cafe", 0, 0), 50, "cafe"),
        circle_feature(place("kiosk", 120, 20), 12, "cafe"),
        circle_feature(place("park", -150, 0), 120, "park"),
    ]
    ring = [list(town(e, n)) for e, n in ((40, -80), (160, -80), (160, -20), (40, -20), (40, -80))]
    hole = [list(town(e, n)) for e, n in ((80, -60), (100, -60), (100, -40), (80, -40), (80, -60))]
    for kind, rings in (("mall", [ring, hole]), ("broken", [ring[:3]])):
        geometry = {"type": "Polygon", "coordinates": rings}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"kind": kind}})
    common = {"title": "Hello", "body": "Come in", "status": "live", "caps": {"cool_down_s": 600}}
    offers: list[dict[str, Any]] = [
        {"id": "cup", "brand": "cafe", "tags": ["cafe"], "trigger": "enter", **common},
        {"id": "cake", "brand": "cafe", "fences": ["cafe"], "trigger": "dwell", "dwell_s": 120},
        {"id": "ball", "brand": "park", "tags": ["park"], "trigger": "exit", **common},
        {"id": "look", "brand": "mall", "tags": ["mall"], "trigger": "pass", **common},
        {
            "id": "sale",
            "brand": "mall",
            "tags": ["mall"],
            "trigger": "enter",
            "budget": {"total": 2},
        },
    ]
    for extra in (offers[1], offers[4]):
        extra.update({"title": "More", "body": "For those who stay", "status": "live"})
    return {"type": "FeatureCollection", "features": features}, offers


def test_the_golden_replay_is_unchanged(tmp_path: Path) -> None:
    """A made-up hour gives the decisions that are kept; PASSBY_UPDATE_GOLDEN=1 writes them anew."""
    pings, fences, offers, kept = (
        GOLDEN / f"town.{name}"
        for name in ("pings.jsonl", "fences.json", "offers.json", "decisions.jsonl")
    )
    if os.environ.get("PASSBY_UPDATE_GOLDEN"):
        city, promised = made_up_city()
        pings.write_bytes(b"\n".join(made_up_pings()) + b"\n")
        fences.write_text(json.dumps(city, indent=1) + "\n")
        offers.write_text(json.dumps(promised, indent=1) + "\n")
    out = tmp_path / "decisions.jsonl"

    more = ("--brand-by", "kind", "--opt-in", "0.8", "--out", str(out))
    summary = summary_of(command(pings, fences, offers, *more, seed=3))
    if os.environ.get("PASSBY_UPDATE_GOLDEN"):
        kept.write_bytes(out.read_bytes())

    assert out.read_bytes() == kept.read_bytes()
    assert {"decided", "duplicate", "late", "no_consent", "rejected"} <= summary["by_status"].keys()
    assert {"enter", "exit", "dwell", "pass"} == summary["events"].keys()
    assert summary["offers_made"] > 20


# What a replay promises about its input.


def line(at_s: float, resident: str = "ann", **fields: Any) -> bytes:
    """A line of a stream at the cafe."""
    lon, lat = town(fields.pop("east_m", 0.0))
    row = {"resident": resident, "at_ms": NOON_MS + round(at_s * 1_000), "lon": lon, "lat": lat}
    return json.dumps({**row, "accuracy_m": 9.0, **fields}).encode()


def cafe(opted_in: Callable[[str], bool] = lambda _: True) -> Replay:
    """A cafe that has one cup to give away."""
    return Replay(
        fences=[place()],
        brands=[Brand(id="beans", name="Beans")],
        offers=[offer(budget=Budget(total=1))],
        opted_in=opted_in,
    )


def test_equal_times_of_different_residents_have_no_order() -> None:
    """Whoever of them comes first in the file, the same one gets the last cup."""
    names = [f"r{n}" for n in range(9)]
    lines = [line(0, name) for name in names]
    hashes = set()
    for seed in range(5):
        mixed = random.Random(seed).sample(lines, len(lines))
        hashes.add(ran(cafe(), [line(-10), *mixed, line(5)], batch=seed + 1).decisions_hash())

    assert len(hashes) == 1


def test_a_broken_line_is_answered_in_its_place() -> None:
    """Nothing behind it moves, not even the time, whatever it says of when it was."""
    bad = [
        b"{",
        b"[]",
        b'{"pings":[]}',
        line(0, at_ms=10**400),
        line(0, at_ms=(1 << 53) - 1),
        line(0, at_ms=-1),
        line(0, resident=""),
        line(0, lon=500),
        b"\xff\xfe",
        b'{"at_ms":1e999}',
    ]
    replay = cafe()

    decisions = [d for part in replay.run([*bad, b"", line(1)], batch=3) for d in part]

    assert [d.status for d in decisions] == ["rejected"] * len(bad) + ["decided"]
    assert decisions[-1].offer is not None
    assert all(encode(d) for d in decisions)
    assert list(replay.engine.residents) == ["ann"]


def test_old_recordings_and_gaps_of_years_are_taken() -> None:
    """The limit on age is off, grants of a replay do not expire, and time is the stream's."""
    replay = cafe()
    year_s = 365 * 86_400

    decisions = [d for part in replay.run([line(-9 * year_s), line(0)], batch=1) for d in part]

    assert [(d.status, len(d.events)) for d in decisions] == [("decided", 1), ("decided", 2)]
    assert [d.offer is not None for d in decisions] == [True, False]
    assert decisions[1].withheld == "cool_down" or decisions[1].withheld == "budget_total"


def test_who_has_opted_in(tmp_path: Path) -> None:
    """All, a file of ids, or a share that is the same people every time."""
    ids = tmp_path / "ids"
    ids.write_text("ann\nbob\n")
    people = [f"r{n}" for n in range(2_000)]

    assert all(map(opt_in_rule("all"), people))
    assert [n for n in ("ann", "bob", "cho") if opt_in_rule(str(ids))(n)] == ["ann", "bob"]
    chosen = {p for p in people if opt_in_rule("0.3")(p)}
    assert chosen < {p for p in people if opt_in_rule("0.4")(p)}
    assert 500 < len(chosen) < 700
    assert not any(map(opt_in_rule("0"), people))
    assert all(map(opt_in_rule("1"), people))
    for bad in ("1.1", "-0.1", "nan", str(tmp_path / "nothing")):
        with pytest.raises(InputRefused):
            opt_in_rule(bad)


def test_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    """Not a collection, not an offer, no id: each is refused with its row."""
    path = tmp_path / "file.json"
    for text in ("[]", "{}", '{"features": 1}'):
        path.write_text(text)
        with pytest.raises(InputRefused, match="FeatureCollection"):
            read_fences(path, brand_by=None)
    for text, told in (
        ("{}", "array"),
        ('[{"brand": "b", "title": "t", "body": "b", "trigger": "enter", "tags": ["x"]}]', "no id"),
        ('[{"id": "o", "brand": "b", "title": "t", "body": "b", "trigger": "enter"}]', "offer 1"),
    ):
        path.write_text(text)
        with pytest.raises(InputRefused, match=told):
            read_offers(path, [])


def test_a_kind_becomes_a_brands_id() -> None:
    """What an id may not hold becomes an underscore, and it is never empty or too long."""
    assert [brand_id(k) for k in ("cafe", "fast food", "kahvila/ä", "", "x" * 200)] == [
        "cafe",
        "fast_food",
        "kahvila__",
        "_",
        "x" * 128,
    ]
