"""Who gets what of whom: every route, with every role, for its own and for somebody else's.

``python -m tests.test_tenancy docs/reference`` writes the page that shows it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import pytest

from engine.web.auth import ROLES
from engine.web.problem import CODES, CONTENT_TYPE
from engine.web.route import Route
from engine.web.routes import ROUTES
from tests.running import ROOT
from tests.test_web_roles import ALLOWED, ERASES
from tests.web_town import LAT, LON, Town, fence, offer, town

PAGE: Final = "tenancy.md"
OWN, FOREIGN = "cafe", "pub"
"""A brand each; all that belongs to it has it in its id, and the resident has too."""

JSON: Final = ("application/json", CONTENT_TYPE)
ITS_OWN: Final = "its own"
"""The call is answered, and shows or changes nothing of others'."""
MERCHANT: Final = {"merchant": "foreign_brand"}
RESIDENT: Final = {"resident": "foreign_resident"}
LIST: Final = {"merchant": ITS_OWN}

OF_OTHERS: Final[dict[str, dict[str, str]]] = {
    "POST /v1/pings": RESIDENT,
    "GET /v1/pings/stream": RESIDENT,
    "GET /v1/decisions/{decision}/why": {
        "merchant": "unknown_decision",
        "resident": "unknown_decision",
    },
    "GET /v1/brands": LIST,
    "PUT /v1/brands/{brand}": MERCHANT,
    "GET /v1/brands/{brand}": MERCHANT,
    "GET /v1/brands/{brand}/export": MERCHANT,
    "POST /v1/brands/{brand}/import": MERCHANT,
    "GET /v1/fences": LIST,
    "POST /v1/fences/import": MERCHANT,
    "POST /v1/fences/covering": LIST,
    "PUT /v1/fences/{fence}": MERCHANT,
    "GET /v1/fences/{fence}": MERCHANT,
    "DELETE /v1/fences/{fence}": MERCHANT,
    "GET /v1/offers": LIST,
    "PUT /v1/offers/{offer}": MERCHANT,
    "GET /v1/offers/{offer}": MERCHANT,
    "DELETE /v1/offers/{offer}": MERCHANT,
    "POST /v1/redemptions": {"merchant": "unknown_code"},
    "DELETE /v1/redemptions/{redemption}": {"merchant": "unknown_redemption"},
    "GET /v1/residents/{resident}": RESIDENT,
    "PATCH /v1/residents/{resident}": RESIDENT,
    "GET /v1/residents/{resident}/preferences": RESIDENT,
    "PATCH /v1/residents/{resident}/preferences": RESIDENT,
    "PUT /v1/residents/{resident}/preferences/marketing": RESIDENT,
    "GET /v1/residents/{resident}/preferences/stream": RESIDENT,
    "GET /v1/residents/{resident}/history": RESIDENT,
    "GET /v1/residents/{resident}/receipts/{receipt}": RESIDENT,
    "POST /v1/residents/{resident}/pairings": RESIDENT,
    "GET /v1/residents/{resident}/devices": RESIDENT,
    "DELETE /v1/residents/{resident}/devices/{device}": RESIDENT,
    "POST /v1/residents/{resident}/merge": RESIDENT,
    "GET /v1/residents/{resident}/export": RESIDENT,
    "DELETE /v1/residents/{resident}": RESIDENT,
    "GET /v1/residents/{resident}/offers": RESIDENT,
    "POST /v1/residents/{resident}/stop": RESIDENT,
    "POST /v1/residents/{resident}/receipts": RESIDENT,
    "GET /v1/residents/{resident}/renewals": RESIDENT,
    "GET /v1/residents/{resident}/floor": RESIDENT,
    "GET /v1/residents/{resident}/zones": RESIDENT,
    "PUT /v1/residents/{resident}/zones/{zone}": RESIDENT,
    "GET /v1/residents/{resident}/zones/{zone}": RESIDENT,
    "DELETE /v1/residents/{resident}/zones/{zone}": RESIDENT,
    "GET /v1/audit": LIST,
    "GET /v1/events": LIST,
    "GET /v1/residents/{resident}/offers/stream": RESIDENT,
}
"""Route -> role -> what it gets where the brand or the resident is not its own: a code, or
`ITS_OWN`. Which roles may call at all stands in `ALLOWED`."""

DENY: Final = {
    "effect": "deny",
    "purpose": "loyalty",
    "actions": ["use"],
    "data": ["profile"],
    "scope": {"all": True},
}
ZONE: Final = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [LON + 0.5, LAT]},
    "properties": {"radius_m": 100},
}

