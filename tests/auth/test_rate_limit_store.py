"""With a store, a rate limit holds across all processes; while the store is down, requests pass."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, process_time

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from msgspec.structs import replace
from redis.asyncio import Redis
from structlog.testing import capture_logs

from service.auth.rate_limit import STORE_PAUSE_SECONDS, STORE_TIMEOUT_SECONDS, RateLimiter
from service.auth.rate_limit_store import remaining_window
from service.errors import RateLimited
from service.observability.metrics import Metrics
from service.settings import Settings
from tests.support.app_helpers import eventually, running
from tests.support.depot_process import depot_serve
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.requirements import requires

Mint = Callable[..., Awaitable[str]]

pytestmark = requires("redis-server")


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


async def test_a_store_that_hangs_delays_no_request_once_it_is_known(settings: Settings, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hanging = replace(settings, rate_limit="3/hour", rate_limit_store=f"redis://127.0.0.1:{port}")
        async with running(hanging, key) as client:
            before, slowest = monotonic(), 0.0
            while monotonic() - before < STORE_PAUSE_SECONDS + 0.2:
                started = monotonic()
                assert (await client.get("/key")).status_code == 200
                slowest = max(slowest, monotonic() - started)
                await asyncio.sleep(0.02)
        assert slowest < STORE_TIMEOUT_SECONDS / 2


async def test_no_check_starves_while_many_wait_for_the_store(tmp_path: Path) -> None:
    with redis_server(tmp_path, free_port()) as store:
        limiter = RateLimiter(Metrics(), store)

        async def check_often() -> None:
            for _ in range(50):
                assert await limiter.consume("key", "1000000/hour")

        async with limiter.open():
            await asyncio.gather(*(check_often() for _ in range(128)))


async def test_a_check_is_one_round_trip_and_takes_little_cpu(tmp_path: Path) -> None:
    with redis_server(tmp_path, free_port()) as store:
        limiter = RateLimiter(Metrics(), store)
        async with limiter.open(), Redis.from_url(store) as redis:
            await limiter.consume("key", "1000000/hour")
            calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            started = process_time()
            for _ in range(500):
                assert await limiter.consume("key", "1000000/hour")
            seconds = (process_time() - started) / 500
            statistics = await redis.info("commandstats")
    assert statistics["cmdstat_evalsha"]["calls"] - calls == 500
    assert seconds < 0.0005  # 0.05 ms with uvloop on a quiet machine


COUNTS = st.integers(0, 2_000_000)
MILLISECONDS = st.integers(-2, 7_200_000)


@given(COUNTS, MILLISECONDS, COUNTS, MILLISECONDS)
@example(33, 3_600_000, 0, 0)  # the remainder of a division that comes out even only without rounding
async def test_what_is_left_of_a_window_is_what_the_library_says(
    previous: int, previous_ms: int, current: int, current_ms: int
) -> None:
    class StoredWindow(MemoryStorage):
        async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
            return previous, max(0, previous_ms) / 1000, current, max(0, current_ms) / 1000

    limit = parse("1000000/hour")
    window = remaining_window(limit, 1, previous, previous_ms, current, current_ms)
    reset_at, remaining = await SlidingWindowCounterRateLimiter(StoredWindow()).get_window_stats(limit, "key")
    assert window.remaining == remaining
    assert window.reset_at == pytest.approx(reset_at, abs=1)


async def test_a_limit_in_the_store_is_refused_and_reported_as_one_in_the_process(tmp_path: Path) -> None:
    with redis_server(tmp_path, free_port()) as store:
        shared, own = RateLimiter(Metrics(), store), RateLimiter(Metrics())
        async with shared.open(), own.open():
            for _ in range(5):
                assert await outcome(shared) == await outcome(own)


async def outcome(limiter: RateLimiter) -> tuple[str, str]:
    """Return whether a request passes, and the header without its time."""
    try:
        headers = await limiter.consume("key", "3/hour")
        outcome, limit = "granted", dict(headers)[b"ratelimit"].decode()
    except RateLimited as refused:
        outcome, limit = "refused", refused.headers["RateLimit"]
    return outcome, limit.partition(";t=")[0]
