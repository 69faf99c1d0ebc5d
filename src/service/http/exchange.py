"""One request and its reply, for the middleware and the handlers that need more than Litestar's request."""

from asyncio import Task
from time import perf_counter
from typing import Any

from litestar.types import Message, Send

from service.errors import DatabaseUnavailable, Fault, TimedOut, error_fields, render
from service.http.admission import AdmissionControl
from service.http.head import RequestHead

NOSNIFF = (b"x-content-type-options", b"nosniff")
CLOSE = (b"connection", b"close")
NO_STORE = (b"cache-control", b"no-store")
"""For every reply to an authenticated request that has no rule of its own (RFC 9111 §5.2.2.5)."""


class Exchange(RequestHead):
    """One request and its reply."""

    __slots__ = (
        *("_admission", "_close_connection", "_send", "code", "head"),
        *("cancelled", "path", "scope", "started", "status", "timed_out", "writer"),
    )

    def __init__(self, scope: Any, send: Send, admission: AdmissionControl, *, closing: bool) -> None:
        """`closing`: send `Connection: close`, so that the next request opens a new connection."""
        super().__init__(scope["headers"])
        self._send = send
        self._admission = admission
        self._close_connection = closing
        self.scope = scope
        self.path: str = scope["path"]
        self.head: bool = scope["method"] == "HEAD"
        self.status = 0
        self.code: str | None = None
        self.timed_out = False
        self.writer: Task[Any] | None = None
        """The task of a handler that writes."""
        self.cancelled = False
        self.started: float = scope["state"].pop("parsed_at", None) or perf_counter()

    @property
    def method(self) -> str:
        return "HEAD" if self.head else str(self.scope["method"])

    @property
    def route(self) -> str | None:
        """The route template, such as `/items/{item_id}`. None if no route matched or routing did not run."""
        template: str | None = self.scope.get("path_template")
        return template

    @staticmethod
    def of(scope: Any) -> "Exchange":
        exchange: Exchange = scope["state"]["exchange"]
        return exchange

    def mark_long_running(self) -> None:
        """Exempt this request from the limit and the deadline; the caller enforces its own."""
        self._admission.exempt(self)
        self.scope["state"]["long_running"] = True

    async def time_out(self) -> None:
        """Reply in place of the handler, which is not cancelled and may still commit."""
        await self.replace_reply(TimedOut())

    async def reject_write(self) -> None:
        """Reply in place of a handler that writes, and cancel it; it may have committed."""
        if self.writer is not None and not self.status:
            await self.replace_reply(DatabaseUnavailable())
            self.cancelled = self.writer.cancel()

    async def replace_reply(self, fault: Fault) -> None:
        """Reply in place of the handler, if it has not replied."""
        if not self.status:
            self.timed_out = True
            await self.send_error(fault)

    async def send(self, message: Message) -> None:
        """Forward a message of the application, unless the request timed out."""
        if not self.timed_out:
            if message["type"] == "http.response.start":
                self._start_reply(message)
            await self._send(message)

    def _start_reply(self, message: Any) -> None:
        """Note the reply's status and error code, and add the headers that every reply has."""
        self.status, names = message["status"], dict(message["headers"])
        if self.status >= 400:
            self.code = names.get(b"x-error-code", b"").decode() or None
        headers = [*message["headers"], (b"x-request-id", self.request_id.encode()), NOSNIFF]
        headers += self.scope["state"].get("headers", ())  # rate-limit headers
        if "user" in self.scope and b"cache-control" not in names:
            headers.append(NO_STORE)
        if self._close_connection:
            headers.append(CLOSE)
        message["headers"] = headers

    def error_fields(self, fault: Fault) -> dict[str, Any]:
        return error_fields(fault, path=self.path, request_id=self.request_id)

    async def send_error(self, fault: Fault) -> None:
        rendered = render(fault, path=self.path, request_id=self.request_id, accept=self.accept)
        await self.send_reply(rendered.status, rendered.headers, rendered.body)

    async def send_reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        if status != 204:
            headers = {**headers, "Content-Length": str(len(body))}
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        start: Any = {"type": "http.response.start", "status": status, "headers": raw}
        self._start_reply(start)
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
