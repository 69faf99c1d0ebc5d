"""Idempotent requests: repeated under one `Idempotency-Key`, a request takes effect once.

The repetition gets the first reply byte for byte. The reply is stored by the statement that has the effect,
so neither exists without the other; it must be known before the statement runs. Only successes are stored:
a rejected request had no effect, so repeating it is a new attempt.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import asyncpg
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.named_sql import NamedSql
from service.database.session import Session
from service.errors import Fault
from service.values import Versioned, encode_json, reply_headers

AnySession = Session | AsyncSession

RETENTION = "interval '24 hours'"

PRIMARY_KEY = "pk_idempotency_keys"

FIND = f"""
select caller, path, key, fingerprint, status, headers, body from idempotency_keys
where (caller, path, key) in (select * from unnest($1::text[], $2::text[], $3::text[]))
  and created_at > now() - {RETENTION}"""


STORE_REPLIES = f"""
  insert into idempotency_keys (caller, path, key, fingerprint, status, headers, body)
  select * from unnest(:callers::text[], :paths::text[], :keys::text[], :fingerprints::bytea[],
    :statuses::int[], :headers::text[]::jsonb[], :bodies::bytea[])
  on conflict (caller, path, key) do update set fingerprint = excluded.fingerprint, status = excluded.status,
    headers = excluded.headers, body = excluded.body, created_at = now()
  where idempotency_keys.created_at <= now() - {RETENTION}
  returning 1"""
"""Part of a `NamedSql` that stores the replies of `reply_arguments`.

It returns one row per stored reply, and none for a claim that is taken.
"""
ALL_REPLIES_STORED = "(select count(*) from stored_replies) = cardinality(:callers::text[])"
"""The condition that no claim is taken, where `stored_replies` is the CTE with `STORE_REPLIES`."""

STORE_REPLY = NamedSql(STORE_REPLIES)

DELETE_EXPIRED = f"""
delete from idempotency_keys where caller = $1 and path = $2 and key = $3
  and created_at <= now() - {RETENTION} returning 1"""


class IdempotencyMismatch(Fault):
    status, code = 422, "IDEMPOTENCY_MISMATCH"
    message = "This Idempotency-Key was already used with a different body"


class IdempotencyInProgress(Fault):
    status, code = 409, "IDEMPOTENCY_IN_PROGRESS"
    message = "A request with this Idempotency-Key is still in progress"
    headers: Mapping[str, str] = {"Retry-After": "1"}


IDEMPOTENCY_FAULTS = [IdempotencyMismatch, IdempotencyInProgress]
"""The errors that an idempotent POST adds to its own."""


class Claim(Struct, frozen=True):
    """The identity of an idempotent request, and a hash of its body. `caller` is the API key's id."""

    caller: str
    path: str
    key: str
    fingerprint: bytes

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.caller, self.path, self.key


class StoredReply(Struct, frozen=True):
    """A stored reply and its claim."""

    claim: Claim
    status: int
    headers: dict[str, str]
    body: bytes


class Replay(Exception):
    """Answers a request with its stored reply; the effect is not repeated."""

    def __init__(self, stored: StoredReply) -> None:
        super().__init__(stored.claim.key)
        self.stored = stored


class ClaimConflict(IdempotencyInProgress):
    """Another process stored a reply for the claim first; look it up."""


def creation_reply(claim: Claim, created: Versioned, location: str) -> StoredReply:
    """Return the reply to a creation, to be stored."""
    return StoredReply(claim, 201, reply_headers(created.version, location), encode_json(created))


async def stored_outcomes(session: AnySession, claims: Sequence[Claim]) -> dict[Claim | None, Exception]:
    """Return the claims that have a stored reply, each with the exception that answers it."""
    if not claims:
        return {}
    identities = zip(*(claim.identity for claim in claims), strict=True)
    rows = {tuple(row[:3]): row[3:] for row in await _fetch(session, FIND, *map(list, identities))}
    return {claim: _outcome(claim, *rows[claim.identity]) for claim in claims if claim.identity in rows}


