"""A resident's say over HTTP: what holds, how it changes, opting in and out of offers, and stop."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.consent import notices, sync
from engine.consent.lanes import name_of
from engine.consent.record import Notice, Scope, WeekWindow, record_id
from engine.consent.standing import Standing
from engine.store.audit import Author
from engine.store.port import KeyRow, ResidentRow, VersionMoved
from engine.web.auth import resident_of
from engine.web.change import CHANGES_MAX, Change, errors_of, place_errors, requested
from engine.web.context import Context
from engine.web.fields import Id, IfMatch, Language, Name, ResidentId, Word
from engine.web.history import Receipt, receipt_of
from engine.web.live import etag, in_force, or_not_in_force
from engine.web.problem import FieldError, Refused
from engine.web.residents import resident_row
from engine.web.route import Answer

TRIES_MAX: Final = 50
"""How often a change is resolved anew because another one came first."""
SEED_BYTES: Final = 32

_NOTICE_REFUSALS: Final = {
    "unknown_notice": "No text is kept under that id, version and locale.",
    "notice_differs": "Another text is kept under that id, version and locale.",
}

ClientMs = Annotated[int, Meta(ge=0, le=1 << 53)]


class Held(msgspec.Struct, frozen=True):
    """A grant or a deny that holds now."""

    receipt: str
    effect: str
    scope: Scope
    lanes: tuple[str, ...]
    """Purpose, action and data, such as `offers:use:precise_location`."""
    since_ms: int
    expires_ms: int | None
    channels: tuple[str, ...] | None
    """Of a grant to contact: these only; null: all."""
    week: tuple[WeekWindow, ...] | None
    """Of a grant to contact: these hours only; null: outside the quiet hours."""
    places: tuple[str, ...]
    """Of a grant to contact: never there."""


class Preferences(msgspec.Struct, frozen=True):
    """What holds of all that a resident said; what is not there is off."""

    version: int
    standing: tuple[Held, ...]
    suspended: tuple[Held, ...] = ()
    """Grants from before a backup was restored. They count for nothing until they are given anew,
    or the operator confirms them."""


class NoticeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The text that the resident was shown; a grant needs one that is kept here."""

    id: Id
    version: Word
    locale: Language
    text_hash: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}(?![\s\S])")] | None = None
    """SHA-256 of the text in UTF-8, hex, where the caller can tell."""


class PreferencesPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Changes, which apply in their order."""

    changes: Annotated[tuple[Change, ...], Meta(min_length=1, max_length=CHANGES_MAX)]
    notice: NoticeBody | None = None
    """The text that the resident was shown."""
    device: Name | None = None
    client_ms: ClientMs | None = None
    """When the device says that it was said; kept as a claim."""


class MarketingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Offers on or off, for all brands or for some."""

    opted_in: bool
    brands: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=1_000)] | None = None
    notice: NoticeBody | None = None
    """The text that the resident was shown."""
    device: Name | None = None
    client_ms: ClientMs | None = None
    """When the device says that it was said; kept as a claim."""


class Acknowledged(msgspec.Struct, frozen=True):
    """What became of a change: durable, and in force by the time this is sent."""

    version: int
    changes: tuple[sync.Requested, ...]
    receipts: tuple[Receipt, ...]
    acknowledged_ms: int
    refused: tuple[sync.Requested, ...] = ()
    """Widenings that rested on an older version, were too many, or are a guardian's to say."""


async def get_preferences(
    ctx: Context, key: KeyRow, *, resident: ResidentId
) -> Answer[Preferences]:
    """Read what holds now, with the ETag that a widening needs."""
    row = await resident_row(ctx, key, resident)
    now_ms = ctx.clock_ms()
    told = Preferences(
        version=row.version,
        standing=tuple(map(_held, sync.standing(row.records, now_ms))),
        suspended=tuple(map(_held, sync.suspended(row.records, now_ms))),
    )
    return Answer(told, headers={"ETag": etag(row.version)})


