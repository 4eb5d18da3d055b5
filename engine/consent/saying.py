"""What a record says, apart from who said it and when: the part that most residents have in common.

The rule goes by this part alone, so the index keeps it once for all who said the same. What is each
resident's own is how long a grant holds, and the id of its record.
"""

from typing import Final

import msgspec

from engine.consent.record import Record, Scope, WeekWindow


class Saying(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The part of a record that the rule goes by, read from the record's JSON.

    The fields are those of `Record`; all others of its fields are skipped.
    """

    actor: str
    effect: str
    purpose: str
    actions: tuple[str, ...]
    data: tuple[str, ...]
    scope: Scope
    channels: tuple[str, ...] | None = None
    week: tuple[WeekWindow, ...] | None = None
    places: tuple[str, ...] = ()
    expires_ms: int | None = None


OWN: Final = frozenset(
    (
        "subject",
        "version",
        "server_ms",
        "client_ms",
        "notice",
        "device",
        "proof",
        "supersedes",
        "call_records",
        "salt",
    )
)
"""Fields of a record that the rule never looks at."""

Content = tuple[object, ...]
"""What a saying says, hashable: all but its expiry."""


def content_of(said: Record | Saying) -> Content:
    """What is the same whoever says it and for however long."""
    return (
        said.actor,
        said.effect,
        said.purpose,
        said.actions,
        said.data,
        said.scope,
        said.channels,
        said.week,
        said.places,
    )


def nobodys(said: Record | Saying) -> Record:
    """A record that says the same, of nobody and without an end."""
    return Record(
        subject="",
        version=0,
        server_ms=0,
        actor=said.actor,
        effect=said.effect,
        purpose=said.purpose,
        actions=said.actions,
        data=said.data,
        scope=said.scope,
        channels=said.channels,
        week=said.week,
        places=said.places,
    )


def saying_of(record: Record) -> Saying:
    """What a record says."""
    return Saying(**{name: getattr(record, name) for name in Saying.__struct_fields__})
