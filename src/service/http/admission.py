"""How many requests are let in at once: bursts are, a queue that stands is not, and none waits for ever.

Under a load that lasts, whatever more is let in only makes all of it slower. So once the typical request has
taken longer than `delay_seconds` for `SLOW_TICKS` in a row, as many are let in as can be served within that
time (Little's law), but never fewer than `in_flight_min`; as soon as it is quicker again, more are.
"""

import asyncio
from asyncio import Task
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median_low
from time import perf_counter
from typing import Protocol

import structlog

log = structlog.get_logger()

TICK_SECONDS = 0.1
SLOW_TICKS = 5
GROWTH = 1.1
"""A tick."""
LOG_SECONDS = 1.0


class Admitted(Protocol):
    """A request that was let in, and since when (`perf_counter`)."""

    started: float

    async def give_up(self) -> None: ...


class Admission:
    """The requests in flight in this process, but for those that rightly take long."""

    def __init__(
        self, *, in_flight_min: int, in_flight_max: int, delay_seconds: float, timeout_seconds: float
    ) -> None:
        self._in_flight: set[Admitted] = set()
        self._min = min(in_flight_min, in_flight_max)
        self._max = self.limit = in_flight_max
        self._delay_seconds = delay_seconds
        self._timeout_seconds = timeout_seconds
        self._took: list[float] = []
        self._giving_up: set[Task[None]] = set()
        self._slow_ticks = 0
        self.refused = 0
        """Since the process began."""

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        return len(self._in_flight) >= self.limit

    def enter(self, request: Admitted) -> None:
        self._in_flight.add(request)

    def leave(self, request: Admitted) -> None:
        """Its reply is out, or it has a bound and a deadline of its own from here on."""
        self._in_flight.discard(request)

    def end(self, request: Admitted) -> None:
        if request in self._in_flight:
            self._in_flight.discard(request)
            self._took.append(perf_counter() - request.started)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._tick_for_ever())
        try:
            yield
        finally:
            ticking.cancel()

    async def _tick_for_ever(self) -> None:
        ticked, logged, told = perf_counter(), 0.0, 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = perf_counter()
            self.adapt(now - ticked)
            self._give_up(now)
            if self.refused > told and now - logged >= LOG_SECONDS:
                log.warning("overloaded", refused=self.refused - told, limit=self.limit)
                logged, told = now, self.refused
            ticked = now

    def adapt(self, seconds: float) -> None:
        """Set the limit by how long the requests took that ended in the last `seconds`."""
        took, self._took = self._took, []
        slow = bool(took) and median_low(took) > self._delay_seconds
        self._slow_ticks = self._slow_ticks + 1 if slow else 0
        if self._slow_ticks >= SLOW_TICKS:
            self.limit = max(self._min, min(self.limit, int(len(took) / seconds * self._delay_seconds)))
        elif not slow:
            self.limit = min(self._max, int(self.limit * GROWTH) + 1)

    def _give_up(self, now: float) -> None:
        late = [request for request in self._in_flight if now - request.started > self._timeout_seconds]
        for request in late:
            self.leave(request)
            task = asyncio.create_task(request.give_up())
            self._giving_up.add(task)
            task.add_done_callback(self._giving_up.discard)
