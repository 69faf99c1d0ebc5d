"""Lets web pages of named origins call the service (the Fetch standard's CORS protocol). Off unless set.

The layer around the envelope, so that refusals of any kind can be read by such a page too. A preflight is
answered as any OPTIONS is, and says more.
"""

from collections.abc import Collection
from typing import TypeAlias

from litestar.types import ASGIApp, Message, Receive, Scope, Send

EXPOSED_HEADERS = "ETag, Location, Retry-After, X-Error-Code, X-Request-ID, Idempotent-Replayed, RateLimit"
PREFLIGHT_MAX_AGE_SECONDS = b"600"

Values: TypeAlias = dict[bytes, bytes]


class CorsMiddleware:
    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")

        async def send_with_cors_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                replied = [*message["headers"], (b"vary", b"Origin")]
                if origin is not None and self._origins & {origin, b"*"}:
                    replied += _cors_headers(origin, headers, dict(replied))
                message["headers"] = replied
            await send(message)

        await self._app(scope, receive, send_with_cors_headers)


def _cors_headers(
    origin: bytes, asked: dict[bytes, bytes], replied: dict[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    leave = [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
    ]
    if b"access-control-request-method" in asked and b"allow" in replied:
        leave += [
            (b"access-control-allow-methods", replied[b"allow"]),
            (b"access-control-allow-headers", asked.get(b"access-control-request-headers", b"")),
            (b"access-control-max-age", PREFLIGHT_MAX_AGE_SECONDS),
        ]
    return leave
