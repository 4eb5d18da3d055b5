"""ETags and the headers that make a request rest on them: If-Match and If-None-Match (RFC 9110)."""

import re
from typing import Annotated, Final

from msgspec import Meta

from engine.store.audit import ABSENT, PRESENT
from engine.store.port import Expected, VersionMoved
from engine.web.live import etag
from engine.web.problem import FieldError, Refused

_ONE: Final = re.compile(r'(W/)?"([^"]*)"')

Match = Annotated[
    str,
    Meta(
        max_length=400,
        description="Write only if the ETag is still this, or one of these; `*`: if it is there.",
    ),
]
NoneMatch = Annotated[
    str, Meta(max_length=400, description="`*`: write only if nothing of this id is there yet.")
]


def expected(if_match: str | None, if_none_match: str | None) -> Expected:
    """The versions of which a write wants to find one; None: whatever is there.

    A weak ETag, or one that is none of ours, is in order and matches nothing.

    Raises:
        Refused: `invalid_parameter`.
    """
    if if_none_match is not None:
        if if_none_match.strip() != "*" or if_match is not None:
            told = "A write takes `*` here, and then no If-Match."
            wrong = FieldError("If-None-Match", "invalid_etag", told)
            raise Refused("invalid_parameter", errors=(wrong,))
        return ABSENT
    if if_match is None:
        return None
    if if_match.strip() == "*":
        return PRESENT
    return tuple(
        int(text)
        for weak, text in _tags(if_match)
        if not weak and text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)
    )


def _tags(header: str) -> list[tuple[str, str]]:
    """The ETags of a header, each with its mark of weakness."""
    tags = []
    for part in header.split(","):
        one = _ONE.fullmatch(part.strip())
        if one is None:
            told = 'Must be an ETag as it was answered, such as "3", several, or `*`.'
            wrong = FieldError("If-Match", "invalid_etag", told)
            raise Refused("invalid_parameter", errors=(wrong,))
        tags.append((one[1] or "", one[2]))
    return tags


def moved(error: VersionMoved) -> Refused:
    """The refusal of a write that did not find what it expected, with the ETag that is there."""
    if error.current == 0:
        return Refused("version_moved", "There is nothing of that id.", version=0)
    return Refused("version_moved", headers={"ETag": etag(error.current)}, version=error.current)


def is_known(header: str | None, tag: str) -> bool:
    """Whether a reader has what it asks for already, by its If-None-Match."""
    if header is None:
        return False
    known = [part.strip().removeprefix("W/") for part in header.split(",")]
    return tag in known or known == ["*"]
