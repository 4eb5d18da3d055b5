"""Names that a replay gives again: decision ids, claim ids and codes, all from one keyed hash.

A code is short enough to be typed at a till, can't be guessed (55 bits under a key that only the
city has), and its last character tells a typing error from a wrong code.
"""

import hashlib
import struct
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O and U, which people mistake for other characters."""

CODE_LENGTH: Final = 12
_BLOCK: Final = 4


class Namer:
    """Gives ids and codes under one key (BLAKE2b, keyed).

    Args:
        key: 16 to 64 bytes; the same key gives the same names.
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=12)

    def decision(self, resident: str, at_ms: int, ping_id: str, lon: float, lat: float) -> str:
        """Id of the decision on a fix; equal fixes have the same. Zero has no sign here."""
        hasher = self._keyed.copy()
        hasher.update(
            b"%b\0%b\0%b"
            % (
                resident.encode(),
                ping_id.encode(),
                struct.pack("<qdd", at_ms, lon + 0.0, lat + 0.0),
            )
        )
        return "d" + hasher.hexdigest()

    def claim(self, decision: str, offer: str) -> str:
        """Id of the claim that a decision makes on an offer."""
        hasher = self._keyed.copy()
        hasher.update(b"claim\0%b\0%b" % (decision.encode(), offer.encode()))
        return "c" + hasher.hexdigest()

    def code(self, claim: str) -> str:
        """The code of a claim, such as ``7K2M-Q0XD-93TZ``; its last character is a check."""
        hasher = self._keyed.copy()
        hasher.update(b"code\0" + claim.encode())
        number = int.from_bytes(hasher.digest()[:8], "big")
        digits = [number >> (5 * place) & 31 for place in range(CODE_LENGTH - 1)]
        text = "".join(ALPHABET[d] for d in (*digits, _check(digits)))
        return "-".join(text[i : i + _BLOCK] for i in range(0, CODE_LENGTH, _BLOCK))


def _check(digits: list[int]) -> int:
    """Luhn's algorithm modulo 32: finds every single wrong digit and most swapped neighbours."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled // 32 + doubled % 32
    return -total % 32


def normal_code(typed: str) -> str | None:
    """The code as we write it for what somebody typed, or None if it can't be one of ours.

    Case, spaces and dashes do not matter; I and L are read as 1, O as 0.
    """
    text = "".join(typed.split()).replace("-", "").upper()
    text = text.replace("I", "1").replace("L", "1").replace("O", "0")
    if len(text) != CODE_LENGTH or any(c not in ALPHABET for c in text):
        return None
    digits = [ALPHABET.index(c) for c in text]
    if _check(digits[:-1]) != digits[-1]:
        return None
    return "-".join(text[i : i + _BLOCK] for i in range(0, CODE_LENGTH, _BLOCK))
