"""A real webhook receiver on a loopback port: verifies every signature with the reference library."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

ALWAYS: Callable[[], int] = lambda: 200  # noqa: E731  # reads as the default it is


class Receiver:
    """What came in. `answer` chooses the status of each reply."""

    def __init__(self, answer: Callable[[], int] = ALWAYS) -> None:
        self.url = ""
        self.secret = ""
        self.received: dict[str, dict[str, Any]] = {}
        """The event of each `webhook-id` that was answered with success."""
        self.times: Counter[str] = Counter()
        """How often each `webhook-id` came."""
        self.forged: list[str] = []
        self.contradictions: list[str] = []
        self._answer = answer

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.text()
        webhook_id = request.headers["webhook-id"]
        self.times[webhook_id] += 1
        try:
            event = Webhook(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.forged.append(webhook_id)
            return web.Response(status=400)
        status = self._answer()
        if status == 200 and self.received.setdefault(webhook_id, event) != event:
            self.contradictions.append(webhook_id)
        return web.Response(status=status)


@asynccontextmanager
async def receiving(answer: Callable[[], int] = ALWAYS) -> AsyncIterator[Receiver]:
    receiver = Receiver(answer)
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
