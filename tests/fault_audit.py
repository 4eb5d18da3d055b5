"""What the database holds after a fault, against what clients were told and what limits say."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from tests.fault_crowd import Crowd, Json
from tests.fault_town import Town
from tests.running import Service


@dataclass(frozen=True, slots=True)
class Books:
    """The store's rows."""

    claims: dict[str, Json]
    """By id: the offer made, with its `resident` and `decision`, as clients are told it."""
    standing: tuple[Any, ...]
    """(resident, offer) of every claim that was not recalled."""
    counts: dict[str, int]
    """Total of each offer, as it is counted."""
    counted_of: dict[str, int]
    """Claims ever, of each resident, as they are counted."""
    stays: dict[str, set[str]]
    """Fences that residents are inside of."""


async def read(service: Service) -> Books:
    """Read the books in one transaction."""
    async with (
        service.database() as database,
        database.transaction(isolation="repeatable_read", readonly=True),
    ):
        return await _read(database)


async def _read(database: "asyncpg.Connection[asyncpg.Record]") -> Books:
    rows = await database.fetch("select * from claims")
    counts = await database.fetch("select offer, claims from offer_counts where day = -1")
    states = await database.fetch("select resident, claims, stays from resident_states")
    return Books(
        claims={row["id"]: _told(row) for row in rows},
        standing=tuple((r["resident"], r["offer"]) for r in rows if r["state"] == "made"),
        counts={row["offer"]: row["claims"] for row in counts},
        counted_of={row["resident"]: row["claims"] for row in states},
        stays={row["resident"]: _fences(row["stays"]) for row in states},
    )


def _told(row: asyncpg.Record) -> Json:
    made: Json = msgspec.json.decode(row["made"])
    return made | {"resident": row["resident"], "decision": row["decision"]}


def _fences(stays: bytes | None) -> set[str]:
    found = [] if stays is None else msgspec.json.decode(stays)
    return {stay["fence"] if isinstance(stay, dict) else stay[0] for stay in found}


def faults(books: Books, crowd: Crowd) -> list[str]:
    """Everything in which the books are not what they must be; none: all is well."""
    presence = [*crowd.ledger.entered_again, *_astray(books, crowd)]
    return [*presence, *faults_of_claims(books, crowd)]


def faults_of_claims(books: Books, crowd: Crowd) -> list[str]:
    """As `faults`, presence left aside: all that holds even if two processes share a resident."""
    return [*crowd.ledger.wrong, *_missing(books, crowd), *_overdrawn(books, crowd.town)]


def _missing(books: Books, crowd: Crowd) -> list[str]:
    """Answered claims that are not there, or not as they were told."""
    return [
        f"the claim {claim} is {'not there' if claim not in books.claims else 'another one'}"
        for claim, told in crowd.ledger.claims.items()
        if books.claims.get(claim) != told
    ]


def _astray(books: Books, crowd: Crowd) -> list[str]:
    """Enters that were told and are not there."""
    wrong = []
    for walker in crowd.walkers:
        lost = walker.inside - walker.unsure - books.stays.get(walker.resident, set())
        wrong += [f"a stay in {fence} was told and is not there" for fence in lost]
    return wrong


def _overdrawn(books: Books, town: Town) -> list[str]:
    """Limits that were passed, things that are there twice, and counts that are wrong."""
    wrong = []
    made = books.claims.values()
    for name, keys in (
        ("decision", Counter((m["resident"], m["decision"]) for m in made)),
        ("code", Counter(m["code"] for m in made)),
    ):
        wrong += [f"a {name} has {count} claims" for count in keys.values() if count > 1]
    of_offer = Counter(offer for _, offer in books.standing)
    for number in range(town.fences):
        body, count = town.offer(number), of_offer[f"o-{number}"]
        budget = min(body.get("budget", {}).values(), default=count)
        if count > budget:
            wrong.append(f"o-{number} has {count} claims of {budget}")
        if books.counts.get(f"o-{number}", 0) != count:
            wrong.append(f"o-{number} has {count} claims, {books.counts[f'o-{number}']} counted")
    for (_, offer), count in Counter(books.standing).items():
        cap = town.offer(int(offer.removeprefix("o-")))["caps"]["per_resident_total"]
        wrong += [f"a resident has {offer} {count} times, {cap} at most"] * (count > cap)
    for count in Counter(resident for resident, _ in books.standing).values():
        wrong += [f"a resident has {count} offers of {town.per_day}"] * (count > town.per_day)
    ever = Counter(m["resident"] for m in made)
    wrong += [
        f"a resident has {ever[name]} claims, {count} counted"
        for name, count in books.counted_of.items()
        if ever[name] != count
    ]
    return wrong


def unread(books: Books, crowd: Crowd) -> dict[str, Json]:
    """Claims that were committed and that nobody was told of, by resident."""
    return {
        told["resident"]: told
        for claim, told in books.claims.items()
        if claim not in crowd.ledger.claims
    }
