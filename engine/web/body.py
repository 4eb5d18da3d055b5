"""From a request's bytes to a typed value, once, with every refusal told as problem+json."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web
from aiohttp.web_exceptions import HTTPException

from engine.config import Config
from engine.web.encoding import Inflater, inflater
from engine.web.problem import FieldError, Refused

T = TypeVar("T")

_EXPECTED: Final = re.compile(r"^Expected `([^`]*)`")
_WORDS: Final = {
    "array": "an array",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "an object",
    "str": "text",
}
_NAMED: Final = re.compile(r"^Object (missing required|contains unknown) field `(.*)`$", re.DOTALL)


async def read_body(request: web.Request, config: Config) -> bytes:
    """The whole body; nothing is awaited where it came along with the headers.

    Raises:
        Refused: `body_too_large` as soon as that is known, compressed or not, `slow_body`,
            `unreadable_request`, or `unsupported_encoding`.
    """
    opener = inflater(request.headers.get("Content-Encoding"))
    length = request.content_length
    if length is not None and length > config.body_bytes_max:
        raise _too_large(config)
    content = request.content
    try:
        if opener is None and content.is_eof():
            body = content.read_nowait(-1)
            if len(body) > config.body_bytes_max:
                raise _too_large(config)
            return body
        return await _read_slowly(request, config, opener)
    except TimeoutError:
        raise Refused(
            "slow_body", f"The body must arrive within {config.body_seconds_max} s."
        ) from None
    except (web.RequestPayloadError, HTTPException, ValueError):
        raise Refused("unreadable_request", "The body's encoding can't be read.") from None


async def _read_slowly(request: web.Request, config: Config, opener: Inflater | None) -> bytes:
    """A body that comes in parts, or compressed: bounded in bytes, on both sides, and in time."""
    body, taken = bytearray(), 0
    async with asyncio.timeout(config.body_seconds_max):
        async for part in request.content.iter_any():
            taken += len(part)
            if taken > config.body_bytes_max:
                raise _too_large(config)
            for piece in (part,) if opener is None else opener.feed(part):
                body += piece
                if len(body) > config.body_bytes_max:
                    raise _too_large(config)
                if opener is not None:
                    await asyncio.sleep(0)
    if opener is not None:
        opener.end()
    return bytes(body)


async def pieces(request: web.Request, idle_s: float) -> AsyncGenerator[bytes, None]:
    """A body of any length as it comes, opened where it is compressed; of nothing more is held.

    Raises:
        Refused: `slow_body` when nothing comes for `idle_s`, `unreadable_request`, or
            `unsupported_encoding`.
        ConnectionError: the sender is gone.
    """
    opener, content = inflater(request.headers.get("Content-Encoding")), request.content
    try:
        while True:
            async with asyncio.timeout(idle_s):
                part = await content.readany()
            if not part:
                break
            for piece in (part,) if opener is None else opener.feed(part):
                yield piece
                if opener is not None:
                    await asyncio.sleep(0)  # a few bytes can stand for many, even for blank lines
        if opener is not None:
            opener.end()
    except TimeoutError:
        raise Refused("slow_body", f"Something must arrive every {idle_s:.0f} s.") from None
    except (web.RequestPayloadError, HTTPException, ValueError):
        raise Refused("unreadable_request", "The body's encoding can't be read.") from None


def _too_large(config: Config) -> Refused:
    return Refused("body_too_large", f"A body may have {config.body_bytes_max} bytes at most.")


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """The body as the decoder's type.

    Raises:
        Refused: `malformed_json` (deep nesting too), `invalid_body` with the path, or
            `not_supported` for a field that a later version will have.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        check_json(body)
        raise _refusal(decoder.type, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused("malformed_json") from None
    except RecursionError:
        raise Refused("malformed_json", "The body is nested too deeply.") from None


def check_json(body: bytes) -> None:
    """Refuse what is no JSON at all, where a decoder stopped early at a wrong type.

    Raises:
        Refused: `malformed_json`.
    """
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        return  # JSON, with a number that is too large
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("malformed_json") from None


def _refusal(wanted: Any, error: msgspec.ValidationError) -> Refused:
    """An error of msgspec's as ours."""
    wrong = field_error(error)
    if wrong.code == "unknown_field" and wrong.path in getattr(wanted, "LATER", ()):
        later = FieldError(wrong.path, "not_supported", "Leave it out: it is not there yet.")
        return Refused(
            "not_supported", f"`{wrong.path}` is not there yet; leave it out.", errors=(later,)
        )
    return Refused("invalid_body", errors=(wrong,))


def field_error(error: msgspec.ValidationError) -> FieldError:
    """What msgspec says, with the path apart and without the value that was sent."""
    text, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if named := _NAMED.match(text):
        missing = named[1] == "missing required"
        path = f"{path}.{named[2]}" if path else named[2]
        detail = "It is required." if missing else "There is no such field."
        return FieldError(path, "missing_field" if missing else "unknown_field", detail)
    if text.startswith("Invalid "):
        kind = "datetime" if "datetime" in text else "value"
        told = "RFC 3339 with an offset, such as 2026-05-01T09:00:00+03:00"
        wanted = told if kind == "datetime" else "one of the words that the description lists"
        return FieldError(path, f"invalid_{kind}", f"Must be {wanted}.")
    wanted, got, _ = text.partition(", got `")
    code = "wrong_type" if got else "out_of_range"
    return FieldError(path, code, _EXPECTED.sub(_must_be, wanted).rstrip(".") + ".")


def _must_be(expected: re.Match[str]) -> str:
    """What msgspec expects, in words; null goes without saying."""
    kinds = [_WORDS.get(kind, kind) for kind in expected[1].split(" | ") if kind != "null"]
    return "Must be " + (" or ".join(kinds) or "null")
