"""With a store, a rate limit holds across all processes; while the store is down, requests pass."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, process_time

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from service.auth.rate_limit import RateLimiter
from service.observability.metrics import Metrics
from service.settings import Settings
from tests.support.app_helpers import eventually, running
from tests.support.depot_process import depot_serve
from tests.support.fault_injection import free_port
from tests.support.redis_server import PROGRAM, redis_server

Mint = Callable[..., Awaitable[str]]

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="redis-server is not installed (apt-get install redis-server)"
)


async def test_a_limit_holds_across_two_processes(database_url: str, make_key: Mint, tmp_path: Path) -> None:
    key = await make_key("items:read")
    with redis_server(tmp_path, free_port()) as store:
        limits = {"DEPOT_RATE_LIMIT": "100/hour", "DEPOT_RATE_LIMIT_STORE": store}
        with (
            depot_serve(database_url, tmp_path / "one", **limits) as one,
            depot_serve(database_url, tmp_path / "two", **limits) as two,
        ):
            async with one.client(key) as first, two.client(key) as second:
                replies = await asyncio.gather(
                    *(client.get("/key") for client in (first, second) for _ in range(80))
                )
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    assert all("RateLimit" in reply.headers for reply in replies)
    assert 95 <= statuses.count(200) <= 105


async def test_while_the_store_is_down_requests_pass_and_the_log_and_a_metric_say_so(
    settings: Settings, key: str, tmp_path: Path
) -> None:
    port = free_port()
    store = f"redis://127.0.0.1:{port}/0"
    limited = replace(settings, rate_limit="3/hour", rate_limit_store=store)
    with capture_logs() as logs, ExitStack() as first_run:
        first_run.enter_context(redis_server(tmp_path, port))
        async with running(limited, key) as client:
            assert (await client.get("/key")).headers["RateLimit"].startswith('"default";r=2;')
            first_run.close()
            started = monotonic()
            replies = [await client.get("/key") for _ in range(20)]
            assert monotonic() - started < 5
            assert {reply.status_code for reply in replies} == {200}
            assert not any("RateLimit" in reply.headers for reply in replies)
            assert await unchecked(client) >= 20
            with redis_server(tmp_path, port):

                async def is_limited() -> bool:
                    return (await client.get("/key")).status_code == 429

                await eventually(is_limited)
    events = [entry["event"] for entry in logs if entry["event"].startswith("rate_limit_store")]
    assert events == ["rate_limit_store_down", "rate_limit_store_up"]


async def unchecked(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("depot_rate_limit_unchecked_total")]
    return float(line.split()[-1])


async def test_a_store_that_hangs_delays_only_a_few_requests(settings: Settings, key: str) -> None:
    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        hanging = replace(settings, rate_limit="3/hour", rate_limit_store=f"redis://127.0.0.1:{port}")
        async with running(hanging, key) as client:
            assert (await client.get("/key")).status_code == 200
            started = monotonic()
            assert {(await client.get("/key")).status_code for _ in range(20)} == {200}
            assert monotonic() - started < 2


async def test_no_check_starves_while_many_wait_for_the_store(tmp_path: Path) -> None:
    with redis_server(tmp_path, free_port()) as store:
        limiter = RateLimiter(Metrics(), store)

        async def check_often() -> None:
            for _ in range(50):
                assert await limiter.consume("key", "1000000/hour")

        async with limiter.open():
            await asyncio.gather(*(check_often() for _ in range(128)))


async def test_a_check_in_the_store_takes_little_cpu(tmp_path: Path) -> None:
    with redis_server(tmp_path, free_port()) as store:
        limiter = RateLimiter(Metrics(), store)
        async with limiter.open():
            await limiter.consume("key", "1000000/hour")
            started = process_time()
            for _ in range(500):
                assert await limiter.consume("key", "1000000/hour")
            seconds = (process_time() - started) / 500
    assert seconds < 0.001  # 0.1 ms with uvloop on a quiet machine
