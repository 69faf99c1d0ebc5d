"""Tests of when a reply is sent."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from service.server.buffered_transport import BUFFER_BYTES_MAX, BufferedTransport


@asynccontextmanager
async def connection(*, busy: bool) -> AsyncIterator[tuple[BufferedTransport, socket.socket]]:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    there.setblocking(False)
    with closing(there):
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, here)
        yield BufferedTransport(transport, loop, lambda: busy), there
        transport.abort()


async def test_a_single_reply_is_sent_immediately() -> None:
    async with connection(busy=False) as (transport, client):
        transport.write(b"reply")
        assert client.recv(100) == b"reply"


async def test_one_of_several_replies_is_sent_at_the_end_of_the_turn() -> None:
    async with connection(busy=True) as (transport, client):
        transport.write(b"one ")
        transport.write(b"reply")
        with pytest.raises(BlockingIOError):
            client.recv(100)
        await asyncio.sleep(0)
        assert client.recv(100) == b"one reply"


async def test_a_large_reply_is_sent_immediately() -> None:
    async with connection(busy=True) as (transport, client):
        transport.write(bytes(BUFFER_BYTES_MAX + 1))
        assert client.recv(100) == bytes(100)


async def test_a_reply_is_sent_before_its_connection_is_closed() -> None:
    async with connection(busy=True) as (transport, client):
        transport.write(b"reply")
        transport.close()
        assert client.recv(100) == b"reply"
