"""Jobs over HTTP: they are queued, listed, read and downloaded."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver

from conftest import Client
from service.blobs import open_blob_store
from service.database.database import Database
from service.jobs.pgqueuer_adapter import queries
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import connected, running
from tests.support.job_helpers import SLEEP, done, journal, process, read, running_worker, until
from tests.support.reply_assertions import JSON, all_rows, assert_refused, wrong_fields

pytestmark = pytest.mark.settings(job_test_kinds=True)
NAP: dict[str, Any] = {"kind": SLEEP, "payload": {"seconds": 0}}
NOBODY = "00000000-0000-7000-8000-000000000000"
ENTRIES = "select count(*) from queue.pgqueuer"


@pytest.fixture
async def worker(settings: Settings, database: Database) -> AsyncIterator[Worker]:
    async with running_worker(settings, database) as worker:
        yield worker


@pytest.mark.parametrize(("method", "suffix"), [("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")])
async def test_a_change_of_a_job_may_be_conditional(
    client: Client, database: Database, method: str, suffix: str
) -> None:
    path = f"/jobs/{await process(client, seconds=0)}"
    if suffix == "/retry":
        await database.fetch("update jobs set status = 'failed', finished_at = now()")
    before = await client.get(path)
    stale = await client.request(method, f"{path}{suffix}", headers={"If-Match": '"1"'})
    assert_refused(stale, 412, "PRECONDITION_FAILED")
    assert stale.headers["ETag"] == before.headers["ETag"]
    assert (await client.get(path)).json() == before.json()
    current = {"If-Match": before.headers["ETag"]}
    assert (await client.request(method, f"{path}{suffix}", headers=current)).is_success
    assert (await client.get(path)).json() != before.json()


async def test_a_job_has_an_etag_and_says_when_to_poll_again(client: Client, settings: Settings) -> None:
    job_id = await process(client, seconds=0)
    queued = await client.get(f"/jobs/{job_id}")
    assert int(queued.headers["Retry-After"]) >= 1
    unchanged = {"If-None-Match": queued.headers["ETag"]}
    assert (await client.get(f"/jobs/{job_id}", headers=unchanged)).status_code == 304
    assert (await client.post(f"/jobs/{job_id}/cancel")).json()["status"] == "cancelled"
    over = await client.get(f"/jobs/{job_id}", headers=unchanged)
    assert over.status_code == 200
    assert over.headers["ETag"] != queued.headers["ETag"]
    assert "Retry-After" not in over.headers


async def test_a_job_is_queued(client: Client) -> None:
    reply = await client.post("/process", json=NAP)
    job_id = reply.json()["id"]
    assert (reply.status_code, reply.json()) == (202, {"id": job_id, "status": "queued"})
    assert UUID(job_id).version == 7
    assert reply.headers["Location"] == f"/jobs/{job_id}"
    job = (await client.get(reply.headers["Location"])).json()
    assert job == {
        "id": job_id,
        "kind": SLEEP,
        "status": "queued",
        "attempts": 0,
        "progress": 0,
        "result": None,
        "error": None,
        "created_at": job["created_at"],
        "started_at": None,
        "finished_at": None,
    }
    assert job["created_at"].endswith("Z")


async def test_the_queue_has_the_entry_that_pgqueuer_would_have_put_there(
    client: Client, database_url: str
) -> None:
    await process(client, seconds=0)
    async with connected(database_url) as connection:
        await queries(AsyncpgDriver(connection)).enqueue("job", b"x" * 16)
        ours, theirs = await connection.fetch("select * from queue.pgqueuer order by id")
    differing = {name for name in ours.keys() if ours[name] != theirs[name]}  # noqa: SIM118
    times = {"created", "updated", "heartbeat", "execute_after"}
    assert differing - times == {"id", "payload", "headers"}
    assert (ours["headers"], theirs["headers"]) == (None, "null")  # the one as good as the other


async def test_a_worker_runs_a_queued_job(client: Client, worker: Worker) -> None:
    job = await done(client, seconds=0.01)
    assert (job["attempts"], job["progress"], job["error"]) == (1, 100, None)
    assert job["result"] == {"slept_seconds": 0.01}
    assert job["created_at"] < job["started_at"] < job["finished_at"]


async def test_the_journal_records_the_job_from_start_to_end(
    client: Client, database: Database, worker: Worker
) -> None:
    reply = await client.post("/process", json=NAP, headers={"X-Request-ID": "asked"})
    job_id = reply.json()["id"]
    await until(client, job_id, "succeeded")
    key = client.headers["Authorization"].split("_")[1]
    named = {"id": job_id, "kind": SLEEP}
    assert await journal(database, job_id) == [
        ("job.queued", key, "asked", named),
        ("job.finished", "worker", None, {**named, "status": "succeeded", "attempts": 1, "error": None}),
    ]


async def test_an_unknown_kind_is_rejected_with_a_list_of_the_known_ones(client: Client) -> None:
    reply = await client.post("/process", json={"kind": "nope", "payload": {}})
    known = [detail["kind"] for detail in assert_refused(reply, 422, "UNKNOWN_JOB")["details"]]
    assert known == sorted(known)
    assert SLEEP in known


async def test_production_has_no_test_kinds(settings: Settings, key: str) -> None:
    async with running(replace(settings, job_test_kinds=False), key) as client:
        assert_refused(await client.post("/process", json=NAP), 422, "UNKNOWN_JOB")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"/kind", "/payload"}),
        ({"kind": 5, "more": 1}, {"/kind", "/payload", "/more"}),
        ({"kind": SLEEP}, {"/payload"}),
        ({"kind": SLEEP, "payload": None}, {"/payload"}),
        ({"kind": SLEEP, "payload": {}, "more": 1}, {"/payload/seconds", "/more"}),
        (
            {"kind": SLEEP, "payload": {"seconds": "1", "burn": 1, "steps": 0, "fail_times": 1.5, "x~/": 1}},
            {"/payload/seconds", "/payload/burn", "/payload/steps", "/payload/fail_times", "/payload/x~0~1"},
        ),
        ({"kind": SLEEP, "payload": {"seconds": 61}}, {"/payload/seconds"}),
    ],
)
async def test_every_wrong_field_is_listed(
    client: Client, database: Database, body: dict[str, Any], wrong: set[str]
) -> None:
    assert wrong_fields(await client.post("/process", json=body)) == wrong
    assert await database.fetchval("select count(*) from jobs") == 0


async def test_a_body_that_is_not_json_is_rejected(client: Client) -> None:
    assert_refused(await client.post("/process", content=b"{", headers=JSON), 400, "MALFORMED_JSON")
    plain = {"Content-Type": "text/plain"}
    assert_refused(await client.post("/process", content=b"{}", headers=plain), 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_repeated_request_queues_once(client: Client, database: Database) -> None:
    once = {"Idempotency-Key": "k-1"}
    first = await client.post("/process", json=NAP, headers=once)
    again = await client.post("/process", json=NAP, headers=once)
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await client.post("/process", json={**NAP, "payload": {"seconds": 1}}, headers=once)
    assert_refused(other, 422, "IDEMPOTENCY_MISMATCH")
    assert await database.fetchval(ENTRIES) == 1
    assert len((await client.get("/jobs")).json()["data"]) == 1


async def test_twenty_concurrent_repetitions_at_two_replicas_queue_one_job(
    settings: Settings, key: str, database: Database
) -> None:
    once = {"Idempotency-Key": "k-1"}
    async with running(settings, key) as one, running(settings, key) as other:
        replies = await asyncio.gather(
            *(client.post("/process", json=NAP, headers=once) for client in [one, other] * 10)
        )
    accepted = [reply for reply in replies if reply.status_code == 202]
    assert len({reply.content for reply in accepted}) == 1
    for reply in replies:
        if reply not in accepted:
            assert_refused(reply, 409, "IDEMPOTENCY_IN_PROGRESS")
    assert await database.fetchval(ENTRIES) == 1


async def test_a_job_that_could_not_be_stored_leaves_nothing_behind(
    client: Client, database: Database
) -> None:
    await database.fetch("alter table jobs add constraint no_naps check (kind <> 'system.sleep')")
    reply = await client.post("/process", json=NAP, headers={"Idempotency-Key": "k-1"})
    assert_refused(reply, 500, "INTERNAL_ERROR")
    for table in ("queue.pgqueuer", "queue.pgqueuer_log", "idempotency_keys", "jobs"):
        assert await database.fetchval(f"select count(*) from {table}") == 0
    await database.fetch("alter table jobs drop constraint no_naps")
    again = await client.post("/process", json=NAP, headers={"Idempotency-Key": "k-1"})
    assert again.status_code == 202


async def test_jobs_are_listed_newest_first(client: Client) -> None:
    ids = [await process(client, seconds=0) for _ in range(5)]
    assert [job["id"] for job in await all_rows(client, "/jobs", limit=2)] == ids[::-1]


async def test_lists_are_filtered(client: Client) -> None:
    first, second = [await process(client, seconds=0) for _ in range(2)]
    await client.delete(f"/jobs/{first}")
    assert [job["id"] for job in await all_rows(client, "/jobs", status="cancelled")] == [first]
    assert [job["id"] for job in await all_rows(client, "/jobs", status="queued", kind=SLEEP)] == [second]
    assert await all_rows(client, "/jobs", kind="report.export") == []
    assert wrong_fields(await client.get("/jobs", params={"status": "lost"}), "query") == {"/status"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/events"), ("GET", "/output"), ("DELETE", ""), ("POST", "/retry")],
)
async def test_an_unknown_job_is_not_found(
    client: Client, database: Database, method: str, path: str
) -> None:
    assert_refused(await client.request(method, f"/jobs/{NOBODY}{path}"), 404, "NOT_FOUND")
    assert await database.fetchval(ENTRIES) == 0


async def test_a_list_omits_the_results(client: Client, database: Database) -> None:
    job_id = await process(client, seconds=0)
    await database.fetch("update jobs set result = jsonb_build_object('errors', repeat('x', 1000000))")
    reply = await client.get("/jobs")
    (summary,) = reply.json()["data"]
    assert len(reply.content) < 1000
    job = await read(client, job_id)
    assert len(job.pop("result")["errors"]) == 1_000_000
    assert summary == job


async def test_the_output_file_of_a_job_can_be_downloaded(
    client: Client, database: Database, settings: Settings
) -> None:
    job_id = await process(client, seconds=0)
    assert_refused(await client.get(f"/jobs/{job_id}/output"), 404, "NOT_FOUND")
    size = await open_blob_store(settings).put("exports/1.csv", b"a,b\n1,2\n")
    output = {"key": "exports/1.csv", "filename": 'Zürich "1".csv', "content_type": "text/csv"}
    await database.fetch("update jobs set result = $1::jsonb", {"output": {**output, "size_bytes": size}})
    reply = await client.get(f"/jobs/{job_id}/output")
    assert (reply.status_code, reply.content) == (200, b"a,b\n1,2\n")
    assert reply.headers["Content-Type"].startswith("text/csv")
    assert reply.headers["Content-Length"] == "8"
    assert reply.headers["Content-Disposition"] == (
        "attachment; filename=\"Z_rich _1_.csv\"; filename*=UTF-8''Z%C3%BCrich%20%221%22.csv"
    )
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    head = await client.head(f"/jobs/{job_id}/output")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "8")
    await open_blob_store(settings).delete("exports/1.csv")
    assert_refused(await client.get(f"/jobs/{job_id}/output"), 404, "NOT_FOUND")


async def test_reading_and_writing_need_different_scopes(client: Client, make_key: Any) -> None:
    job_id = await process(client, seconds=0)
    reader = {"Authorization": f"Bearer {await make_key('jobs:read')}"}
    writer = {"Authorization": f"Bearer {await make_key('jobs:write')}"}
    for path in ("/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}/output", f"/jobs/{job_id}/events"):
        assert_refused(await client.get(path, headers=writer), 403, "FORBIDDEN")
    assert (await client.get(f"/jobs/{job_id}", headers=reader)).status_code == 200
    for method, path in (
        ("POST", "/process"),
        ("DELETE", f"/jobs/{job_id}"),
        ("POST", f"/jobs/{job_id}/cancel"),
        ("POST", f"/jobs/{job_id}/retry"),
    ):
        assert_refused(await client.request(method, path, json=NAP, headers=reader), 403, "FORBIDDEN")
