"""A webhook receiver that records all events and verifies them with the reference library."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

NEVER: Callable[[], bool] = lambda: False  # noqa: E731  # reads as the default it is


class RecordingReceiver:
    """The received events. `fails` decides whether the first attempt of a delivery gets a 500."""

    def __init__(self, fails: Callable[[], bool] = NEVER) -> None:
        self.url = ""
        self.secret = ""
        self.received: dict[str, dict[str, Any]] = {}
        """The event of each `webhook-id` that got a 2xx."""
        self.times: Counter[str] = Counter()
        """The number of requests per `webhook-id`."""
        self.invalid_signatures: list[str] = []
        self.conflicting_bodies: list[str] = []
        self._fails = fails

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.text()
        webhook_id = request.headers["webhook-id"]
        self.times[webhook_id] += 1
        try:
            event = Webhook(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.invalid_signatures.append(webhook_id)
            return web.Response(status=400)
        if self.times[webhook_id] == 1 and self._fails():
            return web.Response(status=500)
        if self.received.setdefault(webhook_id, event) != event:
            self.conflicting_bodies.append(webhook_id)
        return web.Response()


@asynccontextmanager
async def recording_receiver(fails: Callable[[], bool] = NEVER) -> AsyncIterator[RecordingReceiver]:
    receiver = RecordingReceiver(fails)
    application = web.Application()
    application.router.add_post("/", receiver.receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield receiver
    finally:
        await runner.cleanup()
