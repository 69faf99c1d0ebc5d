"""Adaptive concurrency limit and load shedding (decision 0015).

Bursts are admitted; a standing queue is not, and no request waits forever. Under sustained load, admitting
more requests only makes all of them slower. A tick is overloaded if at least `in_flight_min` requests were in
flight and one of these holds:

* The median request took longer than `delay_seconds`. After `OVERLOADED_TICKS` of such ticks in a row the
  limit falls to what can be served within `delay_seconds` (Little's law), but never below `in_flight_min`:
  requests share commits and connections and are faster together, so a lower limit would keep sinking.
* More clients are in flight, or wait after a rejection, than the limit can ever admit. Some must wait anyway,
  so the limit falls to `in_flight_min`: a few connections that are served in quick succession stay in the
  processor's caches (decision 0020). Requests that are late in spite of that do not count.

As soon as a tick is not overloaded, the limit grows back, to its maximum within `RECOVERY_SECONDS`.

Rejecting costs half as much as a simple read. Clients therefore get a random `Retry-After` that brings about
`REJECTIONS_PER_SECOND` of them back per second. Clients that ignore it are throttled: after many rejections
their connections are not read for a while, and `REJECTIONS_PER_TICK` of them are resumed each tick, in turn.
"""

import asyncio
import random
from asyncio import Task
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from math import ceil
from statistics import median_low
from time import perf_counter
from typing import Protocol

import structlog

from service.tasks import running

log = structlog.get_logger()

TICK_SECONDS = 0.1
OVERLOADED_TICKS = 5
RECOVERY_SECONDS = 3
"""Time in which the limit grows from any value to its maximum while no tick is overloaded."""
REJECTIONS_PER_SECOND = 100
"""Target rejections per second and process, for clients that honor `Retry-After`."""
RETRY_SECONDS_MAX = 32
REJECTIONS_PER_TICK = 100
"""Rejections per tick and process before clients are paused, and paused clients resumed per tick."""


Address = tuple[str, int] | None
"""The other end of a connection; None for a Unix socket."""


class AdmittedRequest(Protocol):
    """An admitted request; `started` is its `perf_counter` time."""

    started: float

    async def time_out(self) -> None: ...

    async def reject_write(self) -> None: ...


