"""While the store is away, documents wait."""

from pathlib import Path

import httpx
from desk import stored
from samples import PNG, picture, sample

from labour import read, until
from service.db import Database
from service.kinds import kinds
from service.settings import Settings
from service.worker import Worker
from shop import eventually, running


async def test_a_document_is_looked_at_once_the_store_is_back(
    settings: Settings, database: Database, key: str, tmp_path: Path
) -> None:
    directory, away = tmp_path / "blobs", tmp_path / "away"
    async with running(settings, key) as client:
        document = await stored(client, sample("cat.png", picture(PNG)))
        (job,) = (await client.get("/jobs")).json()["data"]
        directory.rename(away)
        directory.write_text("in the way")
        worker = Worker(settings, database, kinds(settings), grace_seconds=0)
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