IN_PLACE: Final = frozenset({"GET /v1/pings/stream", "POST /v1/fences/import"})
"""Answered as a whole, and what is another's is refused in its place, with what was sent of it."""


class Column(NamedTuple):
    """Who asks, and for whose."""

    role: str
    foreign: bool = False

    @property
    def title(self) -> str:
        """As the page has it."""
        return f"{self.role}, another's" if self.foreign else self.role


COLUMNS: Final = (
    Column("nobody"),
    Column("operator"),
    Column("merchant"),
    Column("merchant", foreign=True),
    Column("sender"),
    Column("resident"),
    Column("resident", foreign=True),
    Column("purchaser"),
)


def expected(route: Route, column: Column) -> str:
    """The code of the refusal, or `` for an answer, or `ITS_OWN`."""
    if not route.roles:
        return ""
    if column.role == "nobody":
        return "unauthenticated"
    if column.role not in ALLOWED[route.name].split():
        return "wrong_role"
    return OF_OTHERS.get(route.name, {}).get(column.role, "") if column.foreign else ""


def page() -> str:
    """The table in Markdown."""
    titles = ["route", *(column.title for column in COLUMNS)]
    rows = [titles, ["---"] * len(titles)]
    rows += [[f"`{r.name}`", *(_cell(r, column) for column in COLUMNS)] for r in ROUTES]
    return "\n".join(
        (
            "# Who gets what of whom\n",
            "<!-- Made by `python -m tests.test_tenancy docs/reference`; do not edit. -->\n",
            "What each call is answered, by the role of its key and by whose brand or resident it "
            "is about. A test makes every one of these calls over HTTP. Roles are described in "
            '[api.md](api.md), codes in [errors.md](errors.md). "Its own" means that the call is '
            "answered, and shows and changes nothing of another's. A 404 stands where even that "
            "there is something must not show. Of a stream and of an import, a ping or a row that "
            "is another's is `rejected` in its place.\n",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        )
    )


def _cell(route: Route, column: Column) -> str:
    """One answer in a few characters."""
    code = expected(route, column)
    if code == ITS_OWN:
        return ITS_OWN
    if route.name in IN_PLACE and code.startswith("foreign"):
        return f"`{code}` in its place"
    return f"{CODES[code].status} `{code}`" if code else ", ".join(map(str, route.statuses))


class Party:
    """A brand and a resident, and whatever of theirs a call is about, made when it is needed."""

    def __init__(self, here: Town, name: str) -> None:
        self.here, self.name = here, name
        self._number = 0

    async def of(self, wanted: str) -> str:
        """The id of a new thing, by the word that stands for it in an address."""
        self._number += 1
        fresh = f"{self.name}-{self._number}"
        match wanted:
            case "fence":
                await self.here.must("PUT", f"/v1/fences/{fresh}", fence(self.name))
            case "offer":
                await self.here.must("PUT", f"/v1/offers/{fresh}", offer(self.name, status="draft"))
            case "id" | "device":
                whose = {"resident": self.name} if wanted == "device" else {"brands": [self.name]}
                role = "resident" if wanted == "device" else "merchant"
                made = {"role": role, "name": wanted, **whose}
                return str((await self.here.must("POST", "/v1/keys", made))["id"])
            case "decision":
                return str((await self.claim())["claim"])
            case "receipt":
                history = f"/v1/residents/{self.name}/history"
                return str((await self.here.must("GET", history))["items"][0]["id"])
            case "redemption":
                code = (await self.claim())["code"]
                done = await self.here.must("POST", "/v1/redemptions", {"code": code})
                return str(done["redemption"])
            case "notice":
                await self.here.must("PUT", f"/v1/notices/{fresh}/1/fi", {"text": "Näytä"})
            case "version":
                return "1"
            case "locale":
                return "fi"
            case "zone":
                path = f"/v1/residents/{self.name}/zones/{fresh}"
                await self.here.must("PUT", path, ZONE)
            case "brand" | "resident":
                return self.name
            case _:
                raise AssertionError(f"nothing is known of {wanted}: say here how it is made")
        return fresh

    async def claim(self) -> dict[str, Any]:
        """An offer of the brand, made to the resident."""
        self._number += 1
        ping = self.here.ping(self.name, id=f"{self._number}")
        fresh = f"{self.name}-live-{self._number}"
        await self.here.must("PUT", f"/v1/fences/{fresh}", fence(self.name))
        live = offer(self.name, fences=[fresh], caps={"cool_down_s": 0})
        await self.here.must("PUT", f"/v1/offers/{fresh}", live)
        made = (await self.here.must("POST", "/v1/pings", ping))["offer"]
        assert made is not None
        assert made["brand"] == self.name
        return dict(made)

    async def pairing(self, own: bool) -> str:
        """A code of the resident, or of somebody who is to become them."""
        whose = self.name
        if not own:
            made = {"resident": f"{self.name}-{self._number}"}
            whose = (await self.here.must("POST", "/v1/residents", made))["resident"]
        pairings = f"/v1/residents/{whose}/pairings"
        return str((await self.here.must("POST", pairings))["code"])

    async def body(self, route: Route) -> Any:
        """A good body for a route, about the party's own."""
        self._number += 1
        bodies = {
            "POST /v1/pings": self.here.ping(self.name),
            "PUT /v1/brands/{brand}": {
                "name": self.name,
                "categories": [self.name],
                "timezone": "Europe/Helsinki",
            },
            "POST /v1/fences/covering": {"positions": [[LON, LAT]]},
            "PUT /v1/fences/{fence}": fence(self.name),
            "PUT /v1/offers/{offer}": offer(self.name, status="draft"),
            "POST /v1/brands/{brand}/import": {"fence": fence(self.name) | {"id": self.name}},
            "POST /v1/fences/import": {
                "type": "FeatureCollection",
                "features": [fence(self.name) | {"id": self.name}],
            },
            "POST /v1/residents/import": {"resident": f"{self.name}-{self._number}"},
            "POST /v1/residents": {},
            "PATCH /v1/residents/{resident}": {"language": "fi"},
            "PATCH /v1/residents/{resident}/preferences": {"changes": [DENY]},
            "PUT /v1/residents/{resident}/preferences/marketing": {"opted_in": False},
            "PUT /v1/residents/{resident}/zones/{zone}": ZONE,
            "PUT /v1/residents/{resident}/age": {"age_band": "13_to_15"},
            "PUT /v1/notices/{notice}/{version}/{locale}": {"text": "Näytä"},
            "POST /v1/keys": {"role": "sender", "name": "gateway"},
        }
        if route.events:
            await self.claim()
        if route.name == "POST /v1/residents/{resident}/receipts":
            history = await self.here.must("GET", f"/v1/residents/{self.name}/history")
            return {"receipts": history["items"][:1]}
        if route.name in ("POST /v1/pairings", "POST /v1/residents/{resident}/merge"):
            return {"code": await self.pairing(route.name == "POST /v1/pairings")}
        if route.name == "POST /v1/redemptions":
            return {"code": (await self.claim())["code"]}
        return bodies.get(route.name)


