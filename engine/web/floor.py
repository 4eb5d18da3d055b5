"""What holds for a resident whatever they grant: their age, signals of browsers, and the laws."""

from typing import Literal

import msgspec

from engine.consent.law import GPC_SOURCE, protects_less
from engine.consent.protection import Protection
from engine.store.audit import PRESENT, Author
from engine.store.guards import ProtectionRow
from engine.store.port import KeyRow
from engine.web.conditions import Match, expected
from engine.web.context import Context
from engine.web.fields import ResidentId
from engine.web.live import etag
from engine.web.problem import Refused
from engine.web.route import Answer
from engine.web.signals import has_signal
from engine.web.zones import change_protection, protection_row

AgeBand = Literal["under_13", "13_to_15", "16_17", "adult"]


class AgeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How old a resident is, as an operator or a guardian says."""

    age_band: AgeBand | None
    """Null: nobody told, which means an adult."""


class Denied(msgspec.Struct, frozen=True):
    """A rule that applies to the resident."""

    code: str
    source: str


class FloorTold(msgspec.Struct, frozen=True, kw_only=True):
    """What is denied whatever the resident grants."""

    age_band: str | None
    signals: tuple[str, ...]
    """Signals of the resident's browsers that were seen and are honoured; `gpc`."""
    rules: tuple[Denied, ...]
    version: int
    """Of the age and the zones together."""


async def get_floor(ctx: Context, key: KeyRow, *, resident: ResidentId) -> Answer[FloorTold]:
    """Read what is denied whatever a resident grants, and why."""
    row = await protection_row(ctx, key, resident)
    return Answer(_told(ctx, row), headers={"ETag": etag(row.version)})


async def put_age(
    ctx: Context,
    key: KeyRow,
    body: AgeBody,
    by: Author | None,
    *,
    resident: ResidentId,
    if_match: Match | None = None,
) -> Answer[FloorTold]:
    """Set a resident's age band; one that protects less needs If-Match with the floor's ETag."""
    wanted = expected(if_match, None)
    seen = None if wanted == PRESENT else wanted

    def change(row: ProtectionRow) -> Protection:
        if protects_less(row.protection.age_band, body.age_band):
            if seen is None:
                told = "A band that protects less needs `If-Match` with the latest ETag."
                headers = {"ETag": etag(row.version)}
                raise Refused("precondition_required", told, headers=headers)
            if row.version not in seen:
                headers = {"ETag": etag(row.version)}
                raise Refused("version_moved", headers=headers, version=row.version)
        return msgspec.structs.replace(row.protection, age_band=body.age_band)

    version = await change_protection(ctx, key, resident, change, by)
    row = await protection_row(ctx, key, resident)
    return Answer(_told(ctx, row), headers={"ETag": etag(version)})


def _told(ctx: Context, row: ProtectionRow) -> FloorTold:
    laws, band = ctx.engine.floor.laws, row.protection.age_band
    rules = [
        Denied(rule.code, rule.source)
        for rule in laws.rules
        if rule.ages is None or (band or "adult") in rule.ages
    ]
    signalled = has_signal(ctx, row.resident)
    if signalled:
        rules.append(Denied("gpc", GPC_SOURCE))
    return FloorTold(
        age_band=band,
        signals=("gpc",) if signalled else (),
        rules=tuple(rules),
        version=row.version,
    )
