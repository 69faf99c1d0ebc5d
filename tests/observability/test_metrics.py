"""Tests of metrics of several processes: nothing is counted twice or lost with a process."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.settings import Settings
from tests.support.app_helpers import eventually, running
from tests.support.depot_process import DepotProcess, depot_serve, depot_worker
from tests.support.job_helpers import process
from tests.support.scraped_metrics import ScrapedMetrics

REQUESTS = 60


@contextmanager
def serving(database_url: str, home: Path, **environment: str) -> Iterator[tuple[DepotProcess, Path]]:
    """Run two workers; yield them and their metrics directory once both serve."""
    temporary = home / "tmp"
    temporary.mkdir()
    with depot_serve(
        database_url, home / "home", "--workers", "2", TMPDIR=str(temporary), **environment
    ) as server:
        server.wait_for("listening", 2)
        (directory,) = temporary.glob("depot-metrics-*")
        yield server, directory


def get(server: DepotProcess, path: str, key: str) -> httpx.Response:
    """Send a request on a new connection, which any worker may accept."""
    reply = httpx.get(f"{server.url}{path}", headers={"Authorization": f"Bearer {key}"}, timeout=10)
    assert reply.status_code == 200, reply.text
    return reply


def item_requests(server: DepotProcess, key: str) -> float:
    metrics = ScrapedMetrics(get(server, "/metrics", key).text)
    return metrics.sum("http_requests_total", route="/items", status="200")


def pool_max(server: DepotProcess, key: str) -> float:
    return ScrapedMetrics(get(server, "/metrics", key).text).sum("db_pool_connections_max", pool="statements")


async def test_workers_are_summed_and_a_dead_one_loses_no_count(
    database_url: str, tmp_path: Path, key: str
) -> None:
    with serving(database_url, tmp_path, DEPOT_POOL_SIZE="5") as (server, directory):
        await asyncio.gather(*(asyncio.to_thread(get, server, "/items", key) for _ in range(REQUESTS)))
        assert {item_requests(server, key) for _ in range(12)} == {REQUESTS}
        assert pool_max(server, key) == 10

        killed = server.workers()[0]
        killed.kill()
        killed.wait()
        server.wait_for("listening", 3)
        assert {item_requests(server, key) for _ in range(12)} == {REQUESTS}
        get(server, "/items", key)
        assert {item_requests(server, key) for _ in range(12)} == {REQUESTS + 1}

        async def settled() -> bool:
            return await asyncio.to_thread(pool_max, server, key) == 10

        await eventually(settled)
        files = {path.name for path in directory.iterdir()}
        assert files == {
            f"{kind}_{slot}.db" for kind in ("counter", "histogram", "gauge_livesum") for slot in (0, 1)
        }
    assert not directory.exists()


def test_gauges_of_a_dead_worker_are_removed_before_it_is_replaced(database_url: str, tmp_path: Path) -> None:
    with serving(database_url, tmp_path, DEPOT_METRICS="open") as (server, directory):
        assert len(list(directory.glob("gauge_livesum_*.db"))) == 2
        server.workers()[0].kill()
        while len(list(directory.glob("gauge_livesum_*.db"))) == 2:
            pass
        httpx.get(f"{server.url}/metrics").raise_for_status()


def test_the_metrics_directory_is_removed_when_the_parent_is_killed(
    database_url: str, tmp_path: Path
) -> None:
    with serving(database_url, tmp_path, DEPOT_DRAIN_SECONDS="0") as (server, directory):
        children = server.workers()
        server.kill()
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running()]
    assert not directory.exists()


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
    yield number


async def test_a_worker_serves_its_metrics_on_the_configured_port(
    settings: Settings, database_url: str, tmp_path: Path, key: str, port: int
) -> None:
    environment = {"DEPOT_WORKER_METRICS_PORT": str(port), "DEPOT_JOB_ATTEMPTS_MAX": "1"}
    with depot_worker(database_url, tmp_path / "home", **environment) as worker:
        async with running(
            Settings(database_url=database_url, home=tmp_path, job_test_kinds=True), key
        ) as client:
            await process(client, seconds=0)
            await process(client, seconds=0, fail_times=1)

        def shown() -> ScrapedMetrics:
            return ScrapedMetrics(httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text)

        async def done() -> bool:
            return (await asyncio.to_thread(shown)).sum("job_runs_total") == 2

        await eventually(done)
        assert shown().sum("job_runs_total", outcome="succeeded") == 1
        assert shown().sum("job_runs_total", outcome="failed") == 1
        assert shown().sum("build_info") == 1
        worker.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.process.wait, 30) == 0


def test_a_worker_whose_port_is_in_use_fails_with_one_line(database_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        with (
            pytest.raises(AssertionError, match="cannot serve metrics on 127"),
            depot_worker(database_url, tmp_path / "home", DEPOT_WORKER_METRICS_PORT=number),
        ):
            pass


def test_a_worker_without_a_port_shows_nothing(database_url: str, tmp_path: Path) -> None:
    with depot_worker(database_url, tmp_path / "home") as worker:
        connections = psutil.Process(worker.process.pid).net_connections("inet")
        assert not [connection for connection in connections if connection.status == psutil.CONN_LISTEN]
        os.kill(worker.process.pid, signal.SIGTERM)
