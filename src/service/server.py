"""uvicorn, with what it lacks: draining, the error contract below HTTP, and workers that share a socket."""

import asyncio
import contextlib
import gc
import http.client
import multiprocessing.connection
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import structlog
import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.app import create_app
from service.errors import BadRequest, Fault, HeadTooLarge, render
from service.settings import Settings, StartError
from service.telemetry import configure_logs

log = structlog.get_logger()

BACKLOG = 2048
HEAD_BYTES_MAX = 32_768
"""Of a request's target and headers, then `HEAD_TOO_LARGE`; twice what load balancers let through."""
RESPAWN_SECONDS = 1.0
"""So that a worker that dies at its start does not keep a core busy."""


class Protocol(HttpToolsProtocol):
    """Answers what is not HTTP in the error contract too, and in its turn; no head grows without end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._held_bytes = 0
        self._refusal: Fault | None = None
        self._running: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None:  # uvicorn tells only the newest of pipelined requests
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._held_bytes += len(data)
        super().data_received(data)
        if self._held_bytes > HEAD_BYTES_MAX and self._refusal is None:
            self._refuse(HeadTooLarge())

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # or it is a trailer, which must not pass for a header (RFC 9110 §6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._held_bytes > HEAD_BYTES_MAX < _size(self.url, self.headers):
            self._refuse(HeadTooLarge())
            raise ValueError  # which stops the parser
        self._in_head = False
        self._held_bytes = 0
        super().on_headers_complete()
        if self.parser.should_upgrade():  # to nothing we know: what follows in the same packet would be lost
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._held_bytes = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if last and self._refusal is not None:
            self._write_refusal(self._refusal)

    def send_400_response(self, msg: str) -> None:
        if self._refusal is None:
            self._refuse(BadRequest(msg))

    def _refuse(self, fault: Fault) -> None:
        """Read no more, and answer what cannot be read after all that could be: replies keep their order."""
        self._refusal, cycle = fault, self.cycle
        if not self._in_head and self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # its body is broken, and the one before it is still at work
        elif self._in_head and (cycle is None or cycle.response_complete):
            self._write_refusal(fault)
        elif not self._in_head and cycle.response_started:
            self.transport.close()  # it has its answer, and must not get a second one
        elif not self._in_head:
            cycle.disconnected = True
            cycle.message_event.set()
            self._write_refusal(fault)

    def _write_refusal(self, fault: Fault) -> None:
        if self.transport.is_closing():
            return
        request_id = secrets.token_hex(16)
        rendered = render(fault, path="", request_id=request_id)
        headers = {
            **rendered.headers,
            "Content-Length": str(len(rendered.body)),
            "Connection": "close",
            "X-Request-ID": request_id,
        }
        reason = http.client.responses[fault.status]
        lines = [
            f"HTTP/1.1 {fault.status} {reason}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + rendered.body)
        self.transport.close()


def _size(url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) for name, value in headers)


class Server(uvicorn.Server):
    """On SIGTERM: not ready at once, served on for `drain_seconds`, then ended. A second signal hurries."""

    def __init__(
        self, app: Litestar, settings: Settings, on_started: Callable[[], None] | None = None
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keepalive_seconds,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_seconds)),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._probe = app.state.probe
        self._drain_seconds = settings.drain_seconds
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is here now stays: a full collection of it stopped the loop for 100 ms every few seconds.
        gc.collect()
        gc.freeze()
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        log.info("listening", host=host, port=port)
        if self._on_started is not None:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        hurried = self._probe.draining or sig == signal.SIGINT
        self._probe.draining = True
        if hurried:
            self.should_exit = True
        else:
            asyncio.get_running_loop().call_later(self._drain_seconds, self._end)

    def _end(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, does not raise the signal again: an ordered stop is no failure."""
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def bind(settings: Settings) -> socket.socket:
    """Raises `StartError` when the address cannot be had."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, *_, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None


def serve(settings: Settings, listener: socket.socket, on_started: Callable[[], None] | None = None) -> None:
    """Serve in this process until a signal ends it."""
    Server(create_app(settings), settings, on_started).run(sockets=[listener])


def serve_many(settings: Settings, listener: socket.socket, workers: int) -> None:
    """Serve in `workers` processes on one socket; a worker that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    stopping = False

    def stop(sig: int, _: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, sig)

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, stop)
    while not stopping:
        processes[:] = [process for process in processes if process.is_alive()]
        while len(processes) < workers and not stopping:
            started = context.Process(target=_work, args=(settings, listener))
            started.start()
            processes.append(started)
            if stopping:  # the signal came before this one was on the list
                started.terminate()
        multiprocessing.connection.wait([process.sentinel for process in processes])
        time.sleep(0 if stopping else RESPAWN_SECONDS)
    for process in processes:
        process.join()


def _work(settings: Settings, listener: socket.socket) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    configure_logs(settings.log)
    serve(settings, listener)


def _follow_parent() -> None:
    """A worker whose parent was killed would go on serving where nobody can stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
