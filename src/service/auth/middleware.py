"""Denied by default: a route is open only if it says `public=True`, and needs its `scope="…"` otherwise."""

import asyncio
import hmac
from asyncio import Task
from datetime import UTC, datetime
from time import monotonic

from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from service.auth.keys import Key, derive_pepper, hash_key, key_id
from service.auth.rate_limit import RateLimiter
from service.database.database import DATABASE_ERRORS, Database
from service.errors import Forbidden, Overloaded, Unauthenticated

REFRESH_AFTER_SECONDS = 0.4
"""A cached key older than this is looked up again beside the request that uses it."""
EXPIRE_AFTER_SECONDS = 0.8
"""One older than this is not believed: revocation takes effect within a second everywhere."""
LOOKUP_TIMEOUT_SECONDS = 0.9
"""Longer, and the pool is too busy. An outage ends the look-up sooner (see `service.database.monitor`)."""
SHORT_LOOKUP_TIMEOUT_SECONDS = 0.3
"""The same for what has to be answered within a second besides."""

FIND = "select id, hash, scopes, expires_at from api_keys where id = $1 and revoked_at is null"
PEPPER = "select value from secrets where name = 'pepper'"


class AuthMiddleware(ASGIMiddleware):
    """Runs for every routed request before anything of its body is read.

    A middleware and not one of Litestar's guards, before each of which the whole route handler is copied
    (decision 0005).
    """

    def __init__(self, keyring: "KeyAuthenticator", quota: RateLimiter | None) -> None:
        self._keyring = keyring
        self._quota = quota

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        options = scope["route_handler"].opt
        if not options.get("public"):
            key = await self._authorize(
                scope, options.get("scope"), allow_stale_key=options.get("allow_stale_key", False)
            )
            if self._quota is not None:
                scope["state"]["headers"] = await self._quota.spend(key.id)
        await next_app(scope, receive, send)

    async def _authorize(self, scope: Scope, needed: str | None, *, allow_stale_key: bool) -> Key:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        key = await self._keyring.authenticate(header.decode("latin-1"), allow_stale_key=allow_stale_key)
        scope["user"] = key
        if needed is None or not key.may(needed):
            raise Forbidden(f"The API key lacks the scope {needed}", details=[{"scope": needed}])
        return key


class CachedKey(Struct):
    key: Key
    expires_at: datetime | None
    seen_at: float


class KeyAuthenticator:
    """Knows the keys: a bounded cache in front of the table, so that a busy key costs no query."""

    def __init__(self, database: Database, *, secret: str | None, cache_max: int) -> None:
        self._database = database
        self._pepper = derive_pepper(secret)
        self._cache: dict[str, CachedKey] = {}
        self._cache_max = cache_max
        self._lookups: dict[str, Task[CachedKey]] = {}

    async def authenticate(self, authorization: str, *, allow_stale_key: bool = False) -> Key:
        """Raises `Unauthenticated` for anything but `Bearer` and a living key.

        With `allow_stale_key`, a key that was known last is believed while the database does not answer."""
        scheme, _, token = authorization.partition(" ")
        token = token.lstrip(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        cached = self._cache.get(token)
        age = EXPIRE_AFTER_SECONDS if cached is None else monotonic() - cached.seen_at
        if cached is None or age >= EXPIRE_AFTER_SECONDS:
            cached = await self._lookup_with_timeout(token, cached if allow_stale_key else None)
        elif age >= REFRESH_AFTER_SECONDS:
            self._lookup(token)
        if cached.expires_at is not None and cached.expires_at <= datetime.now(UTC):
            raise Unauthenticated("The API key has expired")
        return cached.key

    async def _lookup_with_timeout(self, token: str, last: CachedKey | None) -> CachedKey:
        """Raises `Overloaded` unless `last` will do; the look-up goes on for those who come next."""
        try:
            async with asyncio.timeout(
                LOOKUP_TIMEOUT_SECONDS if last is None else SHORT_LOOKUP_TIMEOUT_SECONDS
            ):
                return await asyncio.shield(self._lookup(token))
        except DATABASE_ERRORS as error:
            if last is not None:
                return last
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def _lookup(self, token: str) -> "Task[CachedKey]":
        """Look a key up once, however many requests wait for it."""
        task = self._lookups.get(token)
        if task is None:
            task = self._lookups[token] = asyncio.create_task(self._fetch(token))
            task.add_done_callback(lambda done: self._on_lookup_done(token, done))
        return task

    def _on_lookup_done(self, token: str, done: "Task[CachedKey]") -> None:
        """What could not be looked up stays as it was known last: too old to be believed by itself."""
        del self._lookups[token]
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None or isinstance(error, Unauthenticated):
            self._cache.pop(token, None)
        if error is None:
            if len(self._cache) >= self._cache_max:
                del self._cache[next(iter(self._cache))]
            self._cache[token] = done.result()

    async def _fetch(self, token: str) -> CachedKey:
        identity = key_id(token)
        if identity is None:
            raise Unauthenticated
        seen_at = monotonic()
        if self._pepper is None:
            self._pepper = await self._database.fetchval(PEPPER)
        row = await self._database.fetchrow(FIND, identity)
        if row is None or not hmac.compare_digest(row["hash"], hash_key(token, self._pepper)):
            raise Unauthenticated
        return CachedKey(Key(row["id"], frozenset(row["scopes"])), row["expires_at"], seen_at)
