"""While the store is unavailable, documents wait, and nothing else does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from samples import PNG, picture, sample
from structlog.testing import capture_logs
from upload_helpers import stored

from service.database.database import Database
from service.job_kinds import build_registry
from service.settings import Settings
from service.worker import Worker
from tests.support import s3_server
from tests.support.app_helpers import eventually, running
from tests.support.job_helpers import read, until

DELAY_SECONDS_MAX = 5.0


async def test_a_document_is_inspected_once_the_store_is_back(
    settings: Settings, database: Database, key: str, tmp_path: Path
) -> None:
    directory, away = tmp_path / "blobs", tmp_path / "away"
    async with running(settings, key) as client:
        document = await stored(client, sample("cat.png", picture(PNG)))
        (job,) = (await client.get("/jobs")).json()["data"]
        directory.rename(away)
        directory.write_text("in the way")
        worker = Worker(settings, database, build_registry(settings), grace_seconds=0)
        async with worker.open():
            with capture_logs() as logs:
                await eventually(lambda: given_back(client, job["id"]))
            directory.unlink()
            away.rename(directory)
            job = await until(client, job["id"], "succeeded")
        assert "File exists" in str([log["cause"] for log in logs if log["event"] == "job_interrupted"])
        assert (job["attempts"], job["result"]["status"]) == (1, "ready")
        assert (await client.get(f"/documents/{document['id']}")).json()["status"] == "ready"


async def given_back(client: httpx.AsyncClient, job_id: str) -> bool:
    """Return whether the job was started and is queued again."""
    job = await read(client, job_id)
    return bool(job["status"] == "queued" and job["started_at"])


READERS = 40
"""More than the number of threads in any default thread pool of this machine."""


@asynccontextmanager
async def hung_store() -> AsyncIterator[str]:
    """Serve S3 that takes requests and never replies; its clients are disconnected at the end."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in connections:
            connection.transport.abort()


async def test_a_store_that_hangs_delays_nothing_else(
    settings: Settings, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings, key) as client:
        path = f"/documents/{(await stored(client, sample('cat.png', picture(PNG))))['id']}"
    async with hung_store() as endpoint, asyncio.TaskGroup() as readers:
        for name, value in s3_server.account(endpoint).items():
            monkeypatch.setenv(name, value)
        async with running(replace(settings, blob_url=s3_server.new_url()), key) as client:
            reading = [readers.create_task(client.get(f"{path}/content")) for _ in range(READERS)]
            await asyncio.sleep(0.5)  # until they wait in the store, which cannot be observed from outside
            async with asyncio.timeout(DELAY_SECONDS_MAX):
                assert (await client.get("/metrics")).status_code == 200
                assert (await client.get(path)).status_code == 200
                await asyncio.to_thread(str)
            for task in reading:
                task.cancel()
