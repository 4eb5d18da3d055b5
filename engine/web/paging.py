"""Lists in pages: `limit`, an opaque `cursor`, and ``{"items": [...], "next": cursor or null}``."""

import heapq
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

import msgspec

from engine.web.problem import FieldError, Refused

T = TypeVar("T")

LIMIT_DEFAULT: Final = 100


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list: in the order of ids, or newest first."""

    items: tuple[T, ...]
    next: str | None = None
    """Pass it as `cursor` for the part that follows; null: this is the last."""


def page_ids(ids: Iterable[str], limit: int, cursor: str | None) -> tuple[list[str], str | None]:
    """The ids of one page and the cursor of the next.

    Things may come and go between two calls: what is there all the time is listed exactly once.
    Cost: O(n) in the number of ids.

    Raises:
        Refused: the cursor is not one of ours.
    """
    after = read_cursor(cursor) if cursor else ""
    page = heapq.nsmallest(limit + 1, (one for one in ids if one > after))
    if len(page) <= limit:
        return page, None
    page.pop()
    return page, write_cursor(page[-1])


def write_cursor(last: str) -> str:
    """The cursor of what comes after."""
    return urlsafe_b64encode(last.encode()).decode().rstrip("=")


def write_place(place: int) -> str:
    """The cursor of what comes after a place in a list that only grows."""
    return write_cursor(str(place))


def read_place(cursor: str) -> int:
    """The place that the page before ended at.

    Raises:
        Refused: the cursor is not one of ours.
    """
    text = read_cursor(cursor)
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    raise not_ours()


def not_ours() -> Refused:
    """The refusal of a cursor that was made up."""
    wrong = FieldError("cursor", "invalid_cursor", "Must be `next` of an earlier answer.")
    return Refused("invalid_parameter", errors=(wrong,))


def read_cursor(cursor: str) -> str:
    """What the page before ended with.

    Raises:
        Refused: the cursor is not one of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return b64decode(padded, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise not_ours() from None
