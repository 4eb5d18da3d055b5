"""Answers that are kept for a while, so that a call that is sent twice is done once."""

from typing import Final, Literal

import msgspec

KEPT_MS: Final = 24 * 3_600_000
"""How long an answer is kept under its Idempotency-Key."""


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered."""

    status: int
    headers: dict[str, str]
    content_type: str
    body: bytes | None
    """None: there was none, or it held a secret and was not kept."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an earlier call with the same Idempotency-Key of the same key."""

    fingerprint: bytes
    """Of its method, path and body."""
    at_ms: int
    """When it began."""
    state: Literal["doing", "done", "lost"]
    """`lost`: it ended without anybody knowing whether it was done."""
    answer: KeptAnswer | None = None
