"""The `Idempotency-Key` header: the claim that a request makes."""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import Detail, ValidationFailed
from service.http.request import NO_FIELDS, StrictRequest
from service.idempotency.replies import Claim, IdempotencyInProgress

HEADER = "Idempotency-Key"
RAW_HEADER = HEADER.lower().encode()
PRINTABLE = re.compile(r"[ -~]{1,255}")


@asynccontextmanager
async def hold_claim(request: StrictRequest) -> AsyncIterator[Claim | None]:
    """Yield the request's claim, or None. Between processes, the table's primary key decides the winner.

    Raises `IdempotencyInProgress` if this process is handling the same claim.
    """
    claim = await _claim(request)
    if claim is None:
        yield None
        return
    running: set[tuple[str, str, str]] = request.app.state.components.claims_in_progress
    if claim.identity in running:
        raise IdempotencyInProgress
    running.add(claim.identity)
    try:
        yield claim
    finally:
        running.discard(claim.identity)


def key_problem(key: str | None) -> str | None:
    """Return what is wrong with an `Idempotency-Key`, or None."""
    if key is None or PRINTABLE.fullmatch(key):
        return None
    return "must be 1 to 255 printable ASCII characters"


async def _claim(request: StrictRequest) -> Claim | None:
    key = request.header(RAW_HEADER)
    if key is None:
        return None
    if problem := key_problem(key):
        raise ValidationFailed([Detail(f"/{HEADER}", problem, "header")])
    fingerprint = hashlib.blake2b(await _body(request), digest_size=16).digest()
    return Claim(request.user.id, request.scope["path"], key, fingerprint)


async def _body(request: StrictRequest) -> bytes:
    """Return the body; empty if there is none, so that a body can become optional where there was none."""
    handler = request.route_handler
    body = b"" if handler.parsed_data_field is None else await request.body()
    return b"" if body == NO_FIELDS and handler.opt.get("optional_body") else body
