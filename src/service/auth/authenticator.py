"""Authentication of API keys."""

import asyncio
import hmac
from asyncio import Semaphore, Task
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from time import monotonic

from msgspec import Struct

from service.auth.keys import READ_PEPPER, Key, derive_pepper, hash_key, key_id
from service.auth.last_use import IS_DUE
from service.database.database import Database
from service.database.errors import DATABASE_ERRORS
from service.errors import Overloaded, Unauthenticated

REFRESH_AFTER_SECONDS = 0.4
"""Age in seconds at which a cached key is refreshed in the background."""
EXPIRE_AFTER_SECONDS = 0.8
"""Age in seconds at which a cached key expires, so that a revocation takes effect within a second."""
LOOKUP_TIMEOUT_SECONDS = 0.9
"""Lookup timeout in seconds; a slower lookup means that the pool is overloaded. An outage ends it sooner (see
`service.database.monitor`)."""
SHORT_LOOKUP_TIMEOUT_SECONDS = 0.3
"""Lookup timeout in seconds for routes that must answer within one second in total."""

FETCH_KEY = f"""
select id, name, hash, scopes, expires_at, rate_limit,
  {IS_DUE} and (expires_at is null or expires_at > now()) as is_due
from api_keys where id = $1 and revoked_at is null"""


class CachedKey(Struct):
    key: Key
    fetched_at: float


class KeyAuthenticator:
    """Authenticates API keys through a bounded cache, so that a busy key costs no query."""

    def __init__(
        self,
        database: Database,
        *,
        secret: str | None,
        cache_max: int,
        previous_secret: str | None = None,
        unknown_lookups_max: int = 1,
        default_rate_limit: str | None = None,
        on_use_due: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`unknown_lookups_max`: how many keys outside the cache are looked up at the same time.

        More wait, so that a flood of invented keys leaves connections to known ones. `on_use_due` is called
        with the id of a key that is used and whose stored time of use is out of date.
        """
        self._database = database
        self._unknown_lookups = Semaphore(unknown_lookups_max)
        self._pepper = derive_pepper(secret)
        self._previous_pepper = derive_pepper(previous_secret)
        self._default_rate_limit = default_rate_limit
        self._on_use_due = on_use_due
        self._cache: dict[str, CachedKey] = {}
        self._cache_max = cache_max
        self._lookups: dict[str, Task[CachedKey]] = {}

    async def authenticate(self, authorization: str, *, allow_stale_key: bool = False) -> Key:
        """Return the API key in an `Authorization` header.

        Raises `Unauthenticated` unless it is `Bearer` with a valid key. With `allow_stale_key`, the last
        known state of the key is accepted while the database does not answer.
        """
        scheme, _, token = authorization.partition(" ")
        token = token.lstrip(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        cached = self._cache.get(token)
        age = EXPIRE_AFTER_SECONDS if cached is None else monotonic() - cached.fetched_at
        if cached is None or age >= EXPIRE_AFTER_SECONDS:
            cached = await self._lookup_with_timeout(token, cached if allow_stale_key else None)
        elif age >= REFRESH_AFTER_SECONDS:
            self._lookup(token)
        expires_at = cached.key.expires_at
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise Unauthenticated("The API key has expired")
        return cached.key

    async def _lookup_with_timeout(self, token: str, last: CachedKey | None) -> CachedKey:
        """Look the key up with a timeout.

        If that fails, return `last` if there is one, else raise `Overloaded` or the database error. The
        lookup continues for later callers.
        """
        try:
            async with asyncio.timeout(self._lookup_timeout(has_fallback=last is not None)):
                return await asyncio.shield(self._lookup(token))
        except DATABASE_ERRORS as error:
            if last is not None:
                return last
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def _lookup_timeout(self, *, has_fallback: bool) -> float:
        seconds = SHORT_LOOKUP_TIMEOUT_SECONDS if has_fallback else LOOKUP_TIMEOUT_SECONDS
        return max(seconds, 3 * self._database.monitor.login_seconds)

    def _lookup(self, token: str) -> "Task[CachedKey]":
        """Start a lookup, or join the one in progress."""
        task = self._lookups.get(token)
        if task is None:
            task = self._lookups[token] = asyncio.create_task(self._fetch(token))
            task.add_done_callback(lambda done: self._on_lookup_done(token, done))
        return task

    def _on_lookup_done(self, token: str, done: "Task[CachedKey]") -> None:
        """Update the cache after a lookup.

        After a failed one the old entry stays; it is too old to be used except as a fallback.
        """
        del self._lookups[token]
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None or isinstance(error, Unauthenticated):
            self._cache.pop(token, None)
        if error is None:
            if len(self._cache) >= self._cache_max:
                del self._cache[next(iter(self._cache))]
            self._cache[token] = done.result()

    async def _fetch(self, token: str) -> CachedKey:
        id_ = key_id(token)
        if id_ is None:
            raise Unauthenticated
        fetched_at = monotonic()
        async with nullcontext() if token in self._cache else self._unknown_lookups:
            if self._pepper is None:
                self._pepper = await self._database.fetchval(READ_PEPPER)
            row = await self._database.fetchrow(FETCH_KEY, id_)
        if row is None or not self._matches(token, row["hash"]):
            raise Unauthenticated
        key = Key(
            row["id"],
            row["name"],
            frozenset(row["scopes"]),
            row["expires_at"],
            row["rate_limit"] or self._default_rate_limit,
        )
        if row["is_due"]:
            self._on_use_due(key.id)
        return CachedKey(key, fetched_at)

    def _matches(self, token: str, stored_hash: bytes) -> bool:
        """Return whether the hash is the token's, under the secret or the previous one."""
        peppers = filter(None, (self._pepper, self._previous_pepper))
        return any(hmac.compare_digest(stored_hash, hash_key(token, pepper)) for pepper in peppers)
