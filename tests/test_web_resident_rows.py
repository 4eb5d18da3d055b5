"""Residents whom a city brings along: their opt-ins with proof, never more than they said here."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.store.memory import MemoryStore
from engine.web.resident_rows import ResidentLine
from tests.web_town import Town, daytime_zone, offer, town

PROOF = {"source": "city-portal", "reference": "form 7/2026", "notice": "offers v3"}
YES = {"opted_in": True}
NO = {"opted_in": False}


async def bring(here: Town, *rows: Any, query: str = "") -> Any:
    data = b"\n".join(row if isinstance(row, bytes) else msgspec.json.encode(row) for row in rows)
    return await here.must("POST", f"/v1/residents/import{query}", data=data)


def short(told: Any) -> tuple[int, int, int, int]:
    return told["created"], told["updated"], told["unchanged"], told["rejected_count"]


async def test_an_opt_in_is_in_force_with_its_proof(tmp_path: Path) -> None:
    """The resident gets an offer at the next ping, and finds the proof in their record."""
    store = MemoryStore()
    async with town(tmp_path, store) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        zone = daytime_zone(here.ctx.clock_ms())
        rows = [
            {"resident": "ann", "timezone": zone, "marketing": YES, "proof": PROOF, "at_ms": 5},
            {"resident": "bob", "timezone": zone, "marketing": NO},
            {"resident": "cid", "language": "fi"},
        ]
        planned = await bring(here, *rows, query="?dry_run=true")
        nobody = dict(store.shared.residents)
        done = await bring(here, *rows)
        again = await bring(here, *rows)
        pings = {"pings": [here.ping(name) for name in ("ann", "bob", "cid")]}
        ann, bob, cid = (await here.must("POST", "/v1/pings", pings))["decisions"]
        audit = await here.must("GET", "/v1/audit?kind=resident")

        assert (short(planned), short(done), short(again)) == (
            (3, 0, 0, 0),
            (3, 0, 0, 0),
            (0, 0, 3, 0),
        )
        assert nobody == {}
        assert ann["offer"]["offer"] == "bun"
        assert (bob["status"], cid["status"]) == ("no_consent", "no_consent")
        kept = store.shared.residents["ann"].records
        assert {(r.actor, r.effect, r.client_ms) for r in kept} == {("agent", "grant", 5)}
        assert {msgspec.json.decode(r.proof or "")["reference"] for r in kept} == {"form 7/2026"}
        assert {r.effect for r in store.shared.residents["bob"].records} == {"withdraw"}
        assert store.shared.residents["cid"].settings.language == "fi"
        assert [e["id"] for e in reversed(audit["items"])] == ["ann", "bob", "cid"]


async def test_what_was_said_here_is_never_widened(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await here.resident("ann")
        await here.must("POST", "/v1/residents/me/stop", key=key)
        await here.must("POST", "/v1/residents", {"resident": "bob"})
        before = await here.must("GET", "/v1/residents/ann/preferences")
        rows = [{"resident": name, "marketing": YES, "proof": PROOF} for name in ("ann", "bob")]
        planned = await bring(here, *rows, query="?dry_run=true")
        done = await bring(here, *rows)
        after = await here.must("GET", "/v1/residents/ann/preferences")
        bob = await here.must("GET", "/v1/residents/bob/preferences")
        withdrawn = await here.must("POST", "/v1/residents/bob/stop")
        again = await bring(here, *rows)

        assert short(planned) == short(done) == (0, 1, 0, 1)
        (rejected,) = done["rejected"]
        assert (rejected["row"], rejected["id"], rejected["code"]) == (1, "ann", "already_said")
        assert after == before
        assert bob["version"] == 1
        assert len(bob["standing"]) == 2
        assert withdrawn["version"] == 2
        assert again["updated"] == 0
        assert (await here.must("GET", "/v1/residents/bob/preferences"))["standing"] == []


async def test_bad_rows_are_told(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        told = await bring(
            here,
            {"resident": "a", "marketing": YES},
            {"resident": "b", "marketing": YES | {"brands": ["cafe", "none"]}, "proof": PROOF},
            {"resident": "me"},
            {"resident": "c", "timezone": "Mars/Olympus"},
            {"resident": "d", "colour": "red"},
            {"resident": "e f"},
            {},
            b"{",
            [],
            {"resident": "g", "marketing": YES | {"brands": ["cafe"]}, "proof": PROOF},
            {"resident": "g"},
            {"resident": "h", "proof": {"source": "x"}},
        )

        assert short(told) == (1, 0, 0, 11)
        assert [(r["row"], r["code"], r["path"]) for r in told["rejected"]] == [
            (1, "missing_field", "proof"),
            (2, "unknown_brand", "marketing.brands[1]"),
            (3, "reserved", "resident"),
            (4, "not_one_of", "timezone"),
            (5, "unknown_field", "colour"),
            (6, "out_of_range", "resident"),
            (7, "missing_field", "resident"),
            (8, "malformed_json", ""),
            (9, "wrong_type", ""),
            (11, "duplicate_id", "id"),
            (12, "missing_field", "proof.reference"),
        ]


async def test_many_residents_in_several_writes(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        rows = [{"resident": f"r{n}", "marketing": YES, "proof": PROOF} for n in range(450)]

        assert short(await bring(here, *rows)) == (450, 0, 0, 0)
        assert len(here.ctx.engine.preferences) == 450
        assert short(await bring(here, *rows)) == (0, 0, 450, 0)


@pytest.mark.parametrize("role", ["sender", "merchant"])
async def test_only_an_operator_brings_residents_along(tmp_path: Path, role: str) -> None:
    async with town(tmp_path) as here:
        await here.brand("cafe")
        key = await here.key(role, **({"brands": ["cafe"]} if role == "merchant" else {}))
        reply = await here.call("POST", "/v1/residents/import", data=b"", key=key)

        assert (reply.status, reply.code) == (403, "wrong_role")


def test_the_line_says_what_it_needs() -> None:
    """A row has no field that could stand for a grant without its proof."""
    assert set(ResidentLine.__struct_fields__) == {
        "resident",
        "timezone",
        "language",
        "marketing",
        "proof",
        "at_ms",
    }
