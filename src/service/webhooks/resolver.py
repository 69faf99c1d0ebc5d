"""Resolve host names, each in its own thread, so that a slow lookup does not delay others.

The event loop's resolver shares four threads with everything else, including new database connections.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

from service.webhooks.address_filter import AddressInfo


class Resolver:
    """Uses the system's resolver. Concurrent lookups of one name share a thread."""

    def __init__(self, lookup: Callable[..., Any] = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._running: dict[tuple[str, int], Future[list[AddressInfo]]] = {}

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """Return the addresses of a host. Raises `OSError` if there are none."""
        outcome = self._running.get((host, port)) or self._start(host, port)
        return await asyncio.wrap_future(outcome)

    def _start(self, host: str, port: int) -> "Future[list[AddressInfo]]":
        outcome = self._running[host, port] = Future()
        outcome.set_running_or_notify_cancel()  # the caller may be cancelled; the lookup continues

        def run() -> None:
            try:
                addresses = self._lookup(host, port, 0, socket.SOCK_STREAM)
            except Exception as error:  # any error is the result of the lookup
                self._running.pop((host, port))
                outcome.set_exception(error)
            else:
                self._running.pop((host, port))
                outcome.set_result(addresses)

        Thread(target=run, name=f"resolve {host}", daemon=True).start()  # a daemon does not delay the exit
        return outcome
