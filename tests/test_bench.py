"""The benchmarks still work, and compute what they did: each at a small size."""

from pathlib import Path

import numpy as np
import pytest

from bench import commit, consent, decide, match, serve, streams
from bench.__main__ import full, smoke
from bench.budgets import BUDGETS_FILE, Machine, read_budgets, written_for
from bench.city import Walk, bodies, make_fences, scattered
from bench.machine import measure
from bench.table import Row, conditions, lines, over_budget
from geofences.fence import Area
from geofences.index import FenceIndex

FULL_ROWS = {
    *(
        f"match {size}, {way}"
        for size in ("1k", "10k", "100k")
        for way in ("textbook", "ours", "ours, along a way", "ours, many at once")
    ),
    "match 1k, every fence",
    *(f"decide {size}, {way}" for size in ("10k", "100k") for way in ("one", "batches")),
    *(phase.name for phase in serve.phases(300, 1)[1:]),
    *(*streams.WAYS, "streams, events", "import, new", "import, as they are"),
    *(f"consent 1M, {what}" for what in ("load", "memory", "decide, warm", "decide, anybody")),
}


def test_the_city_is_the_same_in_every_run() -> None:
    """Its fences, its positions and its walks come from seeds."""
    fences = make_fences(1_000)
    areas = [fence.shape for fence in fences if isinstance(fence.shape, Area)]
    holes = sum(bool(area.geometry.interiors) for area in areas)  # type: ignore[union-attr]
    covered = FenceIndex.load(fences).covering_many(scattered(20_000))
    one, other = Walk(50), Walk(50)

    assert (len(areas), holes, sum(map(len, covered))) == (309, 167, 946)
    assert np.array_equal(one.step(), other.step())
    assert bodies(one.step(), 5) == bodies(other.step(), 5)


def test_whoever_stands_stays_and_whoever_walks_moves_on() -> None:
    """A calm round moves few."""
    walk = Walk(1_000)
    start, after = walk.step(1.0), walk.step(0.9)

    moved_m = np.hypot(*((after - start) * (67_700.0, 111_250.0)).T)

    assert 80 <= int((moved_m > 15.0).sum()) <= 130


def test_match_finds_all_ways_of_one_opinion() -> None:
    """Ours, the textbook's and asking every fence give the same answers, or the run raises."""
    rows = match.run(fences=300, pings=200, brute_pings=50, rounds=2)

    assert [row.name for row in rows] == [
        "match 300, textbook",
        "match 300, ours",
        "match 300, ours, along a way",
        "match 300, ours, many at once",
        "match 300, every fence",
    ]


def test_decisions_of_a_batch_are_those_of_its_pings() -> None:
    """The same bytes, one by one or together, and offers among them."""
    checked = decide.check(fences=2_000, residents=500, rounds=12)

    assert checked.one_by_one == checked.in_batches
    assert checked.changing >= checked.offers > 0


def test_decide_counts_whom_an_answer_would_wait_for() -> None:
    """A share, of pings one by one and in batches alike."""
    rows = decide.run(fences=300, residents=300, rounds=1)

    assert [row.name for row in rows] == ["decide 300, one", "decide 300, batches"]
    assert all(0.0 <= (row.changing or 0.0) < 0.5 for row in rows)


def test_everything_that_is_committed_is_counted() -> None:
    """Each case commits; a refused claim or a lost change would raise."""
    rows = commit.run(residents=50, seconds=0.1)

    assert [row.name for row in rows] == [
        "commit, alone",
        "commit, 64 waiting",
        "commit, flood of moves",
        "commit, flood of claims",
    ]
    assert all(row.per_s for row in rows)


def test_every_ping_over_http_is_decided() -> None:
    """A real server, a real load: no ping is shed, late, rejected or lost."""
    results = serve.measure(fences=300, residents=300, rounds=1)

    assert [(result.name, result.pings) for result in results] == [
        (phase.name, 300 * phase.rounds) for phase in serve.phases(300, 1)
    ]
    assert [result.statuses for result in results] == [
        {"decided": result.pings} for result in results
    ]