class AdmissionControl:
    """The requests in flight in this process, except long-running ones, and the limit of them."""

    def __init__(
        self,
        *,
        in_flight_min: int,
        in_flight_max: int,
        delay_seconds: float,
        timeout_seconds: float,
    ) -> None:
        self._in_flight: set[AdmittedRequest] = set()
        self._exempt: set[AdmittedRequest] = set()
        self._min = min(in_flight_min, in_flight_max)
        self._max = self.limit = in_flight_max
        self._delay_seconds = delay_seconds
        self._timeout_seconds = timeout_seconds
        self._durations: list[float] = []
        self._answering: set[Task[None]] = set()
        self._peak = 0
        """The most requests that were in flight at once since the last tick."""
        self._overloaded_ticks = 0
        self._paused: deque[Callable[[], None]] = deque()
        self._rejected_before = 0
        self._retry_seconds = 1.0
        self._waiting: dict[Address, float] = {}
        """When each rejected client may retry; clients that have retried are not included."""
        self.rejected = 0
        """Rejections since the process started."""
        self.pending = 0
        """Requests that the server has parsed and the application has not received yet."""

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        return len(self._in_flight) + self.pending >= self.limit

    def is_busy(self) -> bool:
        """Return whether more than one request is in flight."""
        return len(self._in_flight) + self.pending > 1

    @property
    def should_pause(self) -> bool:
        """Return whether rejected clients must be paused: after many rejections, or while some are paused."""
        return self.rejected - self._rejected_before > REJECTIONS_PER_TICK or bool(self._paused)

    def pause(self, resume: Callable[[], None]) -> None:
        """Pause a client; `resume` is called when its turn comes."""
        self._paused.append(resume)

    def retry_after(self, client: Address) -> dict[str, str]:
        """Return the `Retry-After` header for a rejection, and expect the client to wait."""
        wanted = 2 * len(self._waiting) / REJECTIONS_PER_SECOND  # the mean is half of it
        longest = round(min(max(self._retry_seconds, wanted), RETRY_SECONDS_MAX))
        seconds = random.randint(1, longest)  # noqa: S311  # no secret
        self._waiting[client] = perf_counter() + seconds
        return {"Retry-After": str(seconds)}

    def end_wait(self, client: Address) -> None:
        """Note that a client retries, early or not, or has left."""
        self._waiting.pop(client, None)

    def expect(self) -> None:
        """Count a parsed request until the application receives it."""
        self.pending += 1
        self._peak = max(self._peak, len(self._in_flight) + self.pending)

    def admit(self, request: AdmittedRequest) -> None:
        self._in_flight.add(request)

    def exempt(self, request: AdmittedRequest) -> None:
        """Stop limiting a request that has its reply, or its own limit and deadline from now on."""
        self._in_flight.discard(request)
        self._exempt.add(request)

    def complete(self, request: AdmittedRequest) -> None:
        self._exempt.discard(request)
        if request in self._in_flight:
            self._in_flight.discard(request)
            self._durations.append(perf_counter() - request.started)

    def open(self) -> AbstractAsyncContextManager[None]:
        return running(self._run())

    async def _run(self) -> None:
        ticked = reported_at = perf_counter()
        rejected = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = perf_counter()
            self.adjust_limit(now - ticked, now)
            self._time_out_late_requests(now)
            self.resume_some(now - ticked)
            ticked = now
            if now - reported_at >= 1:
                self.adjust_retry_after((self.rejected - rejected) / (now - reported_at))
                if self.rejected > rejected:
                    log.warning("load_shed", rejected=self.rejected - rejected, limit=self.limit)
                rejected, reported_at = self.rejected, now

    def adjust_retry_after(self, rejected_per_second: float) -> None:
        """Let clients wait longer while too many return: those of a proxy share a few connections."""
        wanted = self._retry_seconds * rejected_per_second / REJECTIONS_PER_SECOND
        self._retry_seconds = min(max(1.0, wanted), RETRY_SECONDS_MAX)

    def adjust_limit(self, seconds: float, now: float) -> None:
        """Adjust the limit to the requests that were completed in the last `seconds`."""
        durations, self._durations = self._durations, []
        peak, self._peak = self._peak, len(self._in_flight)
        slow = self._median_seconds(durations, now) > self._delay_seconds
        self._waiting = {client: retry_at for client, retry_at in self._waiting.items() if retry_at > now}
        overloaded = peak >= self._min and (slow or peak + len(self._waiting) > self._max)
        self._overloaded_ticks = self._overloaded_ticks + 1 if overloaded else 0
        if not overloaded:
            growth = self._max * seconds / RECOVERY_SECONDS
            self.limit = min(self._max, self.limit + ceil(growth))
        elif self.limit < self._max or self._overloaded_ticks >= OVERLOADED_TICKS:
            in_time = int(len(durations) / seconds * self._delay_seconds)
            allowed = max(self._min, in_time) if slow else self._min + self._count_late(now)
            self.limit = min(self._max, allowed)

    def _count_late(self, now: float) -> int:
        """Return how many requests take longer than the median may, such as those whose body is slow."""
        return sum(now - request.started > self._delay_seconds for request in self._in_flight)

    def _median_seconds(self, durations: list[float], now: float) -> float:
        """Return what the median request took, or has taken so far if none was completed."""
        ages = durations or [now - request.started for request in self._in_flight]
        return median_low(ages) if ages else 0.0

    def resume_some(self, seconds: float) -> None:
        """Resume the clients paused first, as many as `seconds` allow: ticks are late under load."""
        self._rejected_before = self.rejected
        allowed = ceil(REJECTIONS_PER_TICK * seconds / TICK_SECONDS)
        for _ in range(min(allowed, len(self._paused))):
            self._paused.popleft()()

    def _time_out_late_requests(self, now: float) -> None:
        late = [request for request in self._in_flight if now - request.started > self._timeout_seconds]
        for request in late:
            self.exempt(request)
            self._answer(request.time_out())

    def reject_writes(self) -> None:
        """Answer the writes in flight, because commits do not complete."""
        for request in (*self._in_flight, *self._exempt):
            self._answer(request.reject_write())

    def _answer(self, reply: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(reply)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
