"""The context of a job's function."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Literal, TypeVar, TypeVarTuple
from uuid import UUID

import structlog
from anyio import BrokenWorkerProcess, CancelScope, CapacityLimiter, to_process

from service.blobs import BlobStore
from service.database.database import Database
from service.database.errors import DATABASE_DOWN_ERRORS
from service.database.session import Session
from service.errors import Overloaded
from service.events.journal import WORKER
from service.jobs import statements
from service.jobs.process import run_at_low_priority

log = structlog.get_logger()
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PROGRESS_SECONDS = 0.25
"""Minimum seconds between writes of the progress."""


class JobFailed(Exception):
    """Fails the job permanently, without retries. Clients see the message; `result` may add details."""

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class JobSuperseded(Exception):
    """The worker lost the job: it was cancelled, or taken over after a missed heartbeat."""


class JobContext:
    """One run of a job; `attempt` is its number, from 1."""

    def __init__(
        self, job_id: UUID, queue_id: int, attempt: int, kind: str, *, database: Database, blobs: BlobStore
    ) -> None:
        self.id = job_id
        self.attempt = attempt
        self.database = database
        self.blobs = blobs
        self.identity = (job_id, queue_id, attempt)
        """The parameters of `statements.OWNED_BY_ATTEMPT`."""
        self.log = log.bind(job=str(job_id), kind=kind, attempt=attempt)
        self.succeeded = False
        """Whether `succeed` was called; it takes effect when its transaction commits."""
        self._progress = 0
        self._written_at = monotonic()

    async def report_progress(self, percent: int) -> None:
        """Report the progress in percent, which never decreases. Raises `JobSuperseded`."""
        now = monotonic()
        if percent <= self._progress or now - self._written_at < PROGRESS_SECONDS:
            return
        self._progress, self._written_at = percent, now
        try:
            row = await self.database.fetchrow(statements.PROGRESS, *self.identity, percent)
        except DATABASE_DOWN_ERRORS:  # progress is optional; only the end of the job must be written
            return
        if row is None:
            raise JobSuperseded

    async def run_in_process(self, function: "Callable[[*Ts], T]", *arguments: *Ts) -> T:
        """Run a CPU-bound function in a pool of processes, which has one process per core.

        The function must be importable, and its arguments and its result picklable. The process is killed
        when the job is cancelled. Raises `BrokenWorkerProcess` if the process dies during the call, and
        `Overloaded` if none can be started, which is not the job's fault.
        """
        async with to_process.current_default_process_limiter():
            limiter = CapacityLimiter(1)
            with _as_overloaded(BrokenWorkerProcess, OSError), CancelScope(shield=True):
                # Shielded: a process that is cancelled while it starts would leak.
                await to_process.run_sync(os.getpid, limiter=limiter)
            with _as_overloaded(ConnectionError, ProcessLookupError):
                return await to_process.run_sync(
                    run_at_low_priority, function, *arguments, cancellable=True, limiter=limiter
                )

    async def succeed(self, session: Session, result: Any) -> None:
        """End the job as succeeded in the caller's transaction: its effect and its end commit together.

        Raises `JobSuperseded`, so that the caller rolls back.
        """
        if not await self.end(session, "succeeded", result, None):
            raise JobSuperseded
        self.succeeded = True

    async def end(
        self,
        session: Session,
        status: Literal["succeeded", "failed"],
        result: Any,
        error: str | None,
    ) -> bool:
        """End the job. Return False if this run has lost it."""
        ended = await session.fetchrow(statements.FINISH, *self.identity, status, result, error, WORKER.actor)
        return ended is not None


@contextmanager
def _as_overloaded(*failures: type[Exception]) -> Iterator[None]:
    try:
        yield
    except failures as error:
        raise Overloaded("No worker process could be started") from error