def test_every_ping_and_event_of_a_stream_arrives() -> None:
    """Every ping is decided, every fence written, every reader gets every event; or it raises."""
    rows = streams.run(fences=2_000, residents=500, rounds=1, readers=2, rows=50)

    assert [row.name for row in rows] == [
        "streams calm, lines",
        "streams calm, a message each",
        "streams calm, messages of 100",
        "streams, events",
        "import, new",
        "import, as they are",
    ]
    assert all(row.per_s for row in rows)


def test_the_machine_s_speed_stands_above_the_table() -> None:
    (line,) = [line for line in conditions(residents=1) if "plain Python loop" in line]
    told_ns = float(line.partition("plain Python loop ")[2].removesuffix(" ns"))

    assert 1.0 < told_ns < 1_000.0


def test_every_resident_in_the_database_is_loaded_and_asked_about() -> None:
    """Those of whom a fifth said what nobody else says have more rows than that fifth."""
    load, memory, *decisions = consent.run(residents=500, asked=300)

    assert (load.name, memory.name) == ("consent 500, load", "consent 500, memory")
    assert load.note.startswith("1,175 records, 104 rows;")
    assert memory.mb
    assert [(row.name, bool(row.least_us)) for row in decisions] == [
        ("consent 500, decide, warm", True),
        ("consent 500, decide, anybody", True),
    ]


def test_a_budget_is_held_against_its_row() -> None:
    """Over and under are told, and a figure that is missing too; a kept budget is quiet."""
    row = Row(name="a", median_us=5.0, per_s=100.0)

    assert over_budget([row], {"a": {"median_us_max": 5, "per_s_min": 100}}) == []
    assert over_budget([row], {"b": {"median_us_max": 1}}) == []
    assert over_budget([row], {"a": {"median_us_max": 4, "per_s_min": 101, "hits_max": 1}}) == [
        "a: median_us is 5, the budget is <= 4",
        "a: per_s is 100, the budget is >= 101",
        "a: hits is missing, the budget is <= 1",
    ]


def test_the_table_shows_what_was_measured() -> None:
    """A line a row under a line of heads, and whether the budget was kept."""
    rows = [Row(name="a", median_us=1_500.0, changing=0.01), Row(name="b", per_s=1e4, note="why")]

    head, first, second = lines(rows, {"b": {"per_s_min": 1}})

    assert "median" in head
    assert first.split() == ["a", "1.50", "ms", "1.0%"]
    assert second.split() == ["b", "10,000", "kept", "why"]


def test_a_slower_machine_has_more_time_and_need_do_less() -> None:
    """Times and rates are taken in proportion to what the machine makes of others' work."""
    there = Machine(textbook_us=10.0, aiohttp_per_s=20_000.0)
    here = Machine(textbook_us=25.0, aiohttp_per_s=5_000.0)

    assert here.limit("median_us_max", 60.0, there) == 150.0
    assert here.limit("per_s_min", 8_000.0, there) == 2_000.0
    assert here.limit("changing_max", 0.01, there) == 0.01
    assert here.limit("mb_max", 500.0, there) == 500.0
    assert read_budgets(written_for()) == read_budgets()
    assert here.best(there) == Machine(textbook_us=10.0, aiohttp_per_s=20_000.0)


def test_this_machine_is_measured_by_the_work_of_others() -> None:
    """Both yardsticks give a figure, and the line above the table tells them."""
    here = measure(pings=200, residents=200)

    assert here.textbook_us > 0
    assert here.aiohttp_per_s > 0
    assert "(1.00 of the one" in here.told(here)


def test_every_budget_is_of_a_row_that_a_full_run_measures() -> None:
    """A renamed row does not lose its budget in silence."""
    assert read_budgets().keys() <= FULL_ROWS


@pytest.mark.parametrize("benchmarks", [full(), smoke()], ids=["full", "smoke"])
def test_there_is_one_benchmark_a_module(benchmarks: dict[str, object]) -> None:
    """Each of the names is that of its file."""
    assert all((Path(BUDGETS_FILE).parent / f"{name}.py").is_file() for name in benchmarks)
