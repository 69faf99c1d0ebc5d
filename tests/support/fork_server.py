"""A process that has imported all of Depot and forks children: commands, and pytest's workers.

Its clients are `tests/support/depot_command.py` and `tests/support/forked_interpreter.py`.
"""

import atexit
import gc
import json
import multiprocessing.util
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from tests.support import signature_cache
from tests.support.forked_interpreter import STATUS_BYTES
from tests.support.openapi_document import published_document

PARENT = 0
"""Standard input, which becomes readable when the parent ends."""
HANDLED_SIGNALS = {signal.SIGINT, signal.SIGTERM}
spawn_interpreter = multiprocessing.util.spawnv_passfds
LAZY_IMPORTS = (
    *("alembic.command", "alembic.runtime.migration"),
    "sqlalchemy.dialects.postgresql.asyncpg",
)


class StartRequest(NamedTuple):
    args: list[str]
    """A script or `-c` and code, and its arguments."""
    env: dict[str, str]
    cwd: str


def main() -> None:
    prepare()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(request)
    except SystemExit as exit_:
        end(exit_.code)
    end(None)


def prepare() -> None:
    """Do what each child would have to do, as far as it depends on the code alone."""
    gc.disable()
    for name in (*modules("service"), *LAZY_IMPORTS):
        import_module(name)
    signature_cache.install()
    published_document()
    gc.enable()
    gc.freeze()  # so that the children share the pages


def modules(package: str) -> Iterator[str]:
    """Yield the names of the modules in a package, except the plugin, which pytest must import itself."""
    for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if module.name != "service.testing":
            yield module.name
            if module.ispkg:
                yield from modules(module.name)


def serve(listener: socket.socket) -> StartRequest:
    """Fork once for each request. Return in each child, with its request. End with the parent."""
    children: dict[int, int] = {}
    clients: list[socket.socket] = []
    wakeup, signals = os.pipe()
    os.set_blocking(signals, False)
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for pytest
    while True:
        readable, _, _ = select.select([PARENT, wakeup, listener, *clients], [], [])
        if PARENT in readable:
            os._exit(0)  # children that still run are orphans, as those of any parent
        if wakeup in readable:
            os.read(wakeup, 4096)
        report_exits(children)
        if listener in readable:
            clients.append(listener.accept()[0])
        for client in {*clients}.intersection(readable):
            content, files, _, _ = socket.recv_fds(client, 1 << 20, 4)
            if not content:
                clients.remove(client)
                client.close()
            elif pid := os.fork():
                children[pid] = files.pop()
                for file in files:
                    os.close(file)
                client.send(str(pid).encode())
            else:
                restore_signals()
                for number, file in enumerate(files[:3]):
                    os.dup2(file, number)
                close_files(keep={0, 1, 2})
                return StartRequest(**json.loads(content))


def report_exits(children: dict[int, int]) -> None:
    """Write the exit status of each child that has ended to its pipe."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        exit_code = os.waitstatus_to_exitcode(status)
        with suppress(BrokenPipeError):  # the test does not wait for this child
            os.write(children[pid], exit_code.to_bytes(STATUS_BYTES, "big", signed=True))
        os.close(children.pop(pid))


def restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(request: StartRequest) -> None:
    """Run the script or the code of the request as if a new interpreter had started it."""
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    tempfile.tempdir = None
    unbuffered = bool(request.env.get("PYTHONUNBUFFERED"))
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty(), write_through=unbuffered)
    sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)
    sys.stderr.reconfigure(line_buffering=True, write_through=unbuffered)
    if request.args[0] == "-c":
        sys.argv = ["-c", *request.args[2:]]
        # Pool processes of anyio import the main module again, unless it has no file.
        sys.modules["__main__"] = main_module = ModuleType("__main__")
        exec(request.args[1], vars(main_module))
        return
    sys.argv = request.args
    sys.path[0] = str(Path(request.args[0]).parent)
    multiprocessing.util.spawnv_passfds = spawn_worker
    runpy.run_path(request.args[0], run_name="__main__")


def end(code: object) -> NoReturn:
    """End the process as the interpreter does, but do not free its objects.

    To free them copies the pages that the process shares with its parent, which takes 70 ms.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def spawn_worker(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Fork a worker of `depot serve`, which multiprocessing would start in a new interpreter.

    Its parent has neither threads nor an event loop.
    """
    if args[-1] != "--multiprocessing-fork":
        return spawn_interpreter(path, args, passfds)
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)  # a handler of the parent is not for the child
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
    if not pid:
        run_worker(args[-2], passfds)
    return pid


def run_worker(code: str, files: Iterable[int]) -> None:
    """Run the code of multiprocessing as a new interpreter would, and end the process."""
    status = 1
    try:
        close_files(keep={0, 1, 2, *files})
        sys.argv = ["-c", "--multiprocessing-fork"]
        exec(code, {})
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def close_files(keep: set[int]) -> None:
    for file, next_kept in pairwise([*sorted(keep), os.sysconf("SC_OPEN_MAX")]):
        os.closerange(file + 1, next_kept)


if __name__ == "__main__":
    main()
