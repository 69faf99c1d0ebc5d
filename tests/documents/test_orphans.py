"""The sweep of orphaned blobs, left by processes that died before they committed the row."""

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from samples import png_of, sample
from upload_helpers import CAT, send, stored, stored_keys

from service.blobs import open_blob_store
from service.database.database import Database
from service.documents.orphans import sweep_orphans
from service.settings import Settings
from service.worker import SCHEDULES
from tests.support.app_helpers import running
from tests.support.depot_command import run_program
from tests.support.reply_assertions import assert_refused

BREAK = """
create function breaks() returns trigger language plpgsql as $$ begin raise 'broken'; end $$;
create trigger breaks before insert on documents execute function breaks()"""


@pytest.fixture
def at_once(settings: Settings) -> Settings:
    return replace(settings, orphan_kept_seconds=0)


async def test_an_old_blob_without_a_row_is_swept(
    settings: Settings, at_once: Settings, database: Database
) -> None:
    keys = {"documents/a", "documents/b", "thumbnails/c"}
    for key in keys:
        await open_blob_store(settings).put(key, b"x")
    assert await sweep_orphans(database, settings) == 0
    assert await stored_keys(settings) == keys
    assert await sweep_orphans(database, at_once) == 3
    assert await stored_keys(settings) == set()


async def test_a_blob_with_a_row_is_not_swept(
    settings: Settings, at_once: Settings, database: Database, key: str
) -> None:
    async with running(settings, key) as client:
        document = await stored(client, CAT)
        await stored(client, CAT)
        other = await stored(client, sample("x.png", png_of(2000)))
    await database.fetchval("update documents set thumbnail = 'thumbnails/x' where id = $1", document["id"])
    for path in ("thumbnails/x", "thumbnails/y", "exports/z"):
        await open_blob_store(settings).put(path, b"x")
    assert await sweep_orphans(database, at_once) == 1
    assert await stored_keys(settings) == {
        f"documents/{document['id']}",
        f"documents/{other['id']}",
        "thumbnails/x",
        "exports/z",
    }


async def test_an_upload_that_failed_after_its_blob_was_put_leaves_no_row_and_is_swept(
    settings: Settings, at_once: Settings, database: Database, key: str
) -> None:
    async with database.session() as session:
        await session.execute(BREAK)
    async with running(settings, key) as client:
        assert_refused(await send(client, CAT, Idempotency_Key="k-1"), 500, "INTERNAL_ERROR")
        assert (await client.get("/documents")).json()["data"] == []
    for table in ("contents", "jobs", "queue.pgqueuer", "idempotency_keys"):
        assert await database.fetchval(f"select count(*) from {table}") == 0
    assert len(await stored_keys(settings)) == 1
    assert await sweep_orphans(database, at_once) == 1
    assert await stored_keys(settings) == set()


async def test_a_sweep_without_orphans_deletes_nothing(at_once: Settings, database: Database) -> None:
    assert await sweep_orphans(database, at_once) == 0


DIES = """
import asyncio, os, sys
from service.blobs import BlobStore

async def half():
    yield bytes(1_000_000)
    os._exit(9)

asyncio.run(BlobStore(sys.argv[1]).put("exports/b", half()))
"""


async def test_partial_files_of_killed_processes_are_swept(tmp_path: Path, database: Database) -> None:
    directory = tmp_path / "blobs"
    settings = Settings(blob_url=directory.as_uri())
    await open_blob_store(settings).put("exports/a", b"x")
    died = await asyncio.to_thread(run_program, DIES, directory.as_uri())
    assert died.returncode == 9
    (half,) = (path for path in files(directory) if path.name != "a")
    assert await stored_keys(settings) == {"exports/a"}
    other = half.with_name("b#c")
    other.write_bytes(b"no half file")
    os.utime(other, (0, 0))
    assert await sweep_orphans(database, settings) == 0
    os.utime(half, (0, 0))
    assert await sweep_orphans(database, settings) == 1
    assert files(directory) == {directory / "exports" / "a", other}


def files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}


def test_a_worker_sweeps_every_day() -> None:
    (schedule,) = (schedule for schedule in SCHEDULES if schedule.run is sweep_orphans)
    assert schedule.cron == "47 3 * * *"
