"""The audit log: who wrote what, and when."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.store.audit import AuditEntry, AuditFilter
from engine.store.port import KeyRow
from engine.web.context import Context
from engine.web.fields import Cursor, Limit
from engine.web.paging import LIMIT_DEFAULT, Page, read_cursor, write_cursor
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer

Thing = Literal["brand", "fence", "offer", "key", "resident", "protection", "notice", "redemption"]
AnyId = Annotated[str, Meta(min_length=1, max_length=128)]
SinceMs = Annotated[int, Meta(ge=0, le=1 << 53)]


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a key of an operator, a merchant or a sender wrote."""

    number: int
    """Rising with time; not every number is there."""
    at_ms: int
    key: str
    """Id of the key; empty for a command at the host itself."""
    key_name: str
    role: str
    action: str
    """The route, or the command."""
    request_id: str
    kind: str
    id: str
    brand: str | None
    """Whose it is, where it belongs to a brand."""
    version: int
    """After the write; of what was deleted the last one; 0 of what has none."""
    outcome: str
    """`created`, `updated` or `deleted`."""


async def list_audit(
    ctx: Context,
    key: KeyRow,
    *,
    kind: Thing | None = None,
    id: AnyId | None = None,  # noqa: A002 (the query's own word)
    since_ms: SinceMs | None = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor | None = None,
) -> Answer[Page[AuditLine]]:
    """List who wrote what, newest first; a merchant sees what was done to its brands."""
    wanted = AuditFilter(
        kind=kind,
        id=id,
        since_ms=since_ms,
        brands=None if key.role == "operator" else key.brands,
        before=None if cursor is None else _number(cursor),
    )
    entries = await ctx.store.audit(wanted, limit=limit + 1)
    shown = entries[:limit]
    following = write_cursor(str(shown[-1].number)) if len(entries) > limit else None
    return Answer(Page(tuple(map(_line, shown)), following))


def _number(cursor: str) -> int:
    """The number before which a page begins."""
    text = read_cursor(cursor)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        wrong = FieldError("cursor", "invalid_cursor", "Must be `next` of an earlier answer.")
        raise Refused("invalid_parameter", errors=(wrong,))
    return int(text)


def _line(entry: AuditEntry) -> AuditLine:
    """An entry as it is shown."""
    author = entry.author
    return AuditLine(
        number=entry.number,
        at_ms=author.at_ms,
        key=author.key,
        key_name=author.name,
        role=author.role,
        action=author.action,
        request_id=author.request,
        kind=entry.kind,
        id=entry.id,
        brand=entry.brand,
        version=entry.version,
        outcome=entry.outcome,
    )
