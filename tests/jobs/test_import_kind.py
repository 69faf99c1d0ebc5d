"""`catalog.import`: items from CSV text, once, with what is wrong told row by row."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from msgspec.structs import replace

from service.database.database import Database
from service.items.import_job import CSV_LENGTH_MAX
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import WAITING, eventually, item, locked, wait_for_locks
from tests.support.consistency import discrepancies
from tests.support.job_helpers import done, journal, process, read, running_worker, until
from tests.support.reply_assertions import all_rows, wrong_fields

IMPORT = "catalog.import"
GOOD = "sku,name,price,quantity\nBOLT,Bolt,9.5,3\nNUT,Nut,0.05,0\n"
BAD = "sku,name,price\nBOLT,Bolt,9.50\nN T,,free\nNUT,Nut,1\nBOLT,Bolt,2\n"
TOLD = "select type, actor, request_id from events where type like 'item.%' order by id"


@pytest.fixture
async def worker(settings: Settings, database: Database) -> AsyncIterator[Worker]:
    async with running_worker(settings, database) as worker:
        yield worker


async def test_items_are_created_and_updated(concurrent_client: httpx.AsyncClient, worker: Worker) -> None:
    bolt = await item(concurrent_client, 5, sku="BOLT")
    job = await done(concurrent_client, IMPORT, csv=GOOD)
    assert job["result"] == {"created": 1, "updated": 1, "unchanged": 0, "bad": 0, "bad_rows": []}
    items = {each["sku"]: each for each in await all_rows(concurrent_client, "/items")}
    assert (items["BOLT"]["id"], items["BOLT"]["price"], items["BOLT"]["quantity"]) == (bolt["id"], "9.50", 3)
    assert items["NUT"]["name"] == "Nut"
    again = await done(concurrent_client, IMPORT, csv=GOOD)
    assert again["result"] == {"created": 0, "updated": 0, "unchanged": 2, "bad": 0, "bad_rows": []}


async def test_the_journal_leads_from_the_item_to_the_job_and_its_author(
    concurrent_client: httpx.AsyncClient, database: Database, worker: Worker
) -> None:
    job = await done(concurrent_client, IMPORT, csv=GOOD)
    told = [tuple(row) for row in await database.fetch(TOLD)]
    assert told == [("item.created", "worker", job["id"])] * 2
    (asked, *_) = await journal(database, job["id"])
    assert (asked[0], asked[1]) == ("job.queued", await database.fetchval("select id from api_keys"))


async def test_with_bad_rows_nothing_is_imported_and_all_of_them_are_reported(
    concurrent_client: httpx.AsyncClient, database: Database, worker: Worker
) -> None:
    job = await until(concurrent_client, await process(concurrent_client, IMPORT, csv=BAD), "failed")
    assert (job["attempts"], job["error"]) == (1, "2 invalid rows; nothing was imported")
    assert await database.fetch(TOLD) == await all_rows(concurrent_client, "/items") == []
    third, fifth = job["result"].pop("bad_rows")
    assert job["result"] == {"created": 0, "updated": 0, "unchanged": 0, "bad": 2}
    assert third["line"] == 3
    assert {problem.partition(":")[0] for problem in third["problems"]} == {"sku", "name", "price"}
    assert fifth == {"line": 5, "problems": ["sku: BOLT is already in line 2"]}


async def test_bad_rows_can_be_skipped(concurrent_client: httpx.AsyncClient, worker: Worker) -> None:
    job = await done(concurrent_client, IMPORT, csv=BAD, skip_bad=True)
    assert (job["result"]["created"], job["result"]["bad"]) == (2, 2)
    assert [row["line"] for row in job["result"]["bad_rows"]] == [3, 5]


async def test_a_file_that_is_not_csv_of_items_fails_with_the_reason(
    concurrent_client: httpx.AsyncClient, worker: Worker
) -> None:
    job = await until(
        concurrent_client, await process(concurrent_client, IMPORT, csv="sku,name\nA,Bolt\n"), "failed"
    )
    assert (job["attempts"], job["error"], job["result"]) == (
        1,
        "the header lacks required columns: price",
        None,
    )


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "/payload/csv"),
        ({"csv": ""}, "/payload/csv"),
        ({"csv": 5}, "/payload/csv"),
        ({"csv": "x" * (CSV_LENGTH_MAX + 1)}, "/payload/csv"),
        ({"csv": "sku,name,price\nA,\0,1"}, "/payload/csv"),
        ({"csv": GOOD, "skip_bad": "yes"}, "/payload/skip_bad"),
        ({"csv": GOOD, "dry_run": True}, "/payload/dry_run"),
    ],
)
async def test_an_invalid_payload_is_rejected_immediately(
    concurrent_client: httpx.AsyncClient, payload: dict[str, Any], field: str
) -> None:
    reply = await concurrent_client.post("/process", json={"kind": IMPORT, "payload": payload})
    assert wrong_fields(reply) == {field}


async def test_an_import_that_another_worker_takes_over_has_one_effect(
    concurrent_client: httpx.AsyncClient, settings: Settings, database: Database, database_url: str
) -> None:
    bolt = await item(concurrent_client, 5, sku="BOLT")
    # The first one's only place is taken, so it cannot take the lapsed job over itself.
    first = running_worker(replace(settings, worker_concurrency=1), database)
    async with first, locked(database_url, bolt) as holder:
        job_id = await process(concurrent_client, IMPORT, csv=GOOD)
        await wait_for_locks(holder, 1)
        await database.fetch("update queue.pgqueuer set heartbeat = now() - interval '1 hour'")
        async with running_worker(settings, database):  # believes the first one dead
            await wait_for_locks(holder, 2)  # both have read the rows
            await holder.execute("rollback; begin")
            job = await until(concurrent_client, job_id, "succeeded")
    assert (job["attempts"], job["result"]["created"], job["result"]["updated"]) == (2, 1, 1)
    told = [row["type"] for row in await database.fetch(TOLD)]
    assert sorted(told) == ["item.created", "item.created", "item.updated"]
    assert [type_ for type_, *_ in await journal(database, job_id)].count("job.finished") == 1
    assert await database.fetchval("select count(*) from movements where cause = 'import'") == 1
    assert await discrepancies(database_url) == []


async def test_a_cancelled_import_changes_nothing(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, worker: Worker
) -> None:
    bolt = await item(concurrent_client, 5, sku="BOLT")
    async with locked(database_url, bolt) as holder:
        job_id = await process(concurrent_client, IMPORT, csv=GOOD)
        await wait_for_locks(holder, 1)
        assert (await concurrent_client.delete(f"/jobs/{job_id}")).json()["status"] == "cancelled"
        await waiting_for_none(holder)
    assert await all_rows(concurrent_client, "/items") == [bolt]
    assert (await read(concurrent_client, job_id))["status"] == "cancelled"


async def waiting_for_none(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Returns once nobody waits for a lock any more."""

    async def nobody() -> bool:
        await connection.execute("select pg_stat_clear_snapshot()")
        return not await connection.fetchval(WAITING)

    await eventually(nobody)


