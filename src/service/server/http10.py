"""Replies to HTTP/1.0 clients, which know no chunks (RFC 9112 §6.1)."""

from typing import Any

from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def delimit_by_close(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """Wrap `app` so that the end of the connection ends a reply without `Content-Length`.

    uvicorn would send it in chunks.
    """

    async def run(scope: Any, receive: Any, send: Any) -> None:
        delimited = False

        async def send_without_chunks(message: Any) -> None:
            nonlocal delimited
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                delimited = b"content-length" not in names
                if delimited:
                    cycle.chunked_encoding, cycle.keep_alive = False, False
            elif delimited:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_without_chunks)

    return run