def _held(one: Standing) -> Held:
    """A grant or a deny as the resident sees it."""
    record = one.record
    return Held(
        receipt=record_id(record),
        effect=record.effect,
        scope=record.scope,
        lanes=tuple(_names(one.lanes)),
        since_ms=record.server_ms,
        expires_ms=record.expires_ms,
        channels=record.channels,
        week=record.week,
        places=record.places,
    )


def _names(lanes: int) -> list[str]:
    """The names of a set's lanes, lowest first."""
    names = []
    while lanes:
        names.append(name_of(lanes))
        lanes &= lanes - 1
    return names


async def patch_preferences(
    ctx: Context,
    key: KeyRow,
    body: PreferencesPatch,
    by: Author | None,
    *,
    resident: ResidentId,
    if_match: IfMatch | None = None,
) -> Answer[Acknowledged]:
    """Change what holds; only a grant that adds something needs If-Match."""
    book, now_ms = ctx.engine.book, ctx.clock_ms()
    errors = [
        error
        for place, change in enumerate(body.changes)
        for error in errors_of(change, f"changes[{place}]", book, now_ms)
    ]
    if any(change.places for change in body.changes):
        errors += place_errors(body.changes, await _zones(ctx, key, resident))
    if errors:
        raise Refused("invalid_preferences", errors=tuple(errors))
    widens = [change.effect == "grant" for change in body.changes]
    notice = await _notice(ctx, body.notice, needed=any(widens))
    said = _said(key, body, notice, _version(if_match, strict=all(widens)))
    return await say(ctx, key, resident, tuple(map(requested, body.changes)), said, by)


async def _zones(ctx: Context, key: KeyRow, resident: str) -> set[str]:
    """The names of the zones that the resident drew."""
    rows = await ctx.store.read_protections([resident_of(key, resident)])
    return {zone.name for row in rows for zone in row.protection.zones}


async def put_marketing(
    ctx: Context,
    key: KeyRow,
    body: MarketingBody,
    by: Author | None,
    *,
    resident: ResidentId,
    if_match: IfMatch | None = None,
) -> Answer[Acknowledged]:
    """Turn offers on or off; on needs If-Match, off never does."""
    if body.opted_in:
        known = ctx.engine.book.brands
        errors = tuple(
            FieldError(f"brands[{place}]", "unknown_brand", "There is no such brand.")
            for place, brand in enumerate(body.brands or ())
            if brand not in known
        )
        if errors:
            raise Refused("unknown_brand", errors=errors)
    notice = await _notice(ctx, body.notice, needed=body.opted_in)
    seen = _version(if_match, strict=True) if body.opted_in else None
    said = _said(key, body, notice, seen)
    return await say(ctx, key, resident, sync.marketing(body.opted_in, body.brands), said, by)


async def post_stop(
    ctx: Context, key: KeyRow, by: Author | None, *, resident: ResidentId
) -> Answer[Acknowledged]:
    """Turn everything off, in one call."""
    said = sync.Said(actor=actor_of(key), now_ms=0, seed=seed())
    return await say(ctx, key, resident, sync.stop(), said, by)


def actor_of(key: KeyRow) -> str:
    """Who speaks: the resident themselves, or somebody for them."""
    if key.role != "resident":
        return "agent"
    return "guardian" if key.guardian else "self"


def seed() -> bytes:
    """From which the salts of a call's records are drawn."""
    return secrets.token_bytes(SEED_BYTES)


async def _notice(ctx: Context, shown: NoticeBody | None, *, needed: bool) -> Notice | None:
    """What a record keeps of the text that the resident was shown.

    Raises:
        Refused: it must be one that is kept here, and is none.
    """
    if shown is None:
        return None
    named = Notice(shown.id, shown.version, shown.locale, (shown.text_hash or "").lower())
    found = await ctx.store.read_notice(named.id, named.version, named.locale)
    code = notices.refusal(named, found)
    if code is not None and needed:
        wrong = FieldError("notice", code, _NOTICE_REFUSALS[code])
        raise Refused("invalid_preferences", errors=(wrong,))
    return named if code is not None or found is None else notices.sealed(named, found)


