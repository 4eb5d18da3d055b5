"""From a route to what aiohttp calls: let in, read, decode, handle, encode, count.

The one place where an error becomes a response, where requests are counted, and where they are
logged: by the route's template, without the path, the body, or what an exception says.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Final

import msgspec
from aiohttp import web

from engine.store.port import KeyRow, StoreUnavailable
from engine.web.admission import Admission
from engine.web.body import decode, field_error, read_body
from engine.web.context import Context
from engine.web.problem import Refused, response_to
from engine.web.route import HEADERS, Answer, Route

LOG: Final = logging.getLogger("engine.web")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Call = Callable[[web.Request, KeyRow | None], Awaitable[Answer[Any]]]

_JSON_HEADERS: Final = {"Content-Type": "application/json"}
_encode: Final = msgspec.json.Encoder().encode


def endpoint(route: Route, ctx: Context, admission: Admission) -> Handler:
    """The function that answers a route's requests."""
    call = _call_of(route, ctx)
    roles, waits, name = route.roles, route.waits, route.name
    count, level = ctx.metrics.count_request, logging.DEBUG if route.waits else logging.INFO

    async def handle(request: web.Request) -> web.StreamResponse:
        started_s, key = perf_counter(), None
        try:
            if roles:
                key = admission.key_of(request.headers.get("Authorization"))
                admission.admit(key, roles)
            if waits:
                with admission.place():
                    answer = await call(request, key)
            else:
                answer = await call(request, key)
            if key is not None and answer.cost > 1:
                admission.charge(key, answer.cost)
            response = _response(request, answer)
        except Refused as refused:
            response = response_to(refused)
        except StoreUnavailable:
            response = response_to(Refused("store_unavailable"))
        except Exception as error:  # whatever it is, the client gets an answer and we a trace
            log_fault(name, error)
            response = response_to(Refused("internal"))
        if key is not None:
            response.headers.update(admission.headers(key))
        count(route.method, route.path, response.status)
        if LOG.isEnabledFor(level):
            LOG.log(level, "%s %d %.1f ms", name, response.status, _ms_since(started_s))
        return response

    return handle


def _ms_since(started_s: float) -> float:
    return (perf_counter() - started_s) * 1_000


def log_fault(where: str, error: BaseException) -> None:
    """Log where a fault arose; what it says is left out, since it may hold what was sent."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("%s failed with %s:\n%s", where, type(error).__name__, frames)


def _call_of(route: Route, ctx: Context) -> _Call:
    """How a request becomes a call of the route's handler."""
    handler, config, signature = route.handler, ctx.config, route.signature()
    takes_key, wants, parameters = signature.key, signature.body, signature.parameters
    decoder = None if wants in (None, bytes) else msgspec.json.Decoder(wants)

    async def call(request: web.Request, key: KeyRow | None) -> Answer[Any]:
        given: dict[str, Any] = {"key": key} if takes_key else {}
        if parameters is not None:
            given.update(_parameters(request, parameters))
        if decoder is not None:
            given["body"] = decode(decoder, await read_body(request, config))
        elif wants is bytes:
            given["body"] = await read_body(request, config)
        return await handler(ctx, **given)

    return call


def _parameters(request: web.Request, wanted: type[msgspec.Struct]) -> dict[str, Any]:
    """The parameters of the path, the query and the headers, checked."""
    given: dict[str, Any] = {}
    path, query = request.match_info, request.query
    for name in wanted.__struct_fields__:
        source: Mapping[str, str] = request.headers if name in HEADERS else query
        text = path.get(name) or source.get(HEADERS.get(name, name))
        if text is not None:
            given[name] = text
    try:
        return msgspec.structs.asdict(msgspec.convert(given, wanted, strict=False))
    except msgspec.ValidationError as error:
        raise Refused("invalid_parameter", errors=(field_error(error),)) from None


def _response(request: web.Request, answer: Answer[Any]) -> web.Response:
    """An answer as aiohttp sends it; 304 where the client has it already."""
    if answer.status == 200 and "ETag" in answer.headers and request.method in ("GET", "HEAD"):
        known = request.headers.get("If-None-Match")
        if known is not None and known.removeprefix("W/") == answer.headers["ETag"]:
            return web.Response(status=304, headers={"ETag": answer.headers["ETag"]})
    if answer.value is None:
        return web.Response(status=answer.status, headers=answer.headers)
    value = answer.value
    body = bytes(value) if isinstance(value, msgspec.Raw) else _encode(value)
    headers: Mapping[str, str] = _JSON_HEADERS
    if answer.headers or answer.content_type != "application/json":
        headers = {"Content-Type": answer.content_type, **answer.headers}
    return web.Response(body=body, status=answer.status, headers=headers)
