"""What a record says, apart from who said it and when: the part that most residents have in common.

The rule goes by this part alone, so the index keeps it once for all who said the same. What is each
resident's own is how long a grant holds, and the id of its record.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from engine.consent.record import Record, Scope, WeekWindow, record_id
from engine.consent.row import FOREVER_MS


class Saying(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The part of a record that is the same whoever says it and for however long.

    The fields are those of `Record`, in its order; all others of its fields are skipped.
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


OWN: Final = frozenset(
    (
        "subject",
        "version",
        "server_ms",
        "client_ms",
        "expires_ms",
        "notice",
        "device",
        "proof",
        "supersedes",
        "call_records",
        "salt",
    )
)
"""Fields of a record that are each resident's own."""


class Sayings(NamedTuple):
    """All that a resident said, in the order in which it was said."""

    contents: bytes
    """JSON of each `Saying`, a line each; JSON has no line break in it, as compact as it is here.
    """
    kept: bytes
    """Of each, as `KEPT` packs it."""


NOTHING_SAID: Final = Sayings(b"", b"")
KEPT: Final = Struct(">q16s")
"""When a saying ends, Unix milliseconds, and the id of the record that said it."""

_saying: Final = msgspec.json.Decoder(Saying)


def sayings_of(records: Iterable[Record]) -> Sayings:
    """What records say."""
    said = tuple(records)
    return Sayings(
        b"\n".join([msgspec.json.encode(_of(record)) for record in said]),
        b"".join([KEPT.pack(_end_ms(one), bytes.fromhex(record_id(one))) for one in said]),
    )


def _of(record: Record) -> Saying:
    """What a record says."""
    return Saying(**{name: getattr(record, name) for name in Saying.__struct_fields__})


def _end_ms(record: Record) -> int:
    return FOREVER_MS if record.expires_ms is None else record.expires_ms


def nobodys(content: bytes) -> Record:
    """A record that says the same as the JSON of a saying, of nobody and without an end."""
    said = _saying.decode(content)
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
