"""Examples for the API's description: a body and its answer, by route."""

from typing import Any, Final

from engine.web.consent_examples import CONSENT_EXAMPLES
from engine.web.rights_examples import rights_examples

_PING = {
    "resident": "r-17",
    "at_ms": 1_790_000_000_000,
    "lon": 24.9414,
    "lat": 60.1699,
    "accuracy_m": 12.0,
    "id": "fix-1",
}
_DECISION: dict[str, Any] = {
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

_BRAND_READ = {"id": "cafe", **_BRAND, "caps": {}}
_FENCE_READ = {**_FENCE, "id": "cafe-1"}
_OFFER_READ = {
    "id": "cafe-1-cardamom",
    **_OFFER,
    "tags": [],
    "dwell_s": None,
    "starts_at": None,
    "timezone": "Europe/Helsinki",
    "categories": ["cafe"],
    "channel": "push",
    "purpose": "offers",
    "priority": 0,
    "caps": {"per_resident_day": None, "per_resident_total": None, "cool_down_s": 21_600},
    "budget": {"total": 200, "per_day": None},
    "claim_ttl_s": 86_400,
}
_WHY = {
    "decision": "d3f0c2a9b1e44d7f60812c55",
    "claim": "c81b7a02d95e4c1f3ab06e77",
    "offer": "cafe-1-cardamom",
    "brand": "cafe",
    "made_ms": 1_790_000_000_000,
    "expires_at_ms": 1_790_086_400_000,
    "consent_version": 1,
    "state": "made",
    "recall_reason": None,
    "redeemed": False,
    "candidates": [
        {
            "offer": "cafe-1-cardamom",
            "brand": "cafe",
            "fence": "cafe-1",
            "trigger": "enter",
            "withheld": None,
        },
        {
            "offer": "bar-2-for-1",
            "brand": "bar",
            "fence": "bar-7",
            "trigger": "enter",
            "withheld": "no_grant",
        },
    ],
    "allowed_by": ["2533ce857b81ab9cf653d8afea0d7282", "baeb41c2583e934fb03bfff9c52e6304"],
}
_SETTINGS = {
    "resident": "r-17",
    "timezone": "Europe/Helsinki",
    "language": "fi",
    "limits": {"per_day": 2},
    "follows": ["cafe"],
    "version": 1,
}
_HELD = {
    "receipt": "baeb41c2583e934fb03bfff9c52e6304",
    "effect": "grant",
    "scope": {"brand": "cafe"},
    "lanes": ["offers:use:precise_location"],
    "since_ms": 1_790_000_000_000,
    "expires_ms": 1_797_776_000_000,
    "channels": None,
    "week": None,
    "places": [],
}
_PATCH = {
    "changes": [
        {
            "effect": "grant",
            "purpose": "offers",
            "actions": ["contact"],
            "data": ["contact_point"],
            "scope": {"brand": "cafe"},
            "channels": ["push"],
            "week": [{"days": [1, 2, 3, 4, 5], "from_hour": 11, "to_hour": 14}],
        },
        {
            "effect": "deny",
            "purpose": "offers",
            "actions": ["use"],
            "data": ["precise_location"],
            "scope": {"brand": "bar"},
        },
    ],
    "notice": {"id": "offers", "version": "3", "locale": "fi"},
    "device": "phone",
}


def _said(effect: str, version: int, **more: Any) -> dict[str, Any]:
    """An answer to a change of preferences, with one change and its receipt."""
    change = {
        "effect": effect,
        "purpose": "offers",
        "actions": ["use"],
        "data": ["precise_location"],
        "channels": None,
        "week": None,
        "places": [],
        "expires_ms": None,
        **more,
    }
    record = {
        "subject": "r-17",
        "actor": "self",
        **change,
        "version": version,
        "server_ms": 1_790_000_000_000,
        "client_ms": None,
        "notice": None,
        "device": None,
        "proof": None,
        "supersedes": "",
        "salt": "c0f9d0b2a7b94f0f8a62a9d3f4f6f6a1",
    }
    seal = "4bf52d8a3904bd65d24d78d4374bccb09326f506e0df05d0fbb5adc1ae203c13"
    return {
        "version": version,
        "changes": [change],
        "receipts": [{"id": seal[:32], "hash": seal, "record": record}],
        "acknowledged_ms": 1_790_000_000_012,
        "refused": [],
    }


_CLAIM = {
    **_DECISION["offer"],
    "made_ms": 1_790_000_000_000,
    "state": "open",
    "redeemed_ms": None,
    "recall_reason": None,
}
_KEY = {
    "id": "k-2ea56556b39fcc9c0dbc3558",
    "role": "merchant",
    "name": "Aino's till",
    "created_ms": 1_790_000_000_000,
    "brands": ["cafe"],
    "resident": None,
    "purchaser": None,
}
_MADE_KEY = {**_KEY, "key": "pb_merchant_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE0"}
_AUDIT = {
    "number": 4,
    "at_ms": 1_790_000_000_000,
    "key": "k-2ea56556b39fcc9c0dbc3558",
    "key_name": "Aino's till",
    "role": "merchant",
    "action": "PUT /v1/offers/{offer}",
    "request_id": "93d2a7bd9a7b-4",
    "kind": "offer",
    "id": "cafe-1-cardamom",
    "brand": "cafe",
    "version": 1,
    "outcome": "created",
}
_BROUGHT = {
    "resident": "r-17",
    "timezone": "Europe/Helsinki",
    "marketing": {"opted_in": True, "brands": ["cafe"]},
    "proof": {"source": "city-portal", "reference": "form 7/2026", "notice": "offers v3"},
    "at_ms": 1_780_000_000_000,
}
_COUNTS = {
    "brands": 1,
    "fences": 1,
    "offers": 1,
    "residents": 1,
    "pings": 1,
    "events": 1,
    "offers_made": 1,
    "uptime_s": 60,
}
_READY = {
    "ready": True,
    "checks": {
        "store": {"ok": True, "detail": "The store answers."},
        "feed": {"ok": True, "detail": "Followed up to 8."},
        "journal": {"ok": True, "detail": "0 changes wait."},
        "canary": {
            "ok": True,
            "detail": "Opting in and withdrawing: tried, and a withdrawal was silence.",
        },
    },
}


def _page(item: Any) -> dict[str, Any]:
    return {"items": [item], "next": None}


def _imported(*rejected: Any) -> dict[str, Any]:
    done = {"created": 2, "updated": 1, "unchanged": 40, "rejected": list(rejected)}
    return {**done, "rejected_count": len(rejected), "dry_run": False}


_ROW = {
    "row": 7,
    "id": "cafe-7",
    "code": "out_of_range",
    "path": "geometry.coordinates[0]",
    "detail": "It must be from -180 to 180.",
}


EXAMPLES: Final[dict[str, tuple[Any, Any]]] = {
    **CONSENT_EXAMPLES,
    **rights_examples(_SETTINGS, _CLAIM),
    "POST /v1/pings": (_PING, _DECISION),
    "GET /v1/decisions/{decision}/why": (None, _WHY),
    "GET /v1/brands": (None, _page(_BRAND_READ)),
    "PUT /v1/brands/{brand}": (_BRAND, _BRAND_READ),
    "GET /v1/brands/{brand}": (None, _BRAND_READ),
    "GET /v1/brands/{brand}/export": (None, {"fence": _FENCE_READ}),
    "POST /v1/brands/{brand}/import": ({"fence": _FENCE_READ}, _imported()),
    "GET /v1/fences": (None, _page(_FENCE_READ)),
    "PUT /v1/fences/{fence}": (_FENCE, _FENCE_READ),
    "GET /v1/fences/{fence}": (None, _FENCE_READ),
    "POST /v1/fences/covering": ({"positions": [[24.9414, 60.1699]]}, _COVERED),
    "POST /v1/fences/import": (
        {"type": "FeatureCollection", "features": [_FENCE_READ]},
        _imported(_ROW),
    ),
    "GET /v1/offers": (None, _page(_OFFER_READ)),
    "PUT /v1/offers/{offer}": (_OFFER, _OFFER_READ),
    "GET /v1/offers/{offer}": (None, _OFFER_READ),
    "POST /v1/redemptions": ({"code": "7K2M-Q0XD-93TZ", "till": "till-2"}, _REDEEMED),
    "POST /v1/residents": (
        {"resident": "r-17", "timezone": "Europe/Helsinki"},
        {**_SETTINGS, "version": 0, "id": _KEY["id"], "key": "pb_resident_EXAMPLE"},
    ),
    "POST /v1/residents/import": (_BROUGHT, _imported()),
    "GET /v1/residents/{resident}": (None, _SETTINGS),
    "PATCH /v1/residents/{resident}": (
        {"language": "fi", "limits": {"per_day": 2}, "follows": ["cafe"]},
        _SETTINGS,
    ),
    "GET /v1/residents/{resident}/preferences": (None, {"version": 1, "standing": [_HELD]}),
    "PATCH /v1/residents/{resident}/preferences": (
        _PATCH,
        _said("deny", 2, scope={"brand": "bar"}),
    ),
    "PUT /v1/residents/{resident}/preferences/marketing": (
        _OPT_IN,
        _said("grant", 1, scope={"brand": "cafe"}, expires_ms=1_797_776_000_000),
    ),
    "GET /v1/residents/{resident}/offers": (None, _page(_CLAIM)),
    "POST /v1/residents/{resident}/stop": (None, _said("withdraw", 2, scope={"all": True})),
    "POST /v1/residents/{resident}/receipts": (
        {"receipts": _said("deny", 3, scope={"brand": "bar"})["receipts"]},
        _said("deny", 100_003, scope={"brand": "bar"}),
    ),
    "GET /v1/keys": (None, _page(_KEY)),
    "POST /v1/keys": (
        {"role": "merchant", "name": "Aino's till", "brands": ["cafe"]},
        _MADE_KEY,
    ),
    "GET /v1/keys/{id}": (None, _KEY),
    "GET /v1/audit": (None, _page(_AUDIT)),
    "GET /v1/counts": (None, _COUNTS),
    "GET /healthz": (None, {"status": "ok"}),
    "GET /readyz": (None, _READY),
}
"""Method and path -> body, answer (None: there is none)."""
