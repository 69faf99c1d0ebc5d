"""Decoder processes. Each file gets a new one, which has no secrets and which a malicious file may crash."""

import asyncio
import os
import sys
from subprocess import DEVNULL
from typing import cast

import msgspec
from anyio import open_process
from anyio.abc import ByteReceiveStream

from service.documents.inspection_types import STARTED, DecodingLimits, Outcome
from service.errors import Overloaded

OUTPUT_BYTES_MAX = 2**20
"""Many times the size of a thumbnail. A process that sends more is compromised."""
ENVIRONMENT = {"PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR"}
"""The variables that a decoder needs, besides those of Python. All others may hold secrets."""


class DecoderCrashed(Exception):
    """A decoder process died while it decoded the file."""


class Decoder:
    """Decodes files in separate processes, a bounded number at a time."""

    def __init__(self, limits: DecodingLimits, processes_max: int) -> None:
        self._limits = msgspec.json.encode(limits).decode()
        self._slots = asyncio.Semaphore(processes_max)

    async def inspect(self, path: str, content_type: str) -> Outcome:
        """Decode a file and make its thumbnail. A process is killed if the call is cancelled.

        Raises `DecoderCrashed`, or `Overloaded` if no process can be started.
        """
        command = [sys.executable, "-m", "service.documents.decoding", path, content_type, self._limits]
        async with self._slots:
            output = await _run(command)
        if not output.startswith(STARTED):
            raise Overloaded("No decoder process can be started")
        try:
            outcome: Outcome = msgspec.msgpack.decode(output.removeprefix(STARTED), type=Outcome)
        except msgspec.DecodeError:
            raise DecoderCrashed from None
        return outcome


async def _run(command: list[str]) -> bytes:
    """Return a process's output, or the first part of one that is too long."""
    environment = {n: v for n, v in os.environ.items() if n in ENVIRONMENT or n.startswith("PYTHON")}
    output = b""
    try:
        process = await open_process(command, stdin=DEVNULL, stderr=None, env=environment)
    except OSError:  # no memory, or no more processes
        return output
    async with process:
        async for chunk in cast(ByteReceiveStream, process.stdout):
            output += chunk
            if len(output) > OUTPUT_BYTES_MAX:
                process.kill()
    return output[:OUTPUT_BYTES_MAX]
