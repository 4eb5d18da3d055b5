"""No position and no resident's id is in a log, a metric or a refusal, whatever goes wrong."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest

from tests.fault_crowd import Crowd, Walker
from tests.fault_town import Town, now_ms, opt
from tests.running import OPERATOR, Service, remove, serving, until

LON: Final = 151.2093174
LAT: Final = 71.8688271
"""A place whose digits are found nowhere by chance."""
NORTH_DEG: Final = 0.0101
FENCES_APART: Final = 3
"""Of two, nobody would ever leave: that takes two fixes in a row outside."""
DECIMALS: Final = range(3, 8)
PREFIX: Final = "kirsikka-7f3e9d"
"""Of every resident's id."""
CLAIMS: Final = 40


def places() -> list[float]:
    """Every longitude and latitude that is sent."""
    return [LON, -LON, LON + 900, *(LAT + NORTH_DEG * step for step in range(FENCES_APART))]


def traces() -> set[str]:
    """What must not be found: ids, and coordinates as sent and rounded to 3 decimals or more."""
    found = {PREFIX}
    for degrees in places():
        shown = {repr(degrees), *(f"{degrees:.{n}f}" for n in DECIMALS)}
        cut = {repr(degrees)[: repr(degrees).index(".") + 1 + n] for n in DECIMALS}
        found |= {text.lstrip("-") for text in shown | cut}
    return found


