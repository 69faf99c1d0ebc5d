"""uvicorn with draining, and worker processes that share a socket."""

import asyncio
import contextlib
import gc
import multiprocessing.connection
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import cast

import structlog
import uvicorn
from litestar import Litestar
from prometheus_client.multiprocess import mark_process_dead

from service.app import components_of, create_app
from service.observability.logs import configure_logs
from service.observability.metrics import use_shared_directory
from service.server.acceptor import Acceptor
from service.server.connections import BACKLOG, ConnectionLimit, fit_connections
from service.server.http_protocol import HttpProtocol
from service.server.start_queue import StartQueue
from service.settings import Settings, StartupError, os_reason

log = structlog.get_logger()

RESPAWN_SECONDS = 1.0
"""Delay before a dead worker is replaced, so that crashes at startup do not use a full core."""


EXPIRY_INTERVAL_SECONDS = 1.0
COLLECTION_THRESHOLD = 250_000
"""Number of new objects that starts a collection: more than 1,000 requests in flight have."""


class Server(uvicorn.Server):
    """Server with graceful shutdown.

    On SIGTERM readiness fails immediately, requests are served for `drain_seconds`, then the server exits. A
    second signal skips the drain.
    """

    def __init__(
        self, app: Litestar, settings: Settings, on_started: Callable[[], None] | None = None
    ) -> None:
        self._connection_limit = ConnectionLimit(fit_connections(settings))
        self._keepalive_seconds = settings.keepalive_seconds
        protocol = partial(HttpProtocol, connection_limit=self._connection_limit, start_queue=StartQueue())
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=cast("type[HttpProtocol]", protocol),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_seconds)),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._probe = components_of(app).probe
        self._drain_seconds = settings.drain_seconds
        self._on_started = on_started
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._acceptors = [Acceptor(listener, self._create_protocol) for listener in sockets or []]
        self._expire_connections()
        self.settle_garbage_collector()
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        log.info("listening", host=host, port=port)
        if self._on_started is not None:
            self._on_started()

    def _expire_connections(self) -> None:
        self._connection_limit.expire(time.monotonic(), self._keepalive_seconds)
        asyncio.get_running_loop().call_later(EXPIRY_INTERVAL_SECONDS, self._expire_connections)

    def settle_garbage_collector(self) -> None:
        """Collect rarely, and never the objects created at startup (decision 0020)."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECTION_THRESHOLD)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        forced = self._probe.draining or sig == signal.SIGINT
        self._probe.draining = True
        if forced:
            self.should_exit = True
        else:
            asyncio.get_running_loop().call_later(self._drain_seconds, self._exit)

    def _create_protocol(self) -> asyncio.Protocol:
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _exit(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install signal handlers.

        Unlike uvicorn's, the signal is not raised again: a requested stop is not a failure.
        """
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `_start_worker`
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def bind(settings: Settings) -> socket.socket:
    """Bind the listening socket. Raises `StartupError` if the address is not available."""
    try:
        addresses = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, *_, address = addresses[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        why = os_reason(error) if isinstance(error, OSError) else "not a valid host name"
        raise StartupError(f"cannot listen on {settings.host}:{settings.port}: {why}") from None


def serve(settings: Settings, listener: socket.socket, on_started: Callable[[], None] | None = None) -> None:
    """Serve in this process until a signal ends it."""
    Server(create_app(settings), settings, on_started).run(sockets=[listener])


def serve_workers(settings: Settings, listener: socket.socket, workers: int) -> None:
    """Serve in `workers` processes on one socket.

    A dead worker is replaced, and its successor continues its metric counters.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[int, BaseProcess] = {}
    stopping = False

    def stop(sig: int, _: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for process in processes.values():
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, sig)

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, stop)
    with tempfile.TemporaryDirectory(
        prefix="depot-metrics-", ignore_cleanup_errors=True
    ) as metrics_directory:
        while not stopping:
            for slot in range(workers):
                if stopping or (slot in processes and processes[slot].is_alive()):
                    continue
                mark_process_dead(slot, metrics_directory)
                started = context.Process(
                    target=_worker_main, args=(settings, listener, metrics_directory, slot)
                )
                _start_worker(started)
                processes[slot] = started
                if stopping:  # the signal arrived before this process was registered
                    started.terminate()
            multiprocessing.connection.wait([process.sentinel for process in processes.values()])
            for slot, process in processes.items():
                if not process.is_alive():
                    mark_process_dead(slot, metrics_directory)
            time.sleep(0 if stopping else RESPAWN_SECONDS)
        for process in processes.values():
            process.join()


def _start_worker(worker: BaseProcess) -> None:
    """Start a worker in which SIGINT is blocked until its server handles it.

    Ctrl-C interrupts all processes of a terminal. It would end a worker that is still importing with a
    traceback.
    """
    resource_tracker.ensure_running()  # starting it unblocks the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _worker_main(settings: Settings, listener: socket.socket, metrics_directory: str, slot: int) -> None:
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    configure_logs(settings.log, settings.secrets())
    use_shared_directory(metrics_directory, slot)
    serve(settings, listener)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        shutil.rmtree(metrics_directory, ignore_errors=True)


def _stop_with_parent() -> None:
    """Stop with the parent process; otherwise the worker would keep serving without a supervisor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
