"""From a route to what aiohttp calls: let in, read, decode, handle, encode, count.

The one place where an error becomes a response, where requests are counted, and where they are
logged: by the route's template, without the path, the body, or what an exception says.
"""

import io
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Final

import msgspec
from aiohttp import web

from engine.store.audit import Author
from engine.store.port import ForeignBrand, KeyRow, StoreUnavailable
from engine.web.admission import Admission
from engine.web.body import decode, field_error, read_body
from engine.web.conditions import is_known
from engine.web.context import Context
from engine.web.cors import Cors
from engine.web.fault import LOG, log_fault, refusal
from engine.web.once import HEADER as ONCE
from engine.web.once import Once
from engine.web.problem import FieldError, Refused, response_to
from engine.web.request_id import HEADER, request_id
from engine.web.route import ALSO_IN_QUERY, HEADERS, Answer, Route, is_ndjson
from engine.web.signals import honour
from engine.web.streams import Exchange, Streams
from engine.web.upload import Upload, uploaded
from engine.web.websocket import key_in_protocols

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Call = Callable[[web.Request, KeyRow | None, str], Awaitable[Answer[Any]]]

_JSON_HEADERS: Final = {"Content-Type": "application/json"}
_encode: Final = msgspec.json.Encoder().encode


def endpoint(
    route: Route, ctx: Context, admission: Admission, streams: Streams, cors: Cors
) -> Handler:
    """The function that answers a route's requests."""
    call = _call_of(route, ctx, admission)
    open_stream = _stream_of(route, ctx, admission, streams, cors)
    roles, waits, name = route.roles, route.waits, route.name
    count, level = ctx.metrics.count_request, logging.DEBUG if route.waits else logging.INFO

    async def handle(request: web.Request) -> web.StreamResponse:
        started_s, key, called = perf_counter(), None, request_id(request)
        honoured: dict[str, str] = {}
        response: web.StreamResponse
        try:
            if roles:
                key = admission.key_of(_authorization(request, route))
                admission.admit(key, roles)
                if key.role == "resident":
                    honoured = await honour(ctx, request, key)
            if open_stream is not None and key is not None and _is_stream(request, route):
                response = await open_stream(request, key, called, honoured)
            else:
                if waits:
                    with admission.waiting:
                        answer = await call(request, key, called)
                else:
                    answer = await call(request, key, called)
                if key is not None and answer.cost > 1:
                    admission.charge(key, answer.cost)
                response = _response(request, answer)
        except (Refused, StoreUnavailable) as error:
            response = response_to(refusal(name, error), called)
        except Exception as error:  # whatever it is, the client gets an answer and we a trace
            _check_there(request, name, error)
            response = response_to(Refused("internal"), called)
        if not response.prepared:
            response.headers.update(_common(request, key, called, admission, cors) | honoured)
        count(route.method, route.path, response.status)
        if LOG.isEnabledFor(level):
            LOG.log(level, "%s %d %.1f ms %s", name, response.status, _ms_since(started_s), called)
        return response

    return handle


def _authorization(request: web.Request, route: Route) -> str | None:
    """What names the key; a browser's WebSocket can set no header and hides it elsewhere."""
    told = request.headers.get("Authorization")
    return key_in_protocols(request) if told is None and route.socket else told


def _common(
    request: web.Request, key: KeyRow | None, called: str, admission: Admission, cors: Cors
) -> dict[str, str]:
    """The headers that every answer has."""
    headers = {HEADER: called}
    if key is not None:
        headers |= admission.headers(key)
    return headers | cors.headers(request.headers.get("Origin", ""))


def _check_there(request: web.Request, name: str, error: Exception) -> None:
    """Tell of a fault, unless all that failed is a connection.

    Raises:
        ConnectionError: the client is gone, or has half an answer already and must not take it
            for a whole one.
    """
    if not isinstance(error, ConnectionError):
        log_fault(name, error)
    elif request.transport is None or request.transport.is_closing():
        raise error
    if request.writer.output_size > 0:
        raise ConnectionResetError("half an answer is no answer") from None


def _is_stream(request: web.Request, route: Route) -> bool:
    """Whether this request is to be answered in parts."""
    if route.socket or route.events:
        return True
    return is_ndjson(request.headers.get("Content-Type"))


def _stream_of(
    route: Route, ctx: Context, admission: Admission, streams: Streams, cors: Cors
) -> Callable[[web.Request, KeyRow, str, dict[str, str]], Awaitable[web.StreamResponse]] | None:
    """How a request is answered in parts, where the route can."""
    stream = route.stream
    if stream is None:
        return None
    parameters = route.signature().parameters if route.events else None

    async def open_stream(
        request: web.Request, key: KeyRow, called: str, honoured: dict[str, str]
    ) -> web.StreamResponse:
        headers = _common(request, key, called, admission, cors) | honoured
        given = {} if parameters is None else _parameters(request, parameters)
        exchange = Exchange(request, called, headers, admission, streams)
        return await stream(ctx, key, exchange, **given)

    return open_stream


def _ms_since(started_s: float) -> float:
    return (perf_counter() - started_s) * 1_000


