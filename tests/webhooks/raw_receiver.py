"""A receiver on a raw socket: it sends exactly the bytes that a test gives it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager


class RawReceiver:
    """The requests that arrived, in bytes, and the number of connections."""

    def __init__(self, replies: Sequence[bytes], *, close_after: int | None) -> None:
        self.base_url = ""
        self.requests: list[bytes] = []
        self.connections = 0
        self.disconnected = asyncio.Event()
        """Set once the sender has closed a connection."""
        self._replies = replies
        self._close_after = close_after

    @property
    def targets(self) -> list[str]:
        return [request.split(b" ")[1].decode() for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        served = 0
        try:
            while self._close_after is None or served < self._close_after:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(self._replies[min(len(self.requests), len(self._replies) - 1)])
                self.requests.append(head)
                served += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            self.disconnected.set()


@asynccontextmanager
async def raw_receiver(*replies: bytes, close_after: int | None = None) -> AsyncIterator[RawReceiver]:
    """Answer each request with the next of `replies`, the last one again and again.

    A connection is closed without notice after `close_after` requests.
    """
    receiver = RawReceiver(replies, close_after=close_after)
    async with serving(receiver.serve) as receiver.base_url:
        yield receiver


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Run a server on a free port and yield its URL; at the end, close its connections."""
    handlers: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())  # type: ignore[arg-type]  # this code runs in a task
        try:
            await handle(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for handler in handlers:
        handler.cancel()
    await asyncio.gather(*handlers, return_exceptions=True)
