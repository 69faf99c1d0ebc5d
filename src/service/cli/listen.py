"""`depot listen`: a local webhook receiver that verifies and prints events."""

import asyncio
import signal
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import ClientConnectorError, ClientError, ClientSession, web
from msgspec import Struct

from service.settings import StartupError, os_reason
from service.webhooks.signing import ID, verify_signature


class WebhookEvent(Struct):
    """The fields common to all events."""

    type: str
    timestamp: datetime


async def listen(url: str, key: str, events: Sequence[str], echo: Callable[[str], None]) -> None:
    """Register a webhook and print every event until SIGINT or SIGTERM, then delete the webhook.

    Raises `StartupError` if the API cannot be used.
    """
    stopped = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, stopped.set)
    secret: Future[str] = asyncio.get_running_loop().create_future()
    async with receiver(secret, echo) as address, api_client(url, key) as client:
        webhook = await call_api(client, "POST", "/webhooks", {"url": address, "events": list(events)})
        secret.set_result(webhook["secret"])
        echo(f"Listening on {address} for {', '.join(events)} from {url}. Press Ctrl-C to stop.")
        await stopped.wait()
        await call_api(client, "DELETE", f"/webhooks/{webhook['id']}")


@asynccontextmanager
async def receiver(secret: "Future[str]", echo: Callable[[str], None]) -> AsyncIterator[str]:
    """Run an HTTP server on a free port and yield its URL. `secret` is set once the webhook is registered."""

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        now = datetime.now(UTC)
        event = msgspec.json.decode(body, type=WebhookEvent)
        status = "ok " if verify_signature(await secret, request.headers, body) else "BAD"
        ms = (now - event.timestamp).total_seconds() * 1000
        echo(f"{now:%H:%M:%S.%f}  {event.type:<15}  {request.headers[ID]}  signature {status}  {ms:.1f} ms")
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def api_client(url: str, key: str) -> AsyncIterator[ClientSession]:
    try:
        async with ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as client:
            yield client
    except (ClientError, TimeoutError, ValueError) as error:
        cause = error.os_error if isinstance(error, ClientConnectorError) else error
        why = os_reason(cause) if isinstance(cause, OSError) else str(cause)
        raise StartupError(f"cannot reach the API at {url}: {why}") from None


async def call_api(client: ClientSession, method: str, path: str, body: object = None) -> dict[str, Any]:
    async with client.request(method, path, json=body) as reply:
        if reply.status != 204 and not reply.content_type.endswith("json"):
            raise StartupError(
                f"{reply.url} does not answer as Depot does (status {reply.status}); check --url"
            )
        content: dict[str, Any] = await reply.json() if reply.status != 204 else {}
    if "error" in content:
        error = content["error"]
        details = "".join(f"; {detail['field']} {detail['message']}" for detail in error.get("details", []))
        raise StartupError(f"{method} {path}: {error['message']}{details}")
    return content
