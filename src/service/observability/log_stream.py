"""The stream of log lines. A thread waits for a slow reader of the log, so that the event loop does not."""

import atexit
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from queue import SimpleQueue
from select import select
from threading import Lock, Thread
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

ATOMIC_BYTES_MAX = 4096
"""Up to this size, a write to a pipe is not mixed with those of other processes, and does not wait if the
pipe is ready (`PIPE_BUF` of Linux)."""
PENDING_CHUNKS_MAX = 1000
"""Chunks that wait for a slow reader, of about 4 KiB under load. Lines beyond them are lost."""
END_TIMEOUT_SECONDS = 1.0
"""Time for which the end of the process waits for the reader."""


class Chunk(Struct):
    """Lines that are written together."""

    text: bytes
    lines: int
    """The number of lines that are lost with all of the text."""
    written: int = 0

    @property
    def is_complete(self) -> bool:
        return self.written == len(self.text)


class LogStream:
    """Accepts lines without waiting, and passes them on in chunks.

    Lines are lost if the reader is gone or too slow, or if the disk is full. The next line that can be
    written says how many were lost.
    """

    def __init__(self, out: BinaryIO) -> None:
        # Not through its buffer, whose lock a write that blocks would hold when the process ends.
        self._out: Any = getattr(out, "raw", out)
        self._buffer = bytearray()
        self._chunks = SimpleQueue[Chunk | None]()
        self._unwritten = 0
        """The number of chunks that the thread has not written yet."""
        self._lost_lines = 0
        self._is_line_open = False
        """Whether only the beginning of the last line was written."""
        self._lock = Lock()
        self._thread: Thread | None = None
        atexit.register(self._end)

    def write(self, line: bytes) -> int:
        with self._lock:
            self._buffer += line
        return len(line)

    def flush(self) -> None:
        """Write what is buffered as one chunk.

        The thread writes it only if this would have to wait: each chunk that it gets costs 80 µs.
        """
        with self._lock:
            chunk = Chunk(bytes(self._buffer), self._buffer.count(b"\n"))
            self._buffer.clear()
            if self._unwritten >= PENDING_CHUNKS_MAX:
                self._lose(chunk)
                return
            if lost := self._lost_lines:
                self._lost_lines = 0
                self._accept(Chunk(_describe_lost(lost), lost))
            self._accept(chunk)

    def _accept(self, chunk: Chunk) -> None:
        """Write as much of a chunk as is possible without waiting, and leave the rest to the thread."""
        try:
            if not self._unwritten and len(chunk.text) <= ATOMIC_BYTES_MAX and self._is_ready():
                self._write(chunk)
        except (OSError, ValueError):
            self._lose(chunk)
        else:
            if not chunk.is_complete:
                self._pass_on(chunk)

    def _is_ready(self) -> bool:
        return bool(select([], [self._out], [], 0)[1])

    def _pass_on(self, chunk: Chunk) -> None:
        self._unwritten += 1
        self._chunks.put(chunk)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            with suppress(OSError, ValueError):  # the lines that it leaves are counted
                self._write_all(chunk)
            with self._lock:
                self._unwritten -= 1
                if not chunk.is_complete:
                    self._lose(chunk)

    def _write_all(self, chunk: Chunk) -> None:
        while not chunk.is_complete:
            if not self._write(chunk):  # another program that has the file open has made it non-blocking
                select([], [self._out], [])

    def _write(self, chunk: Chunk) -> int:
        """Write as much of a chunk as the file accepts; return the number of bytes."""
        if self._is_line_open:
            self._is_line_open = not self._out.write(b"\n")
        written = self._out.write(chunk.text[chunk.written :]) or 0
        chunk.written += written
        return written

    def _lose(self, chunk: Chunk) -> None:
        """Count the lines of a chunk that are not written completely."""
        written = chunk.text[: chunk.written]
        self._lost_lines += chunk.lines - written.count(b"\n")
        self._is_line_open |= written[-1:] not in {b"", b"\n"}

    def _end(self) -> None:
        self.flush()
        self._chunks.put(None)
        if self._thread is not None:
            self._thread.join(END_TIMEOUT_SECONDS)


def _describe_lost(count: int) -> bytes:
    lost = {"event": "log_lines_lost", "count": count, "level": "warning", "timestamp": datetime.now(UTC)}
    return msgspec.json.encode(lost) + b"\n"


@cache
def log_stream(out: BinaryIO) -> LogStream:
    """Return the stream that writes to a file. All lines of a file go through one."""
    return LogStream(out)
