"""Examples for the API's description: a body and its answer, by route."""

from typing import Any, Final

_PING = {
    "resident": "r-17",
    "at_ms": 1_790_000_000_000,
    "lon": 24.9414,
    "lat": 60.1699,
    "accuracy_m": 12.0,
    "id": "fix-1",
}
_DECISION = {
    "decision": "d3f0c2a9b1e44d7f60812c55",
    "resident": "r-17",
    "at_ms": 1_790_000_000_000,
    "status": "decided",
    "events": [
        {"fence": "cafe-1", "kind": "enter", "at_ms": 1_790_000_000_000, "confidence": 0.97}
    ],
    "offer": {
        "claim": "c81b7a02d95e4c1f3ab06e77",
        "offer": "cafe-1-cardamom",
        "brand": "cafe",
        "fence": "cafe-1",
        "title": "Cardamom bun with any coffee",
        "body": "Today until six, at Station Square.",
        "code": "7K2M-Q0XD-93TZ",
        "expires_at_ms": 1_790_086_400_000,
        "consent_version": 1,
    },
    "withheld": None,
    "id": "fix-1",
    "next_fix": {"after_s": 21, "radius_m": 64, "latest_s": 900},
}
_BRAND = {"name": "Café Aino", "categories": ["cafe"], "timezone": "Europe/Helsinki"}
_FENCE = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [24.9414, 60.1699]},
    "properties": {"brand": "cafe", "name": "Station Square", "tags": ["center"], "radius_m": 60.0},
}
_OFFER = {
    "brand": "cafe",
    "title": "Cardamom bun with any coffee",
    "body": "Today until six, at Station Square.",
    "fences": ["cafe-1"],
    "trigger": "enter",
    "ends_at": "2026-12-31T18:00:00+02:00",
    "budget": {"total": 200},
    "status": "live",
}
_OPT_IN = {"opted_in": True, "brands": ["cafe"]}
_COVERED = {"fences": [["cafe-1"]]}
_REDEEMED = {
    "redemption": "x-5be1c0",
    "claim": "c81b7a02d95e4c1f3ab06e77",
    "offer": "cafe-1-cardamom",
    "brand": "cafe",
    "title": "Cardamom bun with any coffee",
    "at_ms": 1_790_000_300_000,
    "till": "till-2",
}

EXAMPLES: Final[dict[str, tuple[Any, Any]]] = {
    "POST /v1/pings": (_PING, _DECISION),
    "PUT /v1/brands/{brand}": (_BRAND, {"id": "cafe", **_BRAND, "caps": {}}),
    "PUT /v1/fences/{fence}": (_FENCE, {**_FENCE, "id": "cafe-1"}),
    "POST /v1/fences/covering": ({"positions": [[24.9414, 60.1699]]}, _COVERED),
    "PUT /v1/offers/{offer}": (_OFFER, None),
    "POST /v1/residents": ({"resident": "r-17", "timezone": "Europe/Helsinki"}, None),
    "PUT /v1/residents/{resident}/preferences/marketing": (_OPT_IN, None),
    "POST /v1/redemptions": ({"code": "7K2M-Q0XD-93TZ", "till": "till-2"}, _REDEEMED),
    "POST /v1/keys": ({"role": "merchant", "name": "Aino's till", "brands": ["cafe"]}, None),
}
"""Method and path -> body, answer (None: the schema says enough)."""
