"""Who wrote what, and when: the entries of the audit log, and what an administrative write needs.

An entry is written in the transaction of its write, so that neither is ever there without the
other. It holds ids and no content: never a body, a position or the text of a key. It may hold a
resident's id, because "who touched this resident" must have an answer; it is data behind an
operator's key, not a log, and no log line is made from it.
"""

from typing import Final

import msgspec

ABSENT: Final = (0,)
"""Expected: nothing of that id is there."""
PRESENT: Final = (-1,)
"""Expected: something of that id is there, of whatever version."""


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes an administrative write, and by which call."""

    at_ms: int
    key: str
    """Id of the key; empty for whoever works at the host itself."""
    name: str
    """What the key is called."""
    role: str
    action: str
    """The route, as `PUT /v1/fences/{fence}`, or the command."""
    request: str = ""
    """Id of the request."""
    brands: tuple[str, ...] | None = None
    """Whose things it may replace or delete; None: everybody's. No part of an entry."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was written."""

    number: int
    """Rising; later entries have larger numbers, not always the next one."""
    author: Author
    kind: str
    """`brand`, `fence`, `offer`, `key`, `resident`, `protection`, `notice` or `redemption`."""
    id: str
    brand: str | None
    """Whose it is, where it belongs to a brand."""
    version: int
    """After the write; of what was deleted the last one; 0 of what has none."""
    outcome: str
    """`created`, `updated` or `deleted`."""


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are asked for; None: any."""

    kind: str | None = None
    id: str | None = None
    since_ms: int | None = None
    brands: tuple[str, ...] | None = None
    before: int | None = None
    """Only entries with a smaller number."""


def allows(expected: tuple[int, ...] | None, version: int) -> bool:
    """Whether a write that expects some versions may go on; `version` is 0 where nothing is."""
    return expected is None or version in expected or (version > 0 and -1 in expected)
