"""A webhook receiver for tests, which verifies the signature of every delivery."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import msgspec
from anyio import to_thread

from service.database.database import Database
from service.events.journal import CLI
from service.settings import Settings
from service.webhooks.schemas import WebhookCreate
from service.webhooks.service import WebhookService
from service.webhooks.signing import ID, verify_signature

Event = dict[str, Any]
ADDRESS = ("127.0.0.1", 0)
POLL_SECONDS = 0.01
"""Time after which the server notices that it must stop."""


class Inbox:
    """The events that arrived with a valid signature. Each one is returned once."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.secret = ""
        self.events: list[Event] = []
        """All events, in the order of their arrival."""
        self._ids = set[str]()
        self._unread: defaultdict[str, SimpleQueue[Event]] = defaultdict(SimpleQueue)
        self._lock = Lock()

    async def wait_for(self, event_type: str, timeout_seconds: float = 10.0) -> Event:
        """Return the next event of this type, as soon as it arrives. Raises `TimeoutError`."""
        return await to_thread.run_sync(self.receive, event_type, timeout_seconds, abandon_on_cancel=True)

    def receive(self, event_type: str, timeout_seconds: float = 10.0) -> Event:
        """Return the same as `wait_for`, for tests that are not coroutines."""
        with self._lock:
            unread = self._unread[event_type]
        try:
            return unread.get(timeout=timeout_seconds)
        except Empty:
            arrived = ", ".join(event["type"] for event in self.events) or "none"
            raise TimeoutError(
                f"no {event_type} arrived within {timeout_seconds:g} s; events so far: {arrived}"
            ) from None

    def deliver(self, headers: dict[str, str], body: bytes) -> int:
        """Record an event, and return the status of the reply. A repeated delivery is not a new event."""
        if not verify_signature(self.secret, headers, body):
            return 401
        event = msgspec.json.decode(body)
        with self._lock:
            if headers[ID] not in self._ids:
                self._ids.add(headers[ID])
                self.events.append(event)
                self._unread[event["type"]].put(event)
        return 204


@contextmanager
def open_inbox(settings: Settings) -> Iterator[Inbox]:
    """Receive all events of the database until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response_only(inbox.deliver(headers, body))
            self.end_headers()

    with ThreadPoolExecutor(1, "depot-inbox") as thread, ThreadingHTTPServer(ADDRESS, Handler) as server:
        inbox = Inbox(server.server_port)
        # It subscribes in the thread, because an event loop may run in this one already.
        inbox.secret = thread.submit(asyncio.run, _subscribe(settings, inbox.url)).result()
        thread.submit(server.serve_forever, POLL_SECONDS)
        try:
            yield inbox
        finally:
            server.shutdown()


async def _subscribe(settings: Settings, url: str) -> str:
    """Register a webhook for all events, and return its secret."""
    new = WebhookCreate(url, ["*"])
    async with Database(settings).open() as database, database.orm_session() as session:
        webhook = await WebhookService(session).add(new, CLI, webhooks_max=settings.webhooks_max)
    return webhook.secret
