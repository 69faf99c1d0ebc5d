"""Clients of `make overload`, each on a persistent connection, which send a request after each reply.

Rejected clients wait as long as `Retry-After` says, or do not wait. All run in one process on one event loop,
so that they cost little compared with the service.
"""

import argparse
import asyncio
import json
import sys
from asyncio import Protocol, Transport
from time import perf_counter

import uvloop

SETTLING_SECONDS = 3.0


class Client(Protocol):
    """A connection that records the status and the milliseconds of every reply."""

    def __init__(self, request: bytes, *, patient: bool) -> None:
        self._request = request
        self._patient = patient
        self._unread = b""
        self._sent = 0.0
        self.replies: list[tuple[int, float]] = []
        self.lost = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # the narrower one
        self._transport = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, separator, body = self._unread.partition(b"\r\n\r\n")
        if not separator or len(body) < _number(head, b"content-length"):
            return
        self._unread = b""
        status = int(head[9:12])
        self.replies.append((status, (perf_counter() - self._sent) * 1000))
        if status == 503 and self._patient:
            asyncio.get_running_loop().call_later(_number(head, b"retry-after"), self._ask)
        else:
            self._ask()

    def _ask(self) -> None:
        self._sent = perf_counter()
        self._transport.write(self._request)


def _number(head: bytes, name: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\n" + name + b": ")
    return int(rest.partition(b"\r\n")[0])


async def asked(host: str, port: int, request: bytes, count: int, seconds: float, *, patient: bool) -> object:
    """Return the replies that arrive after the warm-up."""
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(request, patient=patient), host, port))[1]
        for _ in range(count)
    ]
    await asyncio.sleep(SETTLING_SECONDS)
    for client in clients:
        client.replies.clear()
    await asyncio.sleep(seconds)
    replies = [reply for client in clients for reply in client.replies]
    return {"replies": replies, "lost": sum(client.lost for client in clients)}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--host", required=True)
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--clients", type=int, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--patient", action="store_true")
    given = options.parse_args()
    request = sys.stdin.buffer.read()
    work = asked(given.host, given.port, request, given.clients, given.seconds, patient=given.patient)
    json.dump(uvloop.run(work), sys.stdout)


if __name__ == "__main__":
    main()
