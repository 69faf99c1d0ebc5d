"""Batches: requests that arrive together share one statement, one round trip and one commit.

While a batch is running, new requests queue; the next batch takes them all. There is no timer, so a request
on an idle service runs immediately. docs/decisions/0018-batches.md has the rules, the reasons and the
measurements.
"""

import asyncio
from asyncio import Future, Task
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from time import perf_counter
from typing import Any, Generic

import structlog
from msgspec import Struct

from service.database.batch_key import BatchKey, Request, Result
from service.database.errors import SHARED_ERRORS
from service.database.session import Session
from service.errors import Overloaded
from service.observability.tracing import NO_TRACER, Tracer

log = structlog.get_logger()

REPLIES_PER_TURN = 16
"""Results delivered per turn of the event loop. Each wakes a handler, and other requests wait for them."""


class BatchKind(Struct, Generic[Request, Result], frozen=True, eq=False):
    """A kind of batch: its operation and its limits."""

    key: BatchKey[Request, Result]
    run: Callable[[Session, Sequence[Request]], Awaitable[Sequence[Result | Exception]]]
    """Takes a session and the requests; returns one result per request, or the exception to raise for it."""
    size_max: int = 64
    concurrency_max: int = 2
    queue_max: int = 4096
    conflict_key: Callable[[Request], Hashable] | None = None
    """Two requests with the same key, such as mutations of one row, never share a batch."""


class Member(Struct, Generic[Request, Result], eq=False):
    """A request that waits for its batch."""

    request: Request
    result: "Future[Result]"
    span: Any

    def resolve(self, outcome: Result | BaseException) -> None:
        if self.result.done():
            return  # the caller was cancelled
        if isinstance(outcome, BaseException):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)


class Batcher(Generic[Request, Result]):
    """The queue of one kind of batches in this process."""

    def __init__(
        self,
        kind: BatchKind[Request, Result],
        session: Callable[[], AbstractAsyncContextManager[Session]],
        *,
        tracer: Tracer = NO_TRACER,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """`session` opens a session; `observe` gets the size and the seconds of each committed batch."""
        self._kind = kind
        self._session = session
        self._tracer = tracer
        self._observe = observe
        self._queue: deque[Member[Request, Result]] = deque()
        self._running: set[Task[None]] = set()

    def __len__(self) -> int:
        """Return the number of requests that wait for a batch."""
        return len(self._queue)

    async def join(self, request: Request, *, first: bool = False) -> Result:
        """Return the request's own result; `first` queues it before the others.

        Raises the exception that `run` returned for the request, or `Overloaded` if the queue is full.
        """
        if len(self._queue) >= self._kind.queue_max:
            raise Overloaded
        result: Future[Result] = asyncio.get_running_loop().create_future()
        member = Member(request, result, self._tracer.current_span())
        if first:
            self._queue.appendleft(member)
        else:
            self._queue.append(member)
        if len(self._running) < self._kind.concurrency_max:
            # In a fresh context, because the task also serves requests other than the one that starts it.
            self._running.add(asyncio.create_task(self._run_until_empty(), context=Context()))
        return await result

    async def finish(self) -> None:
        """Wait until every queued request is answered."""
        while self._running:
            await asyncio.wait(self._running)

    async def _run_until_empty(self) -> None:
        """Run batches until the queue is empty.

        The task removes itself in the turn of the event loop in which it saw the queue empty. A callback
        would run a turn later, and a request that is queued in between would start no batch.
        """
        try:
            while batch := self._take():
                await self._run(batch)
        finally:
            self._running.discard(asyncio.current_task())

    def _take(self) -> list[Member[Request, Result]]:
        """Take the next batch off the queue, without members that were cancelled meanwhile."""
        batch: list[Member[Request, Result]] = []
        postponed: list[Member[Request, Result]] = []
        keys: set[Hashable] = set()
        while self._queue and len(batch) < self._kind.size_max:
            member = self._queue.popleft()
            if member.result.done():
                continue
            key = self._kind.conflict_key(member.request) if self._kind.conflict_key else None
            if key is not None and key in keys:
                postponed.append(member)
            else:
                keys.add(key)
                batch.append(member)
        self._queue.extendleft(reversed(postponed))
        return batch

    async def _run(self, batch: list[Member[Request, Result]]) -> None:
        started_at = perf_counter()
        spans = [member.span for member in batch]
        try:
            with self._tracer.internal_span(self._kind.key.name, {"depot.batch_size": len(batch)}, spans):
                async with self._session() as session:
                    outcomes = await self._kind.run(session, [member.request for member in batch])
        except Exception as error:  # any error is the result of these requests
            if len(batch) == 1 or isinstance(error, SHARED_ERRORS):
                _resolve([(member, error) for member in batch])
            else:
                log.warning("batch_failed", batch=self._kind.key.name, size=len(batch), cause=repr(error))
                for member in batch:
                    await self._run([member])
        else:
            if self._observe is not None:
                self._observe(len(batch), perf_counter() - started_at)
            _resolve(list(zip(batch, outcomes, strict=True)))


def _resolve(outcomes: Sequence[tuple[Member[Any, Any], Any]]) -> None:
    """Resolve members in slices, one per turn of the event loop, so that sockets are served in between."""
    for member, outcome in outcomes[:REPLIES_PER_TURN]:
        member.resolve(outcome)
    if rest := outcomes[REPLIES_PER_TURN:]:
        asyncio.get_running_loop().call_soon(_resolve, rest)
