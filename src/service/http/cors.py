"""CORS (Fetch standard): lets web pages of the configured origins call the service; off by default.

It wraps the outermost layer, so that pages can read error replies of any kind. A preflight is answered like
any OPTIONS request, with more headers.
"""

from collections.abc import Collection

from litestar.types import ASGIApp, Message, Receive, Scope, Send

EXPOSED_HEADERS = (
    "ETag, Location, Retry-After, X-Error-Code, X-Request-ID, Idempotent-Replayed, RateLimit, X-Data-Age"
)
PREFLIGHT_MAX_AGE_SECONDS = b"600"


class CorsMiddleware:
    """Middleware that adds CORS headers to replies to the configured origins."""

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
    origin: bytes, requested: dict[bytes, bytes], replied: dict[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
    ]
    if b"access-control-request-method" in requested and b"allow" in replied:
        headers += [
            (b"access-control-allow-methods", replied[b"allow"]),
            (b"access-control-allow-headers", requested.get(b"access-control-request-headers", b"")),
            (b"access-control-max-age", PREFLIGHT_MAX_AGE_SECONDS),
        ]
    return headers
