"""Whatever a client repeats under one `Idempotency-Key` happens once, and is answered byte for byte.

The reply is stored by the statement of its effect, so neither can be without the other: it has to be known
before the statement runs. Only successes are stored; a refusal had no effect, so its repetition is a new try.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import asyncpg
from msgspec import Struct
from msgspec.structs import asdict, astuple
from sqlalchemy import func, literal, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.servers import Connection
from service.errors import Detail, Fault, ValidationFailed
from service.http.models import IdempotencyKey
from service.http.reply import Versioned, reply_headers
from service.http.request import StrictRequest
from service.values import encode_json

HEADER = "Idempotency-Key"
RAW_HEADER = HEADER.lower().encode()
PRINTABLE = re.compile(r"[ -~]{1,255}")
RETENTION = "interval '24 hours'"

PRIMARY_KEY = "pk_idempotency_keys"
CLAIM_KINDS = ("text", "text", "text", "bytea")

FIND = f"""
select caller, path, key, fingerprint, status, headers, body from idempotency_keys
where (caller, path, key) in (select * from unnest($1::text[], $2::text[], $3::text[]))
  and created_at > now() - {RETENTION}"""


DELETE_EXPIRED = f"""
delete from idempotency_keys where caller = $1 and path = $2 and key = $3
  and created_at <= now() - {RETENTION} returning 1"""


class IdempotencyMismatch(Fault):
    status, code = 422, "IDEMPOTENCY_MISMATCH"
    message = "This Idempotency-Key was used with another body"


class IdempotencyInProgress(Fault):
    status, code = 409, "IDEMPOTENCY_IN_PROGRESS"
    message = "A request with this Idempotency-Key is still running"
    headers: Mapping[str, str] = {"Retry-After": "1"}


IDEMPOTENCY_FAULTS = [IdempotencyMismatch, IdempotencyInProgress]
"""What a POST that creates may answer besides its own faults."""


class Claim(Struct, frozen=True):
    """Who wants what done once: the id of the API key, the path, the client's key, and a hash of the body."""

    caller: str
    path: str
    key: str
    fingerprint: bytes

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.caller, self.path, self.key


class StoredReply(Struct, frozen=True):
    """A reply as it is stored with its claim."""

    claim: Claim
    status: int
    headers: dict[str, str]
    body: bytes


class Replay(Exception):
    """Ends a request with the reply it was given the first time; nothing happens again."""

    def __init__(self, kept: StoredReply) -> None:
        super().__init__(kept.claim.key)
        self.kept = kept


class ClaimConflict(IdempotencyInProgress):
    """Another process stored a reply under the claim while this one worked: look it up."""


@asynccontextmanager
async def hold_claim(request: StrictRequest) -> AsyncIterator[Claim | None]:
    """The claim a request makes, or None. Raises `IdempotencyInProgress` if this process works on it already.

    Other processes are told by the table's primary key.
    """
    claim = await _claim(request)
    if claim is None:
        yield None
        return
    running: set[tuple[str, str, str]] = request.app.state.claims
    if claim.identity in running:
        raise IdempotencyInProgress
    running.add(claim.identity)
    try:
        yield claim
    finally:
        running.discard(claim.identity)


def key_problem(key: str | None) -> str | None:
    """What is wrong with an `Idempotency-Key`, if there is one."""
    if key is None or PRINTABLE.fullmatch(key):
        return None
    return "It has to be 1 to 255 printable ASCII characters"


def creation_reply(claim: Claim, created: Versioned, location: str) -> StoredReply:
    """What the reply to a creation will be."""
    return StoredReply(claim, 201, reply_headers(created.version, location), encode_json(created))


async def stored_outcomes(connection: Connection, claims: Sequence[Claim]) -> dict[Claim | None, Exception]:
    """The claims that were answered before, each with what answers it now."""
    if not claims:
        return {}
    names = zip(*(claim.identity for claim in claims), strict=True)
    rows = {tuple(row[:3]): row[3:] for row in await connection.fetch(FIND, *map(list, names))}
    return {claim: _outcome(claim, *rows[claim.identity]) for claim in claims if claim.identity in rows}


async def raise_stored_outcome(connection: Connection, claim: Claim | None) -> None:
    """Raises what answers the claim now, if it was answered before."""
    if claim is not None and (answer := (await stored_outcomes(connection, [claim])).get(claim)):
        raise answer


async def raise_claim_conflict(connection: Connection, claim: Claim) -> NoReturn:
    """Raises what answers a claim that turned out to be taken."""
    await raise_stored_outcome(connection, claim)
    raise IdempotencyInProgress


