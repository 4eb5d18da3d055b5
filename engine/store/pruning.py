"""What is forgotten with time, so that no table grows for ever."""

from typing import Final, Protocol

import msgspec

ROWS_MAX: Final = 5_000
"""Most rows of a table that are deleted in one transaction."""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows were forgotten."""

    changes: int = 0
    batches: int = 0
    entries: int = 0
    calls: int = 0
    """Answers kept under an Idempotency-Key."""


class PruneStore(Protocol):
    """The part of the store that forgets."""

    async def prune(
        self,
        *,
        now_ms: int,
        changes_ms: int,
        audit_ms: int | None,
        rows_max: int = ROWS_MAX,
    ) -> Pruned | None:
        """Forget some of what is too old; None: another process is at it.

        A line of the feed goes when it and the one after it are older than `changes_ms` by the
        store's clock: whoever has read up to it had that long to see that there is more. What an
        import wrote goes with its line. Entries of the audit log that are older than `audit_ms`
        (None: none) and kept answers whose time is over go by `now_ms`.

        Args:
            rows_max: most rows of each kind; there may be more to forget if one reaches it.
        """
