"""Resolve host names, each in its own thread, so that a slow lookup does not delay others.

The event loop's resolver shares four threads with everything else, including new database connections.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver(AbstractResolver):
    """Uses the system's resolver.

    aiohttp looks up a name once at a time, so there is at most one thread per name.
    """

    def __init__(self, lookup: Callable[..., list[Any]] = socket.getaddrinfo) -> None:
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises `OSError` if there are none."""
        outcome: Future[list[Any]] = Future()
        outcome.set_running_or_notify_cancel()  # the caller may be cancelled; the lookup continues

        def run() -> None:
            try:
                outcome.set_result(self._lookup(host, port, family, socket.SOCK_STREAM))
            except Exception as error:  # any error is the result of the lookup
                outcome.set_exception(error)

        Thread(target=run, name=f"resolve {host}", daemon=True).start()  # a daemon does not delay the exit
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=family_,
                proto=protocol,
                flags=NUMERIC,
            )
            for family_, _, protocol, _, address in await asyncio.wrap_future(outcome)
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
