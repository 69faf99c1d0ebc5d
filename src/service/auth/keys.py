"""The form of an API key: `depot_<id>_<secret><checksum>`, and what of it is stored.

The prefix and the checksum let secret scanners and this service tell a real key from a mistyped one
without a look-up (the form GitHub and Polar use). Only a keyed hash is stored.
"""

import hashlib
import re
import secrets
import string
import zlib

from msgspec import Struct

BASE62 = string.digits + string.ascii_letters
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 32, 6
KEY_PATTERN = re.compile(r"depot_([0-9A-Za-z]{12})_([0-9A-Za-z]{32})([0-9A-Za-z]{6})")

SCOPE_AREAS = ("items", "orders", "reports", "users", "documents", "resources", "jobs", "webhooks")
SCOPES = frozenset(
    [f"{area}:{right}" for area in SCOPE_AREAS for right in ("read", "write")] + ["metrics:read", "admin"]
)


class Key(Struct, frozen=True):
    """Who is asking: the public id of the key and what it may do."""

    id: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


def mint() -> str:
    """A new key; the 32 characters of its secret hold 190 bits."""
    body = f"depot_{_random(ID_LENGTH)}_{_random(SECRET_LENGTH)}"
    return body + _checksum(body)


def key_id(token: str) -> str | None:
    """The id in a well-formed key. None: not a key, or mistyped."""
    match = KEY_PATTERN.fullmatch(token)
    if match is None or _checksum(token[:-CHECKSUM_LENGTH]) != match[3]:
        return None
    return match[1]


def hash_key(token: str, pepper: bytes) -> bytes:
    return hashlib.blake2b(token.encode(), key=pepper, digest_size=32).digest()


def derive_pepper(secret: str | None) -> bytes | None:
    """The key of the hashes from `DEPOT_SECRET`. None: the database's own random one serves."""
    return hashlib.sha256(secret.encode()).digest() if secret else None


def _random(length: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(length))


def _checksum(body: str) -> str:
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(BASE62))
        text = BASE62[digit] + text
    return text
