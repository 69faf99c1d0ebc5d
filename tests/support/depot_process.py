"""`depot` as a process, for tests where sockets, signals or load matter."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.support.depot_command import Process, start_depot

START_SECONDS = 60.0


class DepotProcess:
    """A running `depot serve` or `depot worker`. `log` is its stderr, with one JSON object per line."""

    def __init__(self, process: Process, log: Path, url: str) -> None:
        self.process = process
        self.log = log
        self.url = url

    def client(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the log lines of one event, such as `request`."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == name]

    def wait_for(self, name: str, count: int) -> None:
        """Wait until the log has that many lines of one event. Fail if the process ends first."""
        deadline = time.monotonic() + START_SECONDS
        hopeless = False
        while len(self.events(name)) < count:
            assert not hopeless, self.log.read_text()
            hopeless = time.monotonic() > deadline or self.process.poll() is not None
            time.sleep(0.02)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that serve. Their parent also has a resource tracker."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM twice, which stops the process without draining. Return its exit status."""
        for _ in range(2):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                time.sleep(0.05)
        return self.process.wait(timeout=30)


@contextmanager
def depot_serve(database_url: str, home: Path, *arguments: str, **environment: str) -> Iterator[DepotProcess]:
    """Run `depot serve` on a free port until the block ends."""
    with depot_running(["serve", "--port", "0", *arguments], database_url, home, environment) as server:
        server.url = _wait_for_url(server)
        yield server


@contextmanager
def depot_worker(
    database_url: str, home: Path, *arguments: str, **environment: str
) -> Iterator[DepotProcess]:
    """Run `depot worker`, which knows `system.sleep`, until the block ends."""
    environment = {"DEPOT_JOB_TEST_KINDS": "1", **environment}
    with depot_running(["worker", *arguments], database_url, home, environment) as worker:
        worker.wait_for("worker_started", 1)
        yield worker


@contextmanager
def depot_running(
    arguments: list[str], database_url: str, home: Path, environment: dict[str, str]
) -> Iterator[DepotProcess]:
    """Run a `depot` command until the block ends."""
    home.mkdir(exist_ok=True)
    log = home / f"{arguments[0]}-{time.monotonic_ns()}.log"
    settings = {"DATABASE_URL": database_url, "DEPOT_HOME": str(home), "DEPOT_LOG": "json", **environment}
    with log.open("wb") as stderr:
        process = start_depot(arguments, env={**os.environ, **settings}, stderr=stderr)
    running = DepotProcess(process, log, "")
    try:
        yield running
    finally:
        if process.poll() is None:
            running.stop()


def _wait_for_url(server: DepotProcess) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        if listening := server.events("listening"):
            return f"http://{listening[0]['host']}:{listening[0]['port']}"
        time.sleep(0.02)
    raise AssertionError(f"depot serve did not start: {server.log.read_text()}")
