"""Authorization.

Access is denied by default: a route is open only with `public=True`, and otherwise requires its `scope`.
"""

from typing import Any

from litestar import Request

from service.auth.authenticator import KeyAuthenticator
from service.auth.keys import Key
from service.auth.rate_limit import RateLimiter
from service.errors import Forbidden


class Authorizer:
    """Authenticates and authorizes every routed request before its body is read."""

    def __init__(self, authenticator: KeyAuthenticator, rate_limiter: RateLimiter) -> None:
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter

    async def authorize(self, request: Request[Any, Any, Any]) -> None:
        scope = request.scope
        options = scope["route_handler"].opt
        if options.get("public"):
            return
        authorization = _authorization(scope["headers"])
        key = await self._authenticator.authenticate(
            authorization, allow_stale_key=options.get("allow_stale_key", False)
        )
        scope["user"] = key
        _check_scope(key, options.get("scope"))
        if key.rate_limit is not None:
            scope["state"]["headers"] = await self._rate_limiter.consume(key.id, key.rate_limit)


def _authorization(headers: Any) -> str:
    for name, value in headers:
        if name == b"authorization":
            return str(value, "latin-1")
    return ""


def _check_scope(key: Key, required: str | None) -> None:
    if required is None or not key.has_scope(required):
        raise Forbidden(f"The API key lacks the scope {required}", details=[{"scope": required}])