async def raise_stored_outcome(session: AnySession, claim: Claim | None) -> None:
    """Raise the stored outcome of a claim, if there is one."""
    if claim is not None and (outcome := (await stored_outcomes(session, [claim])).get(claim)):
        raise outcome


async def raise_claim_conflict(session: AnySession, claim: Claim) -> NoReturn:
    """Raise the stored outcome of a claim that is taken, or `IdempotencyInProgress`."""
    await raise_stored_outcome(session, claim)
    raise IdempotencyInProgress


def store_computed_reply_sql(body: str) -> str:
    """Return a part of a `NamedSql` that stores a reply computed by the statement itself.

    The reply is that of a resource with a `version`; `body` is an SQL expression of type json; `from` must
    follow. If the claim is taken, the whole statement fails (see `execute_once`).
    """
    return f"""
  insert into idempotency_keys (caller, path, key, fingerprint, status, headers, body)
  select :caller::text, :path::text, :key::text, :fingerprint::bytea, 200,
    jsonb_build_object('ETag', format('"%s"', version)), convert_to(({body})::text, 'UTF8')"""


async def execute_once(session: Session, claim: Claim, statement: NamedSql, **arguments: object) -> Any:
    """Run a statement that contains `store_computed_reply_sql`.

    Return its row, or None. Raises `Replay` if the claim already has a stored reply.
    """
    for _ in range(2):  # a second time if only an expired reply was in the way
        taken = False
        try:
            if row := await session.fetchrow(*statement(**arguments, **asdict(claim))):
                return row
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != PRIMARY_KEY:
                raise
            taken = True
        if outcomes := await stored_outcomes(session, [claim]):
            raise outcomes[claim]
        if not await session.fetchval(DELETE_EXPIRED, *claim.identity) and not taken:
            return None
    raise IdempotencyInProgress


async def store_reply(
    session: AnySession,
    claim: Claim | None,
    status: int,
    content: object,
    headers: dict[str, str] | None = None,
) -> None:
    """Store the reply to a request with a claim in the transaction of its effect.

    Raises the stored outcome of a claim that is taken.
    """
    if claim is None:
        return
    reply = StoredReply(claim, status, headers or {}, encode_json(content))
    if not await _fetch(session, *STORE_REPLY(**reply_arguments([reply]))):
        await raise_claim_conflict(session, claim)


@asynccontextmanager
async def prefer_stored_outcome(session: AnySession, claim: Claim | None) -> AsyncIterator[None]:
    """Answer an error of the block with the stored outcome of the claim, if there is one.

    A repetition can fail because the first request succeeded: a job that is queued again cannot be retried.
    """
    try:
        yield
    except Fault:
        await raise_stored_outcome(session, claim)
        raise


def reply_arguments(replies: Sequence[StoredReply]) -> dict[str, list[Any]]:
    """Return the arguments of `STORE_REPLIES`."""
    return {
        "callers": [reply.claim.caller for reply in replies],
        "paths": [reply.claim.path for reply in replies],
        "keys": [reply.claim.key for reply in replies],
        "fingerprints": [reply.claim.fingerprint for reply in replies],
        "statuses": [reply.status for reply in replies],
        "headers": [encode_json(reply.headers).decode() for reply in replies],
        "bodies": [reply.body for reply in replies],
    }


async def _fetch(session: AnySession, statement: str, *arguments: object) -> Sequence[Any]:
    """Run a statement in the transaction of either kind of session."""
    if isinstance(session, Session):
        return await session.fetch(statement, *arguments)
    connection = await session.connection()
    return (await connection.exec_driver_sql(statement, arguments)).all()


def _outcome(
    claim: Claim, fingerprint: bytes, status: int, headers: dict[str, str], body: bytes
) -> Exception:
    if fingerprint != claim.fingerprint:
        return IdempotencyMismatch()
    return Replay(StoredReply(claim, status, headers, body))
