"""One ping from bytes to bytes in one process: read, decide, take the changes, hand over, write.

What a server adds, HTTP and the waiting for a commit, is left out; `bench/serve.py` has it. The
journal's word that a claim is durable is given at once.
"""

from collections.abc import Callable
from hashlib import blake2b
from time import perf_counter_ns
from typing import Final

import msgspec

from bench.city import (
    STEP_MS,
    Walk,
    batches,
    bodies,
    make_brands,
    make_fences,
    make_offers,
    opted_in,
    resident_id,
)
from bench.match import short
from bench.table import Row
from bench.timing import median, percentile, settled_memory, told
from engine.changes import Changes
from engine.decision import encode, encode_all
from engine.ingest.native import decode_request
from engine.offers.gates import Attention
from engine.ping import Ping
from engine.pipeline import Engine, EngineSettings
from engine.residents import ResidentSettings

NOON_MS: Final = 1_779_969_600_000
"""Thursday 28 May 2026, 12:00 UTC: nobody's quiet hours."""
BATCH: Final = 100
ATTENTION: Final = Attention(per_day=3, per_week=10)
WARM_ROUNDS: Final = 2


class Way:
    """An engine with all that is in the city, and the way of a body through it.

    Attributes:
        changing: pings or bodies so far whose answer would wait for a commit.
        offers: made so far.
    """

    def __init__(self, fences: int, residents: int) -> None:
        self.engine = Engine(
            secret=b"passby bench: ids worth nothing",
            settings=EngineSettings(attention=ATTENTION),
        )
        brands = make_brands(fences)
        for brand in brands:
            self.engine.put_brand(brand)
        self.engine.put_fences(make_fences(fences))
        for offer in make_offers(brands):
            self.engine.put_offer(offer)
        for number in range(residents):
            name = resident_id(number)
            said = opted_in(name, now_ms=NOON_MS)
            self.engine.put_resident(name, ResidentSettings(), 1, said, now_ms=NOON_MS)
        self.changing = self.offers = 0

    def one(self, body: bytes, now_ms: int) -> bytes:
        """The answer to a body with one ping."""
        engine = self.engine
        ping = decode_request(body, received_ms=now_ms, resident=None, pings_max=1)
        assert isinstance(ping, Ping)
        (decision,) = engine.decide([ping])
        changes = engine.take_changes()
        if changes:
            self._settle(changes)
        return encode(engine.hand_over(decision, now_ms=now_ms, mono_ms=0))

    def many(self, body: bytes, now_ms: int) -> bytes:
        """The answer to a body with many pings."""
        engine = self.engine
        pings = decode_request(body, received_ms=now_ms, resident=None, pings_max=10_000)
        assert isinstance(pings, list)
        decisions = engine.decide([ping for ping in pings if isinstance(ping, Ping)])
        changes = engine.take_changes()
        if changes:
            self._settle(changes)
        return encode_all([engine.hand_over(d, now_ms=now_ms, mono_ms=0) for d in decisions])

    def _settle(self, changes: Changes) -> None:
        """Take the changes for durable, and count whom an answer would have waited for."""
        self.engine.settle(changes.claims, {}, ())
        self.changing += len(changes.presences.keys() | {c.resident for c in changes.claims})
        self.offers += len(changes.claims)


def run(*, fences: int, residents: int, rounds: int) -> list[Row]:
    """Measure at one number of fences: rounds of pings one by one and in batches, in turns.

    In each round every resident sends one ping.
    """
    with told(f"decide: {fences:,} fences"):
        way, walk = Way(fences, residents), Walk(residents)
        singles: list[list[float]] = []
        batched: list[list[float]] = []
        hits = pings = 0
        with settled_memory():
            for number in range(WARM_ROUNDS + 2 * rounds):
                now_ms = NOON_MS + number * STEP_MS
                positions = walk.step()
                one_by_one = bodies(positions, now_ms)
                if number < WARM_ROUNDS:
                    _timed(way.one, one_by_one, now_ms)
                    way.changing = way.offers = 0
                    continue
                pings += residents
                hits += sum(map(len, way.engine.fences.covering_many(positions)))
                if number % 2:
                    took = _timed(way.many, batches(one_by_one, BATCH), now_ms)
                    batched.append([us / BATCH for us in took])
                else:
                    singles.append(_timed(way.one, one_by_one, now_ms))
        share, made = way.changing / pings, f"{way.offers:,} offers made"
    return [
        _row(f"decide {short(fences)}, {name}", took, fences, hits / pings, share, note)
        for name, took, note in (("one", singles, made), ("batches", batched, "of 100; a ping"))
    ]


def _row(
    name: str, rounds: list[list[float]], fences: int, hits: float, changing: float, note: str
) -> Row:
    """A line of the table from the microseconds a ping, by round."""
    took = [us for each in rounds for us in each]
    return Row(
        name=name,
        fences=fences,
        least_us=min(map(median, rounds)),
        median_us=median(took),
        p99_us=percentile(took, 0.99),
        per_s=1e6 * len(took) / sum(took),
        hits=hits,
        changing=changing,
        note=note,
    )


def _timed(answer: Callable[[bytes, int], bytes], sent: list[bytes], now_ms: int) -> list[float]:
    """Microseconds of each answer."""
    took = []
    for body in sent:
        began_ns = perf_counter_ns()
        answer(body, now_ms)
        took.append((perf_counter_ns() - began_ns) / 1_000)
    return took


class Checked(msgspec.Struct):
    """What a walk came to."""

    one_by_one: str
    """Hash of all decisions, as pings sent one by one have them."""
    in_batches: str
    changing: int
    offers: int


def check(*, fences: int, residents: int, rounds: int) -> Checked:
    """Send the same walk one by one and in batches through two engines of the same city."""
    first, second, walk = Way(fences, residents), Way(fences, residents), Walk(residents)
    one_by_one, in_batches = blake2b(digest_size=12), blake2b(digest_size=12)
    for number in range(rounds):
        now_ms = NOON_MS + number * STEP_MS
        sent = bodies(walk.step(), now_ms)
        answers = [first.one(body, now_ms) for body in sent]
        one_by_one.update(b'{"decisions":[' + b",".join(answers) + b"]}")
        in_batches.update(second.many(b'{"pings":[' + b",".join(sent) + b"]}", now_ms))
    return Checked(one_by_one.hexdigest(), in_batches.hexdigest(), first.changing, first.offers)
