"""uvicorn's HTTP/1.1 protocol with timeouts, limits and the error contract.

It adds read and write timeouts, limits on request heads and connections, and error replies for input that
never reaches the application: malformed HTTP and shed requests.
"""

from asyncio import Event, TimerHandle, Transport
from functools import partial
from time import perf_counter
from typing import Any, cast
from urllib.parse import unquote

import uvicorn
from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.app import components_of
from service.errors import BadRequest, Fault, HeadTooLarge, Overloaded, RequestTimeout, render
from service.http.head import RequestHead
from service.http.middleware import SHEDDING_EXEMPT_PATHS
from service.server.buffered_transport import BufferedTransport
from service.server.connections import ConnectionLimit
from service.server.cycle import Cycle
from service.server.http10 import delimit_by_close
from service.server.request_rewrites import with_known_method, without_upgrade
from service.server.start_queue import StartQueue

UNKNOWN_METHOD = "_OTHER"
SHEDDING_EXEMPT_TARGETS = tuple(path.encode() for path in SHEDDING_EXEMPT_PATHS)
PATH_LENGTH_MAX = 2048
"""Maximum path length in an error reply: the reply to a target that is too large is small."""


class HttpProtocol(HttpToolsProtocol):
    """One client connection. Its limits come from the settings."""

    # With more than 30 attributes of its own, an object has a dictionary that is several times as large.
    __slots__ = (
        *("_active_cycle", "_admission", "_buffered_bytes", "_connection_limit", "_has_upgrade"),
        *("_head_may_be_too_large", "_in_head", "_incomplete", "_metrics", "_read_timer", "_rejection"),
        *("_request_start", "_settings", "_start_queue", "_unknown_method", "_write_timer"),
    )

    def __init__(
        self,
        config: uvicorn.Config,
        *args: Any,
        connection_limit: ConnectionLimit,
        start_queue: StartQueue,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, *args, **kwargs)
        self._connection_limit = connection_limit
        self._start_queue = start_queue
        components = components_of(cast("Litestar", config.app))
        self._settings = components.settings
        self._admission = components.admission
        self._metrics = components.metrics
        self.url = b""
        self.headers = []
        self._in_head = True
        self._incomplete = False
        self._buffered_bytes = 0
        """Bytes buffered by the parser: part of a head, or other data that it has not reported."""
        self._head_may_be_too_large = False
        self._rejection: Fault | None = None
        self._request_start = b""
        """The latest data, if it starts a request whose head is not parsed yet."""
        self._unknown_method = False
        self._has_upgrade = False
        """The parser stops after a head with an upgrade, which is then parsed again without it."""
        self._active_cycle: RequestResponseCycle | None = None
        """The request being handled; `cycle` is the last pipelined one."""
        self._read_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(BufferedTransport(transport, self.loop, self._admission.is_busy))
        self._start_read_timer()
        self._connection_limit.mark_idle(self)
        full = len(self.connections) > self._connection_limit.maximum
        if full and not self._connection_limit.make_room(self):
            self._reject(Overloaded("Too many connections are open"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_read_timer()
        self._stop_write_timer()
        self._connection_limit.mark_busy(self)
        if self._rejection is None:  # closed by the client, which therefore does not wait on this connection
            self._admission.end_wait(self.client)
        self._disconnect_cycle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._rejection is not None:
            return
        self._request_start = b"" if self._incomplete else data
        self._buffered_bytes += len(data)
        self._head_may_be_too_large = self._buffered_bytes > self._settings.head_bytes_max
        rest: memoryview | None = memoryview(data)
        while rest is not None:
            rest = self._parse(rest)
        if self._buffered_bytes > self._settings.head_bytes_max and self._rejection is None:
            self._reject(HeadTooLarge())
        elif not self._incomplete:
            self._stop_read_timer()
        elif self._read_timer is None:
            self._start_read_timer()

    def on_message_begin(self) -> None:
        self._in_head = self._incomplete = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are ignored: they must not be treated as headers (RFC 9110 §6.5.1)
            super().on_header(name, value.rstrip(b" \t"))  # the parser keeps trailing whitespace (§5.5)

    def on_headers_complete(self) -> None:
        self._request_start = b""
        self._connection_limit.mark_busy(self)
        self._admission.end_wait(self.client)
        if self._head_may_be_too_large and self._head_bytes() > self._settings.head_bytes_max:
            self._reject(HeadTooLarge())
            raise ValueError  # stops the parser
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError  # stops the parser
            self._has_upgrade = True
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._admission.full and not self.url.startswith(SHEDDING_EXEMPT_TARGETS):
            self._in_head, self._buffered_bytes = False, 0
            self._shed()
            return
        super().on_headers_complete()  # raises for an invalid target, which then has no cycle
        if self._unknown_method:
            self.scope["method"], self._unknown_method = UNKNOWN_METHOD, False
        self._in_head, self._buffered_bytes = False, 0

    def on_body(self, body: bytes) -> None:
        self._buffered_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._has_upgrade:
            return
        self._in_head, self._incomplete, self._buffered_bytes = True, False, 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._release_request()

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._rejection is not None:
            self._write_error_and_close(self._rejection)
        else:
            self._connection_limit.mark_idle(self)
            if not self._incomplete:
                self._release_request()

    def _release_request(self) -> None:
        """Free the answered request now; otherwise it would live until the connection's next one."""
        self.scope, self.headers = cast("Any", None), []
        self.cycle, self._active_cycle = FINISHED_CYCLE, None

    def expire(self) -> None:
        if self._incomplete or self.cycle is None:
            return  # the next request, or the first one, has a timeout of its own
        if self.transport.get_write_buffer_size():  # the client has not read the last reply, and never will
            self.transport.abort()
        else:
            self.transport.close()

    def close_idle(self) -> None:
        """Make room for another connection."""
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._settings.write_timeout_seconds, self._on_write_timeout)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def _parse(self, data: memoryview) -> memoryview | None:
        """Parse `data`. If the parser must be replaced, return the data for the next one."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            return self._ignore_upgrade(data[upgrade.args[0] :])
        except HttpParserInvalidMethodError:
            return self._replace_unknown_method()
        except HttpParserError:
            self._reject_malformed()
        return None

    def _ignore_upgrade(self, rest: memoryview) -> memoryview | None:
        """Parse the head again without its upgrade."""
        version = self.parser.get_http_version().encode()
        head = without_upgrade(self.parser.get_method() + b" " + self.url + b" HTTP/" + version, self.headers)
        self.parser, self._has_upgrade = HttpRequestParser(self), False
        self._parse(memoryview(head))
        return rest if self._rejection is None else None

    def _replace_unknown_method(self) -> memoryview | None:
        """Return the request under a known method, so that the application answers 405 for a valid one."""
        request = with_known_method(self._request_start)
        if request is None:
            self._reject_malformed()
            return None
        self.parser, self._unknown_method = HttpRequestParser(self), True
        self._request_start, self._incomplete, self._buffered_bytes = b"", False, len(request)
        return memoryview(request)

    def _reject_malformed(self) -> None:
        if self._rejection is None:
            self._reject(BadRequest("The request is not valid HTTP"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = Cycle  # uvicorn has no other way to choose the class
        self._active_cycle = cycle
        self._admission.expect()
        cycle.scope["state"]["parsed_at"] = perf_counter()
        if cycle.scope["http_version"] == "1.0":
            app = delimit_by_close(cycle, app)
        start = partial(super()._start_asgi_task, cycle, app)
        if cycle.scope["path"].startswith(SHEDDING_EXEMPT_PATHS):
            start()
        else:
            self._start_queue.add(start)

    def _start_read_timer(self) -> None:
        self._read_timer = self.loop.call_later(self._settings.read_timeout_seconds, self._on_read_timeout)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _on_read_timeout(self) -> None:
        """Handle the end of the time in which a complete request must arrive."""
        self._read_timer = None
        if not self._incomplete:
            self.transport.close()
        elif self._in_head or not self.scope["state"].get("long_running"):
            self._reject(RequestTimeout())

    def _on_write_timeout(self) -> None:
        self._disconnect_cycle()
        self.transport.abort()

    def _disconnect_cycle(self) -> None:
        """Mark the client as disconnected, so that the application does not write to a closed transport."""
        if self._active_cycle is not None and not self._active_cycle.response_complete:
            self._active_cycle.disconnected = True
            self._active_cycle.message_event.set()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _reject(self, fault: Fault) -> None:
        """Stop reading, and reply with `fault` after all earlier requests of this connection are answered.

        Replies stay in order.
        """
        self._rejection, cycle = fault, self.cycle
        if not self._in_head and self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # its body is malformed, and an earlier request is still running
        elif self._in_head and (cycle is None or cycle.response_complete):
            self._write_error_and_close(fault)
        elif not self._in_head and cycle.response_started:
            self.transport.close()  # its reply has started, so no second one may follow
        elif not self._in_head:
            self._disconnect_cycle()
            self._write_error_and_close(fault)

    def _write_error_and_close(self, fault: Fault) -> None:
        if not self.transport.is_closing():
            self._write_error(fault, close=True)
            self.transport.close()

    def _shed(self) -> None:
        """Shed one request at no cost beyond parsing it."""
        self._admission.rejected += 1
        overloaded = Overloaded(headers=self._admission.retry_after(self.client))
        keep_alive = self.parser.should_keep_alive()
        if keep_alive and self.parser.get_http_version() != "1.0":
            self._write_error(overloaded, close=False)
            self.cycle = FINISHED_CYCLE
            self.on_response_complete()
            if self._admission.should_pause:
                self.flow.pause_reading()
                self._admission.pause(self._resume_reading)
        else:
            self._rejection, self.cycle = overloaded, FINISHED_CYCLE
            self._write_error_and_close(self._rejection)

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _write_error(self, fault: Fault, *, close: bool) -> None:
        path = unquote(self.url.partition(b"?")[0].decode("latin-1"))[:PATH_LENGTH_MAX]
        request = RequestHead(self.headers)
        self._metrics.count_rejection(fault.code, fault.status)
        rendered = render(fault, path=path, request_id=request.request_id, accept=request.accept)
        headers = {
            **rendered.headers,
            "Content-Length": str(len(rendered.body)),
            "X-Request-ID": request.request_id,
            **({"Connection": "close"} if close else {}),
        }
        head = b"".join(
            [
                STATUS_LINE[rendered.status],
                *(name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers),
                *(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()),
            ]
        )
        head_only = self.headers and self.parser.get_method() == b"HEAD"
        self.transport.write(head + b"\r\n" + (b"" if head_only else rendered.body))


class FinishedCycle:
    """A replacement for uvicorn's cycle of a request that has its reply, even if parts of it still arrive."""

    response_started = response_complete = True
    message_event = Event()


FINISHED_CYCLE = cast("RequestResponseCycle", FinishedCycle())
