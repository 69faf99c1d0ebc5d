"""HTTP endpoints of jobs."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from service.blobs import BlobStore
from service.constraints import NO_NUL_PATTERN
from service.database.session import Session
from service.errors import (
    InvalidCursor,
    InvalidState,
    NotFound,
    Overloaded,
    PreconditionFailed,
    ValidationFailed,
)
from service.http.exchange import Exchange
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, attachment, if_match_tags, tagged_reply
from service.http.request import StrictRequest, decode
from service.idempotency.replies import IDEMPOTENCY_FAULTS, prefer_stored_outcome
from service.jobs import operations
from service.jobs.kinds import UnknownJobKind
from service.jobs.schemas import Job, JobCreate, JobSummary, Queued, Status
from service.jobs.streams import JobStreams
from service.values import encode_json

POLL_SECONDS = "1"
"""How long clients should wait before they read an unfinished job again."""


class KindOnly(Struct):
    kind: str


class ProcessRequest(StrictRequest):
    """Decodes the body with the schema of its job kind, so that one reply lists all errors."""

    async def json(self) -> JobCreate:
        body = await self.body()
        decoded = decode(body, self._schema(body))
        return JobCreate(decoded.kind, decoded.payload)

    def _schema(self, body: bytes) -> Any:
        """Return the schema of the kind that the body names, or the general one if it names none."""
        try:
            kind = decode(body, KindOnly).kind
        except ValidationFailed:
            return JobCreate
        return self.app.state.components.kinds.startable[kind].request


class ProcessController(Controller):
    path = "/process"
    tags = ["Jobs"]
    request_class = ProcessRequest

    @post(
        status_code=202,
        opt=operation(scope="jobs:write", has_location=True, faults=[UnknownJobKind, *IDEMPOTENCY_FAULTS]),
    )
    async def process(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        data: JSONBody[JobCreate],
    ) -> Reply[Queued]:
        """Start a job

        The job is queued; `Location` is the URL of its status.
        """
        async with hold_claim(request) as claim:
            queued = await operations.submit(session, data, request.author, claim)
        return Reply(queued, headers={"Location": operations.location(queued.id)})


class JobController(Controller):
    path = "/jobs"
    tags = ["Jobs"]

    @get(opt=operation(scope="jobs:read", faults=[InvalidCursor]))
    async def list_jobs(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        status: Annotated[Status | None, QueryParameter(description="Only entries with this status.")] = None,
        kind: Annotated[
            str | None,
            QueryParameter(pattern=NO_NUL_PATTERN, max_length=100, description="Only jobs of this kind."),
        ] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[JobSummary]:
        """List jobs, newest first

        The entries have no `result`; get a job for it.
        """
        pager = Pager[UUID](request, limit, cursor, UUID)
        filters = {"status": status, "kind": kind, "after": pager.after}
        jobs = await operations.list_jobs(session, filters, pager.fetch_limit)
        return pager.page(jobs, lambda job: job.id)

    @get(
        "/{job_id:str}",
        opt=operation(scope="jobs:read", faults=[NotFound], conditional=True, headers=["Retry-After"]),
    )
    async def get_job(
        self, session: NamedDependency[Session], request: StrictRequest, job_id: FromPath[UUID]
    ) -> Reply[Job]:
        """Read a job's status, progress, and result or error

        While the job has not ended, `Retry-After` says when to poll again.
        """
        job = await operations.read_job(session, job_id)
        reply = tagged_reply(request, job)
        if not job.is_final:
            reply.headers["Retry-After"] = POLL_SECONDS
        return reply

    @get(
        "/{job_id:str}/events",
        media_type="text/event-stream",
        opt=operation(scope="jobs:read", faults=[NotFound, Overloaded]),
    )
    async def follow_job(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        job_id: FromPath[UUID],
    ) -> Stream:
        """Stream a job's progress

        Server-sent events: a `job` event contains the job as JSON, sent immediately and after each change
        until the job ends. The stream may end early when the service restarts; reconnect then.
        """
        changes = request.component(JobStreams).follow(session, job_id, request.user.id)
        first = await anext(changes)  # errors are raised before the first byte
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        exchange = Exchange.of(request.scope)
        exchange.mark_long_running()
        if exchange.head:
            await changes.aclose()
            return Stream(iter(()), headers=headers)
        return Stream(events(first, changes), headers=headers)

    @get("/{job_id:str}/output", opt=operation(scope="jobs:read", media=["text/csv"], faults=[NotFound]))
    async def get_output(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        job_id: FromPath[UUID],
    ) -> Stream:
        """Download a job's output file

        The reply is 404 until the file exists.
        """
        output = operations.job_output(await operations.read_job(session, job_id))
        session.release()  # the blob store can be slow
        size_bytes, content = await request.component(BlobStore).get(output.key)
        headers = {
            "Content-Type": output.content_type,
            "Content-Length": str(size_bytes),
            "Content-Disposition": attachment(output.filename),
        }
        return Stream(iter(()) if Exchange.of(request.scope).head else content, headers=headers)

    @delete(
        "/{job_id:str}",
        status_code=200,
        opt=operation(scope="jobs:write", faults=[NotFound, InvalidState, PreconditionFailed]),
    )
    async def cancel_job(
        self, session: NamedDependency[Session], request: StrictRequest, job_id: FromPath[UUID]
    ) -> Job:
        """Cancel a queued or running job

        Repeating this has no effect.
        """
        return await operations.cancel(session, job_id, request.author, if_match_tags(request))

    @post(
        "/{job_id:str}/cancel",
        status_code=200,
        opt=operation(
            scope="jobs:write", faults=[NotFound, InvalidState, PreconditionFailed, *IDEMPOTENCY_FAULTS]
        ),
    )
    async def request_job_cancellation(
        self, session: NamedDependency[Session], request: StrictRequest, job_id: FromPath[UUID]
    ) -> Job:
        """Cancel a queued or running job by POST

        This is the same as `DELETE /jobs/{job_id}`.
        """
        async with hold_claim(request) as claim, prefer_stored_outcome(session, claim):
            return await operations.cancel(session, job_id, request.author, if_match_tags(request), claim)

    @post(
        "/{job_id:str}/retry",
        status_code=202,
        opt=operation(
            scope="jobs:write", faults=[NotFound, InvalidState, PreconditionFailed, *IDEMPOTENCY_FAULTS]
        ),
    )
    async def retry_job(
        self, session: NamedDependency[Session], request: StrictRequest, job_id: FromPath[UUID]
    ) -> Job:
        """Retry a failed job"""
        async with hold_claim(request) as claim, prefer_stored_outcome(session, claim):
            return await operations.retry(session, job_id, request.author, if_match_tags(request), claim)


async def events(first: Job | None, changes: AsyncGenerator[Job | None, None]) -> AsyncIterator[bytes]:
    """Encode server-sent events (HTML standard §9.2); comments keep the connection alive."""
    async with aclosing(changes):
        yield _encode_event(first)
        async for job in changes:
            yield _encode_event(job)


def _encode_event(job: Job | None) -> bytes:
    return b": keep-alive\n\n" if job is None else b"event: job\ndata: " + encode_json(job) + b"\n\n"
