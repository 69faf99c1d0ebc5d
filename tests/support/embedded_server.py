"""A PostgreSQL server for one test, which can be suspended and stopped."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.database.embedded import EmbeddedServer
from tests.support.postgres_nodes import server_processes


class Server:
    """An embedded PostgreSQL server and its processes."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.data = home / "postgres"
        self.url = url

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the server: it neither replies nor closes connections, as behind a broken network."""
        processes = server_processes(self.data)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop the server: connections are refused."""
        postmaster, *_ = server_processes(self.data)
        postmaster.send_signal(signal.SIGINT)
        postmaster.wait(timeout=10)
        try:
            yield
        finally:
            EmbeddedServer(self.data).start()
