"""Who may call what: every route with every role."""

from pathlib import Path

from engine.web.auth import ROLES
from engine.web.routes import ROUTES
from tests.web_town import town

ALLOWED = {
    "POST /v1/pings": "operator sender resident",
    "GET /v1/pings/stream": "operator sender resident",
    "GET /v1/decisions/{decision}/why": "operator merchant resident",
    "GET /v1/brands": "operator merchant",
    "PUT /v1/brands/{brand}": "operator merchant",
    "GET /v1/brands/{brand}": "operator merchant",
    "GET /v1/brands/{brand}/export": "operator merchant",
    "POST /v1/brands/{brand}/import": "operator merchant",
    "POST /v1/fences/import": "operator merchant",
    "POST /v1/residents/import": "operator",
    "GET /v1/fences": "operator merchant",
    "POST /v1/fences/covering": "operator merchant",
    "PUT /v1/fences/{fence}": "operator merchant",
    "GET /v1/fences/{fence}": "operator merchant",
    "DELETE /v1/fences/{fence}": "operator merchant",
    "GET /v1/offers": "operator merchant",
    "PUT /v1/offers/{offer}": "operator merchant",
    "GET /v1/offers/{offer}": "operator merchant",
    "DELETE /v1/offers/{offer}": "operator merchant",
    "POST /v1/redemptions": "operator merchant",
    "DELETE /v1/redemptions/{redemption}": "operator merchant",
    "GET /v1/events": "operator merchant",
    "GET /v1/residents/{resident}/offers/stream": "operator sender resident",
    "POST /v1/residents": "operator sender",
    "GET /v1/residents/{resident}": "operator sender resident",
    "PATCH /v1/residents/{resident}": "operator sender resident",
    "GET /v1/residents/{resident}/preferences": "operator resident",
    "PATCH /v1/residents/{resident}/preferences": "operator resident",
    "PUT /v1/residents/{resident}/preferences/marketing": "operator resident",
    "GET /v1/residents/{resident}/preferences/stream": "operator resident",
    "GET /v1/residents/{resident}/history": "operator resident",
    "GET /v1/residents/{resident}/receipts/{receipt}": "operator resident",
    "POST /v1/residents/{resident}/pairings": "operator resident",
    "GET /v1/residents/{resident}/devices": "operator resident",
    "DELETE /v1/residents/{resident}/devices/{device}": "operator resident",
    "POST /v1/residents/{resident}/merge": "operator sender resident",
    "GET /v1/residents/{resident}/export": "operator resident",
    "DELETE /v1/residents/{resident}": "operator resident",
    "GET /v1/residents/{resident}/offers": "operator resident",
    "POST /v1/residents/{resident}/stop": "operator resident",
    "POST /v1/residents/{resident}/receipts": "operator resident",
    "GET /v1/residents/{resident}/renewals": "operator resident",
    "GET /v1/residents/{resident}/floor": "operator resident",
    "PUT /v1/residents/{resident}/age": "operator",
    "PUT /v1/notices/{notice}/{version}/{locale}": "operator",
    "GET /v1/residents/{resident}/zones": "operator resident",
    "PUT /v1/residents/{resident}/zones/{zone}": "operator resident",
    "GET /v1/residents/{resident}/zones/{zone}": "operator resident",
    "DELETE /v1/residents/{resident}/zones/{zone}": "operator resident",
    "GET /v1/audit": "operator merchant",
    "GET /v1/keys": "operator",
    "POST /v1/keys": "operator",
    "GET /v1/keys/{id}": "operator",
    "DELETE /v1/keys/{id}": "operator",
}
"""Written down apart from the table of routes, so that a slip there is seen."""

ERASES = "DELETE /v1/residents/{resident}"
"""After which the resident's key is nobody's."""


async def test_every_route_with_every_role(tmp_path: Path) -> None:
    """A role that is not allowed gets 403 before anything is read; nobody gets 401."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        keys = {
            "operator": await here.key("operator"),
            "merchant": await here.key("merchant", brands=["cafe"]),
            "sender": await here.key("sender"),
            "resident": await here.resident(),
            "purchaser": await here.key("purchaser", purchaser="buyer"),
        }
        assert set(keys) == set(ROLES)
        for route in sorted(ROUTES, key=lambda route: route.name == ERASES):
            path = route.path.replace("{", "").replace("}", "").replace("resident/", "me/")
            path = path.replace("/v1/residents/resident", "/v1/residents/me")
            allowed = ALLOWED.get(route.name, "").split()
            if route.events:
                continue  # there is no end to wait for; see the test of tenancy
            nobody = await here.call(route.method, path, key=None)
            assert (nobody.status == 401) == bool(allowed), route.name
            for role, key in keys.items():
                reply = await here.call(route.method, path, key=key)
                refused = reply.status == 403 and reply.code == "wrong_role"
                assert refused == (bool(allowed) and role not in allowed), (route.name, role)
                assert reply.status < 500, (route.name, role)


def test_the_table_of_roles_is_complete() -> None:
    """Every route that needs a key is in it, and the others are few and known."""
    assert {route.name for route in ROUTES if route.roles} == set(ALLOWED)
    assert [route.path for route in ROUTES if not route.roles] == [
        "/v1/pairings",
        "/v1/notices",
        "/v1/notices/{notice}/{version}/{locale}",
        "/v1/vocabulary",
        "/v1/counts",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/",
    ]
