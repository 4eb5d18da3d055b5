"""Residents: who is known, and what they set about themselves besides consent."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.residents import Limits, ResidentSettings
from engine.store.audit import Author
from engine.store.port import AlreadyThere, KeyRow, ResidentRow
from engine.web.auth import key_hash, new_id, new_key, resident_of
from engine.web.context import Context
from engine.web.fields import Id, Language, ResidentId, Zone, zone_errors
from engine.web.live import live
from engine.web.problem import FieldError, Refused
from engine.web.route import Answer

PerDay = Annotated[int, Meta(ge=0, le=1_000)]


class NewResident(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A resident to make; nothing is required."""

    resident: Id | None = None
    """A random one by default."""
    timezone: Zone | None = None
    """The city's by default."""
    language: Language = "en"


class ResidentView(msgspec.Struct, frozen=True, kw_only=True):
    """A resident's settings."""

    resident: str
    timezone: str
    language: str
    limits: Limits
    follows: tuple[str, ...]
    version: int
    """Of the preferences."""


class MadeResident(ResidentView, frozen=True, kw_only=True):
    """A new resident and the key of their devices."""

    id: str
    """Of the key."""
    key: str
    """Shown this once."""


class LimitsPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers to change; null takes the city's again."""

    per_day: PerDay | UnsetType | None = UNSET
    per_week: PerDay | UnsetType | None = UNSET


class ResidentPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings to change; what is left out stays."""

    timezone: Zone | UnsetType = UNSET
    language: Language | UnsetType = UNSET
    limits: LimitsPatch | UnsetType = UNSET
    follows: Annotated[tuple[Id, ...], Meta(max_length=1_000)] | UnsetType = UNSET


async def create_resident(
    ctx: Context, body: NewResident, by: Author | None
) -> Answer[MadeResident]:
    """Make a resident, without any grant, and a key for their devices."""
    zone = body.timezone or ctx.config.timezone
    if errors := zone_errors("timezone", zone):
        raise Refused("invalid_body", errors=tuple(errors))
    if body.resident == "me":
        raise Refused("invalid_body", errors=(FieldError("resident", "reserved", "Not `me`."),))
    resident, key = body.resident or new_id("r"), new_key("resident")
    settings = ResidentSettings(timezone=zone, language=body.language)
    try:
        await ctx.store.create_residents({resident: settings}, by=by)
    except AlreadyThere:
        raise Refused("resident_exists") from None
    row = KeyRow(
        id=new_id("k"),
        hash=key_hash(key),
        role="resident",
        name="made with the resident",
        created_ms=ctx.clock_ms(),
        resident=resident,
    )
    await live(ctx, await ctx.store.put_key(row, by=by))
    made = view(ResidentRow(id=resident, settings=settings))
    return Answer(MadeResident(**msgspec.structs.asdict(made), id=row.id, key=key), 201)


def view(row: ResidentRow) -> ResidentView:
    """A resident's row as clients see it."""
    return ResidentView(
        resident=row.id,
        timezone=row.settings.timezone,
        language=row.settings.language,
        limits=row.settings.limits,
        follows=row.settings.follows,
        version=row.version,
    )


async def resident_row(ctx: Context, key: KeyRow, resident: str) -> ResidentRow:
    """The resident that a path means, if the caller may act for them.

    Raises:
        Refused: `foreign_resident`, `unknown_resident` or `merged_resident`.
    """
    rows = await ctx.store.read_residents([resident_of(key, resident)])
    return there(rows[0] if rows else None)


def there(row: ResidentRow | None) -> ResidentRow:
    """A resident who is there and nobody else by now.

    Raises:
        Refused: `unknown_resident` or `merged_resident`.
    """
    if row is None:
        raise Refused("unknown_resident")
    if row.merged_into is not None:
        raise Refused("merged_resident")
    return row


async def get_resident(ctx: Context, key: KeyRow, *, resident: ResidentId) -> Answer[ResidentView]:
    """Read a resident's settings."""
    return Answer(view(await resident_row(ctx, key, resident)))


async def patch_resident(
    ctx: Context, key: KeyRow, body: ResidentPatch, by: Author | None, *, resident: ResidentId
) -> Answer[ResidentView]:
    """Change a resident's settings."""
    row = await resident_row(ctx, key, resident)
    if body.timezone is not UNSET and (errors := zone_errors("timezone", body.timezone)):
        raise Refused("invalid_body", errors=tuple(errors))
    settings = _patched(row.settings, body)
    number = await ctx.store.put_settings(row.id, settings, by=by)
    if number is None:
        raise Refused("unknown_resident")
    await live(ctx, number)
    return Answer(view(msgspec.structs.replace(row, settings=settings)))


def _patched(old: ResidentSettings, body: ResidentPatch) -> ResidentSettings:
    """The settings after a change."""
    given = {
        name: value
        for name in body.__struct_fields__
        if (value := getattr(body, name)) is not UNSET
    }
    if isinstance(limits := given.get("limits"), LimitsPatch):
        given["limits"] = Limits(
            per_day=old.limits.per_day if limits.per_day is UNSET else limits.per_day,
            per_week=old.limits.per_week if limits.per_week is UNSET else limits.per_week,
        )
    if "follows" in given:
        given["follows"] = tuple(dict.fromkeys(given["follows"]))
    return msgspec.structs.replace(old, **given)
