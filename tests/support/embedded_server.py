"""A PostgreSQL server for one test, which can be suspended and stopped."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from service.database.embedded import EmbeddedServer


class Server:
    """An embedded PostgreSQL server and its processes."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the server: it neither replies nor closes connections, as behind a broken network."""
        processes = self.processes()
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
        postmaster, *_ = self.processes()
        postmaster.send_signal(signal.SIGINT)
        postmaster.wait(timeout=10)
        try:
            yield
        finally:
            EmbeddedServer(self.home / "postgres").start()

    def processes(self) -> list[psutil.Process]:
        pid = int((self.home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]
