"""Processes of Depot that are killed and restarted while clients repeat their requests.

They serve the chaos tests. All random choices come from one seed, but which request a kill hits does not.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.support.app_helpers import connected
from tests.support.depot_command import start_depot
from tests.support.ports import free_port

MAX_WAIT_SECONDS = 60.0
RETRY_DELAY_SECONDS = 0.05
UNAVAILABLE = {409, 500, 502, 503, 504}

SHORT_TIMEOUTS = {
    "DEPOT_LOG": "json",
    "DEPOT_WEBHOOK_ALLOW_PRIVATE": "1",
    "DEPOT_WEBHOOK_TIMEOUT_SECONDS": "1",
    "DEPOT_JOB_HEARTBEAT_SECONDS": "2",
    "DEPOT_JOB_ATTEMPTS_MAX": "4",
    "DEPOT_JOB_TEST_KINDS": "1",
    "DEPOT_DRAIN_SECONDS": "0",
}
"""Timeouts short enough to expire within a test."""


class RestartableProcess:
    """A `depot` command that can be killed and restarted."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self.log = log
        self.kills = 0
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as stderr:
            self._process = start_depot(self._arguments, env=self._environment, stderr=stderr)

    def kill_and_restart(self) -> None:
        assert self._process.poll() is None, f"it died by itself: {self.log.read_text()[-3000:]}"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.kills += 1
        self.start()

    def drain(self) -> None:
        """Stop the process with SIGTERM, as a deployment does."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(timeout=MAX_WAIT_SECONDS) == 0, self.log.read_text()[-3000:]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)


@contextmanager
def cluster(
    database_url: str, home: Path, *, services: int, workers: int
) -> Iterator[tuple[list[str], list[RestartableProcess]]]:
    """Run services and workers on one database, and yield the URLs of the services and all processes."""
    home.mkdir(exist_ok=True)
    environment = {"DATABASE_URL": database_url, "DEPOT_HOME": str(home), **SHORT_TIMEOUTS}
    ports = [free_port() for _ in range(services)]
    commands = [("serve", "--port", str(port)) for port in ports] + [("worker",)] * workers
    with ExitStack() as stack:
        victims = []
        for number, command in enumerate(commands):
            victim = RestartableProcess(command, environment, home / f"{command[0]}-{number}.log")
            stack.callback(victim.stop)
            victims.append(victim)
        yield [f"http://127.0.0.1:{port}" for port in ports], victims


async def post_until_acknowledged(
    client: httpx.AsyncClient, urls: Sequence[str], path: str, body: object, key: str
) -> dict[str, Any]:
    """Send a POST with an idempotency key to the services in turn, until one acknowledges it."""
    async with asyncio.timeout(MAX_WAIT_SECONDS):
        for attempt in range(1_000_000):
            try:
                url = urls[attempt % len(urls)] + path
                reply = await client.post(url, json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                await asyncio.sleep(RETRY_DELAY_SECONDS)  # its process is being started again
                continue
            if reply.is_success:
                content: dict[str, Any] = reply.json()
                return content
            assert reply.status_code in UNAVAILABLE, reply.text
            await asyncio.sleep(RETRY_DELAY_SECONDS)
    raise AssertionError("unreachable")


async def kill_when_done(
    points: Sequence[int], done: list[Any], victims: Sequence[RestartableProcess], random: Random
) -> None:
    """Kill a random process whenever one of these numbers of items is done."""
    for point in sorted(points):
        await wait_until(partial(reached, done, point))
        random.choice(victims).kill_and_restart()


async def reached(done: list[Any], point: int) -> bool:
    return len(done) >= point


async def wait_until_zero(database_url: str, count: str) -> None:
    """Wait until the query counts nothing, for `MAX_WAIT_SECONDS` at most."""
    async with connected(database_url) as connection:

        async def nothing() -> bool:
            return not await connection.fetchval(count)

        with suppress(TimeoutError):
            await wait_until(nothing)


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(MAX_WAIT_SECONDS):
        while not await condition():  # noqa: ASYNC110  # what it waits for is in another process
            await asyncio.sleep(0.01)
