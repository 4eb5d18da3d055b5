"""Passby's own JSON: one ping, or ``{"pings": [...]}``.

A body that is not JSON, or not of either shape, is refused whole. In a batch a bad ping is
answered in its place and spoils no other. Unknown fields are ignored, so that an app may send what
a later server understands.
"""

from typing import Any, Final

import msgspec

from engine.decision import Decision, Reject
from engine.ping import Ping


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a body; never repeats the value."""

    path: str
    code: str
    detail: str


class BodyRefused(Exception):
    """A body of pings that can't be used.

    Attributes:
        code: `malformed_json`, `invalid_ping`, `too_many_pings` or `foreign_resident`.
        detail: what was wrong and what would be right.
        errors: where several or nested things are wrong.
    """

    def __init__(self, code: str, detail: str, errors: tuple[Problem, ...] = ()) -> None:
        super().__init__(detail)
        self.code, self.detail, self.errors = code, detail, errors


class _Batch(msgspec.Struct):
    pings: list[Ping]


class _Either(msgspec.Struct):
    pings: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


class _Loose(msgspec.Struct):
    """Whatever of a bad ping helps its sender to find it again."""

    resident: Any = ""
    at_ms: Any = 0
    id: Any = None


_one: Final = msgspec.json.Decoder(Ping)
_batch: Final = msgspec.json.Decoder(_Batch)
_either: Final = msgspec.json.Decoder(_Either)
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])
_loose: Final = msgspec.json.Decoder(_Loose)
_BATCH_START: Final = b'{"pings"'
_SPACE: Final = b" \t\r\n"
_MALFORMED: Final = BodyRefused(
    "malformed_json",
    "The body is not JSON in UTF-8 (RFC 8259); NaN and Infinity are no JSON numbers.",
)


def decode_request(
    body: bytes, *, received_ms: int, resident: str | None, pings_max: int
) -> Ping | list[Ping | Decision]:
    """Read a request's body.

    Args:
        body: UTF-8 JSON.
        received_ms: stamped on every ping.
        resident: the resident whose own key it is, who may leave themselves out; else None.
        pings_max: most pings in one body.

    Returns:
        One ping; or for a batch a list in the order sent, in which a ping that could not be read
        is already its `rejected` decision.

    Raises:
        BodyRefused: see there.
    """
    try:
        pings = _decode(body, received_ms)
    except RecursionError:
        raise BodyRefused("malformed_json", "The body is nested too deeply for a ping.") from None
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BodyRefused("malformed_json", _MALFORMED.detail) from None
    if isinstance(pings, list):
        if len(pings) > pings_max:
            raise BodyRefused(
                "too_many_pings", f"A body may hold {pings_max} pings at most, not {len(pings)}."
            )
        for ping in pings:
            if isinstance(ping, Ping):
                _stamp(ping, received_ms, resident)
        return pings
    _stamp(pings, received_ms, resident)
    if not pings.resident:
        raise BodyRefused(
            "invalid_ping",
            "The ping does not say whose it is.",
            (Problem("resident", "missing", "resident must be 1 to 128 printable characters."),),
        )
    return pings


def decode_lines(
    lines: list[bytes], *, received_ms: int, resident: str | None
) -> list[Ping | Decision]:
    """Read one ping a line; a line that is none is already its `rejected` decision.

    Args:
        lines: UTF-8 JSON each.
        received_ms: stamped on every ping.
        resident: the resident whose own key it is, who may leave themselves out; else None.
    """
    try:
        items: list[Ping | Decision] = [_one.decode(line) for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        items = [_line(line) for line in lines]
    for place, item in enumerate(items):
        if isinstance(item, Ping):
            try:
                _stamp(item, received_ms, resident)
            except BodyRefused as refused:
                items[place] = rejected(lines[place], refused)
    return items


def decode_message(
    data: bytes, *, received_ms: int, resident: str | None, pings_max: int
) -> Ping | Decision | list[Ping | Decision]:
    """Read a message: one ping, or an array of pings in the order sent.

    What is no ping is already its `rejected` decision, a message that is no JSON too.

    Raises:
        BodyRefused: `too_many_pings`.
    """
    if not data.lstrip(_SPACE).startswith(b"["):
        return decode_lines([data], received_ms=received_ms, resident=resident)[0]
    try:
        raws = _raws.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return rejected(data, _MALFORMED)
    if len(raws) > pings_max:
        raise BodyRefused("too_many_pings", f"A message may hold {pings_max} pings at most.")
    rows = [bytes(raw) for raw in raws]
    return decode_lines(rows, received_ms=received_ms, resident=resident)


def _line(line: bytes) -> Ping | Decision:
    """A ping, or why it is none."""
    try:
        return _one.decode(line)
    except RecursionError:
        return rejected(line, _MALFORMED)
    except msgspec.ValidationError as error:
        return rejected(line, _invalid(error))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return rejected(line, _MALFORMED)


def _decode(body: bytes, received_ms: int) -> Ping | list[Ping | Decision]:
    """The fast way for good bodies; the slow one sorts out what is wrong."""
    if not body.startswith(_BATCH_START):
        try:
            return _one.decode(body)
        except msgspec.ValidationError:
            if _either.decode(body).pings is msgspec.UNSET:
                raise
    try:
        return list(_batch.decode(body).pings)
    except msgspec.ValidationError:
        raws = _either.decode(body).pings
        if raws is msgspec.UNSET:
            raise
        return [_ping_or_rejected(raw) for raw in raws]


def _ping_or_rejected(raw: msgspec.Raw) -> Ping | Decision:
    try:
        return _one.decode(raw)
    except msgspec.ValidationError as error:
        return rejected(bytes(raw), _invalid(error))


def rejected(raw: bytes, refused: BodyRefused) -> Decision:
    """The decision on something that is no ping, with what can be read of whose it may be."""
    try:
        seen = _loose.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        seen = _Loose()
    problem = refused.errors[0] if refused.errors else None
    detail = refused.detail
    if problem is not None:
        detail = f"{problem.path}: {problem.detail}" if problem.path else problem.detail
    return Decision(
        "",
        seen.resident if isinstance(seen.resident, str) else "",
        seen.at_ms if type(seen.at_ms) is int and abs(seen.at_ms) < 1 << 53 else 0,
        "rejected",
        (),
        None,
        None,
        seen.id if isinstance(seen.id, str) else msgspec.UNSET,
        Reject(refused.code, detail),
    )


def _stamp(ping: Ping, received_ms: int, resident: str | None) -> None:
    """Write down when it came, and whose it is."""
    ping.received_ms = received_ms
    if resident is None:
        return
    if ping.resident not in ("", "me", resident):
        raise BodyRefused("foreign_resident", "This key may post pings of its own resident only.")
    ping.resident = resident


def _invalid(error: msgspec.ValidationError) -> BodyRefused:
    """What msgspec found, as a path and a sentence, out of its ``... - at `$.lon`` message."""
    said, _, at = str(error).partition(" - at `$")
    path = at.rstrip("`").lstrip(".")
    return BodyRefused(
        "invalid_ping",
        "The body is neither one ping nor a batch of pings.",
        (Problem(path, "invalid", f"{said}."),),
    )
