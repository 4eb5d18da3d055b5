"""A group of changes as the columns that the function `commit_told` takes."""

from typing import Any, Final

import msgspec

from engine.changes import Changes, StayRow
from engine.decision import OfferMade
from engine.offers.offer import Brand, Offer
from engine.store.port import Rows
from engine.store.window import transition_body

ALL_DAYS: Final = -1
"""The day under which an offer's total is counted."""

_encode: Final = msgspec.json.Encoder().encode
_stays: Final = msgspec.json.Decoder(tuple[StayRow, ...])
_made: Final = msgspec.json.Decoder(OfferMade)


def document(thing: Brand | Offer) -> bytes:
    """A brand or an offer as JSON with every field, so that equal ones are equal bytes.

    `omit_defaults` would not do: it omits what *is* the default, and keeps what only equals it.
    """
    return _encode(_whole(thing))


def _whole(value: Any) -> Any:
    """Records as dicts of all their fields."""
    if isinstance(value, msgspec.Struct):
        return {name: _whole(getattr(value, name)) for name in value.__struct_fields__}
    return value


def read_stays(body: bytes | None) -> tuple[StayRow, ...]:
    """Stays as they were written; None means none."""
    return () if body is None else _stays.decode(body)


def read_made(body: bytes) -> OfferMade:
    """An offer made, as it was written."""
    return _made.decode(body)


def columns(changes: Changes) -> list[Any]:
    """The arguments of `commit_told` after the first, in their order; O(n log n)."""
    return [
        *_resident_columns(changes),
        *_claim_columns(changes),
        *_recall_columns(changes),
        *_told_columns(changes),
    ]


def _resident_columns(changes: Changes) -> list[list[Any]]:
    """Each resident of the group once: id, whether a row is made, stays, seen_ms."""
    claimants = {claim.resident for claim in changes.claims}
    recalled = {recall.resident for recall in changes.recalls}
    residents = sorted(changes.presences.keys() | changes.touches.keys() | claimants | recalled)
    inserts: list[bool] = []
    stays: list[bytes | None] = []
    seen: list[int | None] = []
    for resident in residents:
        presence = changes.presences.get(resident)
        touched_ms = changes.touches.get(resident)
        if presence is None:
            stays.append(None)
            seen.append(touched_ms)
        else:
            stays.append(_encode(presence.stays) if presence.stays else b"")
            seen.append(max(presence.seen_ms, touched_ms or presence.seen_ms))
        inserts.append(resident in claimants or (presence is not None and bool(presence.stays)))
    return [residents, inserts, stays, seen]


def _claim_columns(changes: Changes) -> list[list[Any]]:
    """The claims in their order, then the distinct claimants, then the distinct counts."""
    claims = changes.claims
    claimants = sorted({claim.resident for claim in claims})
    counts = sorted({(claim.made.offer, day) for claim in claims for day in (ALL_DAYS, claim.day)})
    claimant_at = {resident: place for place, resident in enumerate(claimants, 1)}
    count_at = {count: place for place, count in enumerate(counts, 1)}
    return [
        [claim.made.claim for claim in claims],
        [claimant_at[claim.resident] for claim in claims],
        [claim.decision for claim in claims],
        [claim.made.code for claim in claims],
        [claim.made.brand for claim in claims],
        [claim.made.fence for claim in claims],
        [claim.made_ms for claim in claims],
        [claim.made.expires_at_ms for claim in claims],
        [claim.claims_before for claim in claims],
        [claim.budget_total for claim in claims],
        [claim.budget_day for claim in claims],
        [count_at[claim.made.offer, ALL_DAYS] for claim in claims],
        [count_at[claim.made.offer, claim.day] for claim in claims],
        [_encode(claim.made) for claim in claims],
        [claim.why for claim in claims],
        claimants,
        [offer for offer, _ in counts],
        [day for _, day in counts],
    ]


def _recall_columns(changes: Changes) -> list[list[str]]:
    """The recalls, each claim once (the first reason counts), and those of the group's own."""
    reasons: dict[str, str] = {}
    for recall in changes.recalls:
        reasons.setdefault(recall.claim, recall.reason)
    own = [claim.made.claim for claim in changes.claims if claim.made.claim in reasons]
    own = list(dict.fromkeys(own))
    return [list(reasons), list(reasons.values()), own, [reasons[claim] for claim in own]]


def staged(part: Rows) -> list[list[Any]]:
    """Rows of an import as kind, id, brand and body, each a column."""
    rows = [("brand", brand.id, brand.id, document(brand)) for brand in part.brands]
    rows += [("fence", fence.id, fence.brand, fence.feature) for fence in part.fences]
    rows += [("offer", offer.id, offer.brand, document(offer)) for offer in part.offers]
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]


def _told_columns(changes: Changes) -> list[list[Any]]:
    """The transitions in their order; of those that are not shared, not the resident."""
    told = changes.told
    return [
        [one.event.at_ms for one in told],
        [one.brand for one in told],
        [one.resident if one.shared else None for one in told],
        [transition_body(one) for one in told],
    ]
