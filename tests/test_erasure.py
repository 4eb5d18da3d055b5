"""After an erasure the whole database is searched for the resident, whatever the tables are."""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg

from engine.app import running
from engine.config import Config
from tests.web_town import OPERATOR, Town, offer, serving

NEEDLE: Final = "needle-in-the-haystack"
ME: Final = "/v1/residents/me"
HOME: Final = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [25.5, 60.2]},
    "properties": {"radius_m": 150},
}


async def tables_with(url: str, text: str) -> set[str]:
    """Tables of which a row holds a text, as text or as bytes."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch(
            "select tablename from pg_tables where schemaname = 'public'"
        )
        found = set()
        for (name,) in names:
            hits = await connection.fetchval(
                f'select count(*) from "{name}" as t where t::text like $1 or t::text like $2',
                f"%{text}%",
                f"%{text.encode().hex()}%",
            )
            if hits:
                found.add(name)
        return found
    finally:
        await connection.close()


async def lived(here: Town) -> str:
    """A resident of whom there is something in every table that can have something; their key."""
    await here.brand("cafe")
    await here.must("PUT", "/v1/offers/bun", offer("cafe"))
    key = await here.resident(NEEDLE)
    share = {"effect": "grant", "purpose": "measurement", "actions": ["share"]}
    changes = [{**share, "data": ["facility_use"], "scope": {"all": True}}]
    await here.must("PUT", f"{ME}/zones/home", HOME, key=key)
    once = {"Idempotency_Key": "one", "If_Match": '"1"'}
    await here.must("PATCH", f"{ME}/preferences", {"changes": changes}, key=key, **once)
    await here.must("PATCH", f"/v1/residents/{NEEDLE}", {"language": "fi"})
    made: Any = (await here.must("POST", "/v1/pings", here.ping(NEEDLE)))["offer"]
    assert made is not None
    await here.must("POST", "/v1/residents", {"resident": f"{NEEDLE}-2"})
    await here.must("POST", f"/v1/residents/{NEEDLE}/merge", {"resident": f"{NEEDLE}-2"})
    await here.must("POST", f"{ME}/pairings", key=key)
    return key


async def test_nothing_names_an_erased_resident(database_url: str, tmp_path: Path) -> None:
    """But the line of the feed that processes follow, and who is looked for again for an hour."""
    config = Config(data=tmp_path, operator_key=OPERATOR, database_url=database_url)
    async with running(config, lambda: None) as ctx, serving(ctx) as here:
        key = await lived(here)
        await here.must("POST", "/v1/residents", {"resident": f"{NEEDLE}-3"})
        before = await tables_with(database_url, NEEDLE)
        gone = await asyncio.gather(
            here.call("DELETE", ME, key=key),
            here.call("DELETE", f"/v1/residents/{NEEDLE}-3"),
        )
        after = await tables_with(database_url, NEEDLE)
        connection = await asyncpg.connect(database_url)
        kept = await connection.fetchval("select count(*) from erased_records")
        await connection.execute("update erasures set at = at - interval '2 hours'")
        await connection.close()
        await ctx.store.retain(presence_before_ms=0, claims_before_ms=0)
        later = await tables_with(database_url, NEEDLE)

    assert {"audit", "consent_records", "keys", "kept_answers", "protections"} <= before
    assert {"pairings", "residents", "changes", "events", "claims", "resident_states"} <= before
    assert [reply.status for reply in gone] == [204, 204]
    assert after == {"changes", "erasures"}
    assert later == {"changes"}
    assert kept > 10
