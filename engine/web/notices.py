"""Notices over HTTP: the texts that residents are shown, which never change once they are there."""

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.consent.notices import NoticeText, hash_of
from engine.store.audit import Author
from engine.store.guards import NoticeThere
from engine.web.context import Context
from engine.web.fields import Id, Language, Limit
from engine.web.paging import LIMIT_DEFAULT, Page
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer

TEXT_LENGTH_MAX = 100_000


class NoticeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text in one language."""

    text: Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]
    text_hash: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}(?![\s\S])")] | None = None
    """SHA-256 of the text in UTF-8, hex, to be checked; may be left out."""


class NoticeTold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A notice; lists leave its text out."""

    id: str
    version: str
    locale: str
    text_hash: str
    at_ms: int
    text: str = ""


async def put_notice(
    ctx: Context, body: NoticeBody, by: Author | None, *, notice: Id, version: Id, locale: Language
) -> Answer[NoticeTold]:
    """Keep the text of a notice for good; another text is another version."""
    try:
        body.text.encode()
    except UnicodeEncodeError:
        wrong = FieldError("text", "not_text", "Must be Unicode text without lone surrogates.")
        raise Refused("invalid_body", errors=(wrong,)) from None
    digest = hash_of(body.text)
    if body.text_hash is not None and body.text_hash.lower() != digest:
        wrong = FieldError("text_hash", "hash_differs", "Must be the SHA-256 of the text in UTF-8.")
        raise Refused("invalid_body", errors=(wrong,))
    kept = NoticeText(
        id=notice,
        version=version,
        locale=locale,
        text_hash=digest,
        at_ms=ctx.clock_ms(),
        text=body.text,
    )
    try:
        made = await ctx.store.put_notice(kept, by=by)
    except NoticeThere:
        raise Refused("notice_exists") from None
    found = await ctx.store.read_notice(notice, version, locale)
    return Answer(_told(found or kept), 201 if made else 200)


async def get_notice(
    ctx: Context, *, notice: Id, version: Id, locale: Language
) -> Answer[NoticeTold]:
    """Read the text of a notice."""
    found = await ctx.store.read_notice(notice, version, locale)
    if found is None:
        raise Refused("no_such_notice")
    return Answer(_told(found))


async def list_notices(
    ctx: Context,
    *,
    notice: Id | None = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Answer[Page[NoticeTold]]:
    """List notices, newest first, of one id or all; without their texts."""
    found = await ctx.store.list_notices(notice, limit=limit)
    return Answer(Page(tuple(map(_told, found))))


def _told(notice: NoticeText) -> NoticeTold:
    return msgspec.convert(notice, NoticeTold, from_attributes=True)
