"""A resident's own zones over HTTP: drawing one always works, removing one rests on a version."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson
from msgspec import Meta

from engine.consent.protection import Protection
from engine.consent.sync import standing
from engine.consent.zones import (
    ZONES_MAX,
    TooManyZones,
    VersionNeeded,
    VersionStale,
    Zone,
    drop,
    of_name,
    put,
    read_zone,
    to_document,
)
from engine.store.audit import PRESENT, Author
from engine.store.guards import ProtectionRow
from engine.store.port import KeyRow, VersionMoved
from engine.web.auth import resident_of
from engine.web.conditions import Match, expected
from engine.web.context import Context
from engine.web.fields import Id, ResidentId
from engine.web.live import etag, in_force, or_not_in_force
from engine.web.paging import Page
from engine.web.problem import FieldError, Refused
from engine.web.residents import resident_row
from engine.web.route import Answer
from geofences.fence import FenceRejected

TRIES_MAX: Final = 50
"""How often a change is resolved anew because another one came first."""

Kind = Literal["private", "place"]


class ZoneGeometry(msgspec.Struct, frozen=True):
    """A GeoJSON geometry: Point with `properties.radius_m`, Polygon or MultiPolygon."""

    type: Literal["Point", "Polygon", "MultiPolygon"]
    coordinates: list[Any]


class ZoneProperties(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the zone is for."""

    kind: Kind = "private"
    """`private`: pings in it are dropped. `place`: grants of contact may name it in `places`."""
    radius_m: Annotated[float, Meta(gt=0, le=10_000)] | None = None
    """Of a Point: metres."""


class ZoneFeature(msgspec.Struct, frozen=True, kw_only=True):
    """A zone as a GeoJSON Feature; its id is the name in the address."""

    type: Literal["Feature"]
    id: Id | None = None
    geometry: ZoneGeometry
    properties: ZoneProperties


async def list_zones(
    ctx: Context, key: KeyRow, *, resident: ResidentId
) -> Answer[Page[ZoneFeature]]:
    """List a resident's own zones by name."""
    row = await protection_row(ctx, key, resident)
    items = tuple(msgspec.Raw(_feature(zone)) for zone in row.protection.zones)
    return Answer(msgspec.Raw(msgspec.json.encode(Page(items, None))))


async def get_zone(
    ctx: Context, key: KeyRow, *, resident: ResidentId, zone: Id
) -> Answer[ZoneFeature]:
    """Read one zone, with the ETag that removing it needs."""
    row = await protection_row(ctx, key, resident)
    found = of_name(row.protection.zones, zone)
    if found is None:
        raise Refused("no_such_zone")
    return Answer(msgspec.Raw(_feature(found)), headers={"ETag": etag(found.version)})


async def put_zone(
    ctx: Context,
    key: KeyRow,
    body: bytes,
    by: Author | None,
    *,
    resident: ResidentId,
    zone: Id,
    if_match: Match | None = None,
) -> Answer[ZoneFeature]:
    """Draw a zone, or draw it anew; only what uncovers private ground needs If-Match."""
    drawn = await asyncio.to_thread(_parse, body, zone)
    seen = _seen(if_match)
    created = True

    def change(row: ProtectionRow) -> tuple[Zone, ...]:
        nonlocal created
        zones = row.protection.zones
        created = of_name(zones, zone) is None
        return put(zones, drawn, version=row.version + 1, if_match=seen)

    version = await _change(ctx, key, resident, change, by)
    return Answer(msgspec.Raw(_feature(drawn)), 201 if created else 200, {"ETag": etag(version)})


async def delete_zone(
    ctx: Context,
    key: KeyRow,
    by: Author | None,
    *,
    resident: ResidentId,
    zone: Id,
    if_match: Match | None = None,
) -> Answer[None]:
    """Remove a zone: needs If-Match with its latest ETag, since it shows what was private."""
    seen = _seen(if_match)
    row = await resident_row(ctx, key, resident)
    if any(zone in held.record.places for held in standing(row.records, ctx.clock_ms())):
        # Such a grant holds nowhere then; and drawn anew the zone would turn it on again.
        raise Refused("zone_in_use")

    def change(row: ProtectionRow) -> tuple[Zone, ...]:
        if of_name(row.protection.zones, zone) is None:
            raise Refused("no_such_zone")
        return drop(row.protection.zones, zone, if_match=seen)

    await _change(ctx, key, resident, change, by)
    return Answer(None, 204)


def _feature(zone: Zone) -> bytes:
    return orjson.dumps(to_document(zone))


def _parse(body: bytes, name: str) -> Zone:
    """The zone that a body draws."""
    try:
        return read_zone(orjson.loads(body), name)
    except orjson.JSONDecodeError:
        raise Refused("malformed_json") from None
    except FenceRejected as rejected:
        errors = tuple(FieldError(p.path, p.code, p.detail) for p in rejected.problems)
        raise Refused("invalid_zone", errors[0].detail, errors=errors) from None


def _seen(if_match: str | None) -> tuple[int, ...] | None:
    """The versions that the header names; `*` names none."""
    wanted = expected(if_match, None)
    return None if wanted == PRESENT else wanted


async def protection_row(ctx: Context, key: KeyRow, resident: str) -> ProtectionRow:
    """What protects the resident that a path means, if the caller may act for them.

    Raises:
        Refused: `foreign_resident` or `unknown_resident`.
    """
    whom = resident_of(key, resident)
    rows = await ctx.store.read_protections([whom])
    if rows:
        return rows[0]
    return ProtectionRow(resident=(await resident_row(ctx, key, whom)).id)


async def _change(
    ctx: Context,
    key: KeyRow,
    resident: str,
    change: Callable[[ProtectionRow], tuple[Zone, ...]],
    by: Author | None,
) -> int:
    """Change the zones, again if somebody wrote in between, until it is in force; the version."""
    try:
        return await change_protection(
            ctx,
            key,
            resident,
            lambda row: msgspec.structs.replace(row.protection, zones=change(row)),
            by,
        )
    except VersionStale as stale:
        raise Refused(
            "version_moved", headers={"ETag": etag(stale.current)}, version=stale.current
        ) from None
    except VersionNeeded as needed:
        told = "What shows ground that was private needs `If-Match` with the zone's latest ETag."
        headers = {"ETag": etag(needed.current)}
        raise Refused("precondition_required", told, headers=headers) from None
    except TooManyZones:
        raise Refused("too_many_zones", f"A resident has at most {ZONES_MAX} zones.") from None


async def change_protection(
    ctx: Context,
    key: KeyRow,
    resident: str,
    change: Callable[[ProtectionRow], Protection],
    by: Author | None,
) -> int:
    """Change what protects a resident, until it is in force; the version that this gave it."""
    for _ in range(TRIES_MAX):
        with or_not_in_force():
            row = await protection_row(ctx, key, resident)
            write = ctx.store.put_protection(
                row.resident, change(row), version_before=row.version, by=by
            )
            try:
                number = await in_force(ctx, write, narrows=True)
            except VersionMoved:
                continue
        if number is None:
            raise Refused("unknown_resident")
        return row.version + 1
    raise Refused("overloaded", "Too many changes of this resident at once; send it again.")
