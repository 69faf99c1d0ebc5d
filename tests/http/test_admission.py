"""Tests of the adaptive concurrency limit and load shedding."""

import asyncio
from functools import partial
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import Message
from msgspec.structs import replace

from service.http.admission import (
    OVERLOADED_TICKS,
    REJECTIONS_PER_SECOND,
    REJECTIONS_PER_TICK,
    RETRY_SECONDS_MAX,
    TICK_SECONDS,
    AdmissionControl,
)
from service.http.exchange import Exchange
from service.settings import Settings
from tests.support.app_helpers import item, locked, running, wait_for_locks
from tests.support.reply_assertions import assert_refused

DELAY_SECONDS = 0.05
IN_FLIGHT_MIN, IN_FLIGHT_MAX = 10, 1000


class Request:
    """A request that has been in flight for some seconds."""

    def __init__(self, seconds: float) -> None:
        self.started = perf_counter() - seconds

    async def reject_write(self) -> None:
        raise AssertionError

    async def time_out(self) -> None:
        raise AssertionError


@pytest.fixture
def admission() -> AdmissionControl:
    return AdmissionControl(
        in_flight_min=IN_FLIGHT_MIN,
        in_flight_max=IN_FLIGHT_MAX,
        delay_seconds=DELAY_SECONDS,
        timeout_seconds=60,
    )


def tick(admission: AdmissionControl, requests: int, seconds: float) -> None:
    """Complete `requests` concurrent requests that took `seconds` each, then adjust the limit."""
    concurrent = [Request(seconds) for _ in range(requests)]
    for request in concurrent:
        receive(admission, request)
    for request in concurrent:
        admission.complete(request)
    adjust(admission)


def receive(admission: AdmissionControl, request: Request) -> None:
    """Admit a request as the server and the application do."""
    admission.expect()
    admission.pending -= 1
    admission.admit(request)


def adjust(admission: AdmissionControl) -> None:
    admission.adjust_limit(TICK_SECONDS, perf_counter())


class Write(Request):
    """A request that writes. It counts how often it is rejected."""

    rejections = 0

    async def reject_write(self) -> None:
        self.rejections += 1


async def test_writes_are_rejected_together_those_with_a_deadline_of_their_own_too(
    admission: AdmissionControl,
) -> None:
    short, long, completed = Write(0), Write(0), Write(0)
    for request in (short, long, completed):
        admission.admit(request)
    for request in (long, completed):
        admission.exempt(request)
    admission.complete(completed)
    admission.reject_writes()
    await asyncio.sleep(0)
    assert [request.rejections for request in (short, long, completed)] == [1, 1, 0]


def test_a_burst_is_admitted(admission: AdmissionControl) -> None:
    for _ in range(OVERLOADED_TICKS - 1):
        tick(admission, 100, seconds=0.5)
    assert admission.limit == 1000


def test_under_sustained_load_only_requests_that_can_be_served_in_time_are_admitted(
    admission: AdmissionControl,
) -> None:
    for _ in range(OVERLOADED_TICKS):
        tick(admission, 100, seconds=0.5)
    assert admission.limit == 50  # 1,000 a second, for 0.05 s


def test_requests_that_are_never_completed_lower_the_limit(admission: AdmissionControl) -> None:
    for _ in range(IN_FLIGHT_MIN):
        receive(admission, Request(0.5))
    for _ in range(OVERLOADED_TICKS):
        adjust(admission)
    assert admission.limit == IN_FLIGHT_MIN


def reject(admission: AdmissionControl, clients: int) -> None:
    for port in range(clients):
        admission.retry_after(("192.0.2.1", port))


def test_with_more_clients_than_the_limit_ever_admits_the_limit_is_at_its_minimum(
    admission: AdmissionControl,
) -> None:
    reject(admission, IN_FLIGHT_MAX)
    for _ in range(OVERLOADED_TICKS - 1):
        tick(admission, IN_FLIGHT_MIN, seconds=0.001)
    assert admission.limit == IN_FLIGHT_MAX  # a burst
    for _ in range(OVERLOADED_TICKS):
        tick(admission, IN_FLIGHT_MIN, seconds=0.001)
    assert admission.limit == IN_FLIGHT_MIN


def test_the_limit_grows_while_all_rejected_clients_could_be_admitted(admission: AdmissionControl) -> None:
    reject(admission, IN_FLIGHT_MAX - IN_FLIGHT_MIN)
    admission.limit = IN_FLIGHT_MIN
    tick(admission, IN_FLIGHT_MIN, seconds=0.001)
    assert admission.limit > IN_FLIGHT_MIN


