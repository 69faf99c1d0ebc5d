"""Acceptance of many connections per turn of the event loop.

uvloop accepts one per turn. Under load a turn takes tens of milliseconds, so a thousand new connections
delayed the next one, such as that of a health check, by more than ten seconds.
"""

import asyncio
import socket
from asyncio import BaseProtocol, Task
from collections.abc import Callable
from typing import Any

ACCEPTED_PER_TURN = 32
"""More would give one of several processes that share a listener too many connections."""


class Acceptor:
    """Accepts connections beside uvloop, on the same listening socket."""

    def __init__(self, listener: socket.socket, create_protocol: Callable[[], BaseProtocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener.dup()
        self._listener.setblocking(False)
        self._create_protocol = create_protocol
        self._tasks: set[Task[Any]] = set()
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_PER_TURN):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # none is waiting, or too many files are open, which uvloop handles
                return
            connection.setblocking(False)
            attached = self._loop.connect_accepted_socket(self._create_protocol, connection)
            task = self._loop.create_task(attached)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
