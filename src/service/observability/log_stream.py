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

ATOMIC_BYTES_MAX = 4096
"""Up to this size, a write to a pipe is not mixed with those of other processes, and does not wait if the
pipe is ready (`PIPE_BUF` of Linux)."""
PENDING_CHUNKS_MAX = 1000
"""Chunks that wait for a slow reader, of about 4 KiB under load. Lines beyond them are lost."""
END_TIMEOUT_SECONDS = 1.0
"""Time for which the end of the process waits for the reader."""


class LogStream:
    """Accepts lines without waiting, and passes them on in chunks.

    The first line after lost ones says how many were lost.
    """

    def __init__(self, out: BinaryIO) -> None:
        # Not through its buffer, whose lock a write that blocks would hold when the process ends.
        self._out: Any = getattr(out, "raw", out)
        self._buffer = bytearray()
        self._chunks = SimpleQueue[bytes | None]()
        self._unwritten = 0
        """The number of chunks that the thread has not written yet."""
        self._lost_lines = 0
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
            chunk = bytes(self._buffer)
            self._buffer.clear()
            if self._unwritten >= PENDING_CHUNKS_MAX:
                self._lost_lines += chunk.count(b"\n")
            elif rest := self._write_now(self._describe_lost() + chunk):
                self._pass_on(rest)

    def _write_now(self, chunk: bytes) -> bytes:
        """Write as much of a chunk as is possible without waiting; return the rest."""
        if self._unwritten or len(chunk) > ATOMIC_BYTES_MAX:
            return chunk
        with suppress(OSError, ValueError):
            _, ready, _ = select([], [self._out], [], 0)
            return chunk[self._out.write(chunk) or 0 :] if ready else chunk
        return b""  # the reader is gone, so there is no place to report it

    def _pass_on(self, chunk: bytes) -> None:
        self._unwritten += 1
        self._chunks.put(chunk)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _describe_lost(self) -> bytes:
        if not self._lost_lines:
            return b""
        count, self._lost_lines = self._lost_lines, 0
        lost = {"event": "log_lines_lost", "count": count, "level": "warning", "timestamp": datetime.now(UTC)}
        return msgspec.json.encode(lost) + b"\n"

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            with suppress(OSError, ValueError):  # the reader is gone, so there is no place to report it
                while chunk:
                    chunk = chunk[self._write(chunk) :]
            with self._lock:
                self._unwritten -= 1

    def _write(self, chunk: bytes) -> int:
        """Return the number of bytes that were written."""
        written: int | None = self._out.write(chunk)
        if written is None:  # another program that has the same file open has made it non-blocking
            select([], [self._out], [])
        return written or 0

    def _end(self) -> None:
        self.flush()
        self._chunks.put(None)
        if self._thread is not None:
            self._thread.join(END_TIMEOUT_SECONDS)


@cache
def log_stream(out: BinaryIO) -> LogStream:
    """Return the stream that writes to a file. All lines of a file go through one."""
    return LogStream(out)