def test_rejected_clients_are_expected_until_they_retry(admission: AdmissionControl) -> None:
    for _ in range(2):  # each counts once
        reject(admission, IN_FLIGHT_MAX)
    admission.limit = IN_FLIGHT_MIN
    tick(admission, IN_FLIGHT_MIN, seconds=0.001)
    assert admission.limit == IN_FLIGHT_MIN
    for port in range(IN_FLIGHT_MIN):
        admission.end_wait(("192.0.2.1", port))
    tick(admission, IN_FLIGHT_MIN, seconds=0.001)
    assert admission.limit > IN_FLIGHT_MIN


def test_rejected_clients_are_expected_no_longer_than_they_should_wait(admission: AdmissionControl) -> None:
    reject(admission, IN_FLIGHT_MAX)
    admission.limit = IN_FLIGHT_MIN
    for _ in range(IN_FLIGHT_MIN):
        admission.expect()
    admission.adjust_limit(TICK_SECONDS, perf_counter() + RETRY_SECONDS_MAX)
    assert admission.limit > IN_FLIGHT_MIN


def test_requests_that_wait_for_their_start_show_that_the_limit_is_reached(
    admission: AdmissionControl,
) -> None:
    reject(admission, IN_FLIGHT_MAX)
    admission.limit = IN_FLIGHT_MIN
    for _ in range(IN_FLIGHT_MIN):
        admission.expect()
    adjust(admission)
    assert admission.limit == IN_FLIGHT_MIN


def test_late_requests_take_no_slots_of_others_while_clients_wait(admission: AdmissionControl) -> None:
    for _ in range(40):
        receive(admission, Request(9))
    reject(admission, IN_FLIGHT_MAX)
    for _ in range(OVERLOADED_TICKS):
        tick(admission, 100, seconds=0.001)
    assert admission.limit == 40 + IN_FLIGHT_MIN


def test_a_few_requests_are_not_an_overload_however_slow_they_are(admission: AdmissionControl) -> None:
    receive(admission, Request(50))
    for _ in range(2 * OVERLOADED_TICKS):
        tick(admission, IN_FLIGHT_MIN - 2, seconds=5)
    assert admission.limit == IN_FLIGHT_MAX


LOADS = st.tuples(
    st.integers(0, 3000), st.floats(0, 60), st.integers(0, 300), st.integers(0, 100), st.floats(0.05, 2)
)


@given(st.lists(LOADS, max_size=40), st.integers(1, 300), st.integers(1, 2000))
def test_the_limit_stays_above_its_minimum_and_recovers_after_any_load(
    history: list[tuple[int, float, int, int, float]], minimum: int, maximum: int
) -> None:
    admission = AdmissionControl(
        in_flight_min=minimum, in_flight_max=maximum, delay_seconds=DELAY_SECONDS, timeout_seconds=60
    )
    floor = min(minimum, maximum)
    for completed, seconds, stuck, rejected, tick_seconds in history:
        waiting = [Request(seconds) for _ in range(stuck)]
        for request in waiting:
            receive(admission, request)
        for request in [Request(seconds) for _ in range(completed)]:
            receive(admission, request)
            admission.complete(request)
        reject(admission, rejected)
        admission.adjust_limit(tick_seconds, perf_counter())
        assert floor <= admission.limit <= maximum
        for request in waiting:
            admission.exempt(request)
    for _ in range(round(5 / TICK_SECONDS)):
        adjust(admission)
    assert admission.limit == maximum


def test_during_recovery_one_slow_tick_lowers_the_limit(admission: AdmissionControl) -> None:
    for _ in range(OVERLOADED_TICKS):
        tick(admission, 100, seconds=0.5)
    tick(admission, 100, seconds=0.01)
    assert admission.limit > 50
    tick(admission, 80, seconds=0.5)
    assert admission.limit == 40


def test_parsed_requests_count_before_the_application_receives_them(admission: AdmissionControl) -> None:
    for _ in range(IN_FLIGHT_MAX):
        admission.expect()
    assert admission.full


def test_a_process_is_busy_with_more_than_one_request(admission: AdmissionControl) -> None:
    receive(admission, Request(0))
    assert not admission.is_busy()
    admission.expect()
    assert admission.is_busy()


def test_the_time_before_a_request_is_started_counts(admission: AdmissionControl) -> None:
    scope = {"headers": [], "path": "/items", "method": "GET", "state": {"parsed_at": 5.0}}
    assert Exchange(scope, unused, admission, closing=False).started == 5.0


