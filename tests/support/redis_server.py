"""A throw-away Redis that can be stopped and started again."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import wait_for_listener
from tests.support.requirements import find_program

PROGRAM = find_program("redis-server")


@contextmanager
def redis_server(home: Path, port: int) -> Iterator[str]:
    """Run Redis on a port of loopback, and yield its URL."""
    process = subprocess.Popen(
        [str(PROGRAM), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(home)],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_listener(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()
