"""Whether a resident's records are those that were written: each one's hash, and their chain.

Whoever changes, drops or adds a record in the database is found, unless they write all that follows
it anew, or drop the last call as a whole and set the resident's version back. The receipts that
residents keep tell of that too.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

Fault = Literal["altered", "out_of_chain", "missing"]


class Kept(NamedTuple):
    """A record as it is kept."""

    position: int
    """From 1."""
    version: int
    id: str
    body: bytes


class Broken(NamedTuple):
    """What is wrong, and with which receipt."""

    receipt: str
    """`missing`: the one after the gap, or before it at the end; empty where none is left."""
    fault: Fault


class _Link(msgspec.Struct):
    subject: str
    version: int
    supersedes: str
    call_records: int = 1


_link = msgspec.json.Decoder(_Link)


def seal(body: bytes) -> str:
    """`record_id` of a record by its stored JSON, whatever fields there are by now.

    Raises:
        msgspec.DecodeError: it is no JSON.
    """
    told = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    return hashlib.sha256(told).hexdigest()[:32]


def faults(resident: str, version: int, kept: Sequence[Kept]) -> list[Broken]:
    """What is wrong with a resident's records.

    Args:
        resident: whose.
        version: of their preferences.
        kept: by position.
    """
    broken: list[Broken] = []
    before, place = "", 0
    for record in kept:
        if record.position != place + 1:
            broken.append(Broken(record.id, "missing"))
        if fault := _fault(resident, record, before):
            broken.append(Broken(record.id, fault))
        before, place = record.id, record.position
    if version != (kept[-1].version if kept else 0) or _ends_early(kept):
        broken.append(Broken(before, "missing"))
    return broken


def _ends_early(kept: Sequence[Kept]) -> bool:
    """Whether the last call made more records than there are of it."""
    try:
        made = _link.decode(kept[-1].body).call_records if kept else 0
    except msgspec.DecodeError:
        return False  # which is told of the record itself
    return made > sum(record.version == kept[-1].version for record in kept)


def _fault(resident: str, record: Kept, before: str) -> Fault | None:
    """What is wrong with one record; `before` is the id of the one before it."""
    try:
        link = _link.decode(record.body)
        if seal(record.body) != record.id or (link.subject, link.version) != (
            resident,
            record.version,
        ):
            return "altered"
    except msgspec.DecodeError:
        return "altered"
    return None if link.supersedes == before else "out_of_chain"
