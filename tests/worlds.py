"""Small random worlds: an engine, a store, and all that the outside may do to them, by a seed.

The world counts for itself what left the engine and what stands in the store, and holds it against
the slow rule of consent and against the caps, attention and budgets as they were written.
"""

import random
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from engine.changes import ClaimMade
from engine.consent.record import Scope
from engine.consent.sync import Requested, Said, marketing, resolve, stop
from engine.decision import Decision, OfferMade
from engine.localtime import clock_of
from engine.offers.gates import Attention
from engine.offers.offer import Brand, BrandCaps, Budget, Offer
from engine.ping import Ping
from engine.pipeline import Engine, EngineSettings
from engine.residents import Limits, ResidentSettings
from engine.store.memory import MemoryStore
from engine.store.port import ResidentRow
from geofences.fence import Fence
from geofences.transitions import SILENCE_MAX_MS
from tests.consent_oracle import OFFER, Asked, answer
from tests.strategies import KEY, NOON_MS, offer, ping, place

DAY_MS: Final = 86_400_000
BRANDS: Final = (
    Brand(id="beans", name="Beans", categories=("food",), caps=BrandCaps(per_resident_day=2)),
    Brand(id="tea", name="Tea"),
    Brand(id="ink", name="Ink", categories=("books",)),
)
NAMES: Final = ("ann", "bob", "cho", "dee")
ZONES: Final = ("UTC", "Pacific/Kiritimati", "America/Los_Angeles")
CITY: Final = Attention(per_day=2, per_week=5)