def _call_of(route: Route, ctx: Context, admission: Admission) -> _Call:
    """How a request becomes a call of the route's handler."""
    handler, config, signature = route.handler, ctx.config, route.signature()
    takes_key, wants, parameters = signature.key, signature.body, signature.parameters
    decoder = None if wants in (None, bytes, Upload) else msgspec.json.Decoder(wants)
    once = Once(ctx)

    async def call(request: web.Request, key: KeyRow | None, called: str) -> Answer[Any]:
        given: dict[str, Any] = {"key": key} if takes_key else {}
        body = b""
        if signature.by:
            given["by"] = _author(ctx, route, key, called)
        if parameters is not None:
            given.update(_parameters(request, parameters))
        if wants is Upload:
            with admission.imports:
                async with uploaded(request, config) as upload:
                    given["body"] = upload
                    return await do(request, key, given, upload.digest)
        if wants is not None:
            body = await read_body(request, config)
            given["body"] = body if decoder is None else decode(decoder, body)
        return await do(request, key, given, body)

    async def do(
        request: web.Request, key: KeyRow | None, given: dict[str, Any], body: bytes
    ) -> Answer[Any]:
        name = request.headers.get(ONCE) if route.once else None
        if name is None or key is None:
            return await handle(given)
        sent = (*_address(request), body)
        return await once.call(route, key, name, sent, lambda: handle(given))

    async def handle(given: dict[str, Any]) -> Answer[Any]:
        try:
            answer: Answer[Any] = await handler(ctx, **given)
        except ForeignBrand:
            told = "Another brand has something of that id, made a moment ago; choose another id."
            raise Refused("foreign_brand", told) from None
        return answer

    return call


def _author(ctx: Context, route: Route, key: KeyRow | None, called: str) -> Author | None:
    """Who makes a write, for the audit log; what residents say is a record of its own."""
    if key is None or key.role == "resident":
        return None
    return Author(
        at_ms=ctx.clock_ms(),
        key=key.id,
        name=key.name,
        role=key.role,
        action=route.name,
        request=called,
        brands=key.brands if key.role == "merchant" else None,
    )


def _address(request: web.Request) -> tuple[bytes, ...]:
    """What a call is besides its body: its address, and the versions that it rests on."""
    conditions = (request.headers.get(header, "") for header in HEADERS.values())
    return tuple(text.encode("utf-8", "surrogateescape") for text in (request.path_qs, *conditions))


def _parameters(request: web.Request, wanted: type[msgspec.Struct]) -> dict[str, Any]:
    """The parameters of the path, the query and the headers, checked."""
    given: dict[str, Any] = {}
    path, query = request.match_info, request.query
    if request.method not in ("GET", "HEAD"):
        _check_known(query, wanted)
    for name in wanted.__struct_fields__:
        source: Mapping[str, str] = request.headers if name in HEADERS else query
        text = path.get(name) or source.get(HEADERS.get(name, name))
        if not text and name in ALSO_IN_QUERY:
            text = query.get(name)
        if text is not None:
            given[name] = text
    try:
        return msgspec.structs.asdict(msgspec.convert(given, wanted, strict=False))
    except msgspec.ValidationError as error:
        raise Refused("invalid_parameter", errors=(field_error(error),)) from None


def _check_known(query: Mapping[str, str], wanted: type[msgspec.Struct]) -> None:
    """Refuse a write with a parameter that does not exist: a misspelt `dry_run` must not write."""
    known = [name for name in wanted.__struct_fields__ if name not in HEADERS]
    errors = tuple(
        FieldError(name[:100], "unknown_parameter", "There is no such parameter.")
        for name in dict.fromkeys(query)
        if name not in known
    )
    if errors:
        raise Refused("invalid_parameter", errors=errors)


def _response(request: web.Request, answer: Answer[Any]) -> web.Response:
    """An answer as aiohttp sends it; 304 where the client has it already."""
    tag = answer.headers.get("ETag") if request.method in ("GET", "HEAD") else None
    if tag is not None and is_known(request.headers.get("If-None-Match"), tag):
        return web.Response(status=304, headers={"ETag": tag})
    if answer.value is None:
        return web.Response(status=answer.status, headers=answer.headers)
    value = answer.value
    if isinstance(value, msgspec.Raw):
        body = bytes(value)
    elif isinstance(value, io.IOBase):
        return _of_file(request, answer, value)
    else:
        body = _encode(value)
    headers: Mapping[str, str] = _JSON_HEADERS
    if answer.headers or answer.content_type != "application/json":
        headers = {"Content-Type": answer.content_type, **answer.headers}
    return web.Response(body=body, status=answer.status, headers=headers)


def _of_file(request: web.Request, answer: Answer[Any], file: io.IOBase) -> web.Response:
    """An answer that stands in a file, which is sent in pieces and closed."""
    size = file.seek(0, io.SEEK_END)
    headers = {"Content-Type": answer.content_type, "Content-Length": str(size), **answer.headers}
    if request.method == "HEAD":
        file.close()
        return web.Response(status=answer.status, headers=headers)
    file.seek(0)
    return web.Response(body=file, status=answer.status, headers=headers)
