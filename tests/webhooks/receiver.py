"""Configurable webhook receivers for tests, which are real local HTTP servers, and webhooks for them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
from aiohttp import web
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError
from uuid_utils.compat import uuid7

from service.database.database import Database
from tests.support.app_helpers import eventually
from tests.support.reply_assertions import all_rows
from tests.support.written_events import write_event

TIMEOUT_SECONDS = 15.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SUBSCRIBE = """
insert into webhooks (id, url, events, enabled, secret, version) values ($1, $2, $3, true, $4, 1)
returning id"""


class Received:
    """A received request."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers = dict(headers)
        self.body = body
        self.id = self.headers["webhook-id"]
        self.event: dict[str, Any] = json.loads(body)

    def verifies(self, secret: str) -> bool:
        """Verify the signature with the reference implementation."""
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


class Receiver:
    """The received requests, and the reply to send from now on."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[Received] = []
        self.status = 204
        self.headers: dict[str, str] = {}
        self.body: bytes = b""
        self.may_answer = asyncio.Event()
        """While it is cleared, requests hang."""
        self.may_answer.set()
        self._arrived = asyncio.Condition()

    @property
    def ids(self) -> list[str]:
        return [request.id for request in self.received]

    @property
    def types(self) -> list[str]:
        return [request.event["type"] for request in self.received]

    async def until(self, count: int) -> list[Received]:
        """Return the requests once `count` of them have arrived."""
        async with asyncio.timeout(TIMEOUT_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def handle(self, request: web.Request) -> web.Response:
        received = Received(request.headers, await request.read())
        async with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        await self.may_answer.wait()
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@asynccontextmanager
async def receiver(**attributes: Any) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of 127.0.0.1; `attributes` are set on it."""
    opened = Receiver()
    for name, value in attributes.items():
        setattr(opened, name, value)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", opened.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        opened.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield opened
    finally:
        opened.may_answer.set()
        await runner.cleanup()


async def subscribe(database: Database, url: str, *events: str) -> UUID:
    """Insert a webhook directly, for any address; its secret is `SECRET`."""
    row = (uuid7(), url, list(events) or ["item.updated"], SECRET)
    webhook_id: UUID = await database.fetchval(SUBSCRIBE, *row)
    return webhook_id


async def record_event(database: Database, **payload: object) -> str:
    """Record an `item.updated` event and return its id."""
    return await write_event(database, "item.updated", "i-1", **payload)


async def deliveries(database: Database) -> list[Any]:
    """Return all deliveries, oldest first."""
    return await database.fetch("select * from deliveries order by id")


async def register(client: httpx.AsyncClient, local: Receiver, *events: str) -> dict[str, Any]:
    """Register a webhook over HTTP."""
    content = {"url": local.url, "events": list(events) or ["item.updated"]}
    webhook: dict[str, Any] = (await client.post("/webhooks", json=content)).raise_for_status().json()
    return webhook


async def finished(client: httpx.AsyncClient, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the deliveries, newest first, once none is pending."""
    path = f"/webhooks/{webhook['id']}/deliveries"

    async def done() -> bool:
        return not (await client.get(path, params={"status": "pending"})).json()["data"]

    await eventually(done)
    return await all_rows(client, path)


async def attempted(database: Database, times: int) -> bool:
    return bool(len((await deliveries(database))[0]["attempts"]) == times)
