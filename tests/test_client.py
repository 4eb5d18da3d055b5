"""The client's rules, without a network: what waits, what is sent, and what becomes of it."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client import kept
from engine.client.choices import Choice, Choices, Held, Preferences
from engine.client.outbox import Outbox, encode
from engine.client.reply import WAIT_MAX_MS, Reply
from engine.client.retry import Retry
from engine.client.watch import Watch
from engine.decision import Decision, NextFix
from engine.ping import AGE_MAX_MS, Ping
from tests.running import ROOT

NOW = 1_790_000_000_000
DAY_MS = 86_400_000


def fix(number: int, *, at_ms: int | None = None) -> Ping:
    return Ping(at_ms=NOW + number if at_ms is None else at_ms, lon=24.9, lat=60.1, id=f"{number}")


def decision(ping: Ping, status: str = "decided", advice: NextFix | None = None) -> Decision:
    told = msgspec.UNSET if advice is None else advice
    return Decision("d", "r", ping.at_ms, status, (), None, None, ping.id or "", next_fix=told)


def reply(pings: list[Ping], *statuses: str, **headers: str) -> Reply:
    """What the service answers to a batch; `decided` to all, if nothing else is said."""
    made = [
        decision(p, s) for p, s in zip(pings, statuses or ["decided"] * len(pings), strict=True)
    ]
    body = made[0] if len(made) == 1 else {"decisions": made}
    return Reply(200, headers, msgspec.json.encode(body))


def problem(status: int, code: str = "", **headers: str) -> Reply:
    body = msgspec.json.encode({"code": code, "detail": "as told"})
    return Reply(status, {name.replace("_", "-"): told for name, told in headers.items()}, body)


def ids(pings: list[Ping]) -> str:
    return " ".join(str(ping.id) for ping in pings)


def filled(count: int, **limits: Any) -> Outbox:
    outbox = Outbox(**limits)
    for number in range(count):
        outbox.add(fix(number), NOW)
    return outbox


# ---- the queue ----


def test_batches_by_count_and_by_age() -> None:
    """A full batch goes at once; what does not fill one goes when its oldest fix has waited."""
    outbox = filled(2, batch_max=3, linger_ms=500)

    assert outbox.take(NOW + 499) == []
    assert ids(outbox.take(NOW + 500)) == "0 1"
    outbox.settle(Reply(), NOW, chance=0)
    outbox.add(fix(2), NOW)
    outbox.add(fix(3), NOW)
    assert ids(outbox.take(NOW)) == "0 1 2"
    assert outbox.take(NOW + DAY_MS) == [], "one batch is in flight"


def test_a_ping_alone_is_sent_as_itself() -> None:
    """Like a phone's; and without what is the service's to say."""
    sent = msgspec.json.decode(encode([fix(1)]))

    assert sent == {"at_ms": NOW + 1, "lon": 24.9, "lat": 60.1, "id": "1"}
    assert msgspec.json.decode(encode([fix(1), fix(2)]))["pings"][0] == sent


def test_the_oldest_are_dropped_and_counted() -> None:
    outbox = filled(7, size_max=5, batch_max=5)

    assert ids(outbox.take(NOW)) == "2 3 4 5 6"
    assert outbox.lost.overflowed == 2


def test_what_is_older_than_the_service_takes_is_dropped() -> None:
    outbox = Outbox()
    outbox.add(fix(1, at_ms=NOW - AGE_MAX_MS - 1), NOW)
    outbox.add(fix(2, at_ms=NOW - AGE_MAX_MS), NOW)

    assert ids(outbox.take(NOW)) == "2"
    assert outbox.lost.expired == 1


@pytest.mark.parametrize(
    "bad",
    [
        Reply(),
        problem(429, "too_many_requests"),
        problem(503, "overloaded"),
        problem(500, "internal"),
        problem(408, "slow_body"),
        Reply(302),
        Reply(200, {}, b"<html>Welcome to our hotel"),
        Reply(200, {}, b'{"decisions": []}'),
    ],
    ids=lambda told: f"{told.status} {told.body[:20]!r}",
)
def test_what_was_not_answered_is_sent_again_as_it_was(bad: Reply) -> None:
    """Same fixes, same ids, same order; what came later waits behind them."""
    outbox = filled(2)
    sent = outbox.take(NOW)
    assert outbox.settle(bad, NOW, chance=0.5) == []
    outbox.add(fix(2), NOW)

    assert outbox.due_ms() == NOW + 500
    again = outbox.take(NOW + 500)
    assert again[:2] == sent
    assert ids(again) == "0 1 2"
    assert [done.ping for done in outbox.settle(reply(again), NOW, chance=0)] == again
    assert len(outbox) == 0


def test_what_was_shed_is_sent_again_and_the_rest_is_done() -> None:
    outbox = filled(3)
    sent = outbox.take(NOW)
    done = outbox.settle(reply(sent, "decided", "shed", "late"), NOW, chance=1)

    assert ids([one.ping for one in done]) == "0 2"
    assert outbox.due_ms() == NOW + 1_000
    assert ids(outbox.take(NOW + 1_000)) == "1"


def test_too_much_is_halved_until_it_fits() -> None:
    """Every fix arrives; one that is too large by itself is given up and counted."""
    outbox, arrived = filled(8, batch_max=8), ""
    while pings := outbox.take(NOW):
        small = len(pings) <= 3 and "5" not in ids(pings).split()
        answer = reply(pings) if small else problem(413, "body_too_large")
        arrived += "".join(str(one.ping.id) for one in outbox.settle(answer, NOW, chance=1))

    assert arrived == "0123467"
    assert outbox.lost.refused == 1


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_refused_key_or_address_stops_it(status: int) -> None:
    """Nothing more is sent, nothing is lost, and it says why."""
    outbox = filled(2)
    outbox.take(NOW)
    outbox.settle(problem(status, "unauthenticated"), NOW, chance=1)

    assert outbox.stopped is not None
    assert outbox.stopped.code == "unauthenticated"
    assert outbox.due_ms() is None
    assert outbox.take(NOW + DAY_MS) == []
    outbox.resume()
    assert ids(outbox.take(NOW)) == "0 1"


def test_the_rate_of_the_key_is_kept() -> None:
    """No more than is left in one request, and nothing before there is more."""
    outbox = filled(8, batch_max=2)
    outbox.settle(reply(outbox.take(NOW), ratelimit='"key";r=1;t=1'), NOW, chance=1)
    assert ids(outbox.take(NOW)) == "2"

    answer = reply([fix(2)], ratelimit='"key";r=0;t=7')
    outbox.settle(answer, NOW, chance=1)
    assert outbox.due_ms() == NOW + 7_000
    assert ids(outbox.take(NOW + 7_000)) == "3"


@pytest.mark.parametrize(("answer", "withdrawn"), [(Reply(), 3), (Reply(413), 3), (None, 1)])
def test_a_withdrawal_drops_what_waits(answer: Reply | None, withdrawn: int) -> None:
    """And what is on its way, if it did not arrive; what is taken after it is sent as ever."""
    outbox = filled(3, batch_max=2)
    sent = outbox.take(NOW)
    outbox.forget()
    assert outbox.kept().pings == []
    outbox.settle(answer or reply(sent), NOW, chance=0)

    assert (len(outbox), outbox.lost.withdrawn) == (0, withdrawn)
    outbox.add(fix(9), NOW)
    assert ids(outbox.take(NOW)) == "9"
    outbox.settle(Reply(), NOW, chance=0)
    assert len(outbox) == 1


def test_it_outlives_the_process() -> None:
    """What was in flight too, for nobody knows whether it arrived."""
    old, new = filled(7, size_max=6, batch_max=2), Outbox()
    old.take(NOW)
    new.restore(old.kept(), NOW)

    assert ids(new.take(NOW)) == "1 2 3 4 5 6"
    assert new.lost.overflowed == 1


@pytest.mark.parametrize("limits", [{"batch_max": 0}, {"size_max": 3}, {"batch_max": 10_001}])
def test_impossible_limits_are_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match="batch_max"):
        Outbox(**limits)


@dataclass
class Told:
    """What a run of the queue did with its fixes."""

    added: int = 0
    done: list[str] = field(default_factory=list)
    sent: list[Ping] = field(default_factory=list)


STEPS = st.lists(
    st.one_of(
        st.just("add"),
        st.just("take"),
        st.sampled_from([0, 200, 413, 429, 500, 503]),
        st.just("shed"),
    ),
    max_size=80,
)


@given(STEPS)
def test_no_fix_is_lost_twice_or_in_silence(steps: list[str | int]) -> None:
    """Whatever happens: each is done once, or waits, or is counted; and the queue is bounded."""
    outbox, told, now = Outbox(size_max=5, batch_max=3), Told(), NOW
    for step in steps:
        now += 400_000
        if step == "add":
            outbox.add(fix(told.added), now)
            told.added += 1
        elif step == "take":
            told.sent = outbox.take(now) or told.sent
        elif told.sent:
            statuses = ["shed" if step == "shed" and not n else "late" for n in range(3)]
            good = reply(told.sent, *statuses[: len(told.sent)])
            answer = good if step in (200, "shed") else Reply(int(step))
            told.done += [str(o.ping.id) for o in outbox.settle(answer, now, chance=1)]
            told.sent = []
        assert len(outbox) <= 5
    waiting = [str(ping.id) for ping in outbox.kept().pings]

    assert len(told.done) == len(set(told.done))
    assert set(told.done).isdisjoint(waiting)
    lost = outbox.lost.overflowed + outbox.lost.refused
    assert len(told.done) + len(waiting) + lost == told.added


# ---- when to try again ----


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_wait_is_drawn_below_a_doubling_ceiling(chances: list[float]) -> None:
    retry = Retry(base_ms=100, ceiling_ms=10_000)
    for failures, chance in enumerate(chances):
        retry.failed(NOW, chance=chance, asked_ms=50)
        ceiling_ms = min(10_000, 100 * 2**failures)
        assert retry.not_before_ms == NOW + 50 + int(chance * ceiling_ms)
    retry.succeeded(NOW)
    assert (retry.failures, retry.not_before_ms) == (0, NOW)


@pytest.mark.parametrize(
    ("told", "wait_ms"),
    [
        ("3", 3_000),
        (" 0 ", 0),
        ("Mon, 21 Sep 2026 14:13:25 GMT", 5_000),
        ("Mon, 21 Sep 2020 14:13:25 GMT", 0),
        ("9999999999999999999", WAIT_MAX_MS),
        ("-1", 0),
        ("soon", 0),
        ("٣", 0),
    ],
)
def test_retry_after_is_read(told: str, wait_ms: int) -> None:
    """Seconds or a date, and nothing absurd."""
    assert Reply(503, {"retry-after": told}).asks_to_wait_ms(NOW) == wait_ms


@given(st.text(), st.text(), st.binary())
def test_no_answer_can_break_it(retry_after: str, rate: str, body: bytes) -> None:
    answer = Reply(503, {"retry-after": retry_after, "ratelimit": rate}, body)

    assert 0 <= answer.asks_to_wait_ms(NOW) <= WAIT_MAX_MS
    assert answer.problem().difference == () or body


# ---- what the resident says ----


def choice(kind: Any, number: int = 1, *brands: str) -> Choice:
    return Choice(kind=kind, brands=brands or None, client_ms=NOW, id=f"c{number}")


def settings(version: int, *, located: bool) -> Preferences:
    held = (Held("grant", ("offers:use:precise_location",)),) if located else ()
    return Preferences(version, held)


def acknowledged(version: int) -> Reply:
    return Reply(200, {}, msgspec.json.encode({"version": version}))


def test_off_holds_at_once_and_goes_first() -> None:
    """Before what was asked for earlier, and without a precondition."""
    choices = Choices()
    choices.learn(settings(4, located=True))
    choices.widen(choice("on", 1, "cafe"))
    choices.narrow(choice("off", 2, "pub"))
    assert (choices.lets("cafe"), choices.lets("pub")) == (True, False)

    call = choices.take(NOW)
    assert call is not None
    assert "If-Match" not in call.headers
    assert msgspec.json.decode(call.body)["brands"] == ["pub"]
    assert choices.settle(Reply(), NOW, chance=0) is None, "kept until it is acknowledged"
    assert choices.take(NOW) == call, "sent again with the same Idempotency-Key"
    outcome = choices.settle(acknowledged(5), NOW, chance=0)
    assert outcome is not None
    assert outcome.version == 5
    widened = choices.take(NOW)
    assert widened is not None
    assert widened.headers["If-Match"] == '"5"', "nobody else spoke in between"


def test_on_is_refused_where_somebody_else_spoke() -> None:
    """It rests on what the resident saw, so our own "off" must not carry it past theirs."""
    choices = Choices()
    choices.learn(settings(4, located=True))
    choices.narrow(choice("off"))
    choices.widen(choice("on", 2))
    choices.take(NOW)
    choices.settle(acknowledged(6), NOW, chance=0)

    call = choices.take(NOW)
    assert call is not None
    assert call.headers["If-Match"] == '"4"'
    outcome = choices.settle(problem(412, "stale_version"), NOW, chance=0)
    assert outcome is not None
    assert outcome.refused is not None
    assert outcome.refused.code == "stale_version"
    assert (choices.off, len(choices)) == (True, 0), "never asked again by itself"


def test_on_holds_when_it_is_confirmed() -> None:
    choices = Choices()
    choices.narrow(choice("stop"))
    choices.take(NOW)
    choices.settle(acknowledged(1), NOW, chance=0)
    choices.widen(choice("on", 2))
    choices.take(NOW)
    assert choices.off
    choices.settle(acknowledged(2), NOW, chance=0)

    assert (choices.off, choices.version) == (False, 2)


def test_off_is_the_last_word_over_an_on_in_flight() -> None:
    choices = Choices()
    choices.widen(choice("on"))
    choices.take(NOW)
    choices.narrow(choice("off", 2))
    choices.settle(acknowledged(1), NOW, chance=0)

    assert choices.off
    call = choices.take(NOW)
    assert call is not None
    assert msgspec.json.decode(call.body)["opted_in"] is False


def test_off_takes_back_what_waits_to_be_turned_on() -> None:
    choices = Choices()
    choices.widen(choice("on", 1, "cafe", "pub"))
    choices.widen(choice("on", 2, "pub"))
    choices.narrow(choice("off", 3, "pub"))
    assert choices.ids() == {"c1", "c3"}
    choices.narrow(choice("off", 4))

    assert choices.ids() == {"c3", "c4"}


def test_the_latest_settings_do_not_undo_an_off_that_waits() -> None:
    choices = Choices()
    choices.narrow(choice("off"))
    choices.learn(settings(3, located=True))
    assert choices.off
    choices.take(NOW)
    choices.settle(acknowledged(4), NOW, chance=0)
    choices.learn(settings(5, located=True))

    assert not choices.off, "turned on again on another device, and seen here"
    choices.learn(settings(6, located=False))
    assert choices.off


@pytest.mark.parametrize("kind", ["off", "stop"])
def test_a_no_of_unknown_outcome_is_said_anew(kind: str) -> None:
    """Under another Idempotency-Key; while it is being done, the same is asked again."""
    choices, keys = Choices(), []
    choices.narrow(choice(kind))
    for answer in (
        problem(409, "idempotency_in_progress", retry_after="0"),
        problem(409, "idempotency_lost"),
        acknowledged(1),
    ):
        call = choices.take(NOW)
        assert call is not None
        keys.append(call.headers["Idempotency-Key"])
        outcome = choices.settle(answer, NOW, chance=0)

    assert keys == ["c1-0", "c1-0", "c1-1"]
    assert outcome is not None
    assert (outcome.version, outcome.choice.id, len(choices)) == (1, "c1", 0)


def test_a_refused_key_keeps_what_was_said() -> None:
    choices = Choices()
    choices.narrow(choice("off"))
    choices.take(NOW)
    choices.settle(problem(401, "unauthenticated"), NOW, chance=0)

    assert choices.stopped is not None
    assert (choices.due_ms(), choices.off, len(choices)) == (None, True, 1)
    choices.resume()
    assert choices.take(NOW) is not None


# ---- when the next fix is due ----


def test_the_next_fix_is_due_by_place_or_time() -> None:
    watch, here = Watch(), fix(0)
    assert watch.due(NOW, here.lon, here.lat), "nothing is known yet"
    watch.follow(here, decision(here, advice=NextFix(after_s=5, radius_m=100, latest_s=60)))

    assert not watch.due(NOW + 59_999, here.lon, here.lat + 0.00088)
    assert watch.due(NOW + 1, here.lon, here.lat + 0.0009), "100 m on"
    assert watch.due(NOW + 60_000, here.lon, here.lat)
    watch.follow(fix(-1), decision(fix(-1)))
    assert not watch.due(NOW + 1, here.lon, here.lat), "a late fix says nothing"
    watch.follow(fix(1), decision(fix(1)))
    assert watch.due(NOW + 1, here.lon, here.lat), "no advice: every fix"


# ---- what is kept ----


def test_the_file_is_whole_and_private(tmp_path: Path) -> None:
    """A crash between two writes leaves the old one."""
    path, choices = tmp_path / "kept.json", Choices()
    choices.narrow(choice("off"))
    assert kept.read(path) is None
    kept.write(path, kept.Kept(filled(2).kept(), choices.kept()))
    path.with_name("kept.json.new").write_text("half of a")

    found = kept.read(path)
    assert found is not None
    assert ids(found.fixes.pings) == "0 1"
    assert found.choices == choices.kept()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"fixes": 1}'])
def test_a_file_that_cannot_be_read_means_no(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(text)

    found = kept.read(path)
    assert found is not None
    assert found.choices.off


def test_it_needs_nothing_of_the_server() -> None:
    """An app that copies it installs msgspec and aiohttp."""
    asked = "import sys, engine.client.client; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True
    )
    server = "asyncpg numpy orjson prometheus_client pyproj rtree shapely uvloop geofences loadtest"

    assert {"aiohttp", "msgspec"} <= set(done.stdout.split())
    assert set(done.stdout.split()).isdisjoint(server.split())