class World:
    """An engine, a store, and everything that the outside may do to them, from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = MemoryStore()
        self.now_ms = NOON_MS
        self.fences = [self.some_fence(f"f{n}") for n in range(5)]
        self.offers = {f"o{n}": self.some_offer(f"o{n}") for n in range(6)}
        self.residents = {
            name: ResidentRow(
                id=name,
                settings=ResidentSettings(
                    timezone=self.rng.choice(ZONES),
                    limits=Limits(self.rng.choice((None, 1, 3)), self.rng.choice((None, 2, 9))),
                ),
            )
            for name in NAMES
        }
        self.budgets = {name: each.budget for name, each in self.offers.items()}
        self.engine = self.fresh_engine()
        self.handed: list[tuple[str, OfferMade]] = []
        self.seen: Counter[str] = Counter()

    def some_fence(self, fence_id: str) -> Fence:
        rng = self.rng
        return place(
            fence_id,
            rng.randrange(-3, 4) * 60,
            rng.randrange(-1, 2) * 60,
            radius_m=rng.choice((30, 60, 120)),
            brand=rng.choice(("beans", "tea", "ink")),
            tags=("door",),
        )

    def some_offer(self, offer_id: str) -> Offer:
        rng = self.rng
        trigger = rng.choice(("enter", "enter", "enter", "dwell", "exit", "pass"))
        return offer(
            offer_id,
            brand=rng.choice(("beans", "tea", "ink")),
            tags=("door",),
            trigger=trigger,
            dwell_s=60 if trigger == "dwell" else 0,
            priority=rng.randrange(3),
            caps={
                "per_resident_day": rng.choice((None, 1, 2)),
                "per_resident_total": rng.choice((None, 3)),
                "cool_down_s": rng.choice((0, 600, 6 * 3_600)),
            },
            budget=Budget(total=rng.choice((None, 4)), per_day=rng.choice((None, 2))),
            categories=rng.choice(((), (), ("food",), ("books",))),
            claim_ttl_s=rng.choice((300, 86_400)),
        )

    def fresh_engine(self) -> Engine:
        """A process that starts: what is configured, and no memory of anybody yet."""
        engine = Engine(secret=KEY, settings=EngineSettings(attention=CITY))
        for brand in BRANDS:
            engine.put_brand(brand)
        engine.put_fences(self.fences)
        for each in self.offers.values():
            engine.put_offer(each)
        for name in NAMES:
            self.tell(engine, name)
        return engine

    def tell(self, engine: Engine, name: str) -> None:
        row = self.residents[name]
        engine.put_resident(name, row.settings, row.version, row.records, now_ms=self.now_ms)

    def some_call(self) -> Iterable[Requested]:
        """Something that a resident says, more often yes than no."""
        rng = self.rng
        brand = rng.choice(("beans", "tea", "ink"))
        roll = rng.random()
        if roll < 0.45:
            return marketing(opted_in=True)
        if roll < 0.6:
            return marketing(opted_in=True, brands=[brand])
        if roll < 0.75:
            return marketing(opted_in=False, brands=[brand])
        if roll < 0.85:
            scope = Scope(category=rng.choice(("food", "books")))
            effect = rng.choice(("grant", "deny"))
            return [
                msgspec.structs.replace(one, scope=scope, effect=effect) for one in marketing(True)
            ]
        if roll < 0.95:
            life_ms = rng.choice((1, 60_000, 3_600_000))
            return [
                msgspec.structs.replace(one, expires_ms=self.now_ms + life_ms)
                for one in marketing(True)
            ]
        return rng.choice((stop(), marketing(opted_in=False)))

    def speak(self, name: str) -> None:
        row = self.residents[name]
        said = Said(actor="self", now_ms=self.now_ms, if_match=row.version)
        made = resolve(row, self.some_call(), said).records
        self.residents[name] = msgspec.structs.replace(
            row, version=row.version + 1, records=row.records + made
        )
        self.tell(self.engine, name)

    def some_pings(self) -> list[Ping]:
        """A few fixes from around the town, some late, some sent before, some from far back."""
        rng = self.rng
        pings = []
        for _ in range(rng.randrange(1, 12)):
            self.now_ms += rng.choice((0, 500, 5_000, 30_000, 90_000))
            one = ping(
                rng.randrange(-12, 13) * 25.0,
                (self.now_ms - NOON_MS) / 1_000 - rng.choice((0, 0, 0, 0, 30, 119, 300)),
                rng.randrange(-3, 4) * 25.0,
                resident=rng.choice((*NAMES, "nobody")),
                accuracy_m=rng.choice((5.0, 9.0, 30.0, None)),
            )
            one.received_ms = self.now_ms
            pings.append(one)
        return pings + rng.sample(pings, min(2, len(pings)))

    def change_the_town(self) -> None:
        rng = self.rng
        roll = rng.randrange(4)
        if roll == 0:
            at = rng.randrange(len(self.fences))
            self.fences[at] = self.some_fence(self.fences[at].id)
            self.engine.put_fences([self.fences[at]])
        elif roll == 1 and len(self.fences) > 2:
            self.engine.drop_fence(self.fences.pop().id)
        elif roll == 2 and self.offers:
            name = rng.choice(sorted(self.offers))
            del self.offers[name]
            self.engine.drop_offer(name)
        else:
            name = rng.choice(sorted(self.budgets))
            self.offers[name] = msgspec.structs.replace(
                self.some_offer(name), budget=self.budgets[name]
            )
            self.engine.put_offer(self.offers[name])

    async def commit(self, decisions: list[Decision]) -> list[Decision]:
        """What the journal does, with now and then a commit whose answer is lost."""
        changes = self.engine.take_changes()
        touched = {*changes.presences, *(c.resident for c in changes.claims)}
        touched |= {recall.resident for recall in changes.recalls}
        fate = self.rng.random()
        if fate < 0.1 and touched:
            self.seen["lost"] += 1
            if fate < 0.05:
                await self.store.commit(changes)
            self.engine.forget(touched)
            assert all(d.status in ("shed", "no_consent") for d in self.probe(sorted(touched)))
            await self.restore(self.engine, sorted(touched))
            return [d for d in decisions if d.resident not in touched]
        done = await self.store.commit(changes)
        refused = {r.claim: r.reason for r in done.refused}
        moved = self.engine.settle(changes.claims, refused, done.counts)
        if moved:
            await self.restore(self.engine, moved)
        return [
            d
            if d.offer is None or d.offer.claim not in refused
            else msgspec.structs.replace(d, offer=None, withheld=refused[d.offer.claim])
            for d in decisions
        ]

    def probe(self, names: list[str]) -> list[Decision]:
        """What residents in doubt are answered."""
        at_s = (self.now_ms - NOON_MS) / 1_000
        return self.engine.decide([ping(0, at_s, resident=name) for name in names])

    async def restore(self, engine: Engine, names: list[str]) -> None:
        states = await self.store.read_states(names, now_ms=self.now_ms)
        counts = await self.store.read_counts(sorted(self.budgets), now_ms=self.now_ms)
        engine.restore(states, counts)

    async def restart(self) -> None:
        """kill -9, and a new process that reads what was durable."""
        self.engine = self.fresh_engine()
        snapshot = await self.store.snapshot(now_ms=self.now_ms)
        self.engine.restore(snapshot.states, snapshot.counts)
        self.seen["restart"] += 1
        # Another process that starts like this one is only asked whether anybody enters again.
        other = self.fresh_engine()
        other.restore(snapshot.states, snapshot.counts)
        for name in NAMES:
            self.check_no_enter_again(other, name)

    def check_no_enter_again(self, engine: Engine, name: str) -> None:
        """Whoever was durably inside does not enter where they are."""
        row = self.store.shared.presences.get(name)
        if row is None or not 0 <= self.now_ms - row.seen_ms <= SILENCE_MAX_MS:
            return
        inside = {stay.fence for stay in row.stays}
        for fence in self.fences:
            if fence.id in inside:
                at = fence.boxes[0]
                one = ping(resident=name)
                one.lon, one.lat = (at.west + at.east) / 2, (at.south + at.north) / 2
                one.at_ms = one.received_ms = self.now_ms + 1
                self.seen["asked again"] += 1
                events = engine.decide([one])[0].events
                assert not [e for e in events if e.kind == "enter" and e.fence in inside]
                return

    def hand_over(self, decisions: list[Decision]) -> None:
        """What the rim does last, and what the outside then checks of each offer that leaves."""
        for decision in decisions:
            out = self.engine.hand_over(decision, now_ms=self.now_ms, mono_ms=0)
            self.seen[out.status] += 1
            if out.offer is None:
                self.seen[out.withheld or "nothing"] += 1
                continue
            self.seen["offer"] += out.status == "decided"
            self.check_consent(out)
            self.handed.append((out.resident, out.offer))

    def check_consent(self, decision: Decision) -> None:
        """The slow rule allows what left, now and for this brand."""
        made = decision.offer
        assert made is not None
        row = self.residents[decision.resident]
        brand = next(b for b in BRANDS if b.id == made.brand)
        own = self.offers[made.offer].categories or brand.categories
        asked = Asked(
            OFFER,
            made.brand,
            own,
            brand.categories,
            now_ms=self.now_ms,
            zone=row.settings.timezone,
        )
        assert answer(row.records, asked) == "allow"

    def check_counts(self) -> None:
        """No cap, attention or budget is exceeded by what stands in the store."""
        standing = [c.made for c in self.store.shared.claims.values() if c.stands]
        total: Counter[str] = Counter(c.made.offer for c in standing)
        days: Counter[tuple[str, int]] = Counter((c.made.offer, c.day) for c in standing)
        for name, budget in self.budgets.items():
            assert budget.total is None or total[name] <= budget.total
            assert budget.per_day is None or all(
                count <= budget.per_day for (of, _), count in days.items() if of == name
            )
        for name, row in self.residents.items():
            self.check_attention(row, [c for c in standing if c.resident == name])
        decisions = [(c.made.resident, c.made.decision) for c in self.store.shared.claims.values()]
        assert len(decisions) == len(set(decisions))

    def check_attention(self, row: ResidentRow, claims: list[ClaimMade]) -> None:
        clock = clock_of(row.settings.timezone)
        days = [clock.at(c.made_ms).day for c in claims]
        per_day = row.settings.limits.per_day or CITY.per_day
        per_week = row.settings.limits.per_week or CITY.per_week
        for day in set(days):
            assert days.count(day) <= per_day
            assert sum(day - 7 < d <= day for d in days) <= per_week
            of_beans = [c for c, d in zip(claims, days, strict=True) if d == day]
            assert sum(c.made.brand == "beans" for c in of_beans) <= 2


async def live(seed: int, turns: int = 60) -> World:
    """One world for a while: it moves, speaks, changes, fails and restarts, and is checked."""
    world = World(seed)
    await world.store.open()
    await world.store.create_residents({n: r.settings for n, r in world.residents.items()})
    for name in NAMES[: world.rng.randrange(1, 5)]:
        world.speak(name)
    for _ in range(turns):
        roll = world.rng.random()
        decisions = world.engine.decide(world.some_pings())
        if roll < 0.2:
            world.speak(world.rng.choice(NAMES))
        decisions = await world.commit(decisions)
        if 0.2 < roll < 0.5:
            world.speak(world.rng.choice(NAMES))
        if 0.45 < roll < 0.6:
            world.change_the_town()
        world.hand_over(decisions)
        await world.commit([])
        world.check_counts()
        if roll > 0.93:
            await world.restart()
        if world.rng.random() < 0.05:
            world.now_ms += world.rng.choice((3_600_000, DAY_MS))
    return world
