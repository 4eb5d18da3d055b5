"""The API's description and the reference pages: valid, complete, and true to the route table."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

import engine.web
from engine.consent.lanes import CHANNELS, PURPOSES
from engine.decision import EVENT_KINDS, STATUSES, WITHHELD
from engine.offers.offer import STATUSES as OFFER_STATUSES
from engine.offers.offer import TRIGGERS
from engine.ping import REJECT_CODES
from engine.web.auth import ROLES
from engine.web.openapi import document
from engine.web.problem import CODES
from engine.web.reference import pages
from engine.web.routes import ROUTES
from tests.web_town import offer, town

ROOT = Path(__file__).resolve().parent.parent
DESCRIBED = document(ROUTES)
SCHEMAS = DESCRIBED["components"]["schemas"]


def problems(value: Any, schema: Any) -> list[str]:
    """What a value breaks of a schema, references into the description included."""
    whole = {**schema, "components": DESCRIBED["components"]}
    return [error.message for error in OAS31Validator(whole).iter_errors(value)]


def test_the_description_is_valid_openapi() -> None:
    """OpenAPI 3.1, by somebody else's judgement."""
    validate(DESCRIBED)

    assert DESCRIBED["openapi"] == "3.1.0"


def test_every_route_is_described() -> None:
    """Each with a summary, its success, and every code that it can be refused with."""
    ids = []
    for route in ROUTES:
        operation = DESCRIBED["paths"][route.path][route.method.lower()]
        told = msgspec.json.encode(operation["responses"]).decode()
        ids.append(operation["operationId"])
        assert operation["summary"].endswith("."), route.name
        assert set(map(str, route.statuses)) <= set(operation["responses"])
        for code in route.all_codes():
            assert f"`{code}`" in told or CODES[code].status in route.statuses, (route.name, code)
    assert len(ids) == len(set(ids)) == sum(len(path) for path in DESCRIBED["paths"].values())


def test_every_code_is_of_use() -> None:
    """Whatever the code raises is in the table, and the table has nothing else."""
    folder = Path(engine.web.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    raised = set(re.findall(r'Refused\(\s*"([a-z_]+)"', text))
    told = {code for route in ROUTES for code in route.all_codes()}

    assert raised <= set(CODES)
    assert set(CODES) - told == {"not_found", "method_not_allowed", "slow_head"}
    assert SCHEMAS["Problem"]["properties"]["code"]["enum"] == list(CODES)


def test_the_closed_lists_are_in_it() -> None:
    """Statuses, reasons, kinds and the words of offers and keys."""
    decision = SCHEMAS["Decision"]["properties"]

    assert decision["status"]["enum"] == list(STATUSES)
    assert decision["withheld"]["enum"] == [*WITHHELD, None]
    assert SCHEMAS["Event"]["properties"]["kind"]["enum"] == list(EVENT_KINDS)
    assert set(REJECT_CODES) <= set(SCHEMAS["Reject"]["properties"]["code"]["enum"])
    assert SCHEMAS["KeyBody"]["properties"]["role"]["enum"] == list(ROLES)
    told = SCHEMAS["OfferBody"]["properties"]
    assert set(told["trigger"]["enum"]) == set(TRIGGERS)
    assert set(told["status"]["enum"]) == set(OFFER_STATUSES)
    assert told["channel"]["enum"] == list(CHANNELS)
    assert told["purpose"]["enum"] == list(PURPOSES)


WITHOUT_EXAMPLE = {"/", "/metrics", "/openapi.json", "/v1/pings/stream"}
"""What answers no JSON, or itself; events are described by what they tell."""


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_has_examples_that_keep_their_schemas(route: Any) -> None:
    """What the description shows is what it describes: each body, and each answer that has one."""
    operation = DESCRIBED["paths"][route.path][route.method.lower()]
    if "requestBody" in operation:
        body, *_ = operation["requestBody"]["content"].values()
        assert problems(body["example"], body["schema"]) == []
    if route.path in WITHOUT_EXAMPLE or route.events:
        return
    for status in set(route.statuses) - {204}:
        answer, *_ = operation["responses"][str(status)]["content"].values()
        assert problems(answer["example"], answer["schema"]) == []


async def test_answers_keep_their_schemas(tmp_path: Path) -> None:
    """A walk through the service; each answer is as described."""
    async with town(tmp_path) as here:
        await here.brand("cafe")
        await here.must("PUT", "/v1/offers/bun", offer("cafe"))
        key = await here.resident()
        made = await here.must("POST", "/v1/pings", here.ping(), key=key)
        claim, code = made["offer"]["claim"], {"code": made["offer"]["code"]}
        marketing = "/v1/residents/{resident}/preferences/marketing"
        many = {"pings": [here.ping(), {}]}
        for method, template, path, body, mine in (
            ("POST", "/v1/pings", "/v1/pings", here.ping(), True),
            ("POST", "/v1/pings", "/v1/pings", many, False),
            ("GET", "/v1/decisions/{decision}/why", f"/v1/decisions/{claim}/why", None, True),
            ("GET", "/v1/brands", "/v1/brands", None, False),
            ("GET", "/v1/fences", "/v1/fences", None, False),
            ("GET", "/v1/offers", "/v1/offers", None, False),
            ("GET", "/v1/keys", "/v1/keys", None, False),
            ("POST", "/v1/redemptions", "/v1/redemptions", code, False),
            ("POST", "/v1/residents", "/v1/residents", {}, False),
            ("GET", "/v1/residents/{resident}", "/v1/residents/me", None, True),
            (
                "GET",
                "/v1/residents/{resident}/preferences",
                "/v1/residents/me/preferences",
                None,
                True,
            ),
            ("PUT", marketing, marketing.format(resident="me"), {"opted_in": False}, True),
            ("PUT", marketing, marketing.format(resident="me"), {"opted_in": True}, True),
            ("PUT", "/v1/offers/{offer}", "/v1/offers/x", {"brand": 1}, False),
            ("GET", "/v1/counts", "/v1/counts", None, False),
            ("GET", "/healthz", "/healthz", None, False),
            ("GET", "/readyz", "/readyz", None, False),
        ):
            who = {"key": key} if mine else {}
            reply = await here.call(method, path, body, **who)
            response = DESCRIBED["paths"][template][method.lower()]["responses"][str(reply.status)]
            content = next(iter(response["content"].values()))
            assert problems(reply.body, content["schema"]) == [], (method, path, reply.body)


async def test_the_service_gives_the_description(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        reply = await here.call("GET", "/openapi.json", key=None)

        assert reply.body == DESCRIBED


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_reference_is_true(name: str) -> None:
    """`python -m engine.web.reference docs/reference` puts it right."""
    assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == pages()[name]
