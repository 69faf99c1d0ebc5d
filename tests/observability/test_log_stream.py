"""Tests of the stream of log lines, whose reader may be slow."""

import fcntl
import json
import os
import threading
import time
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


class CountingFile(FileIO):
    writes = 0

    def write(self, content: Any, /) -> int:
        self.writes += 1
        return super().write(content)
