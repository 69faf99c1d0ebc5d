"""An HTTP/1.1 client for webhooks, which accepts a status even if the rest of the reply is malformed.

HTTP libraries reject a reply with a large header, many headers, excess bytes or a repeated `Content-Length`,
although its status says that the receiver has accepted the event, and they normalize the URL.
"""

import asyncio
import re
import socket
import ssl
from asyncio import StreamReader, StreamWriter, TimerHandle
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from aiohappyeyeballs import start_connection
from msgspec import Struct

from service.webhooks.address_filter import AddressInfo
from service.webhooks.resolver import Resolver
from service.webhooks.url import WebhookUrl

STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?![0-9])")
REPLY_BYTES_MAX = 65_536
"""How much of a reply is read, so that its connection can be reused; only the status matters."""
BODY_SECONDS = 1.0
"""How long the rest of a reply may take; a connection with a slower one is not reused."""
IDLE_SECONDS = 15.0
HAPPY_EYEBALLS_SECONDS = 0.25
"""The head start of one address before the next is tried (RFC 8305 §5)."""


class InvalidReply(Exception):
    """The reply does not start with a status line."""


class Reply(Struct):
    """The part of a reply that has arrived so far."""

    status: int | None = None
    headers: list[tuple[bytes, bytes]] = []

    def values(self, name: bytes) -> set[bytes]:
        return {value for other, value in self.headers if other == name}


class Connection(Struct, eq=False):
    reader: StreamReader
    writer: StreamWriter
    expiry: TimerHandle | None = None


class HttpClient:
    """Sends one request at a time over each connection, and reuses idle connections."""

    def __init__(self, socket_factory: Callable[[AddressInfo], socket.socket] | None) -> None:
        self._socket_factory = socket_factory
        self._resolver = Resolver()
        self._tls = ssl.create_default_context()
        self._idle: defaultdict[tuple[str, str, int], list[Connection]] = defaultdict(list)

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()

    async def post(self, url: WebhookUrl, headers: dict[str, str], body: bytes, reply: Reply) -> None:
        """Send a request and set the fields of `reply` as they arrive. Raises if there is no status.

        A reused connection may turn out to be closed by the receiver, so that a new one is tried once.
        """
        head = {"Host": url.authority, "Content-Length": str(len(body)), **headers}
        lines = [f"POST {url.target} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
        if (connection := self._take_idle(url)) is not None:
            with suppress(OSError, EOFError, InvalidReply):
                return await self._exchange(url, connection, request, reply)
        return await self._exchange(url, await self._connect(url), request, reply)

    async def _exchange(self, url: WebhookUrl, connection: Connection, request: bytes, reply: Reply) -> None:
        reusable = False
        try:
            connection.writer.write(request)
            reply.status = await _read_status(connection.reader)
            with suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                reusable = await _read_rest(connection.reader, reply)
        finally:
            if reusable:
                self._store_idle(url, connection)
            else:
                connection.writer.close()

    async def _connect(self, url: WebhookUrl) -> Connection:
        addresses = await self._resolver.resolve(url.host, url.port)
        connected = await start_connection(
            addresses,
            happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS,
            interleave=1,
            socket_factory=self._socket_factory,
        )
        tls, server_name = (self._tls, url.host.rstrip(".")) if url.scheme == "https" else (None, None)
        try:
            reader, writer = await asyncio.open_connection(
                sock=connected, limit=REPLY_BYTES_MAX, ssl=tls, server_hostname=server_name
            )
        except BaseException:
            connected.close()
            raise
        return Connection(reader, writer)

    def _store_idle(self, url: WebhookUrl, connection: Connection) -> None:
        origin = (url.scheme, url.host, url.port)
        self._idle[origin].append(connection)

        def expire() -> None:
            self._remove(origin, connection)
            connection.writer.close()

        connection.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, expire)

    def _take_idle(self, url: WebhookUrl) -> Connection | None:
        """Return an idle connection that is not known to be closed."""
        origin = (url.scheme, url.host, url.port)
        while connections := self._idle.get(origin):
            connection = connections[-1]
            self._remove(origin, connection)
            if connection.expiry is not None:
                connection.expiry.cancel()
            if not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.writer.close()
        return None

    def _remove(self, origin: tuple[str, str, int], connection: Connection) -> None:
        self._idle[origin].remove(connection)
        if not self._idle[origin]:
            del self._idle[origin]


async def _read_status(reader: StreamReader) -> int:
    """Return the final status. Raises `EOFError` if the connection ends before it."""
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # the line is longer than the reader's limit
            raise InvalidReply from None
        if not line:
            raise EOFError
        match = STATUS_LINE.match(line)
        if match is None:
            raise InvalidReply
        status = int(match[1])
        if status >= 200 or status == 101:  # 1xx replies are interim (RFC 9110 §15.2)
            return status
        while (await reader.readline()).strip():
            pass


async def _read_rest(reader: StreamReader, reply: Reply) -> bool:
    """Read headers and body, and return whether the connection can be reused."""
    remaining = REPLY_BYTES_MAX
    reply.headers = []
    while line := (await reader.readline()).strip():
        remaining -= len(line)
        if remaining < 0:
            return False
        name, _, value = line.partition(b":")
        reply.headers.append((name.lower(), value.strip()))
    async with asyncio.timeout(BODY_SECONDS):
        return await _read_body(reader, reply)


async def _read_body(reader: StreamReader, reply: Reply) -> bool:
    lengths, codings = reply.values(b"content-length"), reply.values(b"transfer-encoding")
    if codings == {b"chunked"} and not lengths:
        # Reads up to the end of the last chunk. If a chunk happens to contain these bytes, its rest makes the
        # next reply invalid, and then a new connection is tried.
        await reader.readuntil(b"0\r\n\r\n")
    elif reply.status in {204, 304}:
        pass
    elif len(lengths) == 1 and (length := lengths.pop()).isdigit() and int(length) <= REPLY_BYTES_MAX:
        await reader.readexactly(int(length))
    else:
        await reader.read(REPLY_BYTES_MAX)
        return False
    return not codings - {b"chunked"} and b"close" not in {v.lower() for v in reply.values(b"connection")}
