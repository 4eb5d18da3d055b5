"""What a record says, apart from who said it and when: the part that most residents have in common.

The rule goes by this part alone, so the index keeps it once for all who said the same. What is each
resident's own is how long a grant holds, and the id of its record.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from engine.consent.record import Record, Scope, WeekWindow, record_id
from engine.consent.row import FOREVER_MS

ID_BYTES: Final = 16


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

    contents: tuple[bytes, ...]
    """JSON of each `Saying`, without its braces."""
    ends_ms: tuple[int, ...]
    """Until when each holds, Unix milliseconds."""
    ids: bytes
    """Of the records that said it, `ID_BYTES` each."""


NOTHING_SAID: Final = Sayings((), (), b"")


class _Ending(msgspec.Struct):
    expires_ms: int | None = None


_saying: Final = msgspec.json.Decoder(Saying)
_ending: Final = msgspec.json.Decoder(_Ending)
_NULL: Final = b"null"


def sayings_of(records: Iterable[Record]) -> Sayings:
    """What records say."""
    said = tuple(records)
    cuts = [cut(msgspec.json.encode(record)) for record in said]
    ids = b"".join([bytes.fromhex(record_id(record)) for record in said])
    return read_sayings([content for content, _ in cuts], [end for _, end in cuts], ids)


def read_sayings(contents: Iterable[bytes], ends: Iterable[bytes | None], ids: bytes) -> Sayings:
    """What was cut out of bodies as `cut` does, with the ids of their records."""
    if None in ends:
        cuts = [_cut(*one) for one in zip(contents, ends, strict=True)]
        contents, ends = [content for content, _ in cuts], [end for _, end in cuts]
    ends_ms = [FOREVER_MS if end == _NULL else int(end) for end in ends if end is not None]
    return Sayings(tuple(contents), tuple(ends_ms), ids)


def cut(body: bytes) -> tuple[bytes, bytes]:
    """What the JSON of a record says, and the number or null until when it holds.

    Most of a body is its resident's own. The rest is cut out as it stands, without reading any of
    it: within a string a quote is escaped, so that a name is found only where it is one.
    """
    actor, version = body.find(b',"actor":'), body.find(b',"version":')
    expires, channels = body.find(b',"expires_ms":'), body.find(b',"channels":')
    notice = body.find(b',"notice":')
    if not 0 < actor < version < expires < channels < notice:
        return _cut(body, None)
    return body[actor + 1 : version] + body[channels:notice], body[expires + 14 : channels]


def _cut(text: bytes, end: bytes | None) -> tuple[bytes, bytes]:
    """The same of a body that is written otherwise than now, if there is no end."""
    if end is not None:
        return text, end
    content = msgspec.json.encode(_saying.decode(text))[1:-1]
    return content, msgspec.json.encode(_ending.decode(text).expires_ms)


def nobodys(content: bytes) -> Record:
    """A record that says the same, of nobody and without an end."""
    said = _saying.decode(b"{%b}" % content)
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
