"""Global Privacy Control: a browser's `Sec-GPC: 1` on a resident's request, honoured and kept.

It writes a deny of sharing and selling for all purposes, once. It stays: that the signal is absent
later is no opt-in. Only a grant for all of the resident's own, made from the latest settings, takes
its place; and then the signal is not written again, since the resident has said what they want.
"""

import contextlib
import secrets
from typing import Final

from aiohttp import web

from engine.consent.law import GPC_LANES
from engine.consent.sync import Said, opt_out_of_sale, resolve
from engine.store.port import KeyRow, StoreUnavailable, VersionMoved
from engine.web.context import Context
from engine.web.live import in_force

HEADER: Final = "Sec-GPC"
HONOURED: Final = {"Passby-GPC": "honoured"}
"""What every answer to such a request holds while the signal is in force."""

TRIES_MAX: Final = 50


def has_signal(ctx: Context, resident: str) -> bool:
    """Whether nothing of a resident may be shared or sold because of a signal."""
    entry = ctx.engine.preferences.entry(resident, ctx.clock_ms())
    return entry is not None and GPC_LANES & ~entry.row.floor == 0


async def honour(ctx: Context, request: web.Request, key: KeyRow) -> dict[str, str]:
    """Keep the signal of a resident's request, if it has one; headers for the answer.

    Where the store does not answer the request goes on, and the next one tries again: the header
    is then not there.
    """
    if key.role != "resident" or request.headers.get(HEADER, "").strip() != "1":
        return {}
    resident = key.resident or ""
    if not has_signal(ctx, resident):
        with contextlib.suppress(StoreUnavailable):
            await _keep(ctx, resident)
    return HONOURED if has_signal(ctx, resident) else {}


async def _keep(ctx: Context, resident: str) -> None:
    """Write the deny, unless it was written before."""
    for _ in range(TRIES_MAX):
        rows = await ctx.store.read_residents([resident])
        if not rows or any(record.actor == "signal" for record in rows[0].records):
            return
        said = Said(actor="signal", now_ms=ctx.clock_ms(), seed=secrets.token_bytes(32))
        records = resolve(rows[0], opt_out_of_sale(), said).records
        write = ctx.store.append_records(resident, records, version_before=rows[0].version)
        with contextlib.suppress(VersionMoved):
            await in_force(ctx, write, narrows=True)
            return
