"""A job as the function that does it sees it."""

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
from service.database.session import Session
from service.errors import Overloaded
from service.events.journal import WORKER
from service.jobs import statements
from service.jobs.outage_errors import DATABASE_DOWN_ERRORS
from service.jobs.process import run_at_low_priority

log = structlog.get_logger()
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PROGRESS_SECONDS = 0.25
"""Progress is written at most this often."""


class JobFailed(Exception):
    """Ends a job as failed at once: trying again would not help. `result` may say more.

    Its text is shown to clients.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class JobSuperseded(Exception):
    """The job is not this worker's any more: it was cancelled, or taken over after a lapsed heartbeat."""


class JobContext:
    """One run of a job. `attempt` counts them; the first is 1."""

    def __init__(
        self, job_id: UUID, queue_id: int, attempt: int, kind: str, *, database: Database, blobs: BlobStore
    ) -> None:
        self.id = job_id
        self.attempt = attempt
        self.database = database
        self.blobs = blobs
        self.identity = (job_id, queue_id, attempt)
        """What `statements.MINE` knows this run by."""
        self.log = log.bind(job=str(job_id), kind=kind, attempt=attempt)
        self.finished = False
        """Whether `finish` was called; only a commit makes it true for others."""
        self._progress = 0
        self._written_at = monotonic()

    async def progress(self, percent: int) -> None:
        """Say how much is done: 0 to 100, never less than before. Raises `JobSuperseded`."""
        now = monotonic()
        if percent <= self._progress or now - self._written_at < PROGRESS_SECONDS:
            return
        self._progress, self._written_at = percent, now
        try:
            row = await self.database.fetchrow(statements.PROGRESS, *self.identity, percent)
        except (
            DATABASE_DOWN_ERRORS
        ):  # no reason to lose what is done: how the job ends is what has to be written
            return
        if row is None:
            raise JobSuperseded

    async def run_in_process(self, function: "Callable[[*Ts], T]", *arguments: *Ts) -> T:
        """Call a function that keeps a core busy, in a process of the pool: as many as there are cores.

        It has to be importable, and what it takes and gives picklable. If the job is cancelled the process
        is killed. Raises `BrokenWorkerProcess` if it dies at work; if it dies before, `Overloaded`: that
        says nothing of the job.
        """
        async with to_process.current_default_process_limiter():
            limiter = CapacityLimiter(1)
            with _as_overloaded(BrokenWorkerProcess, OSError), CancelScope(shield=True):
                # in a shield: one that is cancelled while it starts would be left behind
                await to_process.run_sync(os.getpid, limiter=limiter)
            with _as_overloaded(ConnectionError, ProcessLookupError):
                return await to_process.run_sync(
                    run_at_low_priority, function, *arguments, cancellable=True, limiter=limiter
                )

    async def finish(self, session: Session, result: Any) -> None:
        """End the job as succeeded in the caller's transaction: its effect and its end commit together.

        Raises `JobSuperseded`, so that the caller rolls back.
        """
        if not await self.end(session, "succeeded", result, None):
            raise JobSuperseded
        self.finished = True

    async def end(
        self,
        session: Session,
        status: Literal["succeeded", "failed"],
        result: Any,
        error: str | None,
    ) -> bool:
        """Tells whether the job was still this run's to end."""
        ended = await session.fetchrow(statements.FINISH, *self.identity, status, result, error, WORKER.actor)
        return ended is not None


@contextmanager
def _as_overloaded(*failures: type[Exception]) -> Iterator[None]:
    try:
        yield
    except failures as error:
        raise Overloaded("There is no process to be had") from error
