"""The routes about residents: who they are, what they say, and what is held on them."""

from typing import Final

from engine.decision import OfferMade
from engine.delivery.views import RecallTold
from engine.web import events, preferences, resident_rows, residents
from engine.web.route import NDJSON, Route
from engine.web.table import ANY_RESIDENT, IN_FORCE, LIVE, OPERATOR, RESIDENTS, ROWS, SENDERS, route

RESIDENT_ROUTES: Final[tuple[Route, ...]] = (
    route(
        "GET",
        "/v1/residents/{resident}/offers/stream",
        events.stream_offers,
        "events",
        roles=ANY_RESIDENT,
        codes=("foreign_resident", "unknown_resident"),
        result=(OfferMade, RecallTold, events.GapTold),
        content_type=events.EVENT_STREAM,
        stream=events.stream_offers,
        events=True,
    ),
    route(
        "POST",
        "/v1/residents",
        residents.create_resident,
        "residents",
        roles=SENDERS,
        statuses=(201,),
        codes=("resident_exists", *LIVE),
        secret=True,
    ),
    route(
        "POST",
        "/v1/residents/import",
        resident_rows.import_residents,
        "residents",
        roles=OPERATOR,
        forms=(NDJSON,),
        body=resident_rows.ResidentLine,
        codes=LIVE,
        about=ROWS,
    ),
    route(
        "GET",
        "/v1/residents/{resident}",
        residents.get_resident,
        "residents",
        roles=ANY_RESIDENT,
        codes=("foreign_resident", "unknown_resident", "store_unavailable"),
    ),
    route(
        "PATCH",
        "/v1/residents/{resident}",
        residents.patch_resident,
        "residents",
        roles=ANY_RESIDENT,
        codes=("foreign_resident", "unknown_resident", *LIVE),
    ),
    route(
        "GET",
        "/v1/residents/{resident}/preferences",
        preferences.get_preferences,
        "preferences",
        roles=RESIDENTS,
        codes=("foreign_resident", "unknown_resident", "store_unavailable"),
    ),
    route(
        "PATCH",
        "/v1/residents/{resident}/preferences",
        preferences.patch_preferences,
        "preferences",
        roles=RESIDENTS,
        codes=(
            "foreign_resident",
            "unknown_resident",
            "invalid_preferences",
            "precondition_required",
            "stale_version",
            "overloaded",
            *IN_FORCE,
        ),
    ),
    route(
        "PUT",
        "/v1/residents/{resident}/preferences/marketing",
        preferences.put_marketing,
        "preferences",
        roles=RESIDENTS,
        codes=(
            "foreign_resident",
            "unknown_resident",
            "unknown_brand",
            "invalid_preferences",
            "precondition_required",
            "stale_version",
            "overloaded",
            *IN_FORCE,
        ),
    ),
    route(
        "POST",
        "/v1/residents/{resident}/stop",
        preferences.post_stop,
        "preferences",
        roles=RESIDENTS,
        codes=("foreign_resident", "unknown_resident", "overloaded", *IN_FORCE),
    ),
)
