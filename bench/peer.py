"""The peers: how to start, call and stop each on its own database."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import msgspec
from msgspec import Struct

from bench import process_usage
from bench.database import Database, item_id
from bench.errors import BenchError
from bench.runtimes import APPS, FASTIFY, GO_BINARY
from service.settings import PREFIX, UNPREFIXED, Settings

HOST = "127.0.0.1"
DEPOT = str(Path(sys.executable).with_name("depot"))
SCOPES = ("items:read", "items:write", "orders:write", "users:write", "documents:write")
LOG_SHOWN = 2000
START_SECONDS, STOP_SECONDS, COMMAND_SECONDS, REPLY_SECONDS = 20.0, 20.0, 60.0, 10.0
LOOK_SECONDS = 0.01


class Peer(Struct, frozen=True):
    """A program to measure. Its command accepts further options at its end."""

    name: str
    command: tuple[str, ...]


class Running(Struct, frozen=True):
    """A running peer."""

    name: str
    port: int
    key: str
    database: Database
    pid: int
    ready_seconds: float
    """The time from its start to its first reply."""
    rest_rss_mib: float
    """Its memory at that time."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the decoded body of a reply. A body that is not JSON stays text.

        Raises `OSError` or `HTTPException` if there is no reply.
        """
        return _ask(self.port, self.key, method, path, body)


def _uvicorn(name: str) -> Peer:
    """Return a peer with Depot's server, event loop and parser, and little of uvicorn's own work."""
    options = (
        "--loop uvloop --http httptools --ws none --no-access-log --log-level warning "
        f"--no-server-header --no-proxy-headers --host {HOST}"
    )
    app = (f"{name}_peer:app", "--app-dir", str(APPS))
    return Peer(name, (sys.executable, "-m", "uvicorn", *app, *options.split()))


PEERS = {
    "fastapi": _uvicorn("fastapi"),
    "bare": _uvicorn("bare"),
    "fastify": Peer("fastify", ("node", str(FASTIFY / "server.js"))),
    "go": Peer("go", (str(GO_BINARY),)),
    "depot": Peer("depot", (DEPOT, "serve", "--host", HOST)),
}


@contextmanager
def running(peer: Peer, server: Database, directory: Path, workers: int = 1) -> Iterator[Running]:
    """Run the peer on a new database until the block ends."""
    with TemporaryDirectory(dir=directory, prefix=f"{peer.name}-") as home:
        database = server.create(f"bench_{peer.name}_{workers}")
        environment = environment_of(database.url, home)
        key = migrated(environment)
        database.seed()
        with serving(peer, workers, database, environment, key, Path(home, "log")) as started:
            yield started


@contextmanager
def serving(
    peer: Peer, workers: int, database: Database, environment: dict[str, str], key: str, log: Path
) -> Iterator[Running]:
    """Run the peer on this database until the block ends and its work is complete."""
    port = _free_port()
    command = [*peer.command, "--port", str(port), "--workers", str(workers)]
    begun = monotonic()
    with _process(command, environment, log) as process:
        try:
            _wait(peer.name, port, key, process)
            ready_seconds, rest_rss_mib = monotonic() - begun, process_usage.rss_mib(process.pid)
            yield Running(peer.name, port, key, database, process.pid, ready_seconds, rest_rss_mib)
        except BenchError as error:
            raise BenchError(f"{error}\nEnd of its log:\n{log.read_text()[-LOG_SHOWN:]}") from error


def migrated(environment: dict[str, str]) -> str:
    """Create the tables and return a key, which only Depot requires."""
    depot(environment, "migrate")
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    return depot(environment, "keys", "create", "--name", "bench", *scopes)


def depot(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [DEPOT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"depot {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def environment_of(url: str, home: str) -> dict[str, str]:
    """Return Depot's default environment. The peers' pools are as large as Depot's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and name not in UNPREFIXED.values()
    }
    pool_size = str(Settings().pool_size)
    return kept | {"DATABASE_URL": url, "DEPOT_HOME": home, "DEPOT_LOG": "json", "POOL_SIZE": pool_size}


@contextmanager
def _process(
    command: list[str], environment: dict[str, str], log: Path
) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a process in a new session, so that Ctrl-C reaches only the benchmark."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=environment, stderr=stderr, start_new_session=True)
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop the process with SIGINT, after which it completes requests in flight but does not drain."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise BenchError(f"process {process.pid} did not stop when told to") from None


def _wait(name: str, port: int, key: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = monotonic() + START_SECONDS
    while monotonic() < deadline and process.poll() is None:
        try:
            _ask(port, key, "GET", f"/items/{item_id(1)}")
        except (OSError, HTTPException):
            sleep(LOOK_SECONDS)
        else:
            return
    raise BenchError(f"{name} did not start")


def _ask(port: int, key: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = HTTPConnection(HOST, port, timeout=REPLY_SECONDS)
    try:
        connection.request(method, path, None if body is None else msgspec.json.encode(body), headers)
        reply = connection.getresponse()
        return reply.status, _decoded(reply.read())
    finally:
        connection.close()


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode(errors="replace")


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
