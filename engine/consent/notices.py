"""The texts that residents are shown when they are asked, by id, version and locale.

A text never changes once it is there: whoever changes a word makes a new version. A grant names
what was shown, and stands or falls by its own lanes: a new version never widens an old grant, and
never takes one away.
"""

import hashlib

import msgspec

from engine.consent.record import Notice


class NoticeText(msgspec.Struct, frozen=True, kw_only=True):
    """One text in one language."""

    id: str
    version: str
    locale: str
    text_hash: str
    """SHA-256 of the text in UTF-8, hex."""
    at_ms: int
    """When it was kept."""
    text: str = ""


def hash_of(text: str) -> str:
    """SHA-256 of a text in UTF-8, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def refusal(named: Notice, found: NoticeText | None) -> str | None:
    """Why a grant can't rest on the notice that it names, or None.

    Args:
        named: as the caller has it; `text_hash` may be left out.
        found: what is kept under that id, version and locale.

    Returns:
        `unknown_notice`, or `notice_differs`: the resident was shown another text.
    """
    if found is None:
        return "unknown_notice"
    if named.text_hash and named.text_hash.lower() != found.text_hash:
        return "notice_differs"
    return None


def sealed(named: Notice, found: NoticeText) -> Notice:
    """The notice as a record keeps it: with the hash of the text that was shown."""
    return msgspec.structs.replace(named, text_hash=found.text_hash)
