"""`depot` in a process of its own, forked from one that has imported everything, which saves a second each.

The process has its own memory, files, signals and exit status, and runs the installed script. Only what
modules read from the environment at import time could differ. A process whose environment differs in more
than Depot's settings therefore gets a new interpreter. So does one that is started with `**NEW_INTERPRETER`.
At least one test of each command does that, because a forked process does not show that an import is missing.
"""

import atexit
import functools
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any
from uuid import uuid4

from tests.support import forked_interpreter as forked_interpreter_module
from tests.support.forked_interpreter import ADDRESS, STATUS_BYTES, connect, request_start

DEPOT = Path(sys.executable).with_name("depot")
PYTEST = DEPOT.with_name("pytest")
CODE = Path("-c")
"""In place of a script: the first argument is the code of a program."""
SETTINGS = (
    *("DEPOT_", "DATABASE_URL", "DIRECT_DATABASE_URL", "HOST", "PORT", "AWS_", "TMPDIR", "COLUMNS", "PATH"),
    *("TEST_DATABASE_URL", "TEST_DATABASE_TEMPLATE", "PYTEST_XDIST_", "NANIO_"),
)
"""Beginnings of the names of variables that are read when a command runs, not when it is imported."""
OF_PYTEST = "PYTEST_CURRENT_TEST"
"""A variable that differs between a fixture, which may prepare an environment, and its test."""
NEW_INTERPRETER = {"TEST_NEW_INTERPRETER": "1"}
"""Environment of a process, or of the whole suite, that must not be forked."""

Stream = IO[Any] | int | None


class ForkedProcess:
    """The part of `subprocess.Popen` that the tests need, for a process that is not a child of this one."""

    def __init__(self, args: list[str], pid: int, status: int, *pipes: IO[str] | None) -> None:
        self.args = args
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self.stderr = pipes
        self._status = status

    def __del__(self) -> None:
        if self.returncode is None:
            os.close(self._status)

    def poll(self) -> int | None:
        return self._read_status(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._read_status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Return the rest of its output, which must be short, once it has ended."""
        output = []
        for stream in (self.stdout, self.stderr):
            output.append(stream.read() if stream else "")
            if stream:
                stream.close()
        self.wait()
        return output[0], output[1]

    def _read_status(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if poll.poll(None if timeout is None else timeout * 1000):
                status = os.read(self._status, STATUS_BYTES)
                assert status, "the fork server has ended"
                self.returncode = int.from_bytes(status, "big", signed=True)
                os.close(self._status)
        return self.returncode


Process = ForkedProcess | subprocess.Popen[Any]


def start_depot(
    args: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout: Stream = None,
    stderr: Stream = None,
    script: Path = DEPOT,
) -> Process:
    """Start `depot` with these arguments. Without a stream its output goes where pytest's goes."""
    command = [str(script), *args]
    if not _may_fork(env):
        text = subprocess.PIPE in (stdout, stderr)
        command = [sys.executable, *command] if script == CODE else command
        return subprocess.Popen(command, env=dict(env), stdout=stdout, stderr=stderr, text=text)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    files, pipes, to_close = [0], list[IO[str] | None](), list[int]()
    for number, target in ((1, stdout), (2, stderr)):
        file, pipe = _open_stream(number, target)
        files.append(file)
        pipes.append(pipe)
        to_close += [file] if pipe else []
    status, status_writer = os.pipe()
    try:
        pid = _fork_server().start(command, env, [*files, status_writer])
    finally:
        for file in (*to_close, status_writer):
            os.close(file)
    return ForkedProcess(command, pid, status, *pipes)


def run_depot(
    args: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float = 60.0,
    check: bool = False,
    script: Path = DEPOT,
    stderr: IO[Any] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run `depot`, or another script, until it ends, and return its output."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        process = start_depot(args, env=env, stdout=out, stderr=stderr or err, script=script)
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        output = [(file.seek(0), file.read())[1] for file in (out, err)]
    completed = subprocess.CompletedProcess([str(script), *args], status, *output)
    if check:
        completed.check_returncode()
    return completed


def run_program(
    program: str, *args: str, env: Mapping[str, str] = os.environ, stderr: IO[Any] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the code of a program until it ends, and return its output."""
    return run_depot([program, *args], env=env, script=CODE, stderr=stderr)


def depot(database_url: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `depot` on a database until it ends, and return its output."""
    return run_depot(arguments, env={**os.environ, "DATABASE_URL": database_url, **environment})


def depot_output(database_url: str, *arguments: str, **environment: str) -> str:
    """Run `depot` on a database, and return its output. Raises `CalledProcessError` if it fails."""
    completed = depot(database_url, *arguments, **environment)
    completed.check_returncode()
    return completed.stdout.strip()


def _open_stream(number: int, target: Stream) -> tuple[int, IO[str] | None]:
    """Return the child's file, and our end of it if it is a pipe."""
    if target == subprocess.PIPE:
        reader, writer = os.pipe()
        return writer, os.fdopen(reader)
    if target is None:
        return number, None
    return (target if isinstance(target, int) else target.fileno()), None


def forked_interpreter() -> str | None:
    """Return the command of an interpreter for `-c` that is forked, or None if it must not be.

    The caller's process owns the fork server.
    """
    if not _may_fork(os.environ):
        return None
    path = str(Path(forked_interpreter_module.__file__))
    return shlex.join([sys.executable, "-S", "-E", path, _fork_server().address])


def _may_fork(env: Mapping[str, str]) -> bool:
    """Tell whether a forked process can have this environment."""
    is_covered = any(name.startswith("COVERAGE_PROCESS") for name in os.environ)
    if sys.platform != "linux" or is_covered or NEW_INTERPRETER.items() <= os.environ.items():
        return False
    changed = {name for name in env.keys() | os.environ.keys() if env.get(name) != os.environ.get(name)}
    return all(name.startswith((*SETTINGS, OF_PYTEST)) for name in changed)


class _ForkServer:
    """The client of `fork_server.py`. Starts the server unless pytest's main process has done so."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.address = os.environ.get(ADDRESS) or self._start()
        self._socket = connect(self.address)  # the server accepts it once it has imported Depot

    def _start(self) -> str:
        address = f"depot-tests-{uuid4().hex}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"\0{address}")
            listener.listen()
            file = listener.fileno()
            command = [sys.executable, "-m", "tests.support.fork_server", str(file)]
            root = Path(__file__).parents[2]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[file], cwd=root)
        atexit.register(self._process.communicate)
        return address

    def start(self, args: list[str], env: Mapping[str, str], files: list[int]) -> int:
        """Return the id of the new process."""
        with self._lock:
            return request_start(self._socket, args, env, files)


CREATION = Lock()


def _fork_server() -> _ForkServer:
    with CREATION:  # otherwise two threads would have two
        return _create_fork_server()


@functools.cache
def _create_fork_server() -> _ForkServer:
    return _ForkServer()
