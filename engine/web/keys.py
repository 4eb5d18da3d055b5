"""Keys: who may call, made and deleted by an operator."""

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.store.audit import Author
from engine.store.port import KeyRow
from engine.web.auth import Role, key_hash, new_id, new_key
from engine.web.context import Context
from engine.web.fields import Cursor, Id, Limit, Name
from engine.web.live import live
from engine.web.paging import LIMIT_DEFAULT, Page, page_ids
from engine.web.problem import FieldError, Refused
from engine.web.residents import there
from engine.web.route import Answer

_BELONGS = {"brands": "merchant", "resident": "resident", "purchaser": "purchaser"}
"""Field -> the one role that has it, and must have it."""


class KeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key to make."""

    role: Role
    name: Name
    brands: Annotated[tuple[Id, ...], Meta(max_length=1_000)] = ()
    """Of a merchant."""
    resident: Id | None = None
    """Of a resident key."""
    purchaser: Id | None = None
    """Of a purchaser."""
    guardian: bool = False
    """Of a resident key: whoever has it speaks for the resident as their guardian."""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown."""

    id: str
    role: str
    name: str
    created_ms: int
    brands: tuple[str, ...] = ()
    resident: str | None = None
    purchaser: str | None = None
    guardian: bool = False


class MadeKey(KeyView, frozen=True, kw_only=True):
    """A new key with its text."""

    key: str
    """Shown this once."""


async def create_key(ctx: Context, body: KeyBody, by: Author | None) -> Answer[MadeKey]:
    """Make a key; its text is shown this once."""
    if errors := _errors(body):
        raise Refused("invalid_body", errors=tuple(errors))
    missing = [b for b in body.brands if b not in ctx.engine.book.brands]
    if missing:
        raise Refused("unknown_brand")
    if body.resident is not None:
        rows = await ctx.store.read_residents([body.resident])
        there(rows[0] if rows else None)
    key = new_key(body.role)
    row = KeyRow(
        id=new_id("k"),
        hash=key_hash(key),
        role=body.role,
        name=body.name,
        created_ms=ctx.clock_ms(),
        brands=tuple(dict.fromkeys(body.brands)),
        resident=body.resident,
        purchaser=body.purchaser,
        guardian=body.guardian,
    )
    await live(ctx, await ctx.store.put_key(row, by=by))
    return Answer(MadeKey(**msgspec.structs.asdict(view(row)), key=key), 201)


def _errors(body: KeyBody) -> list[FieldError]:
    """What is missing for the role, and what does not go with it."""
    misplaced = body.guardian and body.role != "resident"
    told = "Goes with the role resident only."
    return [FieldError("guardian", "role_mismatch", told)] * misplaced + [
        FieldError(name, "role_mismatch", f"Is required for the role {role}, and only there.")
        for name, role in _BELONGS.items()
        if bool(getattr(body, name)) != (body.role == role)
    ]


def view(row: KeyRow) -> KeyView:
    """A key without its hash."""
    return msgspec.convert(row, KeyView, from_attributes=True)


def _row(ctx: Context, key_id: str) -> KeyRow:
    """The key of an id."""
    for row in ctx.keys.values():
        if row.id == key_id:
            return row
    raise Refused("unknown_key")


async def list_keys(
    ctx: Context, *, limit: Limit = LIMIT_DEFAULT, cursor: Cursor | None = None
) -> Answer[Page[KeyView]]:
    """List keys by id."""
    known = {row.id: row for row in ctx.keys.values()}
    ids, following = page_ids(known, limit, cursor)
    return Answer(Page(tuple(view(known[one]) for one in ids), following))


async def get_key(ctx: Context, *, id: Id) -> Answer[KeyView]:  # noqa: A002 (the path's own word)
    """Read one key."""
    return Answer(view(_row(ctx, id)))


async def delete_key(ctx: Context, by: Author | None, *, id: Id) -> Answer[None]:  # noqa: A002 (the path's own word)
    """Delete a key; it stops working at once."""
    row = _row(ctx, id)
    operators = sum(one.role == "operator" for one in ctx.keys.values())
    if row.role == "operator" and operators == 1:
        raise Refused("last_operator_key")
    number = await ctx.store.delete_key(id, by=by)
    if number is None:
        raise Refused("unknown_key")
    await live(ctx, number)
    return Answer(None, 204)