async def ask(here: Town, route: Route, of: Party, key: str | None) -> tuple[int, str, str]:
    """Call a route about somebody's; the status, the code of the refusal, and what came."""
    path, body = route.path, await of.body(route)
    for wanted in [part[1:-1] for part in route.path.split("/") if part.startswith("{")]:
        path = path.replace(f"{{{wanted}}}", await of.of(wanted))
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if route.events:
        headers["Last-Event-ID"] = "0"
    if route.socket:
        return await _over_a_socket(here, path, headers, here.ping(of.name))
    headers |= {"Content-Type": route.forms[0]} if route.forms else {}
    if path.split("/")[-2] == "zones":
        # Removing one needs its version, which is one of the first.
        headers["If-Match"] = ", ".join(f'"{version}"' for version in range(1, 50))
    sent = None if body is None else msgspec.json.encode(body)
    async with here.session.request(route.method, path, data=sent, headers=headers) as answer:
        # A stream has no end to wait for; all that there is comes before the first silence.
        endless = answer.content_type == "text/event-stream"
        text = await _until_silent(answer) if endless else await answer.text()
        told = msgspec.json.decode(text) if text and answer.content_type in JSON else {}
        if answer.content_type == CONTENT_TYPE:
            return answer.status, told["code"], text
        rows = told.get("rejected") or [{"code": ""}]
        return answer.status, rows[0]["code"], text


async def _until_silent(answer: aiohttp.ClientResponse) -> str:
    """What a stream of events tells before it has nothing more to tell."""
    text = b""
    while b": still here" not in text:
        text += await answer.content.readany()
    return text.decode()


async def _over_a_socket(
    here: Town, path: str, headers: dict[str, str], ping: dict[str, Any]
) -> tuple[int, str, str]:
    """Send a ping; where it is refused in its place, that is the code."""
    try:
        async with here.session.ws_connect(path, headers=headers) as socket:
            await socket.send_bytes(msgspec.json.encode(ping))
            text = (await socket.receive()).data
            decision = msgspec.json.decode(text)
            return 101, decision.get("reject", {}).get("code", ""), str(text)
    except aiohttp.WSServerHandshakeError as refused:
        codes = {401: "unauthenticated", 403: "wrong_role"}
        return refused.status, codes[refused.status], ""


