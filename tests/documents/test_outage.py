"""While the store is away, documents wait."""

from pathlib import Path

import httpx
from samples import PNG, picture, sample
from upload_helpers import stored

from service.database.database import Database
from service.job_kinds import build_registry
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import eventually, running
from tests.support.job_helpers import read, until


async def test_a_document_is_looked_at_once_the_store_is_back(
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
            await eventually(lambda: given_back(client, job["id"]))
            directory.unlink()
            away.rename(directory)
            job = await until(client, job["id"], "succeeded")
        assert (job["attempts"], job["result"]["status"]) == (1, "ready")
        assert (await client.get(f"/documents/{document['id']}")).json()["status"] == "ready"


async def given_back(client: httpx.AsyncClient, job_id: str) -> bool:
    """It has been begun, and is in the queue again."""
    job = await read(client, job_id)
    return bool(job["status"] == "queued" and job["started_at"])
