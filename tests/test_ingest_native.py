"""Bytes to pings: what is read, what is refused whole, and what is refused in its place."""

import json
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decision import Decision, Reject, encode
from engine.ingest.native import BodyRefused, Problem, decode_request
from engine.ping import Ping

GOOD: Final = {"resident": "ann", "at_ms": 1_790_000_000_000, "lon": 24.94, "lat": 60.17}
NOW_MS: Final = 1_790_000_000_500


def read(body: bytes, *, resident: str | None = None, pings_max: int = 100) -> Any:
    """What a body comes to."""
    return decode_request(body, received_ms=NOW_MS, resident=resident, pings_max=pings_max)


def body(**fields: Any) -> bytes:
    """One ping as a sender writes it."""
    return json.dumps({**GOOD, **fields}).encode()


def batch(*rows: bytes) -> bytes:
    """Many pings as a sender writes them."""
    return b'{"pings":[' + b",".join(rows) + b"]}"


def test_the_whole_of_a_ping() -> None:
    """Every field comes through, and the time of arrival is ours whatever the sender says."""
    every = body(
        accuracy_m=12, id="x", speed_mps=1.5, heading_deg=90, mock=True, received_ms=7, other=[1]
    )

    assert read(every) == Ping(
        at_ms=1_790_000_000_000,
        lon=24.94,
        lat=60.17,
        resident="ann",
        accuracy_m=12.0,
        id="x",
        speed_mps=1.5,
        heading_deg=90.0,
        mock=True,
        received_ms=NOW_MS,
    )


def test_the_least_of_a_ping() -> None:
    """What is left out or null is unknown, in one ping and in a batch, whatever comes first."""
    least = Ping(at_ms=1, lon=0.0, lat=0.0, resident="ann", received_ms=NOW_MS)
    one = b'{"at_ms":1,"lon":0,"lat":0,"resident":"ann","accuracy_m":null,"id":null}'

    assert read(one) == least
    assert read(batch(one, one)) == [least, least]
    assert read(b' {"x": 1, "pings": [' + one + b"]}") == [least]
    assert read(batch()) == []


