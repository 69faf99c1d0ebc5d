"""Run jobs from PgQueuer so that each ends exactly once, with a visible status."""

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
from service.database.errors import DATABASE_DOWN_ERRORS, OUTAGE_ERRORS
from service.database.orm import root_cause
from service.errors import Fault, ValidationFailed
from service.jobs import statements
from service.jobs.context import JobContext, JobFailed, JobSuperseded
from service.jobs.driver import RETRY_DELAYS_SECONDS
from service.jobs.kinds import Kind, KindRegistry
from service.observability.metrics import Metrics, Outcome
from service.observability.tracing import NO_TRACER, Tracer

log = structlog.get_logger()
T = TypeVar("T")

BACKOFF_SECONDS_MAX = 300.0
IMMEDIATELY = 0.0
ERROR_LENGTH_MAX = 1000


class Runner:
    """Runs the jobs of this worker."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        kinds: KindRegistry,
        *,
        attempts_max: int,
        decode: Callable[[bytes, Any], Any],
        on_job_end: Callable[[], None] = lambda: None,
        metrics: Metrics,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """`on_job_end` is called after every job, which may have recorded events.

        `decode` decodes a payload as a type, or raises `ValidationFailed` with all errors.
        """
        metrics.register_kinds(kind.name for kind in kinds)
        metrics.track(metrics.running, lambda: len(self))
        self._metrics = metrics
        self._tracer = tracer
        self._database = database
        self._blobs = blobs
        self._kinds = kinds
        self._attempts_max = attempts_max
        self._decode = decode
        self._on_job_end = on_job_end
        self._running: set[CancelScope] = set()
        self._interrupted = False

    def __len__(self) -> int:
        return len(self._running)

    def interrupt(self) -> None:
        """Stop all running jobs and requeue them for other workers."""
        self._interrupted = True
        for scope in self._running:
            scope.cancel()

    async def execute(self, entry: Entry, context: Context) -> None:
        """Run an entry for PgQueuer, which deletes it after any exception except `RetryRequested`."""
        scope = context.cancellation
        self._running.add(scope)
        try:
            retry_in_seconds = await self._run(entry, scope)
        except Exception:  # a bug in Depot must not lose the job
            log.exception("unhandled_error", entry=entry.id)
            retry_in_seconds = RETRY_DELAYS_SECONDS[-1]
        finally:
            self._running.discard(scope)
            self._on_job_end()
        if retry_in_seconds is not None:
            raise RetryRequested(timedelta(seconds=retry_in_seconds))

    async def _run(self, entry: Entry, scope: CancelScope) -> float | None:
        """Run a job. Return the seconds until it must run again, or None if it is done."""
        if self._interrupted:
            return IMMEDIATELY
        try:
            row = await self._database.fetchrow(statements.START, UUID(bytes=entry.payload or b""), entry.id)
        except DATABASE_DOWN_ERRORS:
            return RETRY_DELAYS_SECONDS[-1]
        if row is None:  # already finished, or started through another entry
            return None
        job_id, attempt, kind, payload, _ = row
        context = JobContext(job_id, entry.id, attempt, kind, database=self._database, blobs=self._blobs)
        facts = {"depot.job": str(job_id), "depot.attempt": attempt}
        with self._metrics.run(kind) as run, self._tracer.internal_span(f"job {kind}", facts):
            try:
                with scope:
                    retry_in_seconds, run.outcome = await self._attempt(context, kind, payload.encode())
            except DATABASE_DOWN_ERRORS as error:
                context.log.warning("job_interrupted", cause=repr(error.__cause__ or error))
                return await self._requeue(context)
            if scope.cancelled_caught and self._interrupted:
                return await self._requeue(context)
            if scope.cancelled_caught:  # by a client, whose request has recorded it
                context.log.info("job_cancelled")
                retry_in_seconds, run.outcome = None, "cancelled"
            return retry_in_seconds

    async def _attempt(self, context: JobContext, name: str, payload: bytes) -> tuple[float | None, Outcome]:
        """Run one attempt. Return the seconds until a retry, or None, and the outcome."""
        started_at = monotonic()
        context.log.info("job_started")
        try:
            if context.attempt > self._attempts_max:
                raise JobFailed(
                    f"The job was started {self._attempts_max} times, and its worker died each time"
                )
            kind = self._kinds[name]
            result = await kind.run(context, self._decode_payload(payload, kind))
            ended = await _retry_write(lambda: self._end(context, "succeeded", result, None))
            if not ended and not context.succeeded:
                raise JobSuperseded
            context.log.info("job_succeeded", seconds=round(monotonic() - started_at, 3))
        except JobSuperseded:
            context.log.warning("job_superseded")
            return None, "superseded"
        except Exception as error:
            if isinstance(root_cause(error), OUTAGE_ERRORS):
                raise
            return await self._fail(context, error)
        return None, "succeeded"

    async def _fail(self, context: JobContext, error: Exception) -> tuple[float | None, Outcome]:
        """Schedule a retry, or fail the job permanently.

        Raises one of `DATABASE_DOWN_ERRORS` if the database is down, which is not a failure of the job.
        """
        if isinstance(error, JobFailed) or context.attempt >= self._attempts_max:
            result = error.result if isinstance(error, JobFailed) else None
            if not await self._end(context, "failed", result, _client_message(error)):
                return None, "superseded"
            context.log.error("job_failed", exc_info=error)
            return None, "failed"
        retry_in_seconds = _backoff_seconds(context.attempt)
        if (
            await self._database.fetchrow(statements.RETRY_LATER, *context.identity, _client_message(error))
            is None
        ):
            return None, "superseded"
        context.log.warning(
            "job_retry_scheduled", exc_info=error, retry_in_seconds=round(retry_in_seconds, 1)
        )
        return retry_in_seconds, "retried"

    async def _end(
        self, context: JobContext, status: Literal["succeeded", "failed"], result: Any, error: str | None
    ) -> bool:
        async with self._database.session() as session:
            return await context.end(session, status, result, error)

    def _decode_payload(self, payload: bytes, kind: Kind) -> Any:
        try:
            return self._decode(payload, kind.payload)
        except ValidationFailed as fault:  # the payload schema has changed since the job was accepted
            errors = "; ".join(f"{detail.field}: {detail.message}" for detail in fault.details)
            raise JobFailed(f"The payload is no longer valid for this job kind: {errors}") from None

    async def _requeue(self, context: JobContext) -> float | None:
        """Release the job. Return the seconds until it may run again, or None if this run has lost it."""
        if await _retry_write(lambda: self._database.fetchrow(statements.RELEASE, *context.identity)) is None:
            return None
        return IMMEDIATELY if self._interrupted else RETRY_DELAYS_SECONDS[-1]


async def _retry_write(write: Callable[[], Awaitable[T]]) -> T:
    """Repeat a write until the database is reachable."""
    delays = chain(RETRY_DELAYS_SECONDS, repeat(RETRY_DELAYS_SECONDS[-1]))
    while True:
        try:
            return await write()
        except DATABASE_DOWN_ERRORS:
            await asyncio.sleep(next(delays))


def _client_message(error: Exception) -> str:
    """Return the error's text for clients; the text of an unexpected error may contain SQL or paths."""
    text = str(error) if isinstance(error, JobFailed | Fault) else f"Unexpected {type(error).__name__}"
    return text[:ERROR_LENGTH_MAX]


def _backoff_seconds(attempt: int) -> float:
    jitter: float = random.uniform(0.5, 1)  # noqa: S311  # spreads retries, protects no secret
    return min(BACKOFF_SECONDS_MAX, 2.0 ** (attempt - 1)) * jitter
