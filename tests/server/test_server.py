"""Tests of `depot serve` as a process."""

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import httpx
import psutil
import uvloop
from msgspec.structs import replace

from service.app import create_app
from service.server.acceptor import Acceptor
from service.server.processes import Server, bind
from service.settings import Settings
from tests.support.app_helpers import wait_for_locks
from tests.support.depot_command import NEW_INTERPRETER
from tests.support.depot_process import depot_running, depot_serve
from tests.support.reply_assertions import assert_refused

Make = Callable[..., Awaitable[str]]
CONNECTIONS = 200


def test_the_server_runs_until_sigterm_and_exits_with_success(database_url: str, tmp_path: Path) -> None:
    with depot_serve(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="0") as server:
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=5) == 0


def test_a_draining_server_is_not_ready_and_keeps_serving(database_url: str, tmp_path: Path) -> None:
    with depot_serve(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="60") as server:
        server.process.send_signal(signal.SIGTERM)
        while (ready := httpx.get(f"{server.url}/health/ready")).status_code == 200:
            pass
        assert_refused(ready, 503, "DRAINING")
        reply = httpx.get(f"{server.url}/health/live")
        assert (reply.status_code, reply.headers["Connection"]) == (200, "close")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=5) == 0


async def test_the_garbage_collector_rests_while_the_server_runs(settings: Settings) -> None:
    with bind(replace(settings, port=0)) as listener, collector_restored():
        started = asyncio.Event()
        server = Server(create_app(settings), settings, started.set)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await started.wait()
        before = gc.get_stats()[0]["collections"]
        in_flight = [[number] for number in range(200_000)]
        assert gc.get_stats()[0]["collections"] == before
        assert not any(each is server for each in gc.get_objects())
        del in_flight
        server.should_exit = True
        await running


@contextmanager
def collector_restored() -> Iterator[None]:
    threshold = gc.get_threshold()
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


async def test_a_request_that_outlasts_the_shutdown_gets_an_error(
    database_url: str, tmp_path: Path, key: str
) -> None:
    limits = {"DEPOT_DRAIN_SECONDS": "0", "DEPOT_SHUTDOWN_TIMEOUT_SECONDS": "1"}
    with depot_serve(database_url, tmp_path / "home", **limits) as server:
        async with server.client(key) as client:
            item = (await client.post("/items", json={"sku": "A", "name": "A", "price": "1"})).json()
            connection = await asyncpg.connect(database_url)
            async with connection.transaction():
                await connection.execute("select 1 from items for update")
                waiting = asyncio.create_task(client.patch(f"/items/{item['id']}", json={"name": "B"}))
                await wait_for_locks(connection, 1)
                server.process.send_signal(signal.SIGTERM)
                assert_refused(await waiting, 503, "DRAINING")
            await connection.close()
        assert await asyncio.to_thread(server.process.wait, 10) == 0


def test_workers_end_with_a_parent_that_was_killed(database_url: str, tmp_path: Path) -> None:
    environment = {"DEPOT_DRAIN_SECONDS": "0", **NEW_INTERPRETER}
    with depot_serve(database_url, tmp_path / "home", "--workers", "2", **environment) as server:
        server.wait_for("listening", 2)
        workers = psutil.Process(server.process.pid).children(recursive=True)
        server.kill()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []


def test_a_worker_that_dies_is_replaced(database_url: str, tmp_path: Path) -> None:
    with depot_serve(database_url, tmp_path / "home", "--workers", "2", DEPOT_DRAIN_SECONDS="0") as server:
        server.wait_for("listening", 2)
        server.workers()[0].kill()
        server.wait_for("listening", 3)
        assert httpx.get(f"{server.url}/health/ready").status_code == 200


def test_ctrl_c_while_the_workers_start_ends_all_of_them_quietly(database_url: str, tmp_path: Path) -> None:
    command = ["serve", "--port", "0", "--workers", "2"]
    with depot_running(command, database_url, tmp_path / "home", NEW_INTERPRETER) as server:
        parent = psutil.Process(server.process.pid)
        while len(starting := importing_children(parent)) < 2:
            time.sleep(0.01)
        for process in (parent, *starting):  # a terminal interrupts all of them
            process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=30) == 0
        assert psutil.wait_procs(starting, timeout=10)[1] == []
        assert "Traceback" not in server.log.read_text()


def importing_children(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_reply_and_its_log_line_take_little_more_than_one_system_call(
    database_url: str, tmp_path: Path
) -> None:
    requests = 300
    with depot_serve(database_url, tmp_path / "home") as server, httpx.Client(base_url=server.url) as client:
        counters = psutil.Process(server.process.pid).io_counters
        before = counters().write_count
        for _ in range(requests):
            assert client.get("/nope").status_code == 404
        assert requests <= counters().write_count - before < 1.5 * requests
        server.wait_for("request", requests)


def test_many_waiting_connections_are_accepted_in_a_few_turns_of_the_loop() -> None:
    async def count_turns() -> int:
        accepted: list[asyncio.BaseTransport] = []

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.append(transport)

        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS) as listener, ExitStack() as clients:
            server = await loop.create_server(Protocol, sock=listener, backlog=CONNECTIONS)
            acceptor = Acceptor(listener, Protocol)
            for _ in range(CONNECTIONS):
                clients.enter_context(socket.create_connection(listener.getsockname()))
            turns = 0
            while len(accepted) < CONNECTIONS:
                turns += 1
                await asyncio.sleep(0)
            acceptor.close()
            server.close()
        return turns

    assert uvloop.run(count_turns()) < CONNECTIONS / 4