async def unused(message: Message) -> None:
    raise AssertionError


def test_clients_that_are_rejected_repeatedly_are_paused_and_resumed_in_turn(
    admission: AdmissionControl,
) -> None:
    admission.rejected += REJECTIONS_PER_TICK
    assert not admission.should_pause
    admission.rejected += 1
    assert admission.should_pause
    resumed: list[int] = []
    for number in range(REJECTIONS_PER_TICK + 1):
        admission.pause(partial(resumed.append, number))
    admission.resume_some(TICK_SECONDS)
    assert resumed == list(range(REJECTIONS_PER_TICK))
    assert admission.should_pause  # one is still paused
    admission.resume_some(TICK_SECONDS)
    assert resumed == list(range(REJECTIONS_PER_TICK + 1))
    assert not admission.should_pause


def test_a_late_tick_resumes_more_clients(admission: AdmissionControl) -> None:
    resumed: list[int] = []
    for number in range(5 * REJECTIONS_PER_TICK):
        admission.pause(partial(resumed.append, number))
    admission.resume_some(3 * TICK_SECONDS)
    assert resumed == list(range(3 * REJECTIONS_PER_TICK))


def announced(admission: AdmissionControl) -> set[str]:
    return {admission.retry_after(None)["Retry-After"] for _ in range(1000)}


def test_retry_after_grows_with_the_clients_that_wait_and_is_spread(admission: AdmissionControl) -> None:
    assert announced(admission) == {"1"}
    reject(admission, 5 * REJECTIONS_PER_SECOND // 2 - 1)
    assert announced(admission) == set("12345")
    reject(admission, RETRY_SECONDS_MAX * REJECTIONS_PER_SECOND)
    assert announced(admission) == {str(seconds + 1) for seconds in range(RETRY_SECONDS_MAX)}
    admission.adjust_limit(TICK_SECONDS, perf_counter() + RETRY_SECONDS_MAX)
    assert announced(admission) == {"1"}


def test_retry_after_grows_while_clients_that_share_a_connection_return_too_soon(
    admission: AdmissionControl,
) -> None:
    for _ in range(4):
        admission.adjust_retry_after(4 * REJECTIONS_PER_SECOND)
    assert announced(admission) == {str(seconds + 1) for seconds in range(RETRY_SECONDS_MAX)}
    admission.adjust_retry_after(0)
    assert announced(admission) == {"1"}


def test_the_limit_stays_at_its_minimum_however_slow_requests_are(admission: AdmissionControl) -> None:
    for _ in range(OVERLOADED_TICKS):
        tick(admission, IN_FLIGHT_MIN, seconds=5)
    assert admission.limit == IN_FLIGHT_MIN


def test_a_few_slow_requests_among_quick_ones_are_not_an_overload(admission: AdmissionControl) -> None:
    for _ in range(2 * OVERLOADED_TICKS):
        for _ in range(40):
            receive(admission, Request(9))
        tick(admission, 100, seconds=0.001)
    assert admission.limit == 1000


def test_the_limit_recovers_when_requests_are_fast_again(admission: AdmissionControl) -> None:
    for _ in range(OVERLOADED_TICKS):
        tick(admission, 100, seconds=0.5)
    for _ in range(40):
        tick(admission, 100, seconds=0.01)
    assert admission.limit == 1000


def test_a_long_running_request_does_not_count(admission: AdmissionControl) -> None:
    upload = Request(100)
    receive(admission, upload)
    admission.exempt(upload)
    assert len(admission) == 0
    admission.complete(upload)
    for _ in range(OVERLOADED_TICKS):
        adjust(admission)
    assert admission.limit == 1000


async def test_excess_requests_are_rejected_and_health_checks_never(settings: Settings, key: str) -> None:
    async with running(replace(settings, in_flight_max=2), key) as client:
        bolt = await item(client)
        async with locked(str(settings.database_url), bolt) as connection:
            waiting = [
                asyncio.create_task(client.patch(f"/items/{bolt['id']}", json={"name": name}))
                for name in "AB"
            ]
            await wait_for_locks(connection, 2)
            reply = await client.get(f"/items/{bolt['id']}")
            assert_refused(reply, 503, "OVERLOADED")
            assert reply.headers["Retry-After"] == "1"
            for path in ("/health", "/health/live", "/health/ready"):
                assert (await client.get(path)).status_code == 200
        assert [reply.status_code for reply in await asyncio.gather(*waiting)] == [200, 200]
        assert (await client.get(f"/items/{bolt['id']}")).status_code == 200
