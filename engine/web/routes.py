"""The one table of routes: what there is to call, who may, and what it can answer.

The router, the decoding, the status codes, the API's description and its reference page are all
made from it.
"""

from functools import cache
from typing import Any, Final

import msgspec

from engine.decision import Decision
from engine.delivery.views import OfferTold, RecallTold, Redeemed, Visit
from engine.store.window import Transition
from engine.web import (
    audit,
    brands,
    decisions,
    events,
    exports,
    fences,
    imports,
    keys,
    ndjson,
    notices,
    offers,
    operations,
    pings,
    redemptions,
    vocabulary,
    websocket,
)
from engine.web.context import Context
from engine.web.openapi import document
from engine.web.resident_routes import RESIDENT_ROUTES
from engine.web.route import NDJSON, Answer, Route
from engine.web.table import ANY_RESIDENT, LIVE, MERCHANTS, OPERATOR, ROWS, route


async def openapi(ctx: Context) -> Answer[dict[str, Any]]:
    """Describe all of this in OpenAPI 3.1."""
    del ctx
    return Answer(msgspec.Raw(_described()))


@cache
def _described() -> bytes:
    return msgspec.json.encode(document(ROUTES))


PINGS: Final = route(
    "POST",
    "/v1/pings",
    pings.post_pings,
    "pings",
    roles=("operator", "sender", "resident"),
    body=(pings.PingBody, pings.Pings),
    result=(Decision, pings.Decisions),
    codes=(
        "invalid_ping",
        "too_many_pings",
        "foreign_resident",
        "not_durable",
        "stale",
        "store_unavailable",
    ),
    about=ndjson.ABOUT,
    stream=ndjson.stream_lines,
    waits=True,
    once=False,
)
"""The hot route."""

