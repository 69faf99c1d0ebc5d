"""How many requests are let in at once: bursts are, a queue that stands is not, and none waits for ever.

Under a load that lasts, whatever more is let in only makes all of it slower. It shows in two ways: the
typical request takes longer than `delay_seconds`, or more requests wait for a connection to the database than
there are. Once that was so for `BUSY_TICKS` in a row, no more are let in than can be served within that time
(Little's law), but as many as `in_flight_min`: orders are quicker together (a commit serves many), and a
limit that takes that from them would have to sink ever further. Nor more than find a connection soon. As soon
as it is so no longer, more are let in, until all are again.

To refuse is work too, half of what a simple read is. So clients are told to come back after so many seconds
that about `REFUSALS_PER_SECOND` do, and not all at the same instant. Those that come again at once all the
same could keep the service busy with nothing else: when many were refused, their connections are not read for
a while, and `REFUSALS_PER_TICK` of them are read again each tick, in turn.
"""

import asyncio
import random
from asyncio import Task
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median_low
from time import perf_counter
from typing import Protocol

import structlog

log = structlog.get_logger()

TICK_SECONDS = 0.1
BUSY_TICKS = 5
GROWTH_PER_TICK = 0.1
"""A tick, once nobody is refused any more. As long as somebody is, little by little."""
REFUSALS_PER_SECOND = 100
"""Of one process, by clients that obey `Retry-After`."""
RETRY_SECONDS_MAX = 8
REFUSALS_PER_TICK = 100
"""Of one process. Those who are read again may be refused as often within the tick."""


class AdmittedRequest(Protocol):
    """A request that was let in, and since when (`perf_counter`)."""

    started: float

    async def give_up(self) -> None: ...


class AdmissionControl:
    """The requests in flight in this process, but for those that rightly take long."""

    def __init__(
        self,
        *,
        in_flight_min: int,
        in_flight_max: int,
        delay_seconds: float,
        timeout_seconds: float,
        waiting: Callable[[], int],
        waiting_max: int,
    ) -> None:
        """`waiting`: how many of those that were let in wait for a connection to the database."""
        self._in_flight: set[AdmittedRequest] = set()
        self._min = min(in_flight_min, in_flight_max)
        self._max = self.limit = in_flight_max
        self._delay_seconds = delay_seconds
        self._timeout_seconds = timeout_seconds
        self._waiting = waiting
        self._waiting_max = waiting_max
        self._durations: list[float] = []
        self._giving_up: set[Task[None]] = set()
        self._busy_ticks = 0
        self._paused: deque[Callable[[], None]] = deque()
        self._refused_before = 0
        self._retry_seconds = 1.0
        self.refused = 0
        """Since the process began."""
        self.arriving = 0
        """Requests that the server has read and the application has not seen yet."""

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        return len(self._in_flight) + self.arriving >= self.limit

    @property
    def should_pause(self) -> bool:
        """Whether so many were refused since the last tick that who was refused should rest."""
        return self.refused - self._refused_before > REFUSALS_PER_TICK or bool(self._paused)

    def rest(self, wake: Callable[[], None]) -> None:
        """Until its turn comes to be heard again."""
        self._paused.append(wake)

    def retry_after(self) -> dict[str, str]:
        """The header for one that is refused now."""
        return {"Retry-After": str(random.randint(1, round(self._retry_seconds)))}  # noqa: S311  # no secret

    def enter(self, request: AdmittedRequest) -> None:
        self._in_flight.add(request)

    def leave(self, request: AdmittedRequest) -> None:
        """Its reply is out, or it has a bound and a deadline of its own from here on."""
        self._in_flight.discard(request)

    def end(self, request: AdmittedRequest) -> None:
        if request in self._in_flight:
            self._in_flight.discard(request)
            self._durations.append(perf_counter() - request.started)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._run())
        try:
            yield
        finally:
            ticking.cancel()

    async def _run(self) -> None:
        ticked = told = perf_counter()
        refused = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = perf_counter()
            self.adapt(now - ticked)
            self._time_out_late_requests(now)
            self.resume_some()
            ticked = now
            if now - told >= 1:
                self.spread((self.refused - refused) / (now - told))
                if self.refused > refused:
                    log.warning("overloaded", refused=self.refused - refused, limit=self.limit)
                refused, told = self.refused, now

    def spread(self, refused_per_second: float) -> None:
        """Choose what those who are refused from now on are told."""
        wanted = self._retry_seconds * refused_per_second / REFUSALS_PER_SECOND
        self._retry_seconds = min(max(1.0, wanted), RETRY_SECONDS_MAX)

    def adapt(self, seconds: float) -> None:
        """Set the limit by what ended in the last `seconds`, and by what waits."""
        took, self._durations = self._durations, []
        slow = bool(took) and median_low(took) > self._delay_seconds
        surplus = self._waiting() - self._waiting_max
        busy = slow or surplus > 0
        self._busy_ticks = self._busy_ticks + 1 if busy else 0
        if self._busy_ticks >= BUSY_TICKS or (busy and self.limit < self._max):
            in_time = int(len(took) / seconds * self._delay_seconds) if slow else self._max
            connected = len(self) - surplus if surplus > 0 else self._max
            self.limit = min(max(self._min, in_time), connected)
        elif not busy:
            probe = 0 if self.refused > self._refused_before else self.limit * GROWTH_PER_TICK
            self.limit = min(self._max, self.limit + int(probe) + 1)

    def resume_some(self) -> None:
        self._refused_before = self.refused
        for _ in range(min(REFUSALS_PER_TICK, len(self._paused))):
            self._paused.popleft()()

    def _time_out_late_requests(self, now: float) -> None:
        late = [request for request in self._in_flight if now - request.started > self._timeout_seconds]
        for request in late:
            self.leave(request)
            task = asyncio.create_task(request.give_up())
            self._giving_up.add(task)
            task.add_done_callback(self._giving_up.discard)
