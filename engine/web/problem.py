"""Errors that a client can see: one table of codes, and RFC 9457 problem+json made from it.

A code is stable: clients branch on it, so it may be added to and never renamed. No detail ever
holds a position or a resident's id.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

CONTENT_TYPE: Final = "application/problem+json"


class Kind(NamedTuple):
    """What a code stands for."""

    status: int
    title: str
    meaning: str
    """What went wrong and what would be right; the detail where a place has nothing to add."""


CODES: Final[dict[str, Kind]] = {
    "malformed_json": Kind(400, "Malformed JSON", "The body must be JSON text (RFC 8259)."),
    "unreadable_request": Kind(400, "Unreadable request", "The request must be valid HTTP/1.1."),
    "not_a_collection": Kind(
        400, "No FeatureCollection", "The body must be a GeoJSON FeatureCollection (RFC 7946)."
    ),
    "bad_header": Kind(
        400, "Unknown columns", "The first line of the table must name its columns."
    ),
    "unauthenticated": Kind(
        401, "No valid key", "Send `Authorization: Bearer <key>` with a key that is in force."
    ),
    "wrong_role": Kind(403, "Wrong role", "A key of another role is needed for this call."),
    "foreign_brand": Kind(403, "Another's brand", "This merchant key is not for that brand."),
    "foreign_resident": Kind(
        403, "Another's resident", "A resident key may act for its own resident only; use `me`."
    ),
    "guardian_needed": Kind(
        403, "A guardian's say", "The resident is a minor: a guardian of theirs must say this."
    ),
    "not_found": Kind(404, "No such address", "See /openapi.json for the addresses there are."),
    "no_such_brand": Kind(404, "No such brand", "There is no brand of that id."),
    "no_such_fence": Kind(404, "No such fence", "There is no fence of that id."),
    "no_such_offer": Kind(404, "No such offer", "There is no offer of that id."),
    "no_such_notice": Kind(
        404, "No such notice", "No text is kept under that id, version and locale."
    ),
    "no_such_zone": Kind(404, "No such zone", "The resident has no zone of that name."),
    "unknown_device": Kind(404, "Unknown device", "The resident has no such device."),
    "unknown_pairing": Kind(
        404, "Unknown code", "The code is wrong, used, or more than ten minutes old: make another."
    ),
    "unknown_receipt": Kind(404, "Unknown receipt", "The resident has no such receipt."),
    "unknown_resident": Kind(404, "No such resident", "There is no resident of that id."),
    "unknown_key": Kind(404, "No such key", "There is no key of that id."),
    "unknown_code": Kind(404, "No such code", "No offer of your brands has that code."),
    "unknown_redemption": Kind(404, "No such redemption", "No redemption of that id stands."),
    "unknown_decision": Kind(
        404, "No such decision", "No claim or decision of that id is known to this key."
    ),
    "method_not_allowed": Kind(405, "Wrong method", "The `Allow` header names the methods."),
    "slow_body": Kind(408, "Body too slow", "The body must arrive in time; send it again."),
    "slow_head": Kind(408, "Head too slow", "Send the request's head in one go."),
    "resident_exists": Kind(409, "Resident exists", "Choose another id, or leave it out."),
    "notice_exists": Kind(
        409, "Notice exists", "What residents were shown never changes: take another version."
    ),
    "too_many_zones": Kind(409, "Too many zones", "Remove a zone, or draw an old one anew."),
    "too_many_records": Kind(
        409,
        "Too many changes",
        "The resident has said as much as is kept of one; turning off still works.",
    ),
    "zone_in_use": Kind(
        409, "Zone in use", "A grant names it as a place where it doesn't hold: renew that first."
    ),
    "already_redeemed": Kind(409, "Already redeemed", "A code can be used once."),
    "expired": Kind(409, "Code expired", "The time in which the code could be used is over."),
    "recalled": Kind(409, "Offer recalled", "The offer was taken back from the resident."),
    "withdrawn": Kind(
        409, "Consent withdrawn", "The resident no longer allows this brand to use the offer."
    ),
    "last_operator_key": Kind(
        409, "Last operator key", "Make another operator key before you delete this one."
    ),
    "idempotency_in_progress": Kind(
        409, "Being done", "The call of that Idempotency-Key is still being done; ask again."
    ),
    "idempotency_lost": Kind(
        409,
        "Outcome unknown",
        "Nobody knows whether the call of that Idempotency-Key was done. Look, and send it with a "
        "new one if it was not.",
    ),
    "secret_shown_once": Kind(
        409,
        "Shown once",
        "It was done, and the key's text was in the first answer, which is not kept. If that never "
        "came, make another with a new Idempotency-Key; an operator deletes the key that nobody "
        "has (GET /v1/keys, newest `created_ms`).",
    ),
    "merged_resident": Kind(
        410, "Merged", "This resident has become another one, whose settings hold now."
    ),
    "version_moved": Kind(
        412,
        "Changed meanwhile",
        "It is not as `If-Match` or `If-None-Match` expects: read it again; `ETag` and `version` "
        "say what is there.",
    ),
    "stale_version": Kind(
        412, "Settings changed", "Show the resident the latest settings and ask again."
    ),
    "body_too_large": Kind(413, "Body too large", "Send less in one request."),
    "unsupported_encoding": Kind(
        415, "Unknown encoding", "Send the body as it is, or with `Content-Encoding` gzip or zstd."
    ),
    "invalid_body": Kind(422, "Invalid body", "The body does not have the shape described."),
    "invalid_parameter": Kind(
        422, "Invalid parameter", "A parameter of the path, query or headers is not as described."
    ),
    "idempotency_key_reused": Kind(
        422, "Another call's key", "That Idempotency-Key stands for another call; take a new one."
    ),
    "invalid_ping": Kind(422, "Invalid ping", "A field of the ping is missing or of a wrong type."),
    "too_many_pings": Kind(422, "Too many pings", "Send at most 10,000 pings in one request."),
    "too_many_rows": Kind(422, "Too many rows", "Send the rows in several imports."),
    "invalid_fence": Kind(422, "Invalid fence", "The Feature can't be used as a fence."),
    "forbidden_by_law": Kind(
        422, "Forbidden by law", "The fence is too near to a place that a law protects."
    ),
    "invalid_zone": Kind(422, "Invalid zone", "The Feature can't be used as a zone."),
    "invalid_offer": Kind(422, "Invalid offer", "The offer contradicts itself."),
    "invalid_preferences": Kind(
        422, "Invalid preferences", "A change can't be made as it is; none was made."
    ),
    "unknown_brand": Kind(422, "Unknown brand", "Write the brand first: PUT /v1/brands/{brand}."),
    "unknown_fence": Kind(422, "Unknown fence", "Write the fence first: PUT /v1/fences/{fence}."),
    "foreign_fence": Kind(
        422, "Another brand's fence", "An offer may use fences of its own brand only."
    ),
    "not_supported": Kind(422, "Not there yet", "This version does not know that feature yet."),
    "upgrade_required": Kind(
        426, "A WebSocket", "Ask for an upgrade to a WebSocket, version 13 (RFC 6455)."
    ),
    "invalid_receipts": Kind(
        422, "Invalid receipts", "A receipt can't be taken as it is; nothing was said."
    ),
    "precondition_required": Kind(
        428,
        "If-Match needed",
        "Turning something on needs `If-Match` with the ETag of the latest preferences.",
    ),
    "too_many_requests": Kind(429, "Too many requests", "Wait as `Retry-After` says."),
    "internal": Kind(500, "Internal error", "The fault is ours; try again later."),
    "store_unavailable": Kind(
        503, "Store unavailable", "Nothing may be assumed of the write; ask, or send it again."
    ),
    "not_live": Kind(
        503, "Not live yet", "It is written, and this server has not followed yet; ask again."
    ),
    "not_in_force": Kind(
        503,
        "Not in force yet",
        "Nobody can say that what the resident said is in force everywhere: send it again. Saying "
        "no twice is the same as once.",
    ),
    "overloaded": Kind(503, "Overloaded", "Too much is waiting; send it again in a moment."),
    "stopping": Kind(503, "Stopping", "This server stops; connect again in a moment."),
    "not_durable": Kind(
        503, "Not durable", "The decision could not be made durable; send the ping again."
    ),
    "stale": Kind(
        503, "Preferences not up to date", "This server can't be sure that it knows them all."
    ),
}
"""Code -> status, title and meaning, in the order of statuses. There is no other code."""


class FieldError(msgspec.Struct, frozen=True):
    """One thing that was wrong in a body: where, which, and what would be right."""

    path: str
    code: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as RFC 9457 problem details; branch on `code`."""

    title: str
    status: int
    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    version: int | None = None
    """That is there now, where the request rested on another one; 0: nothing is."""
    difference: tuple[msgspec.Raw, ...] = ()
    """What was said since the version that the request rested on, oldest first."""
    request_id: str = ""
    """Of the request, as in the header X-Request-Id and in the server's log."""


