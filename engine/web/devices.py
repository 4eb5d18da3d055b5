"""A resident's devices: a second one joins by a code that the first one shows, and any may go.

Whoever holds the code becomes the resident, so it lives for ten minutes, works once, and is kept as
a hash only. It has 50 bits; wrong ones are counted, and too many of them make everybody wait.
"""

import secrets
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.offers.codes import ALPHABET
from engine.store.audit import Author
from engine.store.port import KeyRow
from engine.web.auth import key_hash, new_id, new_key, resident_of
from engine.web.context import Context
from engine.web.fields import Cursor, Id, Limit, Name, ResidentId
from engine.web.live import live
from engine.web.paging import LIMIT_DEFAULT, Page, page_ids
from engine.web.problem import Refused
from engine.web.residents import resident_row
from engine.web.route import Answer

PAIRING_MS: Final = 600_000
"""How long a code can be used."""
CODE_LENGTH: Final = 10
TRIES: Final = "pairing"
"""The bucket of wrong codes, one for all who try."""


class PairingMade(msgspec.Struct, frozen=True, kw_only=True):
    """A code for one more device, to be shown to the resident and to nobody else."""

    code: str
    """Works once."""
    expires_at_ms: int


class PairingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A code as it was typed or scanned; case, spaces and dashes do not matter."""

    code: Annotated[str, Meta(min_length=1, max_length=64, examples=["7K2MQ-0XD93"])]
    device: Name = "paired"
    """What the resident will know the device by."""


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a device that has joined."""

    resident: str
    id: str
    """Of the key."""
    key: str
    """Shown this once."""


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device, which is a key of its own."""

    id: str
    """Of the key."""
    name: str
    created_ms: int
    current: bool
    """Whether it is the one that asks."""
    guardian: bool
    """Whether it is a guardian's, which the resident can't take away."""


def read_code(typed: str) -> str:
    """A pairing code's letters alone; I and L are read as 1, O as 0, as for the codes of offers."""
    text = "".join(typed.split()).replace("-", "").upper()
    return text.replace("I", "1").replace("L", "1").replace("O", "0")


async def create_pairing(ctx: Context, key: KeyRow, *, resident: ResidentId) -> Answer[PairingMade]:
    """Make a code by which one more device becomes the resident's, within ten minutes."""
    whom = (await resident_row(ctx, key, resident)).id
    text = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
    now_ms = ctx.clock_ms()
    until_ms = now_ms + PAIRING_MS
    if not await ctx.store.put_pairing(key_hash(text), whom, until_ms=until_ms, now_ms=now_ms):
        raise Refused("unknown_resident")
    half = CODE_LENGTH // 2
    return Answer(PairingMade(code=f"{text[:half]}-{text[half:]}", expires_at_ms=until_ms), 201)


async def take_code(ctx: Context, typed: str) -> str:
    """The resident of a code, which is used up by it.

    Raises:
        Refused: `unknown_pairing`, or `too_many_requests` after many of those.
    """
    tries, mono_ms = ctx.pairing_tries, ctx.mono_ms()
    if not tries.take(TRIES, mono_ms):
        wait_s = tries.wait_s(TRIES, mono_ms)
        raise Refused("too_many_requests", headers={"Retry-After": str(wait_s)})
    resident = await ctx.store.take_pairing(key_hash(read_code(typed)), now_ms=ctx.clock_ms())
    if resident is None:
        raise Refused("unknown_pairing")
    tries.charge(TRIES, -1, mono_ms)  # only wrong ones count
    return resident


async def pair(ctx: Context, body: PairingBody) -> Answer[Paired]:
    """Join a resident's devices with a code that one of them shows; no key is needed."""
    resident = await take_code(ctx, body.code)
    key = new_key("resident")
    row = KeyRow(
        id=new_id("k"),
        hash=key_hash(key),
        role="resident",
        name=body.device,
        created_ms=ctx.clock_ms(),
        resident=resident,
    )
    await live(ctx, await ctx.store.put_key(row))
    return Answer(Paired(resident=resident, id=row.id, key=key), 201)


async def list_devices(
    ctx: Context,
    key: KeyRow,
    *,
    resident: ResidentId,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor | None = None,
) -> Answer[Page[DeviceView]]:
    """List a resident's devices by id."""
    whom = (await resident_row(ctx, key, resident)).id
    mine = {one.id: one for one in ctx.keys.values() if one.resident == whom}
    ids, following = page_ids(mine, limit, cursor)
    page = tuple(
        DeviceView(
            id=one,
            name=mine[one].name,
            created_ms=mine[one].created_ms,
            current=one == key.id,
            guardian=mine[one].guardian,
        )
        for one in ids
    )
    return Answer(Page(page, following))


async def delete_device(
    ctx: Context, key: KeyRow, by: Author | None, *, resident: ResidentId, device: Id
) -> Answer[None]:
    """Take a device away; its key stops working at once, on every server."""
    whom = resident_of(key, resident)
    known = (one for one in ctx.keys.values() if one.id == device and one.resident == whom)
    gone = next(known, None)
    if gone is None:
        raise Refused("unknown_device")
    if gone.guardian and key.role == "resident" and not key.guardian:
        raise Refused("guardian_needed")
    number = await ctx.store.delete_key(device, by=by)
    if number is None:
        raise Refused("unknown_device")
    await live(ctx, number)
    return Answer(None, 204)
