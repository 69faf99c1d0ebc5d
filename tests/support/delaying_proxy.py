"""A TCP proxy on loopback that delays every byte, as a distant network does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

from tests.support.ports import free_port


@asynccontextmanager
async def delaying_proxy(port: int, round_trip_seconds: float) -> AsyncIterator[int]:
    """Forward to `port` until the block ends; yield the proxy's own port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(writer):
            await asyncio.sleep(round_trip_seconds)  # the handshake of TCP
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as group:
                group.create_task(_forward(reader, server_writer, round_trip_seconds / 2))
                group.create_task(_forward(server_reader, writer, round_trip_seconds / 2))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    own_port = free_port()
    async with await asyncio.start_server(accept, "127.0.0.1", own_port) as server:
        yield own_port
        server.close()
        await asyncio.sleep(round_trip_seconds)  # a connection that was just made becomes a task first
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def receive() -> None:
        data = b"-"
        while data:
            try:
                data = await reader.read(65536)
            except ConnectionError:
                data = b""
            chunks.put_nowait((loop.time() + delay_seconds, data))

    async def send() -> None:
        while True:
            due_at, data = await chunks.get()
            await asyncio.sleep(due_at - loop.time())
            if not data:
                break
            writer.write(data)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(receive())
            group.create_task(send())
    finally:
        writer.close()
