"""Examples of what residents look up of themselves, and of their devices."""

from typing import Any, Final

from engine.web.consent_examples import ZONE_READ

_DEVICE: Final = "k-93d2a7bd9a7b48b1a1b9d2f0"
_RECORD: Final = {
    "subject": "r-17",
    "actor": "self",
    "effect": "grant",
    "purpose": "offers",
    "actions": ["use"],
    "data": ["precise_location"],
    "scope": {"brand": "cafe"},
    "version": 1,
    "server_ms": 1_790_000_000_000,
    "client_ms": 1_789_999_999_400,
    "expires_ms": 1_797_776_000_000,
    "channels": None,
    "week": None,
    "places": [],
    "notice": {
        "id": "offers",
        "version": "3",
        "locale": "fi",
        "text_hash": "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592",
    },
    "device": "phone",
    "proof": None,
    "supersedes": "",
    "salt": "c0f9d0b2a7b94f0f8a62a9d3f4f6f6a1",
}
_RECEIPT: Final = {
    "id": "4bf52d8a3904bd65d24d78d4374bccdb",
    "hash": "4bf52d8a3904bd65d24d78d4374bccdb9326f506e0df05d0fbb5adc1ae203c13",
    "record": _RECORD,
}
_RECEIPT_IN_FULL: Final = {
    **_RECEIPT,
    "supersedes": None,
    "schema_version": "ISO/IEC TS 27560:2023",
    "pii_principal_id": "r-17",
    "pii_controller": "City of Helsinki, privacy@example.org",
    "privacy_notice": _RECORD["notice"],
    "purposes": [
        {
            "purpose": "offers",
            "purpose_type": "dpv:PersonalisedAdvertising",
            "lawful_basis": "dpv:Consent",
            "processing": {"use": "dpv:Use"},
            "pii_types": {"precise_location": "pd:Location"},
            "recipients": {"brand": "cafe"},
            "channels": None,
            "week": None,
            "places": [],
            "withdrawal_method": (
                "PATCH /v1/residents/me/preferences, or POST /v1/residents/me/stop"
            ),
        }
    ],
    "event": {
        "event_state": "dpv:ConsentGiven",
        "event_time": "2026-09-21T14:13:20Z",
        "claimed_time": "2026-09-21T14:13:19.400000Z",
        "valid_until": "2026-12-20T14:13:20Z",
        "entity": "self",
        "device": "phone",
        "proof": None,
    },
}


def _page(item: Any) -> dict[str, Any]:
    return {"items": [item], "next": None}


_DEVICES: Final[dict[str, tuple[Any, Any]]] = {
    "POST /v1/residents/{resident}/pairings": (
        None,
        {"code": "7K2MQ-0XD93", "expires_at_ms": 1_790_000_600_000},
    ),
    "POST /v1/pairings": (
        {"code": "7K2MQ-0XD93", "device": "tablet"},
        {"resident": "r-17", "id": _DEVICE, "key": "pb_resident_EXAMPLE"},
    ),
    "GET /v1/residents/{resident}/devices": (
        None,
        _page(
            {
                "id": _DEVICE,
                "name": "tablet",
                "created_ms": 1_790_000_000_000,
                "current": False,
                "guardian": False,
            }
        ),
    ),
    "POST /v1/residents/{resident}/merge": (
        {"resident": "r-18"},
        {
            "resident": "r-17",
            "version": 3,
            "receipts": [_RECEIPT],
            "acknowledged_ms": 1_790_000_000_012,
        },
    ),
}


def rights_examples(settings: Any, claim: Any) -> dict[str, tuple[Any, Any]]:
    """Method and path -> body, answer (None: there is none).

    Args:
        settings: a resident's.
        claim: of theirs.
    """
    export = {
        "form": "passby-resident-1",
        "at_ms": 1_790_000_600_000,
        "controller": "City of Helsinki, privacy@example.org",
        "settings": settings,
        "records": [_RECEIPT],
        "merged": [],
        "age_band": None,
        "zones": [ZONE_READ],
        "offers": [claim],
        "seen_ms": 1_790_000_300_000,
        "stays": [{"fence": "cafe-1", "entered_ms": 1_790_000_000_000, "dwelled_s": 300}],
        "devices": [
            {
                "id": "k-93d2a7bd9a7b48b1a1b9d2f0",
                "role": "resident",
                "name": "phone",
                "created_ms": 1_789_000_000_000,
                "brands": [],
                "resident": "r-17",
                "purchaser": None,
            }
        ],
        "written": [
            {
                "at_ms": 1_789_000_000_000,
                "role": "sender",
                "name": "gateway",
                "action": "POST /v1/residents",
                "outcome": "created",
            }
        ],
    }
    return {
        "GET /v1/residents/{resident}/history": (None, _page(_RECEIPT)),
        "GET /v1/residents/{resident}/receipts/{receipt}": (None, _RECEIPT_IN_FULL),
        "GET /v1/residents/{resident}/export": (None, export),
        **_DEVICES,
    }
