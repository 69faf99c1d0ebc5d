"""The form of an API key: `depot_<id>_<secret><checksum>`.

The prefix and checksum let this service and secret scanners reject a mistyped or fake key without a lookup
(GitHub and Polar use the same form). Only a keyed hash is stored.
"""

import hashlib
import re
import secrets
import string
import zlib
from datetime import datetime

from msgspec import Struct

BASE62 = string.digits + string.ascii_letters
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 32, 6
KEY_PATTERN = re.compile(r"depot_([0-9A-Za-z]{12})_([0-9A-Za-z]{32})([0-9A-Za-z]{6})")
READ_PEPPER = "select value from secrets where name = 'pepper'"
"""The query for the random pepper of the database, which is used if `DEPOT_SECRET` is unset."""

SCOPE_AREAS = ("items", "orders", "reports", "users", "documents", "resources", "jobs", "webhooks")
SCOPES = frozenset(
    [f"{area}:{right}" for area in SCOPE_AREAS for right in ("read", "write")] + ["metrics:read", "admin"]
)
UNUSED_SCOPES = frozenset(["reports:write"])
"""Scopes that a key may have but no route requires; messages do not suggest them."""
ANY_SCOPE = "any"
"""Required by routes that every valid key may use."""


class Key(Struct, frozen=True):
    """An authenticated API key: its public id, its scopes, and the limits of its use."""

    id: str
    name: str
    scopes: frozenset[str]
    expires_at: datetime | None
    rate_limit: str | None
    """The rate limit that applies, such as `600/minute`: its own or the default."""

    def has_scope(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes or scope == ANY_SCOPE


def mint() -> str:
    """Return a new random key; its secret has 190 bits."""
    body = f"depot_{_random(ID_LENGTH)}_{_random(SECRET_LENGTH)}"
    return body + _checksum(body)


def key_id(token: str) -> str | None:
    """Return the id inside a well-formed key, or None if it is not a key or its checksum is wrong."""
    match = KEY_PATTERN.fullmatch(token)
    if match is None or _checksum(token[:-CHECKSUM_LENGTH]) != match[3]:
        return None
    return match[1]


def hash_key(token: str, pepper: bytes) -> bytes:
    return hashlib.blake2b(token.encode(), key=pepper, digest_size=32).digest()


def derive_pepper(secret: str | None) -> bytes | None:
    """Derive the pepper, the key of the key hashes, from `DEPOT_SECRET` or `DEPOT_SECRET_PREVIOUS`.

    Return None if it is unset. Callers then use the pepper of the database (`READ_PEPPER`).
    """
    return hashlib.sha256(secret.encode()).digest() if secret else None


def _random(length: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(length))


def _checksum(body: str) -> str:
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(BASE62))
        text = BASE62[digit] + text
    return text
