"""Ids and codes: unique, the same again under one key, and proof against typing errors."""

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.offers.codes import ALPHABET, CODE_LENGTH, Namer, normal_code
from tests.strategies import KEY

namer: Final = Namer(KEY)
claims = st.text(st.sampled_from("0123456789abcdef"), min_size=1, max_size=24)


def test_names_do_not_change() -> None:
    """Ids and codes are part of what is stored and replayed: these stay as they are."""
    decision = namer.decision("ann", 1_790_000_000_000, "", 24.94, 60.17)
    claim = namer.claim(decision, "free-cup")

    assert (decision, claim, namer.code(claim)) == (
        "d882afe90dd4d4ef6694ad79d",
        "c9464c6face89245b10410bed",
        "6G1T-SHV2-REQX",
    )


def test_another_key_gives_other_names() -> None:
    """Nothing can be guessed without the city's key."""
    other = Namer(b"another key of the tests")

    assert namer.decision("ann", 1, "", 0.0, 0.0) != other.decision("ann", 1, "", 0.0, 0.0)
    assert namer.claim("d1", "o") != other.claim("d1", "o")
    assert namer.code("c1") != other.code("c1")


def test_200_000_claims_have_as_many_codes() -> None:
    """No two claims share a code, and every code is one that a till accepts."""
    codes = {namer.code(f"c{number}") for number in range(200_000)}

    assert len(codes) == 200_000
    assert all(normal_code(code) == code for code in list(codes)[:2_000])


def test_all_parts_of_a_fix_count() -> None:
    """Fixes that differ in anything have different decisions, however the parts are cut."""
    fixes = [
        ("ann", 1, "", 1.0, 2.0),
        ("ann", 2, "", 1.0, 2.0),
        ("ann", 1, "x", 1.0, 2.0),
        ("annx", 1, "", 1.0, 2.0),
        ("ann", 1, "", 2.0, 1.0),
        ("ann", 1, "", 1.0, 2.0000000000000004),
        ("an", 1, "nx", 1.0, 2.0),
    ]

    assert len({namer.decision(*fix) for fix in fixes}) == len(fixes)
    assert namer.claim("d1", "23") != namer.claim("d12", "3")


def test_zero_has_no_sign() -> None:
    """A fix on the equator is the same fix however its zero is written."""
    assert namer.decision("ann", 1, "", -0.0, 0.0) == namer.decision("ann", 1, "", 0.0, -0.0)


@given(claims, st.integers(0, CODE_LENGTH - 1), st.sampled_from(ALPHABET))
@settings(deadline=None)
def test_a_wrong_character_is_found(claim: str, place: int, wrong: str) -> None:
    """Every code with any one character replaced is refused at once."""
    right = namer.code(claim).replace("-", "")
    typed = right[:place] + wrong + right[place + 1 :]

    assert (normal_code(typed) is not None) == (typed == right)


def test_every_single_error_of_a_code_is_found() -> None:
    """All 12 x 31 of them, for a hundred codes."""
    for number in range(100):
        right = namer.code(f"c{number}").replace("-", "")
        for place in range(CODE_LENGTH):
            for wrong in ALPHABET.replace(right[place], ""):
                assert normal_code(right[:place] + wrong + right[place + 1 :]) is None


def test_most_swapped_neighbours_are_found() -> None:
    """Of all pairs of neighbours, at most one in a hundred may be swapped unseen."""
    unseen = pairs = 0
    for number in range(1_000):
        right = namer.code(f"c{number}").replace("-", "")
        for place in range(CODE_LENGTH - 1):
            one, two = right[place], right[place + 1]
            if one != two:
                pairs += 1
                unseen += normal_code(right[:place] + two + one + right[place + 2 :]) is not None

    assert unseen < pairs / 100


@given(claims)
@settings(deadline=None)
def test_people_may_type_as_they_like(claim: str) -> None:
    """Case, spaces and dashes do not matter, and look-alikes are read as what they look like."""
    code = namer.code(claim)
    typed = code.lower().replace("-", " - ").replace("1", "l").replace("0", "o")

    assert normal_code(f"  {typed}\t") == code
    assert normal_code(typed.replace("l", "I")) == code


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "-",
        "7K2M",
        "UUUU-UUUU-UUUU",
        "0000-0000-000",
        "0" * 13,
        "é" * 12,
        "\N{ARABIC-INDIC DIGIT ZERO}" * 12,
        "0" * 9_999,
    ],
)
def test_what_cannot_be_a_code_is_none(typed: str) -> None:
    """Another length or another character is no code, however long or strange."""
    assert normal_code(typed) is None
