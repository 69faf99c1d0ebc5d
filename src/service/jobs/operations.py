"""Client operations on jobs. A change, its event and the queue entry commit together."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import asdict
from uuid_utils.compat import uuid7

from service.database.commits import CONFIRM_COMMITS
from service.database.session import Session
from service.errors import InvalidState, NotFound, check_tag
from service.events.journal import Author
from service.idempotency.replies import Claim, StoredReply, raise_claim_conflict, reply_arguments, store_reply
from service.jobs import statements
from service.jobs.queue import enqueue, notify_cancellation
from service.jobs.schemas import Job, JobCreate, JobSummary, Output, Queued
from service.values import content_tag, encode_json


async def submit(session: Session, new: JobCreate, author: Author, claim: Claim | None) -> Queued:
    """Queue a job. Raises `Replay` if the claim already has a stored reply."""
    queued = Queued(uuid7())
    replies = (
        []
        if claim is None
        else [StoredReply(claim, 202, {"Location": location(queued.id)}, encode_json(queued))]
    )
    async with session.transaction():
        (queue_id,) = await enqueue(session, [queued.id])
        job = {"id": queued.id, "kind": new.kind, "payload": new.payload, "queue_id": queue_id}
        arguments = statements.CREATE(**job, **asdict(author), **reply_arguments(replies))
        created = await session.fetchval(*arguments)
        if claim is not None and not created:
            await raise_claim_conflict(session, claim)
    return queued


def location(job_id: UUID) -> str:
    return f"/jobs/{job_id}"


async def read_job(session: Session, job_id: UUID) -> Job:
    row = await session.fetchrow(statements.READ, job_id)
    if row is None:
        raise NotFound
    return Job(*row)


async def list_jobs(session: Session, filters: Mapping[str, Any], limit: int) -> list[JobSummary]:
    """Return jobs, newest first. A filter that is None is ignored."""
    return [JobSummary(*row) for row in await statements.LIST.fetch(session, filters, limit)]


async def cancel(
    session: Session, job_id: UUID, author: Author, tags: list[str] | None, claim: Claim | None = None
) -> Job:
    """Cancel a job: immediately for clients; a worker that runs it is notified."""
    async with session.transaction():
        await _check_tag(session, job_id, tags)
        row = await session.fetchrow(statements.CANCEL, job_id, author.actor, author.request_id)
        job = await read_job(session, job_id)
        if row is not None:
            await notify_cancellation(session, row["queue_id"])
        elif job.status != "cancelled":
            raise InvalidState(f"The job has already {job.status}", job.status)
        else:  # the commit that cancelled it may have been interrupted
            await session.join(CONFIRM_COMMITS, None)
        await store_reply(session, claim, 200, job)
    return job


async def retry(
    session: Session, job_id: UUID, author: Author, tags: list[str] | None, claim: Claim | None
) -> Job:
    """Queue a failed job again, with a new count of attempts."""
    async with session.transaction():
        await _check_tag(session, job_id, tags)
        (queue_id,) = await enqueue(session, [job_id])
        row = (job_id, queue_id, author.actor, author.request_id)
        retried = await session.fetchrow(statements.RETRY, *row)
        job = await read_job(session, job_id)
        if retried is None:
            raise InvalidState(f"Only failed jobs can be retried; this one is {job.status}", job.status)
        await store_reply(session, claim, 202, job)
    return job


async def _check_tag(session: Session, job_id: UUID, tags: list[str] | None) -> None:
    """Lock the job and raise `PreconditionFailed` unless its tag is among `tags`; None accepts any."""
    if tags is None:
        return
    row = await session.fetchrow(f"{statements.READ} for no key update", job_id)
    if row is None:
        raise NotFound
    check_tag(content_tag(encode_json(Job(*row))), tags)


def job_output(job: Job) -> Output:
    """Return a job's output. Raises `NotFound` while there is none."""
    output = job.result.get("output") if isinstance(job.result, dict) else None
    if output is None:
        raise NotFound("The job has no output")
    return msgspec.convert(output, Output)