ROUTES: Final[tuple[Route, ...]] = (
    PINGS,
    route(
        "GET",
        "/v1/pings/stream",
        websocket.stream_messages,
        "pings",
        roles=ANY_RESIDENT,
        statuses=(101,),
        about=websocket.ABOUT,
        stream=websocket.stream_messages,
        socket=True,
    ),
    route(
        "GET",
        "/v1/decisions/{decision}/why",
        decisions.why,
        "pings",
        roles=("operator", "merchant", "resident"),
        codes=("unknown_decision", "store_unavailable"),
    ),
    route("GET", "/v1/brands", brands.list_brands, "brands", roles=MERCHANTS),
    route(
        "PUT",
        "/v1/brands/{brand}",
        brands.put_brand,
        "brands",
        roles=MERCHANTS,
        statuses=(200, 201),
        codes=("foreign_brand", *LIVE),
    ),
    route(
        "GET",
        "/v1/brands/{brand}",
        brands.get_brand,
        "brands",
        roles=MERCHANTS,
        codes=("foreign_brand", "no_such_brand", "store_unavailable"),
    ),
    route(
        "GET",
        "/v1/brands/{brand}/export",
        exports.export_brand,
        "brands",
        roles=MERCHANTS,
        content_type=NDJSON,
        codes=("foreign_brand", "no_such_brand", "store_unavailable", "overloaded"),
    ),
    route(
        "POST",
        "/v1/brands/{brand}/import",
        exports.import_brand,
        "brands",
        roles=MERCHANTS,
        forms=(NDJSON,),
        body=exports.Line,
        codes=("foreign_brand", *LIVE),
        about=ROWS,
    ),
    route(
        "GET",
        "/v1/fences",
        fences.list_fences,
        "fences",
        roles=MERCHANTS,
        codes=("store_unavailable",),
    ),
    route(
        "POST",
        "/v1/fences/import",
        imports.import_fences,
        "fences",
        roles=MERCHANTS,
        forms=("application/geo+json", "application/geo+json-seq", NDJSON, "text/csv"),
        body=(fences.Features, fences.Feature),
        codes=("foreign_brand", "not_a_collection", "bad_header", *LIVE),
        about=ROWS,
    ),
    route("POST", "/v1/fences/covering", fences.covering, "fences", roles=MERCHANTS, once=False),
    route(
        "PUT",
        "/v1/fences/{fence}",
        fences.put_fence,
        "fences",
        roles=MERCHANTS,
        statuses=(200, 201),
        codes=("foreign_brand", "invalid_fence", "unknown_brand", "forbidden_by_law", *LIVE),
        body=fences.Feature,
    ),
    route(
        "GET",
        "/v1/fences/{fence}",
        fences.get_fence,
        "fences",
        roles=MERCHANTS,
        codes=("foreign_brand", "no_such_fence", "store_unavailable"),
    ),
    route(
        "DELETE",
        "/v1/fences/{fence}",
        fences.delete_fence,
        "fences",
        roles=MERCHANTS,
        statuses=(204,),
        codes=("foreign_brand", "no_such_fence", "version_moved", *LIVE),
    ),
    route("GET", "/v1/offers", offers.list_offers, "offers", roles=MERCHANTS),
    route(
        "PUT",
        "/v1/offers/{offer}",
        offers.put_offer,
        "offers",
        roles=MERCHANTS,
        statuses=(200, 201),
        codes=(
            "foreign_brand",
            "unknown_brand",
            "invalid_offer",
            "not_supported",
            "unknown_fence",
            "foreign_fence",
            *LIVE,
        ),
    ),
    route(
        "GET",
        "/v1/offers/{offer}",
        offers.get_offer,
        "offers",
        roles=MERCHANTS,
        codes=("foreign_brand", "no_such_offer", "store_unavailable"),
    ),
    route(
        "DELETE",
        "/v1/offers/{offer}",
        offers.delete_offer,
        "offers",
        roles=MERCHANTS,
        statuses=(204,),
        codes=("foreign_brand", "no_such_offer", "version_moved", *LIVE),
    ),
    route(
        "POST",
        "/v1/redemptions",
        redemptions.redeem,
        "redemptions",
        roles=MERCHANTS,
        statuses=(201,),
        codes=(
            "unknown_code",
            "already_redeemed",
            "expired",
            "recalled",
            "withdrawn",
            "stale",
            "store_unavailable",
        ),
    ),
    route(
        "DELETE",
        "/v1/redemptions/{redemption}",
        redemptions.roll_back,
        "redemptions",
        roles=MERCHANTS,
        statuses=(204,),
        codes=("unknown_redemption", "store_unavailable"),
    ),
    route(
        "GET",
        "/v1/events",
        events.stream_events,
        "events",
        roles=MERCHANTS,
        result=(Transition, Visit, OfferTold, RecallTold, Redeemed, events.GapTold),
        content_type=events.EVENT_STREAM,
        stream=events.stream_events,
        events=True,
    ),
    *RESIDENT_ROUTES,
    route("GET", "/v1/keys", keys.list_keys, "keys", roles=OPERATOR),
    route(
        "POST",
        "/v1/keys",
        keys.create_key,
        "keys",
        roles=OPERATOR,
        statuses=(201,),
        codes=("unknown_brand", "unknown_resident", *LIVE),
        secret=True,
    ),
    route("GET", "/v1/keys/{id}", keys.get_key, "keys", roles=OPERATOR, codes=("unknown_key",)),
    route(
        "DELETE",
        "/v1/keys/{id}",
        keys.delete_key,
        "keys",
        roles=OPERATOR,
        statuses=(204,),
        codes=("unknown_key", "last_operator_key", *LIVE),
    ),
    route(
        "GET",
        "/v1/audit",
        audit.list_audit,
        "audit",
        roles=MERCHANTS,
        codes=("store_unavailable",),
    ),
    route("GET", "/v1/notices", notices.list_notices, "preferences", codes=("store_unavailable",)),
    route(
        "PUT",
        "/v1/notices/{notice}/{version}/{locale}",
        notices.put_notice,
        "preferences",
        roles=OPERATOR,
        statuses=(200, 201),
        codes=("notice_exists", "store_unavailable"),
    ),
    route(
        "GET",
        "/v1/notices/{notice}/{version}/{locale}",
        notices.get_notice,
        "preferences",
        codes=("no_such_notice", "store_unavailable"),
    ),
    route("GET", "/v1/vocabulary", vocabulary.get_vocabulary, "preferences"),
    route("GET", "/v1/counts", operations.counts, "operations"),
    route("GET", "/healthz", operations.healthz, "operations"),
    route("GET", "/readyz", operations.readyz, "operations", statuses=(200, 503)),
    route(
        "GET",
        "/metrics",
        operations.metrics,
        "operations",
        content_type="text/plain",
    ),
    route("GET", "/openapi.json", openapi, "operations"),
    route("GET", "/", operations.page, "operations", content_type="text/html"),
)
"""Every route. A literal path stands before one with a parameter that would match it too."""
