"""Looks up host names, each in a thread of its own: one that hangs holds up no other.

The loop's own look-ups share four threads with everything else, new connections to the database too.
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
    """Asks the system. aiohttp asks for one name once at a time, so there is one thread for each at most."""

    def __init__(self, look_up: Callable[..., list[Any]] = socket.getaddrinfo) -> None:
        self._look_up = look_up

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `OSError` if there is no such name."""
        outcome: Future[list[Any]] = Future()
        outcome.set_running_or_notify_cancel()  # whoever waits may leave; the look-up goes on

        def run() -> None:
            try:
                outcome.set_result(self._look_up(host, port, family, socket.SOCK_STREAM))
            except Exception as error:  # whatever it is, it is the answer
                outcome.set_exception(error)

        Thread(target=run, name=f"look up {host}", daemon=True).start()  # and does not delay the end
        return [
            ResolveResult(
                hostname=host, host=address[0], port=port, family=found, proto=protocol, flags=NUMERIC
            )
            for found, _, protocol, _, address in await asyncio.wrap_future(outcome)
        ]

    async def close(self) -> None:
        """Nothing is kept."""