def found_in(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Which trace is in which text, and on what line."""
    return [
        f"{name}: {trace}: {line}"
        for name, text in texts
        for line in text.splitlines()
        for trace in sorted(traces())
        if trace in line
    ]


def said(data: Path) -> Iterator[tuple[str, str]]:
    """All that the service and its database wrote for people to read."""
    logs = [*data.glob("log-*/*"), *data.glob("postgres.log*")]
    for path in sorted(logs):
        yield str(path.relative_to(data)), path.read_text(encoding="utf-8")


def plant(path: Path, trace: str) -> None:
    """Write what must be found into a log."""
    with path.open("a", encoding="utf-8") as log:
        log.write(f"INFO: {trace} was here\n")


class SecretTown(Town):
    """A town whose fences stand in a row from the place."""

    def place(self, fence: int) -> tuple[float, float]:
        """The middle of a fence: one after the other in places that are 1 km apart."""
        return LON, LAT + NORTH_DEG * (fence % FENCES_APART)


def bad_requests(resident: str) -> Iterator[tuple[str, str, Any]]:
    """Requests that are refused, each with an id or a position somewhere in it."""
    good: dict[str, Any] = {"resident": resident, "at_ms": now_ms(), "lon": LON, "lat": LAT}
    here, stranger = f"/v1/residents/{resident}", f"{resident}-stranger"
    yield "POST", "/v1/pings", good | {"lat": str(LAT)}
    yield "POST", "/v1/pings", good | {"lon": LON + 900}
    yield "POST", "/v1/pings", good | {"at_ms": now_ms() + 3_600_000}
    yield "POST", "/v1/pings", good | {"resident": f"{resident}\u0000"}
    yield "POST", "/v1/pings", good | {"resident": stranger}
    yield "POST", "/v1/pings", {"pings": [good | {"lon": None}, good]}
    yield "POST", "/v1/residents", {"resident": resident}
    yield "POST", "/v1/residents", {"resident": f"{resident} {LON}"}
    yield "POST", "/v1/redemptions", {"code": resident, "lon": LON, "lat": LAT}
    yield "POST", "/v1/keys", {"role": "resident", "name": "x", "resident": stranger}
    yield "POST", f"{here}/nowhere/{LON}", good
    yield "PATCH", here, {"timezone": f"{resident}/{LON}"}
    yield "PUT", f"{here}/preferences/marketing", {"opted_in": True, "brands": [resident]}
    yield "PUT", f"/v1/fences/{resident}", {"type": "Point", "coordinates": [LON + 900, LAT]}
    yield "GET", f"/v1/residents/{stranger}/preferences", None
    yield "GET", f"/v1/decisions/{resident}/why", None
    yield "GET", f"/v1/fences?bbox={LON},{LAT}", None
    yield "GET", f"/v1/fences?limit={resident}&cursor={LON}", None


async def post_badly(service: Service, resident: str) -> list[str]:
    """Send all that is refused; the texts of the refusals."""
    replies = [
        await service.call(method, path, body) for method, path, body in bad_requests(resident)
    ]
    replies.append(await service.call("GET", f"/v1/residents/{resident}", key=resident))
    for data in (
        f'{{"resident": "{resident}", "lon": {LON}, "lat": {LAT}'.encode(),
        f'{{"resident": "{resident}", "at_ms": 1, "lon": NaN, "lat": {LAT}}}'.encode(),
        b'{"resident": "' + resident.encode() + b'\xff"}',
    ):
        replies.append(await service.call("POST", "/v1/pings", data=data))
        assert replies[-1].status in (400, 422)
    assert [reply for reply in replies if reply.status >= 500] == []
    return [str(reply.body) for reply in replies if reply.status >= 400] + [
        await speak_badly(service, f"POST /v1/pings?lon={LON} HTTP/1.1\r\nHost {resident}\r\n\r\n"),
        await speak_badly(service, f"{resident} {LON} {LAT}\r\n\r\n"),
    ]


async def speak_badly(service: Service, text: str) -> str:
    """Send what is no HTTP and read until the service closes; what it said."""
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    answer = (await reader.read()).decode()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    assert " 400 " in answer
    return answer


async def break_statements(service: Service) -> None:
    """Have the database itself report errors about rows with ids in them."""
    async with service.database() as database:
        for sql in (
            "insert into residents (id, settings) select id, settings from residents",
            "insert into consent_records select resident, 1, 1, 'x', 'x' from consent_records",
            "update consent_records set body = ''",
        ):
            with pytest.raises(asyncpg.PostgresError):
                await database.execute(sql)
        with pytest.raises(asyncpg.PostgresError):
            await database.execute("insert into keys values ($1, null)", f"{PREFIX}-key")


async def everything_goes_wrong(service: Service, crowd: Crowd) -> list[str]:
    """A walk with bad requests, refused statements and a killed database; refusals' texts."""
    await crowd.town.register(service)
    async with crowd.walking(service):
        await until(lambda: len(crowd.ledger.claims) >= CLAIMS, within_s=20)
        refusals = await post_badly(service, crowd.walkers[0].resident)
        await break_statements(service)
        refused = crowd.ledger.refused.total()
        os.kill(service.children()[0], signal.SIGKILL)
        await until(lambda: crowd.ledger.refused.total() > refused, within_s=10)
        answered = crowd.ledger.answered
        await until(lambda: crowd.ledger.answered > answered + 100, within_s=20)
    await opt(service, crowd.walkers[0].resident, wanted=False)
    outside = Walker(crowd.walkers[0].resident, crowd.town, 0).ping(-LON, LAT)
    assert (await service.must("POST", "/v1/pings", outside))["status"] == "no_consent"
    return refusals


async def test_no_position_and_no_id_in_logs_metrics_and_refusals(
    tmp_path: Path, measured: list[str]
) -> None:
    """All that the service and its database say is searched; a planted line is found."""
    town = SecretTown.of(PREFIX, residents=20, fences=6)
    crowd, data = Crowd(town), tmp_path / "data"
    try:
        async with serving(data, log_level="debug") as service:
            refusals = await everything_goes_wrong(service, crowd)
            metrics = str(await service.must("GET", "/metrics", key=None))
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await service.kill()
        texts = [*said(data), ("metrics", metrics), ("refusals", "\n".join(refusals))]
        assert found_in(texts) == []
        together = "".join(text for _, text in texts)
        for wanted in ("POST /v1/pings 200", "passby_offers_made", "ERROR:  duplicate key"):
            assert wanted in together
        assert OPERATOR not in together
        lines = together.count("\n")
        measured.append(
            f"{lines} lines of logs, metrics and refusals: no resident's id, no position"
        )
        for trace in traces():
            plant(service.log / "stderr", trace)
        found = "\n".join(found_in(said(data)))
        assert [trace for trace in traces() if f": {trace}: " not in found] == []
    finally:
        remove(data)
