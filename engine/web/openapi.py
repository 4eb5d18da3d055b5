"""The API's description, OpenAPI 3.1, made from the route table and its types."""

import ast
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, get_args

import msgspec

from engine.decision import EVENT_KINDS, STATUSES, WITHHELD, Decision, Event
from engine.ingest.rows import COLUMNS
from engine.ping import REJECT_CODES
from engine.web.auth import ROLES
from engine.web.encoding import ENCODINGS
from engine.web.once import HEADER as ONCE
from engine.web.problem import CODES, CONTENT_TYPE, Problem
from engine.web.route import HEADERS, NDJSON, Route, Signature, is_nothing

_REF: Final = "#/components/schemas/{name}"
_ONCE: Final = {
    "name": ONCE,
    "in": "header",
    "required": False,
    "description": (
        "A name of your own for this call, such as a random UUID: sent again within 24 h, the call "
        "is not done again, and its answer comes again with `Idempotent-Replay: true`."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_TABLE: Final = {"type": "string", "examples": [f"{','.join(COLUMNS)}\n"]}
_SUCCESS: Final = {
    101: "A WebSocket.",
    200: "Done.",
    201: "Made.",
    204: "Done; no body.",
    503: "Not ready.",
}
_HEADERS: Final = {
    "X-Request-Id": "What the request is called in the server's log.",
    "RateLimit": 'What is left to the key, such as `"key";r=17;t=1`; only where it has a rate.',
    "RateLimit-Policy": 'The rate of the key, such as `"key";q=200;w=2`; likewise.',
}
_ABOUT: Final = (
    "Passby tells residents of offers at the places that they pass, and only what they wanted to "
    "be told. Units are in names: `_ms` Unix milliseconds or milliseconds, `_s` seconds, `_m` "
    "metres, `_deg` degrees. Errors are `application/problem+json` (RFC 9457); branch on `code`. "
    f"Bodies may come with `Content-Encoding` {' or '.join(ENCODINGS)}. Every answer has an "
    "`X-Request-Id`: the one sent, if it is 8 to 64 of `A-Z a-z 0-9 _ -`, else a new one. It is "
    "logged, so choose it at random. Where a key has a rate, answers tell in `RateLimit-Policy` "
    "and `RateLimit` what it is and what is left; pings count one each, however they come."
)


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole description as JSON values."""
    signatures = {route.name: route.signature() for route in routes}
    types = [
        one
        for route in routes
        for wanted in _types(route, signatures[route.name])
        for one in _each(wanted)
    ]
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=_REF)
    told = iter(schemas)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        own = [_one_of(wanted, told) for wanted in _types(route, signatures[route.name])]
        paths[route.path][route.method.lower()] = _operation(route, signatures[route.name], own)
    _tell_closed_lists(components)
    for struct in _structs([*types, Problem]):
        if struct.__name__ in components:
            _tell_fields(struct, components[struct.__name__])
    described = {
        "openapi": "3.1.0",
        "info": {"title": "Passby", "version": _version(), "description": _ABOUT},
        "security": [{"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in _HEADERS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    # Defaults of fields may be records and tuples; outside they are objects and arrays.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(described))
    return plain


def _version() -> str:
    try:
        return version("passby")
    except PackageNotFoundError:
        return "0"


def _types(route: Route, signature: Signature) -> list[Any]:
    """The types whose schemas an operation shows: parameters, the body, the answer."""
    wanted = []
    if signature.parameters is not None:
        wanted += [one.type for one in msgspec.structs.fields(signature.parameters)]
    if signature.body is not None:
        wanted.append(route.body or signature.body)
    if not is_nothing(signature.result):
        wanted.append(route.result or signature.result)
    return wanted


def _each(wanted: Any) -> tuple[Any, ...]:
    """The types of which a place shows one."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _one_of(wanted: Any, told: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a place, of those told for its types."""
    own = [next(told) for _ in _each(wanted)]
    return own[0] if len(own) == 1 else {"oneOf": own}


def _operation(route: Route, signature: Signature, schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """One route; `schemas` are those of its types, in their order."""
    told = iter(schemas)
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.tag],
    }
    operation["description"] = (
        f"For keys of the role {', '.join(f'`{role}`' for role in route.roles)}."
        if route.roles
        else "For anybody."
    )
    if not route.roles:
        operation["security"] = []
    if signature.parameters is not None:
        fields = msgspec.structs.fields(signature.parameters)
        operation["parameters"] = [_parameter(route, one, next(told)) for one in fields]
    if route.once:
        operation.setdefault("parameters", []).append(_ONCE)
    if signature.body is not None:
        operation["requestBody"] = {"required": True, "content": _body(route, next(told))}
    if route.about:
        operation["description"] += "\n\n" + route.about
    answer = None if is_nothing(signature.result) else next(told)
    operation["responses"] = {
        **{str(status): _success(route, status, answer) for status in route.statuses},
        **_problems(route),
    }
    return operation


def _body(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    """What a body may be; the first of several schemas is that of a stream's line."""
    if route.forms:
        return {
            form: {"schema": _TABLE if form == "text/csv" else schema, **_row_example(route, form)}
            for form in route.forms
        }
    content = {"application/json": {"schema": schema, **_example(route.example)}}
    if route.stream is not None:
        content[NDJSON] = {"schema": schema["oneOf"][0]}
    return content


def _row_example(route: Route, form: str) -> dict[str, Any]:
    """The example of a route that takes files: of the first of its forms."""
    return _example(route.example) if form == route.forms[0] else {}


def _parameter(route: Route, one: Any, schema: dict[str, Any]) -> dict[str, Any]:
    place = route.place_of(one.name)
    if not one.required and one.default is not None:
        schema = {**schema, "default": one.default}
    return {
        "name": HEADERS.get(one.name, one.name),
        "in": place,
        "required": place == "path" or one.required,
        "schema": schema,
    }


def _example(value: Any) -> dict[str, Any]:
    return {} if value is None else {"example": value}


def _success(route: Route, status: int, schema: dict[str, Any] | None) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _SUCCESS[status]}
    if schema is not None:
        content = {"schema": schema, **_example(route.answer)}
        response["content"] = {route.content_type: content}
        if route.stream is not None:
            response["content"][NDJSON] = {"schema": schema["oneOf"][0]}
    response["headers"] = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    if route.roles:
        for name in ("RateLimit", "RateLimit-Policy"):
            response["headers"][name] = {"$ref": f"#/components/headers/{name}"}
    return response


def _problems(route: Route) -> dict[str, Any]:
    """The errors of a route by status, each with the codes that it can have."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in route.all_codes():
        by_status[CODES[code].status].append(code)
    return {
        str(status): {
            "description": " ".join(f"`{code}`: {CODES[code].meaning}" for code in codes),
            "content": {CONTENT_TYPE: {"schema": _problem_of(codes)}},
        }
        for status, codes in sorted(by_status.items())
        if status not in route.statuses
    }


def _problem_of(codes: Iterable[str]) -> dict[str, Any]:
    narrowed = {"properties": {"code": {"enum": list(codes)}}}
    return {"allOf": [{"$ref": _REF.format(name=Problem.__name__)}, narrowed]}


def _tell_closed_lists(components: dict[str, Any]) -> None:
    """Put the closed lists of words where the types only say that they are text."""
    decision = components[Decision.__name__]["properties"]
    decision["status"] = {"enum": list(STATUSES), "description": _lines(STATUSES)}
    decision["withheld"] = {"enum": [*WITHHELD, None], "description": _lines(WITHHELD)}
    components[Event.__name__]["properties"]["kind"] = {"enum": list(EVENT_KINDS)}
    shed = ("not_durable", "stale", "overloaded", "too_many_requests")
    unread = ("invalid_ping", "malformed_json", "foreign_resident")
    components["Reject"]["properties"]["code"] = {"enum": sorted({*REJECT_CODES, *unread, *shed})}
    problem = components[Problem.__name__]["properties"]
    problem["code"] = {
        "enum": list(CODES),
        "description": _lines({code: kind.meaning for code, kind in CODES.items()}),
    }
    for component in components.values():
        if "role" in component.get("properties", {}):
            component["properties"]["role"] = {"enum": list(ROLES), "description": _lines(ROLES)}


def _lines(words: dict[str, str]) -> str:
    return "\n".join(f"- `{word}`: {meaning}" for word, meaning in words.items())


def _structs(types: Iterable[Any]) -> set[type[msgspec.Struct]]:
    """Every record in the types, at any depth."""
    found: set[type[msgspec.Struct]] = set()
    waiting = list(types)
    while waiting:
        one = waiting.pop()
        waiting += get_args(one)
        origin = getattr(one, "__origin__", one)
        if isinstance(origin, type) and issubclass(origin, msgspec.Struct) and origin not in found:
            found.add(origin)
            waiting += [f.type for f in msgspec.structs.fields(origin)]
    return found


def _tell_fields(struct: type[msgspec.Struct], component: dict[str, Any]) -> None:
    """Give each field the sentence that stands below it in the code."""
    for owner in struct.__mro__:
        if owner is msgspec.Struct or not issubclass(owner, msgspec.Struct):
            break
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        if not isinstance(body, ast.ClassDef):
            continue
        for one, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                text = _sentence(below)
                described = component.get("properties", {}).get(one.target.id)
                if text and described is not None:
                    described.setdefault("description", text)


def _sentence(below: ast.stmt) -> str | None:
    """The text of a bare string, or None."""
    if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
        text = below.value.value
        return " ".join(text.split()) if isinstance(text, str) else None
    return None