async def parties(here: Town) -> tuple[Party, Party, dict[str, str | None]]:
    """Two brands with a resident each, and the keys; merchant and resident are the first's."""
    keys: dict[str, str | None] = {"nobody": None}
    for name in (FOREIGN, OWN):
        # A category of its own, so that only the one resident is offered what the brand has.
        await here.brand(name, categories=(name,))
        await here.must("PUT", f"/v1/offers/{name}-draft", offer(name, status="draft"))
        keys["resident"] = await here.resident(name)
        settings = {"limits": {"per_day": 1_000, "per_week": 1_000}}
        await here.must("PATCH", f"/v1/residents/{name}", settings)
        for other in {FOREIGN, OWN} - {name}:
            marketing = f"/v1/residents/{name}/preferences/marketing"
            await here.must("PUT", marketing, {"opted_in": False, "brands": [other]})
    keys["merchant"] = await here.key("merchant", brands=[OWN])
    keys["purchaser"] = await here.key("purchaser", purchaser="buyer")
    for role in ("operator", "sender"):
        keys[role] = await here.key(role)
    return Party(here, OWN), Party(here, FOREIGN), keys


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_every_call_is_answered_as_the_table_says(tmp_path: Path, route: Route) -> None:
    """Every role, with its own and with another's."""
    async with town(tmp_path, event_heartbeat_ms=100) as here:
        own, foreign, keys = await parties(here)
        for column in COLUMNS:
            if route.name == ERASES:
                for name in (OWN, FOREIGN):
                    await here.call("DELETE", f"/v1/residents/{name}")
                own, foreign, keys = await parties(here)
            of = foreign if column.foreign else own
            status, code, text = await ask(here, route, of, keys[column.role])
            wanted = expected(route, column)
            told = (route.name, column, status, text)
            if wanted in ("", ITS_OWN):
                assert status in route.statuses, told
                assert code == "", told
            else:
                assert code == wanted, told
                assert status == CODES[code].status or status in route.statuses, told
            if code and route.name not in IN_PLACE:
                assert FOREIGN not in text, told
            if wanted == ITS_OWN:
                assert FOREIGN not in text, told
                assert OWN in text, told


async def test_a_merchant_cannot_get_at_anothers_by_way_of_its_own(tmp_path: Path) -> None:
    """An id of the other's under its own brand, and its own id on what is the other's."""
    async with town(tmp_path) as here:
        own, foreign, keys = await parties(here)
        their_fence, their_offer = await foreign.of("fence"), await foreign.of("offer")
        for path, body, code in (
            (f"/v1/fences/{their_fence}", fence(OWN), "foreign_brand"),
            (f"/v1/fences/{await own.of('fence')}", fence(FOREIGN), "foreign_brand"),
            (f"/v1/offers/{their_offer}", offer(OWN), "foreign_brand"),
            (f"/v1/offers/{await own.of('offer')}", offer(FOREIGN), "foreign_brand"),
            ("/v1/offers/new", offer(OWN, fences=[their_fence]), "foreign_fence"),
        ):
            refused = await here.call("PUT", path, body, key=keys["merchant"])
            assert refused.code == code, path
        kept = await here.must("GET", f"/v1/fences/{their_fence}")
        assert kept["properties"]["brand"] == FOREIGN


def test_the_table_says_what_each_role_gets_of_others() -> None:
    """Whoever belongs to one brand or one resident, and may call, has a line; nobody else."""
    needed = {
        (route.name, role)
        for route in ROUTES
        for role in ALLOWED.get(route.name, "").split()
        if role in ("merchant", "resident")
    }

    assert {(name, role) for name, told in OF_OTHERS.items() for role in told} == needed
    assert {column.role for column in COLUMNS} == {"nobody", *ROLES}


def test_the_page_is_true() -> None:
    """`python -m tests.test_tenancy docs/reference` puts it right."""
    assert (ROOT / "docs" / "reference" / PAGE).read_text(encoding="utf-8") == page()


def test_the_page_counts_every_call(measured: list[str]) -> None:
    """As many cells as routes times columns."""
    cells = list(_cells())
    refused = sum(bool(cell) and cell != ITS_OWN for cell in cells)

    assert len(cells) == len(ROUTES) * len(COLUMNS)
    measured.append(
        f"tenancy: {len(ROUTES)} routes, {len(cells)} calls by role and owner, {refused} refused"
    )


def _cells() -> Iterator[str]:
    for route in ROUTES:
        yield from (expected(route, column) for column in COLUMNS)


if __name__ == "__main__":
    (Path(sys.argv[1]) / PAGE).write_text(page(), encoding="utf-8")
