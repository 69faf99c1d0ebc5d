"""`python -c CODE` in a process forked from `fork_server.py`, for the workers of pytest-xdist.

It imports little, because it runs before each of them.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping

ADDRESS = "TEST_FORK_SERVER"
"""The environment variable that tells a forked process where its fork server listens."""
STATUS_BYTES = 4


def connect(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(f"\0{address}")
    return connection


def request_start(server: socket.socket, args: list[str], env: Mapping[str, str], files: list[int]) -> int:
    """Start a process with three standard files. Return its id. Its status is written to the fourth file."""
    request = {"args": args, "env": dict(env), "cwd": os.getcwd()}  # noqa: PTH109  # pathlib takes 20 ms
    socket.send_fds(server, [json.dumps(request).encode()], files)
    reply = server.recv(32)
    assert reply, "the fork server has ended"
    return int(reply)


def main() -> None:
    _, address, *_, code = sys.argv
    status, status_writer = os.pipe()
    with connect(address) as server:
        environment = os.environ | {ADDRESS: address}
        request_start(server, ["-c", code], environment, [0, 1, 2, status_writer])
    for file in (0, 1, status_writer):  # the process that reads sees the end of the forked one
        os.close(file)
    sys.exit(int.from_bytes(os.read(status, STATUS_BYTES), "big", signed=True))


if __name__ == "__main__":
    main()
