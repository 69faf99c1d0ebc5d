"""Signatures of Standard Webhooks 1.0, the symmetric kind (https://www.standardwebhooks.com)."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32
SCHEME = "v1,"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(keys: Sequence[str], event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers for `body`: the event's id, the Unix time, and one signature per key."""
    signatures = (signature(key, event_id, str(timestamp), body) for key in keys)
    return {ID: event_id, TIMESTAMP: str(timestamp), SIGNATURE: " ".join(signatures)}


def signature(key: str, event_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{event_id}.{timestamp}.".encode() + body
    digest = hmac.digest(base64.b64decode(key.removeprefix(PREFIX)), signed, hashlib.sha256)
    return SCHEME + base64.b64encode(digest).decode()


def verify_signature(key: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Return whether a signature matches the key. Checking the timestamp's age is up to the caller."""
    expected = signature(key, headers.get(ID, ""), headers.get(TIMESTAMP, ""), body).encode()
    received = headers.get(SIGNATURE, "").encode().split(b" ")
    return any(hmac.compare_digest(expected, one) for one in received)
