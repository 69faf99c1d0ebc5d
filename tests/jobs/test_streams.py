"""Server-sent events of jobs, over real sockets."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from service.auth.keys import key_id
from service.database.database import Database
from service.events.journal import CLI
from service.jobs import streams as module
from service.jobs.controller import events
from service.jobs.operations import cancel, submit
from service.jobs.schemas import JobCreate
from service.jobs.streams import JobStreams
from tests.support.app_helpers import (
    MAX_WAIT_SECONDS,
    Json,
    connected,
    eventually,
    in_session,
    wait_for_locks,
)
from tests.support.depot_process import DepotProcess, depot_serve, depot_worker
from tests.support.job_helpers import process
from tests.support.reply_assertions import assert_refused

EARS = "from pg_stat_activity where datname = current_database() and query like 'LISTEN \"depot_jobs\"%'"
LISTENING = f"select count(*) {EARS}"
DEAFEN = f"select pg_terminate_backend(pid) {EARS}"
SOON_SECONDS = 3.0


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[DepotProcess]:
    limits = {"DEPOT_JOB_STREAMS_MAX": "4", "DEPOT_JOB_TEST_KINDS": "1", "DEPOT_DRAIN_SECONDS": "60"}
    with depot_serve(database_url, tmp_path / "home", **limits) as server:
        yield server


@pytest.fixture
async def socketed(server: DepotProcess, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client(key) as client:
        yield client


class Stream:
    """An open event stream."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self._lines = reply.aiter_lines()

    async def __aiter__(self) -> AsyncIterator[Json]:
        event = ""
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                assert event == "job"
                yield json.loads(value)

    async def until(self, **facts: Any) -> Json:
        async with asyncio.timeout(SOON_SECONDS):
            async for job in self:
                if facts.items() <= job.items():
                    return job
        raise AssertionError("the stream ended")


@asynccontextmanager
async def stream(client: httpx.AsyncClient, job_id: str) -> AsyncIterator[Stream]:
    async with client.stream("GET", f"/jobs/{job_id}/events") as reply:
        assert reply.status_code == 200
        yield Stream(reply)


