"""Helpers for job tests: start a job, and wait for its status."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from service.database.database import Database
from service.job_kinds import build_registry
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import MAX_WAIT_SECONDS, Json, eventually

SLEEP = "system.sleep"


@asynccontextmanager
async def running_worker(settings: Settings, database: Database) -> AsyncIterator[Worker]:
    """Run a worker without schedules and without a grace period."""
    worker = Worker(settings, database, build_registry(settings), schedules=(), grace_seconds=0)
    async with worker.open():
        yield worker


async def process(client: httpx.AsyncClient, kind: str = SLEEP, **payload: Any) -> str:
    """Queue a job and return its id."""
    reply = await client.post("/process", json={"kind": kind, "payload": payload})
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


async def read(client: httpx.AsyncClient, job_id: str) -> Json:
    job: Json = (await client.get(f"/jobs/{job_id}")).raise_for_status().json()
    return job


async def until(
    client: httpx.AsyncClient,
    job_id: str,
    status: str,
    max_wait_seconds: float = MAX_WAIT_SECONDS,
    **facts: Any,
) -> Json:
    """Return the job once it has the status."""
    job: Json = {}

    async def there() -> bool:
        nonlocal job
        job = await read(client, job_id)
        return job["status"] == status and facts.items() <= job.items()

    try:
        await eventually(there, max_wait_seconds)
    except TimeoutError:
        raise AssertionError(job) from None
    return job


async def done(client: httpx.AsyncClient, kind: str = SLEEP, **payload: Any) -> Json:
    """Queue a job and return it once it has succeeded."""
    return await until(client, await process(client, kind, **payload), "succeeded")


async def journal(database: Database, job_id: str) -> list[tuple[str, str, str | None, Any]]:
    """Return type, actor, request id and payload of the job's events, oldest first."""
    rows = await database.fetch(
        "select type, actor, request_id, payload from events where subject = $1 order by id", job_id
    )
    return [tuple(row) for row in rows]
