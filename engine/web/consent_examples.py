"""Examples for the API's description of what guards residents: a body and its answer, by route."""

from typing import Any, Final


def _page(item: Any) -> dict[str, Any]:
    return {"items": [item], "next": None}


ZONE = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [24.9302, 60.1811]},
    "properties": {"radius_m": 150.0},
}
ZONE_READ = {
    **ZONE,
    "id": "home",
    "properties": {"kind": "private", "radius_m": 150.0},
}
_NOTICE = {
    "id": "offers",
    "version": "2026-09",
    "locale": "fi",
    "text_hash": "d4b6b8ea5a1a9d2c1ff0f4a3cbd1a5c6f8a90b7d3e2c1f0a9b8c7d6e5f4a3b2c",
    "at_ms": 1_790_000_000_000,
}
_FLOOR = {
    "age_band": "13_to_15",
    "signals": ["gpc"],
    "rules": [{"code": "minors-sale", "source": "Cal. Civ. Code 1798.120(c)"}],
    "version": 1,
}
_DUE = {
    "receipt": "4bf52d8a3904bd65d24d78d4374bccdb",
    "expires_ms": 1_797_776_000_000,
    "notice": None,
    "change": {
        "effect": "grant",
        "purpose": "offers",
        "actions": ["contact"],
        "data": ["contact_point"],
        "scope": {"brand": "cafe"},
        "channels": None,
        "week": None,
        "places": [],
    },
}
_WORD = {"name": "push", "means": "A notification of the phone."}
_TERM = {
    "name": "use",
    "means": "The data is looked at and worked with.",
    "term": "dpv:Use",
    "iri": "https://w3id.org/dpv#Use",
    "match": "exact",
}
_VOCABULARY = {
    **{name: [_TERM] for name in ("purposes", "actions", "data")},
    **{
        name: [_WORD]
        for name in ("channels", "effects", "actors", "zone_kinds", "age_bands", "signals")
    },
    "quiet_from_hour": 21,
    "quiet_until_hour": 8,
    "grant_days": 365,
    "grant_precise_location_days": 90,
    "laws": [
        {
            "code": "mhmda-geofence",
            "pack": "us-wa-mhmda",
            "source": "RCW 19.373.080",
            "ages": None,
            "buffer_m": 609.6,
        }
    ],
}

CONSENT_EXAMPLES: Final[dict[str, tuple[Any, Any]]] = {
    "GET /v1/vocabulary": (None, _VOCABULARY),
    "GET /v1/residents/{resident}/zones": (None, _page(ZONE_READ)),
    "PUT /v1/residents/{resident}/zones/{zone}": (ZONE, ZONE_READ),
    "GET /v1/residents/{resident}/zones/{zone}": (None, ZONE_READ),
    "GET /v1/notices": (None, _page(_NOTICE)),
    "PUT /v1/notices/{notice}/{version}/{locale}": (
        {"text": "Kahvila saa lähettää sinulle tarjouksia."},
        {**_NOTICE, "text": "Kahvila saa lähettää sinulle tarjouksia."},
    ),
    "GET /v1/notices/{notice}/{version}/{locale}": (
        None,
        {**_NOTICE, "text": "Kahvila saa lähettää sinulle tarjouksia."},
    ),
    "GET /v1/residents/{resident}/floor": (None, _FLOOR),
    "PUT /v1/residents/{resident}/age": ({"age_band": "13_to_15"}, _FLOOR),
    "GET /v1/residents/{resident}/renewals": (None, _page(_DUE)),
}
