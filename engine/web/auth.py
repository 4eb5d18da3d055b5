"""Who asks: bearer keys, their roles, and whose brands and residents they may touch."""

import hashlib
import secrets
from typing import Final, Literal

from engine.store.port import KeyRow
from engine.web.problem import Refused

Role = Literal["operator", "merchant", "sender", "resident", "purchaser"]

ROLES: Final[dict[str, str]] = {
    "operator": "All of administration.",
    "merchant": "Its own brands only.",
    "sender": "Posts pings for any resident: a city's gateway, a load test.",
    "resident": "One resident's devices.",
    "purchaser": "One purchaser of data.",
}

KNOWN_MAX: Final = 10_000
"""Most header texts whose hash is remembered; hashing again costs 1 us."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_key(role: str) -> str:
    """A key's text: ``pb_<role>_`` and 32 random bytes in base 62."""
    number, digits = secrets.randbits(256), []
    for _ in range(43):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return f"pb_{role}_{''.join(digits)}"


def new_id(prefix: str) -> str:
    """A random id of 96 bits, such as ``k-…``."""
    return f"{prefix}-{secrets.token_hex(12)}"


def key_hash(key: str) -> str:
    """SHA-256 of a key's text, hex: the only form in which it is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Gate:
    """Finds the key of a request.

    Comparing takes the same time whatever was sent, because it is the hash that is looked up:
    nobody can come closer to a hash by trying keys.
    """

    def __init__(self, keys: dict[str, KeyRow]) -> None:
        self._keys = keys
        self._hashes: dict[str, str] = {}

    def key_of(self, header: str | None) -> KeyRow:
        """The key that an Authorization header names.

        Raises:
            Refused: `unauthenticated`.
        """
        if header is None:
            raise Refused("unauthenticated")
        known = self._hashes.get(header)
        key = self._keys.get(known) if known is not None else self._learn(header)
        if key is None:
            raise Refused("unauthenticated")
        return key

    def _learn(self, header: str) -> KeyRow | None:
        """Hash a header not seen yet, and remember it if it is a good one."""
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = key_hash(text.strip())
        key = self._keys.get(digest)
        if key is not None:
            if len(self._hashes) >= KNOWN_MAX:
                self._hashes.clear()
            self._hashes[header] = digest
        return key


def check_brand(key: KeyRow, brand: str) -> None:
    """Refuse a merchant who is not the brand's.

    Raises:
        Refused: `foreign_brand`.
    """
    if not may_see(key, brand):
        raise Refused("foreign_brand")


def may_see(key: KeyRow, brand: str) -> bool:
    """Whether what belongs to a brand is this key's business."""
    return key.role == "operator" or (key.role == "merchant" and brand in key.brands)


def resident_of(key: KeyRow, resident: str) -> str:
    """Whom a path means: `me` is a resident key's own resident.

    Raises:
        Refused: `foreign_resident` for anyone else's, whether or not they exist.
    """
    if key.role != "resident":
        if resident == "me":
            raise Refused("foreign_resident", "`me` is for resident keys; name the resident.")
        return resident
    if key.resident is None or resident not in ("me", key.resident):
        raise Refused("foreign_resident")
    return key.resident
