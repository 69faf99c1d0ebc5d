"""Runs the jobs that PgQueuer hands out, so that each ends exactly once, and visibly."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import chain, repeat
from time import monotonic
from typing import Any, Literal, TypeVar
from uuid import UUID

import structlog
from anyio import CancelScope
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Context
from pgqueuer.domain.models import Job as Entry

from service.blobs import BlobStore
from service.database.database import Database
from service.database.orm import root_cause
from service.errors import Fault, ValidationFailed
from service.http.request import decode
from service.jobs import statements
from service.jobs.context import JobContext, JobFailed, JobSuperseded
from service.jobs.kinds import KindRegistry
from service.jobs.outage_errors import DATABASE_DOWN_ERRORS, OUTAGE_ERRORS, RETRY_DELAYS_SECONDS
from service.observability.metrics import Metrics, Outcome
from service.observability.tracing import NO_TRACER, Tracer

log = structlog.get_logger()
T = TypeVar("T")

BACKOFF_SECONDS_MAX = 300.0
IMMEDIATELY = 0.0
ERROR_LENGTH_MAX = 1000


class Runner:
    """The jobs under way in this worker."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        kinds: KindRegistry,
        *,
        attempts_max: int,
        on_end: Callable[[], None] = lambda: None,
        metrics: Metrics,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """`on_end` is called whenever one has ended: it may have made events."""
        metrics.register_kinds(kind.name for kind in kinds)
        metrics.track(metrics.running, lambda: len(self))
        self._metrics = metrics
        self._tracer = tracer
        self._database = database
        self._blobs = blobs
        self._kinds = kinds
        self._attempts_max = attempts_max
        self._on_end = on_end
        self._under_way: set[CancelScope] = set()
        self._interrupted = False

    def __len__(self) -> int:
        return len(self._under_way)

    def interrupt(self) -> None:
        """Stop all of them and put them back into the queue, for other workers to begin at once."""
        self._interrupted = True
        for scope in self._under_way:
            scope.cancel()

    async def execute(self, entry: Entry, context: Context) -> None:
        """What PgQueuer calls. It deletes the entry after any other exception than `RetryRequested`."""
        scope = context.cancellation
        self._under_way.add(scope)
        try:
            pause_seconds = await self._run(entry, scope)
        except Exception:  # a bug of ours: the job must not get lost by it
            log.exception("unhandled_error", entry=entry.id)
            pause_seconds = RETRY_DELAYS_SECONDS[-1]
        finally:
            self._under_way.discard(scope)
            self._on_end()
        if pause_seconds is not None:
            raise RetryRequested(timedelta(seconds=pause_seconds))

    async def _run(self, entry: Entry, scope: CancelScope) -> float | None:
        """In how many seconds it has to be begun again; None: nothing is left to do."""
        if self._interrupted:
            return IMMEDIATELY
        try:
            begun = await self._database.fetchrow(
                statements.START, UUID(bytes=entry.payload or b""), entry.id
            )
        except DATABASE_DOWN_ERRORS:
            return RETRY_DELAYS_SECONDS[-1]
        if begun is None:  # over already, or begun anew by another entry
            return None
        job_id, attempt, kind, payload, _ = begun
        task = JobContext(job_id, entry.id, attempt, kind, database=self._database, blobs=self._blobs)
        facts = {"depot.job": str(job_id), "depot.attempt": attempt}
        with self._metrics.run(kind) as run, self._tracer.internal_span(f"job {kind}", facts):
            try:
                with scope:
                    pause_seconds, run.outcome = await self._attempt(task, kind, payload.encode())
                    return pause_seconds
                if not self._interrupted:
                    task.log.info("job cancelled")
                    run.outcome = "cancelled"
                    return None  # and whoever did so has written it
            except DATABASE_DOWN_ERRORS as error:
                task.log.warning("job interrupted", cause=repr(error))
            return await self._requeue(task)

    async def _attempt(self, task: JobContext, name: str, payload: bytes) -> tuple[float | None, Outcome]:
        """In how many seconds it has to be begun again, if at all, and how this run ended."""
        begun_at = monotonic()
        task.log.info("job begun")
        try:
            if task.attempt > self._attempts_max:
                raise JobFailed(f"It was begun {self._attempts_max} times, and its worker died each time")
            kind = self._kinds[name]
            result = await kind.run(task, _decode_payload(payload, kind.payload))
            ended = await _retry_write(lambda: self._end(task, "succeeded", result, None))
            if not ended and not task.finished:
                raise JobSuperseded
            task.log.info("job done", seconds=round(monotonic() - begun_at, 3))
        except JobSuperseded:
            task.log.warning("job superseded")
            return None, "superseded"
        except Exception as error:
            if isinstance(root_cause(error), OUTAGE_ERRORS):
                raise
            return await self._fail(task, error)
        return None, "succeeded"

    async def _fail(self, task: JobContext, error: Exception) -> tuple[float | None, Outcome]:
        """Retry the job later, or record that it failed for good.

        Raises one of `DATABASE_DOWN_ERRORS` when the database is down, which is no failure of the job.
        """
        if isinstance(error, JobFailed) or task.attempt >= self._attempts_max:
            result = error.result if isinstance(error, JobFailed) else None
            if not await self._end(task, "failed", result, _client_message(error)):
                return None, "superseded"
            task.log.error("job failed", exc_info=error)
            return None, "failed"
        pause_seconds = _backoff_seconds(task.attempt)
        if (
            await self._database.fetchrow(statements.RETRY_LATER, *task.identity, _client_message(error))
            is None
        ):
            return None, "superseded"
        task.log.warning("job will be tried again", exc_info=error, pause_seconds=round(pause_seconds, 1))
        return pause_seconds, "retried"

    async def _end(
        self, task: JobContext, status: Literal["succeeded", "failed"], result: Any, error: str | None
    ) -> bool:
        async with self._database.session() as session:
            return await task.end(session, status, result, error)

    async def _requeue(self, task: JobContext) -> float | None:
        if await _retry_write(lambda: self._database.fetchrow(statements.RELEASE, *task.identity)) is None:
            return None
        return IMMEDIATELY if self._interrupted else RETRY_DELAYS_SECONDS[-1]


async def _retry_write(write: Callable[[], Awaitable[T]]) -> T:
    """Write as soon as the database can be reached."""
    pauses = chain(RETRY_DELAYS_SECONDS, repeat(RETRY_DELAYS_SECONDS[-1]))
    while True:
        try:
            return await write()
        except DATABASE_DOWN_ERRORS:
            await asyncio.sleep(next(pauses))


def _decode_payload(payload: bytes, kind: Any) -> Any:
    try:
        return decode(payload, kind)
    except ValidationFailed as fault:  # an upgrade changed the kind since the job was accepted
        wrong = "; ".join(f"{detail.field}: {detail.message}" for detail in fault.details)
        raise JobFailed(f"The payload does not fit this kind of job any more: {wrong}") from None


def _client_message(error: Exception) -> str:
    """What clients may know of it: the text of an unexpected error can hold SQL or paths."""
    text = str(error) if isinstance(error, JobFailed | Fault) else f"Unexpected {type(error).__name__}"
    return text[:ERROR_LENGTH_MAX]


def _backoff_seconds(attempt: int) -> float:
    jitter: float = random.uniform(0.5, 1)  # noqa: S311  # spreads retries, keeps no secret
    return min(BACKOFF_SECONDS_MAX, 2.0 ** (attempt - 1)) * jitter
