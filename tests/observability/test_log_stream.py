"""Tests of the stream of log lines, whose reader may be slow."""

import fcntl
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from service.observability.log_stream import LogStream


def test_no_thread_writes_lines_that_need_not_wait(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with (tmp_path / "log").open("wb") as out:
        stream = LogStream(out)
        stream.write(b"a\n")
        stream.flush()
        assert (tmp_path / "log").read_bytes() == b"a\n"
    assert set(threading.enumerate()) <= before


def test_lines_that_a_reader_is_too_slow_for_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.observability.log_stream.PENDING_CHUNKS_MAX", 2)
    reader, writer = os.pipe()
    long = b"x" * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) + b"\n"
    with os.fdopen(reader, "rb") as log, os.fdopen(writer, "wb", buffering=0) as out:
        stream = LogStream(out)
        for _ in range(10):
            stream.write(long)
            stream.flush()
        lines = [log.readline() for _ in range(2)]
        stream.write(b"end\n")
        stream.flush()
        while lines[-1] != b"end\n":
            lines.append(log.readline())
    assert json.loads(lines[-2])["count"] == 10 - lines.count(long)


def test_a_full_pipe_that_another_program_made_non_blocking_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    line = b"x" * 3 * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) + b"\n"
    with os.fdopen(reader, "rb") as log, CountingFile(writer, "wb") as out:
        stream = LogStream(out)
        stream.write(line)
        stream.flush()
        while out.writes < 2:
            time.sleep(0)
        assert log.readline() == line
        assert out.writes < 100


def test_lines_lost_on_a_full_disk_are_counted_once_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with CountingFile(path, "wb") as out:
        stream = LogStream(out)
        with file_size_limit(10):
            stream.write(b"first\nsecond\nthird\n")
            stream.flush()
            while not out.failures:
                time.sleep(0)
        while b"count" not in path.read_bytes():
            stream.flush()
    first, part, lost = path.read_bytes().splitlines()
    assert (first, part, json.loads(lost)["count"]) == (b"first", b"seco", 2)


def test_lines_lost_while_a_pipe_has_no_reader_are_counted_for_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with path.open("wb", buffering=0) as out:
        os.close(reader)
        stream = LogStream(out)
        for line in (b"a\n", b"b\nc\n"):
            stream.write(line)
            stream.flush()
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as log:
            stream.write(b"d\n")
            stream.flush()
            lost, line = log.readline(), log.readline()
    assert (json.loads(lost)["count"], line) == (3, b"d\n")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class CountingFile(FileIO):
    writes = 0
    failures = 0

    def write(self, content: Any, /) -> int:
        self.writes += 1
        try:
            return super().write(content)
        except OSError:
            self.failures += 1
            raise
