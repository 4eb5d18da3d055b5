"""What a request is called in its answer, in a problem, and in the log."""

import itertools
import re
import secrets
from typing import Final

from aiohttp import web

HEADER: Final = "X-Request-Id"
_SANE: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
"""No dots, so that nobody's position ends up in a log."""
_START: Final = secrets.token_hex(6)
_numbers: Final = itertools.count(1)


def request_id(request: web.BaseRequest) -> str:
    """The sender's own X-Request-Id if it is sane, else a new one."""
    return sane_or_new(request.headers.get(HEADER))


def sane_or_new(sent: str | None) -> str:
    """What a sender calls a request if that is sane, else a new id."""
    if sent is not None and _SANE.fullmatch(sent):
        return sent
    return new_request_id()


def new_request_id() -> str:
    """One that no other process and no other request has."""
    return f"{_START}-{next(_numbers):x}"
