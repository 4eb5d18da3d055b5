"""Two residents who are one person become one, whose settings are the least of both.

The one who goes is gone for good: nothing is granted by what they said, their devices are the
other's from then on, and every call about them is answered `merged_resident`.
"""

import secrets
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.consent import sync
from engine.consent.law import AGE_BANDS
from engine.consent.merge import merged
from engine.consent.protection import Protection
from engine.consent.zones import Zone
from engine.residents import Limits, ResidentSettings
from engine.store.audit import Author
from engine.store.guards import ProtectionRow
from engine.store.port import KeyRow, ResidentRow, VersionMoved
from engine.store.rights import Merge
from engine.web.auth import resident_of
from engine.web.context import Context
from engine.web.devices import take_code
from engine.web.fields import Id, ResidentId
from engine.web.history import Receipt, receipt_of
from engine.web.live import etag, in_force, or_not_in_force
from engine.web.preferences import SEED_BYTES, actor_of
from engine.web.problem import FieldError, Refused
from engine.web.residents import there
from engine.web.route import Answer

TRIES_MAX: Final = 50
"""How often a merge is worked out anew because one of the two said something meanwhile."""


class MergeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who goes: exactly one of the two."""

    resident: Id | None = None
    """For operators and senders."""
    code: Annotated[str, Meta(min_length=1, max_length=64, examples=["7K2MQ-0XD93"])] | None = None
    """A pairing code of theirs, which shows that a resident's device may speak for them."""


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the one who stays."""

    resident: str
    version: int
    """Of the preferences."""
    receipts: tuple[Receipt, ...]
    """What was said by the merge."""
    acknowledged_ms: int


async def merge_residents(
    ctx: Context, key: KeyRow, body: MergeBody, by: Author | None, *, resident: ResidentId
) -> Answer[Merged]:
    """Merge another resident into this one: any "no" of both stays, any "yes" only of both."""
    stays = resident_of(key, resident)
    goes = await _who_goes(ctx, key, body)
    if stays == goes:
        wrong = FieldError("resident", "same_resident", "Must be another one.")
        raise Refused("invalid_body", errors=(wrong,))
    for _ in range(TRIES_MAX):
        with or_not_in_force():
            merge = await _merge(ctx, key, stays, goes)
            write = ctx.store.merge_residents(merge, by=by)
            try:
                number = await in_force(ctx, write, narrows=True)
            except VersionMoved:
                continue
        if number is None:
            continue  # one of them was erased or merged meanwhile, which is told when they are read
        version = merge.records[-1].version
        done = Merged(
            resident=stays,
            version=version,
            receipts=tuple(map(receipt_of, merge.records)),
            acknowledged_ms=ctx.clock_ms(),
        )
        return Answer(done, headers={"ETag": etag(version)})
    raise Refused("overloaded", "Too many changes of these residents at once; send it again.")


async def _who_goes(ctx: Context, key: KeyRow, body: MergeBody) -> str:
    """Whom the body means, if the caller may decide it."""
    if (body.resident is None) == (body.code is None):
        wrong = FieldError("resident", "resident_or_code", "Give one of resident and code.")
        raise Refused("invalid_body", errors=(wrong,))
    if body.code is not None:
        return await take_code(ctx, body.code)
    if key.role == "resident":
        raise Refused("foreign_resident", "Another resident goes by a pairing code of theirs.")
    return body.resident or ""


async def _merge(ctx: Context, key: KeyRow, stays: str, goes: str) -> Merge:
    """The merge of two as they are now."""
    rows = {row.id: row for row in await ctx.store.read_residents([stays, goes])}
    one, two = there(rows.get(stays)), there(rows.get(goes))
    guards = {row.resident: row for row in await ctx.store.read_protections([stays, goes])}
    ours = guards.get(stays, ProtectionRow(resident=stays))
    theirs = guards.get(goes, ProtectionRow(resident=goes))
    protection, renamed = united(ours, theirs)
    if actor_of(key) == "self" and protection.age_band not in (None, "adult"):
        raise Refused("guardian_needed")
    now_ms = ctx.clock_ms()
    requested = merged(one.records, two.records, now_ms, renamed=renamed)
    return Merge(
        stays=stays,
        goes=goes,
        version_stays=one.version,
        version_goes=two.version,
        records=sync.resolve(one, requested, _said(key, one, now_ms)).records,
        goes_records=sync.resolve(two, sync.stop(), _said(key, two, now_ms)).records,
        settings=together(one.settings, two.settings),
        protection=protection if guards else None,
        guard_stays=ours.version,
        guard_goes=theirs.version,
    )


def _said(key: KeyRow, row: ResidentRow, now_ms: int) -> sync.Said:
    """The circumstances of what one of them says by the merge."""
    return sync.Said(
        actor=actor_of(key),
        now_ms=now_ms,
        if_match=row.version,
        proof="merge",
        seed=secrets.token_bytes(SEED_BYTES),
    )


def together(one: ResidentSettings, two: ResidentSettings) -> ResidentSettings:
    """The settings of the one who stays, with the lower limits and the brands that both follow."""
    limits = Limits(
        per_day=_lower(one.limits.per_day, two.limits.per_day),
        per_week=_lower(one.limits.per_week, two.limits.per_week),
    )
    follows = tuple(brand for brand in one.follows if brand in two.follows)
    return msgspec.structs.replace(one, limits=limits, follows=follows)


def _lower(one: int | None, two: int | None) -> int | None:
    """The lower limit; None: the city's, of both."""
    return min((limit for limit in (one, two) if limit is not None), default=None)


def united(ours: ProtectionRow, theirs: ProtectionRow) -> tuple[Protection, dict[str, str]]:
    """All zones of both, the age band that protects more, and what zones are called anew.

    Where both have a name for different places, the place of the one who goes gets another one.
    """
    zones = {zone.name: zone for zone in ours.protection.zones}
    renamed: dict[str, str] = {}
    for zone in theirs.protection.zones:
        name = _free_name(zone, zones)
        if name != zone.name:
            renamed[zone.name] = name
        if name not in zones:
            zones[name] = msgspec.structs.replace(zone, name=name, version=ours.version + 1)
    bands = (ours.protection.age_band, theirs.protection.age_band)
    band = next((band for band in AGE_BANDS if band in bands), None)
    return Protection(tuple(zones[name] for name in sorted(zones)), band), renamed


def _free_name(zone: Zone, taken: dict[str, Zone]) -> str:
    """A name for a zone: its own, if nothing else has it."""
    for name in _names(zone.name):
        other = taken.get(name)
        if other is None or _same(other, zone):
            return name
    raise AssertionError("there is no end of names")


def _names(name: str) -> Iterable[str]:
    """A name, and the names that may stand in its place."""
    yield name
    number = 1
    while True:
        number += 1
        yield f"{name[:100]}-{number}"


def _same(one: Zone, two: Zone) -> bool:
    return (one.kind, one.geometry, one.radius_m) == (two.kind, two.geometry, two.radius_m)