WHOLE: Final = [
    (b"", "malformed_json"),
    (b"{", "malformed_json"),
    (b"\xef\xbb\xbf" + body(), "malformed_json"),
    (b'{"resident":"\xff","at_ms":1,"lon":0,"lat":0}', "malformed_json"),
    (b'{"resident":"\\ud800","at_ms":1,"lon":0,"lat":0}', "malformed_json"),
    (b'{"resident":"a","at_ms":1,"lon":NaN,"lat":0}', "malformed_json"),
    (b'{"resident":"a","at_ms":1,"lon":Infinity,"lat":0}', "malformed_json"),
    (b"[" * 100_000, "invalid_ping"),
    (b'{"pings":' + b"[" * 100_000, "malformed_json"),
    (body()[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
    (b"null", "invalid_ping"),
    (b"[]", "invalid_ping"),
    (b'"ping"', "invalid_ping"),
    (b"{}", "invalid_ping"),
    (b'{"pings":{}}', "invalid_ping"),
    (b'{"pings":null}', "invalid_ping"),
    (body(at_ms="1"), "invalid_ping"),
    (body(at_ms=1.5), "invalid_ping"),
    (body(at_ms=True), "invalid_ping"),
    (body(lon=None), "invalid_ping"),
    (body(lon="24"), "invalid_ping"),
    (b'{"resident":"a","at_ms":1,"lon":1e999,"lat":0}', "invalid_ping"),
    (b'{"resident":"a","at_ms":' + b"9" * 5_000 + b',"lon":1,"lat":0}', "invalid_ping"),
    (body(resident=1), "invalid_ping"),
    (body(mock=1), "invalid_ping"),
    (b'{"at_ms":1,"lon":0,"lat":0}', "invalid_ping"),
]


@pytest.mark.parametrize(("text", "code"), WHOLE)
def test_what_is_no_body_is_refused_whole(text: bytes, code: str) -> None:
    """The code says whether it is no JSON or no ping, and no value is repeated."""
    with pytest.raises(BodyRefused) as refused:
        read(text)

    assert refused.value.code == code
    assert "24" not in refused.value.detail


def test_a_refusal_names_the_field() -> None:
    """The path and what is wrong with it."""
    with pytest.raises(BodyRefused) as refused:
        read(body(lat="x"))

    assert refused.value.errors == (Problem("lat", "invalid", "Expected `float`, got `str`."),)


def test_a_bad_ping_spoils_no_other() -> None:
    """In a batch it is a decision in its place, with what can be read of whose it is."""
    good = Ping(at_ms=1_790_000_000_000, lon=24.94, lat=60.17, resident="ann", received_ms=NOW_MS)
    text = batch(
        body(),
        body(lon="x", id="a"),
        b"7",
        b'{"resident":["x"],"at_ms":1e999}',
        body(at_ms=1.5),
        body(),
    )

    answers = read(text)

    assert [answers[0], answers[5]] == [good, good]
    assert answers[1] == Decision(
        "",
        "ann",
        1_790_000_000_000,
        "rejected",
        (),
        None,
        None,
        "a",
        Reject("invalid_ping", "lon: Expected `float`, got `str`."),
    )
    assert [(d.resident, d.at_ms, d.reject.detail) for d in answers[2:5]] == [
        ("", 0, "Expected `object`, got `int`."),
        ("", 0, "resident: Expected `str`, got `array`."),
        ("ann", 0, "at_ms: Expected `int`, got `float`."),
    ]


def test_too_many_pings_are_refused_whole() -> None:
    """As many as allowed are read, one more is not; bad ones count."""
    assert len(read(batch(*[body()] * 3), pings_max=3)) == 3
    for rows in ([body()] * 4, [b"1"] * 4):
        with pytest.raises(BodyRefused) as refused:
            read(batch(*rows), pings_max=3)
        assert refused.value.code == "too_many_pings"


def test_a_residents_own_key_fills_in_who_it_is() -> None:
    """Left out, `me` or the same name is the resident; anybody else is refused whole."""
    row = dict(GOOD)
    del row["resident"]
    nobody = json.dumps(row).encode()

    for text in (nobody, body(resident="me"), body(resident="bob")):
        assert read(text, resident="bob").resident == "bob"
        assert [p.resident for p in read(batch(text, text), resident="bob")] == ["bob", "bob"]
    for text in (body(), batch(nobody, body())):
        with pytest.raises(BodyRefused) as refused:
            read(text, resident="bob")
        assert refused.value.code == "foreign_resident"
    assert read(batch(nobody))[0].resident == ""


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@settings(max_examples=500, deadline=None)
def test_no_bytes_break_the_decoder(text: bytes) -> None:
    """Any bytes are a ping or pings, or are refused as no JSON or no ping."""
    try:
        code = type(read(text)).__name__
    except BodyRefused as refused:
        code = refused.code

    assert code in {"Ping", "list", "malformed_json", "invalid_ping"}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["resident", "at_ms", "lon", "lat", "accuracy_m", "id", "mock"]),
            values,
        ),
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_json_in_a_batch_is_answered_in_its_place(rows: list[dict[str, Any]]) -> None:
    """One answer a row, in order, each of which can be written; good neighbours are read."""
    text = batch(body(), *(msgspec.json.encode(row) for row in rows), body())

    answers = read(text)

    assert len(answers) == len(rows) + 2
    assert isinstance(answers[0], Ping)
    assert isinstance(answers[-1], Ping)
    for one in answers:
        if isinstance(one, Decision):
            assert encode(one)
            assert one.status == "rejected"


@given(
    st.builds(
        Ping,
        at_ms=st.integers(0, 1 << 47),
        lon=st.floats(-180, 180),
        lat=st.floats(-90, 90),
        resident=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        accuracy_m=st.none() | st.floats(0, 1e6),
        id=st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        speed_mps=st.none() | st.floats(0, 100),
        heading_deg=st.none() | st.floats(0, 360),
        mock=st.booleans(),
        received_ms=st.just(NOW_MS),
    )
)
@settings(deadline=None)
def test_what_is_written_is_read(ping: Ping) -> None:
    """A ping survives its own JSON to the last bit, alone and in a batch."""
    text = msgspec.json.encode(ping)

    assert read(text) == ping
    assert read(batch(text)) == [ping]