class Refused(Exception):
    """A request is refused with one of the codes."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
        version: int | None = None,
        difference: tuple[msgspec.Raw, ...] = (),
    ) -> None:
        super().__init__(code)
        kind = CODES[code]
        self.headers = dict(headers or {})
        self.problem = Problem(
            title=kind.title,
            status=kind.status,
            code=code,
            detail=detail or kind.meaning,
            errors=errors,
            version=version,
            difference=difference,
        )
        if kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers.setdefault("Retry-After", "1")
        if kind.status == HTTPStatus.UNAUTHORIZED:
            self.headers.setdefault("WWW-Authenticate", "Bearer")


def problem_bytes(refused: Refused, request_id: str) -> bytes:
    """The problem as JSON."""
    return msgspec.json.encode(msgspec.structs.replace(refused.problem, request_id=request_id))


def response_to(refused: Refused, request_id: str) -> web.Response:
    """The problem+json response; one that leaves a body unread also closes the connection."""
    response = web.Response(
        body=problem_bytes(refused, request_id),
        status=refused.problem.status,
        headers={"Content-Type": CONTENT_TYPE, "X-Request-Id": request_id, **refused.headers},
    )
    if refused.problem.code in ("body_too_large", "slow_body", "unreadable_request"):
        response.force_close()
    return response