def store_replies_sql(first: int) -> str:
    """A statement's part that stores the replies in its arguments from `$first` on (see `reply_columns`).

    Returns a row for each one stored; where a claim is taken, none.
    """
    kinds = (*CLAIM_KINDS, "int", "jsonb", "bytea")
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kinds, start=first))
    return f"""
  insert into idempotency_keys (caller, path, key, fingerprint, status, headers, body)
  select * from unnest({arrays})
  on conflict (caller, path, key) do update set fingerprint = excluded.fingerprint, status = excluded.status,
    headers = excluded.headers, body = excluded.body, created_at = now()
  where idempotency_keys.created_at <= now() - {RETENTION}
  returning 1"""


def store_computed_reply_sql(first: int, body: str) -> str:
    """A statement's part that stores a reply the statement itself makes, of a resource with a `version`.

    `body` is an SQL expression of type json; the claim is in the arguments from `$first` on. What follows has
    to begin with `from`. Where the claim is taken, the whole statement fails (see `execute_once`).
    """
    claim = ", ".join(f"${number}::{kind}" for number, kind in enumerate(CLAIM_KINDS, start=first))
    return f"""
  insert into idempotency_keys (caller, path, key, fingerprint, status, headers, body)
  select {claim}, 200, jsonb_build_object('ETag', format('"%s"', version)),
    convert_to(({body})::text, 'UTF8')"""


async def execute_once(connection: Connection, claim: Claim, statement: str, *arguments: object) -> Any:
    """Run a statement with `store_computed_reply_sql` and return its row, if there is one.

    The last arguments of the statement are the claim.

    Raises `Replay` if the claim was answered before.
    """
    for _ in range(2):
        taken = False
        try:
            if row := await connection.fetchrow(statement, *arguments, *astuple(claim)):
                return row
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != PRIMARY_KEY:
                raise
            taken = True
        if answered := await stored_outcomes(connection, [claim]):
            raise answered[claim]
        if not await connection.fetchval(DELETE_EXPIRED, *claim.identity) and not taken:
            return None
    raise IdempotencyInProgress


async def store_reply(connection: Connection, kept: StoredReply) -> None:
    """Store a reply in the transaction of its effect. Raises what answers the claim now if it is taken."""
    if not await connection.fetchval(store_replies_sql(1), *reply_columns([kept])):
        await raise_claim_conflict(connection, kept.claim)


async def store_reply_in_session(session: AsyncSession, kept: StoredReply) -> None:
    """Store a reply in a session's transaction. Raises what answers the claim now if it is taken."""
    reply = {"status": kept.status, "headers": kept.headers, "body": kept.body}
    new = insert(IdempotencyKey).values(**asdict(kept.claim), **reply)
    fresh = {name: new.excluded[name] for name in ("fingerprint", *reply)} | {"created_at": func.now()}
    expired = IdempotencyKey.created_at <= func.now() - text(RETENTION)
    stored = new.on_conflict_do_update(constraint=PRIMARY_KEY, set_=fresh, where=expired).returning(
        literal(1)
    )
    if await session.scalar(stored):
        return
    found = await session.get(IdempotencyKey, kept.claim.identity)
    if found is None:
        raise IdempotencyInProgress
    raise _outcome(kept.claim, found.fingerprint, found.status, found.headers, found.body)


def reply_columns(kept: Sequence[StoredReply]) -> list[list[Any]]:
    """The arguments of `store_replies_sql`."""
    return [
        [reply.claim.caller for reply in kept],
        [reply.claim.path for reply in kept],
        [reply.claim.key for reply in kept],
        [reply.claim.fingerprint for reply in kept],
        [reply.status for reply in kept],
        [reply.headers for reply in kept],
        [reply.body for reply in kept],
    ]


async def _claim(request: StrictRequest) -> Claim | None:
    key = request.header(RAW_HEADER)
    if key is None:
        return None
    if problem := key_problem(key):
        raise ValidationFailed([Detail(f"/{HEADER}", problem, "header")])
    body = b"" if request.route_handler.parsed_data_field is None else await request.body()
    fingerprint = hashlib.blake2b(body, digest_size=16).digest()
    return Claim(request.user.id, request.scope["path"], key, fingerprint)


def _outcome(
    claim: Claim, fingerprint: bytes, status: int, headers: dict[str, str], body: bytes
) -> Exception:
    if fingerprint != claim.fingerprint:
        return IdempotencyMismatch()
    return Replay(StoredReply(claim, status, headers, body))