async def test_a_stream_shows_the_progress_until_the_job_ends(
    server: DepotProcess, socketed: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    job_id = await process(socketed, seconds=1.5, steps=5)
    async with stream(socketed, job_id) as opened:
        with depot_worker(database_url, tmp_path / "home"):
            seen = [job async for job in opened]
    assert [seen[0]["status"], seen[1]["status"], seen[-1]["status"]] == ["queued", "running", "succeeded"]
    progress = [job["progress"] for job in seen]
    assert progress == sorted(progress)
    assert len(set(progress)) >= 4
    assert seen[-1] == (await socketed.get(f"/jobs/{job_id}")).json()


async def test_a_stream_is_a_reply_like_any_other(server: DepotProcess, socketed: httpx.AsyncClient) -> None:
    job_id = await process(socketed, seconds=0)
    headers = {"X-Request-ID": "streamed"}
    async with socketed.stream("GET", f"/jobs/{job_id}/events", headers=headers) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Request-ID"] == "streamed"
        opened = Stream(reply)
        await opened.until(status="queued", id=job_id)
        await socketed.delete(f"/jobs/{job_id}")
        await opened.until(status="cancelled", id=job_id)
    server.wait_for("request", 3)
    (logged,) = (line for line in server.events("request") if line["request_id"] == "streamed")
    assert (logged["status"], logged["route"]) == (200, "/jobs/{job_id}/events")


async def test_a_finished_job_is_sent_once(socketed: httpx.AsyncClient) -> None:
    job_id = await process(socketed, seconds=0)
    await socketed.delete(f"/jobs/{job_id}")
    reply = await socketed.get(f"/jobs/{job_id}/events")
    assert reply.text.count("event: job") == 1
    assert '"status":"cancelled"' in reply.text


async def test_head_does_not_wait_for_the_end(socketed: httpx.AsyncClient) -> None:
    job_id = await process(socketed, seconds=0)
    async with asyncio.timeout(SOON_SECONDS):
        for _ in range(5):  # more than there may be streams
            reply = await socketed.head(f"/jobs/{job_id}/events")
            assert (reply.status_code, reply.content) == (200, b"")
            assert reply.headers["Content-Type"].startswith("text/event-stream")


async def test_streams_are_limited_per_key_and_in_total_and_closing_one_frees_its_slot(
    server: DepotProcess, socketed: httpx.AsyncClient, database_url: str, make_key: Any
) -> None:
    job_id = await process(socketed, seconds=0)
    async with connected(database_url) as connection:

        async def one_listens() -> bool:
            return bool(await connection.fetchval(LISTENING) == 1)

        async def nobody_listens() -> bool:
            return bool(await connection.fetchval(LISTENING) == 0)

        async def room() -> bool:
            async with socketed.stream("GET", f"/jobs/{job_id}/events") as reply:
                return reply.status_code == 200

        async with (
            stream(socketed, job_id),
            stream(socketed, job_id),
            server.client(await make_key("jobs:read")) as other,
        ):
            async with stream(socketed, job_id):
                await eventually(one_listens)
                async with asyncio.timeout(SOON_SECONDS):
                    refused = assert_refused(await socketed.get(f"/jobs/{job_id}/events"), 503, "OVERLOADED")
                assert "of this API key" in refused["message"]
                async with stream(other, job_id):  # one key cannot hold all streams
                    refused = assert_refused(await other.get(f"/jobs/{job_id}/events"), 503, "OVERLOADED")
                    assert refused["message"] == "Too many event streams are open"
            await eventually(room)
        await eventually(nobody_listens)


async def test_changes_arrive_after_the_database_connection_was_lost(
    socketed: httpx.AsyncClient, database_url: str
) -> None:
    job_id = await process(socketed, seconds=0)
    async with stream(socketed, job_id) as opened, connected(database_url) as connection:
        await opened.until(status="queued")
        for percent in (10, 20, 30):
            assert await connection.fetch(DEAFEN)
            await connection.execute("update jobs set progress = $1", percent)  # and nobody is told of it
            await opened.until(progress=percent)


@pytest.mark.parametrize("change", ["revoked_at = now()", "expires_at = now()"])
async def test_the_stream_of_a_revoked_or_expired_key_ends(
    server: DepotProcess, socketed: httpx.AsyncClient, database_url: str, make_key: Any, change: str
) -> None:
    job_id = await process(socketed, seconds=0)
    reader = await make_key("jobs:read")
    async with (
        connected(database_url) as connection,
        server.client(reader) as other,
        stream(other, job_id) as ending,
        stream(socketed, job_id) as lasting,
    ):
        await ending.until(status="queued")
        await lasting.until(status="queued")
        await connection.execute(f"update api_keys set {change} where scopes = '{{jobs:read}}'")
        async with asyncio.timeout(SOON_SECONDS):
            assert [job async for job in ending] == []
        assert (await other.get(f"/jobs/{job_id}/events")).status_code == 401
        await socketed.delete(f"/jobs/{job_id}")
        await lasting.until(status="cancelled")


async def test_a_client_of_http_1_0_gets_the_events_without_chunks(
    server: DepotProcess, socketed: httpx.AsyncClient, key: str
) -> None:
    job_id = await process(socketed, seconds=0)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(f"GET /jobs/{job_id}/events HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    async with asyncio.timeout(SOON_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert (await reader.readline(), (await reader.readline())[:7]) == (b"event: job\n", b"data: {")
        await socketed.delete(f"/jobs/{job_id}")
        rest = await reader.read()
    assert rest.count(b"event: job\ndata: {") == 1
    assert b'"status":"cancelled"' in rest
    writer.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_a_stream_does_not_delay_a_shutdown(
    server: DepotProcess, socketed: httpx.AsyncClient, sig: signal.Signals
) -> None:
    job_id = await process(socketed, seconds=0)
    async with stream(socketed, job_id) as opened:
        await opened.until(status="queued")
        begun = monotonic()
        server.process.send_signal(sig)
        assert [job async for job in opened] == []
        assert monotonic() - begun < SOON_SECONDS
    if sig == signal.SIGINT:  # the other one goes on serving for a minute
        assert await asyncio.to_thread(server.process.wait, SOON_SECONDS) == 0
    assert server.events("unhandled_error") == []


async def test_a_stream_that_opens_while_the_server_drains_sends_the_job_once(
    server: DepotProcess, socketed: httpx.AsyncClient
) -> None:
    job_id = await process(socketed, seconds=0)
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(SOON_SECONDS):
        while (await socketed.get("/health/ready")).status_code == 200:
            pass
        reply = await socketed.get(f"/jobs/{job_id}/events")
    assert reply.text.count('"status":"queued"') == 1


async def test_a_stream_that_opens_while_the_others_end_sends_the_job_once(
    database: Database, database_url: str, key: str
) -> None:
    draining = asyncio.Event()
    streams = JobStreams(database, streams_max=4, draining=draining.is_set)
    job_id = (await in_session(database, submit, JobCreate("system.sleep", {}), CLI, None)).id
    async with streams.open(), connected(database_url) as holder:
        first, second = (
            streams.follow(database.session(), job_id, str(key_id(key))),
            streams.follow(database.session(), job_id, str(key_id(key))),
        )
        assert await anext(first) is not None
        async with holder.transaction():
            await holder.execute("lock table jobs")
            beginning = asyncio.create_task(anext(second))
            await wait_for_locks(holder, 1)
            draining.set()
            async with asyncio.timeout(SOON_SECONDS):
                assert [job async for job in first] == [None]
        await beginning
        assert [job async for job in second] == []


async def test_comments_keep_a_silent_stream_alive(
    database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.01)
    streams = JobStreams(database, streams_max=1, draining=lambda: False)
    job_id = (await in_session(database, submit, JobCreate("system.sleep", {}), CLI, None)).id
    async with streams.open(), asyncio.timeout(MAX_WAIT_SECONDS):
        changes = streams.follow(database.session(), job_id, str(key_id(key)))
        sent = events(await anext(changes), changes)
        while b'"status":"queued"' not in await anext(sent):
            pass
        assert [await anext(sent) for _ in range(3)] == [b": keep-alive\n\n"] * 3
        await in_session(database, cancel, job_id, CLI, None)
        states = [event async for event in sent if b"event: job" in event]
    assert [b'"status":"cancelled"' in state for state in states] == [True]