async def test_a_large_import_shows_progress_and_does_not_block_the_event_loop(
    concurrent_client: httpx.AsyncClient, database: Database, worker: Worker
) -> None:
    row = ",,x,,[],x\n"  # takes long to explain
    csv = "sku,name,price,quantity,attributes,currency\n" + row * (CSV_LENGTH_MAX // 2 // len(row))
    seen: set[int] = set()

    async def well_under_way() -> bool:
        seen.add(await database.fetchval("select progress from jobs"))
        return max(seen) >= 40

    async with turns() as turn_seconds:
        job_id = await process(concurrent_client, IMPORT, csv=csv)
        await eventually(well_under_way)
        await concurrent_client.delete(f"/jobs/{job_id}")
    assert len(seen) > 2
    assert max(turn_seconds) < 0.05


@asynccontextmanager
async def turns() -> AsyncIterator[list[float]]:
    """Yield how long this thread works at one go, each time, without what else the machine does."""
    seconds: list[float] = []

    async def watch() -> None:
        while True:
            since = time.thread_time()
            await asyncio.sleep(0)
            seconds.append(time.thread_time() - since)

    gc.freeze()  # scanning what pytest has loaded is not the work of the import
    watching = asyncio.create_task(watch())
    try:
        yield seconds
    finally:
        watching.cancel()