def _said(
    key: KeyRow, body: PreferencesPatch | MarketingBody, notice: Notice | None, if_match: int | None
) -> sync.Said:
    """The circumstances that a body tells."""
    return sync.Said(
        actor=actor_of(key),
        now_ms=0,
        if_match=if_match,
        device=body.device,
        notice=notice,
        client_ms=body.client_ms,
        seed=seed(),
    )


def _version(if_match: str | None, *, strict: bool) -> int | None:
    """The version that an If-Match header names.

    What turns off is accepted whatever the header says, so that where something does, one that
    names no version is none that could be the latest.

    Raises:
        Refused: it names no version, if `strict`.
    """
    if if_match is None:
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if text.isascii() and text.isdigit():
        return int(text)
    if not strict:
        return -1
    told = 'Must be one ETag such as "3"; * is not enough, because it names no version.'
    raise Refused("invalid_parameter", errors=(FieldError("If-Match", "invalid_etag", told),))


async def say(
    ctx: Context,
    key: KeyRow,
    resident: str,
    requested: Sequence[sync.Requested],
    said: sync.Said,
    by: Author | None,
) -> Answer[Acknowledged]:
    """Write what a resident says, again if somebody wrote in between, until it is in force."""
    whom = resident_of(key, resident)
    for _ in range(TRIES_MAX):
        with or_not_in_force():
            row = await resident_row(ctx, key, whom)
            now_ms = ctx.clock_ms()
            resolved = _resolve(ctx, row, requested, msgspec.structs.replace(said, now_ms=now_ms))
            # What holds already is in force once all is that was written before.
            write = (
                ctx.store.append_records(whom, resolved.records, version_before=row.version, by=by)
                if resolved.records
                else ctx.store.newest_change()
            )
            try:
                number = await in_force(ctx, write, narrows=resolved.narrows)
            except VersionMoved:
                continue
        if number is None:
            raise Refused("unknown_resident")
        return _acknowledged(ctx, row.version, resolved)
    raise Refused("overloaded", "Too many changes of this resident at once; send it again.")


def _resolve(
    ctx: Context, row: ResidentRow, requested: Sequence[sync.Requested], said: sync.Said
) -> sync.Resolved:
    """The rule of narrowing and widening, its refusals as ours."""
    minor = ctx.engine.floor.age(row.id) not in (None, "adult")
    told = msgspec.structs.replace(said, bound=minor and said.actor == "self")
    try:
        return sync.resolve(row, requested, told, records_max=ctx.config.records_max)
    except sync.GuardianNeeded:
        raise Refused("guardian_needed", headers={"ETag": etag(row.version)}) from None
    except sync.TooManyRecords:
        raise Refused("too_many_records", headers={"ETag": etag(row.version)}) from None
    except sync.PreconditionRequired:
        raise Refused("precondition_required", headers={"ETag": etag(row.version)}) from None
    except sync.PreconditionFailed as failed:
        raise Refused(
            "stale_version",
            headers={"ETag": etag(failed.current)},
            version=failed.current,
            difference=tuple(msgspec.Raw(msgspec.json.encode(r)) for r in failed.difference),
        ) from None


def _acknowledged(ctx: Context, before: int, resolved: sync.Resolved) -> Answer[Acknowledged]:
    """The answer, with the ETag for the next change."""
    version = resolved.records[-1].version if resolved.records else before
    done = Acknowledged(
        version=version,
        changes=tuple(
            msgspec.convert(r, sync.Requested, from_attributes=True) for r in resolved.records
        ),
        receipts=tuple(receipt_of(record) for record in resolved.records),
        acknowledged_ms=ctx.clock_ms(),
        refused=resolved.refused,
    )
    return Answer(done, headers={"ETag": etag(version)})
