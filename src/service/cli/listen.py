"""`depot listen`: a receiver of webhooks on this machine, which prints what arrives and verifies it."""

import asyncio
import signal
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import ClientError, ClientSession, web
from msgspec import Struct

from service.settings import StartupError
from service.webhooks.signing import ID, verify_signature


class WebhookEvent(Struct):
    """What every event has."""

    type: str
    timestamp: datetime


async def listen(url: str, key: str, events: Sequence[str], echo: Callable[[str], None]) -> None:
    """Print every event until SIGINT or SIGTERM.

    The webhook is registered for that long only. Raises `StartupError` if the API cannot be used.
    """
    ended = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, ended.set)
    secret: Future[str] = asyncio.get_running_loop().create_future()
    async with receiver(secret, echo) as address, api_client(url, key) as client:
        webhook = await call_api(client, "POST", "/webhooks", {"url": address, "events": list(events)})
        secret.set_result(webhook["secret"])
        echo(f"{url} tells {address} of {', '.join(events)}. Ctrl-C ends it.")
        await ended.wait()
        await call_api(client, "DELETE", f"/webhooks/{webhook['id']}")


@asynccontextmanager
async def receiver(secret: "Future[str]", echo: Callable[[str], None]) -> AsyncIterator[str]:
    """An HTTP server on a free port; gives its URL. `secret` is known once the webhook is registered."""

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        now = datetime.now(UTC)
        told = msgspec.json.decode(body, type=WebhookEvent)
        verdict = "ok " if verify_signature(await secret, request.headers, body) else "BAD"
        ms = (now - told.timestamp).total_seconds() * 1000
        echo(f"{now:%H:%M:%S.%f}  {told.type:<15}  {request.headers[ID]}  signature {verdict}  {ms:.1f} ms")
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
        raise StartupError(f"cannot use {url}: {error}") from None


async def call_api(client: ClientSession, method: str, path: str, body: object = None) -> dict[str, Any]:
    async with client.request(method, path, json=body) as reply:
        answer: dict[str, Any] = await reply.json() if reply.status != 204 else {}
    if "error" in answer:
        error = answer["error"]
        wrong = "".join(f"; {detail['field']} {detail['message']}" for detail in error.get("details", []))
        raise StartupError(f"{method} {path}: {error['message']}{wrong}")
    return answer
