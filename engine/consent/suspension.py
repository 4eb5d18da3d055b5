"""After a backup was restored: no grant in it counts until somebody says that it still holds.

What a resident took back after the backup was made is not in it, so the grant that it holds may be
one that they withdrew, and an acknowledged "no" is final. Hence a record in every resident's chain
that suspends all grants before it. A grant that the resident gives after it counts at once; those
before it count again only after a record that confirms them. Denies hold throughout. What was said
after the backup comes back by receipts, as far as it was "no": see `replayed`.
"""

from typing import Final

from engine.consent.record import ALL, Record, record_id
from engine.consent.standing import standing_of
from engine.consent.sync import Kept

VERSIONS_SKIPPED: Final = 100_000
"""More than a resident can have said since a backup: so that a version which a device saw before
the restore never equals one of after it, and no widening rests on settings that are gone."""


def suspend(subject: str, version: int, supersedes: str, *, because: str, now_ms: int) -> Record:
    """The record that suspends.

    Args:
        subject: the resident.
        version: of their preferences, as the backup has it.
        supersedes: id of their last record there; empty if there is none.
        because: a sentence for whoever reads the history.
        now_ms: when.
    """
    return _record("suspend", subject, version + VERSIONS_SKIPPED, supersedes, because, now_ms)


def confirm(kept: Kept, *, because: str, now_ms: int) -> Record | None:
    """The record that lets the suspended grants count again, or None if there are none."""
    if not any(held.suspended for held in standing_of(kept.records)):
        return None
    before = record_id(kept.records[-1])
    return _record("confirm", kept.id, kept.version + 1, before, because, now_ms)


def _record(
    effect: str, subject: str, version: int, supersedes: str, because: str, now_ms: int
) -> Record:
    return Record(
        subject=subject,
        actor="operator",
        effect=effect,
        purpose="",
        actions=(),
        data=(),
        scope=ALL,
        version=version,
        server_ms=now_ms,
        proof=because,
        supersedes=supersedes,
    )
