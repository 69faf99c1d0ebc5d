"""A throw-away Redis that can be stopped and started again."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

PROGRAM = shutil.which("redis-server")
START_SECONDS = 20.0


@contextmanager
def redis_server(home: Path, port: int) -> Iterator[str]:
    """Run Redis on a port of loopback, and yield its URL."""
    process = subprocess.Popen(
        [str(PROGRAM), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(home)],
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    deadline = monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert monotonic() < deadline
            sleep(0.02)
        else:
            return
