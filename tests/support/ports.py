"""Ports of this machine, and servers of other programs that listen there."""

import socket
from time import monotonic, sleep

START_SECONDS = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for_listener(port: int) -> None:
    """Return once a process accepts connections on the port."""
    deadline = monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert monotonic() < deadline, f"no process listens on port {port}"
            sleep(0.02)
        else:
            return
