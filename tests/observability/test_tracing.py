"""Tests of traces with a real OTLP/HTTP receiver, and without the extra."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.app_helpers import item, order
from tests.support.depot_process import depot_serve, depot_worker
from tests.support.job_helpers import process, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT = 2, 3
"""Span kinds of the protocol."""


class Span:
    """A received span."""

    def __init__(self, sent: Any) -> None:
        self.name: str = sent.name
        self.kind: int = sent.kind
        self.id, self.parent, self.trace = sent.span_id.hex(), sent.parent_span_id.hex(), sent.trace_id.hex()
        self.failed: bool = sent.status.code == 2
        self.links = {link.span_id.hex() for link in sent.links}
        self.seconds = (sent.end_time_unix_nano - sent.start_time_unix_nano) / 1e9
        self.attributes = {
            pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in sent.attributes
        }


class Collector:
    """The spans that a collector received."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    async def handle(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        export = ExportTraceServiceRequest.FromString(await request.read())
        for resource in export.resource_spans:
            self.services |= {
                pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans += map(Span, scope.spans)
        content = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=content, content_type="application/x-protobuf")


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/traces", collector.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
        yield collector
    finally:
        await runner.cleanup()


async def test_requests_statements_and_commits_of_orders_are_spans(
    database_url: str, tmp_path: Path, key: str
) -> None:
    async with collecting() as collector:
        with depot_serve(database_url, tmp_path / "home", DEPOT_TRACES_URL=collector.url) as server:
            async with server.client(key) as client:
                bolt = await item(client, 100)
                headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
                await client.get(f"/items/{bolt['id']}", headers=headers)
                await client.get("/items", headers={"traceparent": f"00-{'1' * 32}-{PARENT}-00"})
                await client.get("/nowhere/at/all")
                await asyncio.gather(*(order(client, (bolt, 1)) for _ in range(5)))
            assert await asyncio.to_thread(server.stop) == 0
            logged = {line["request_id"]: line["trace_id"] for line in server.events("request")}
    assert collector.services == {"depot"}

    (read,) = collector.named("GET /items/{item_id}")
    assert (read.trace, read.parent, read.kind, read.failed) == (TRACE, PARENT, SERVER, False)
    assert read.attributes["http.route"] == "/items/{item_id}"
    assert read.attributes["http.response.status_code"] == 200
    assert read.attributes["depot.request_id"] == "mine"
    assert logged["mine"] == TRACE
    (batch,) = [span for span in collector.spans if span.parent == read.id]
    assert batch.attributes["depot.batch_size"] == 1
    statements = [span for span in collector.spans if span.parent == batch.id]
    (select,) = [span for span in statements if "from items" in span.attributes["db.query.text"]]
    assert (select.trace, select.kind, select.name) == (TRACE, CLIENT, "postgresql select")
    assert 0 < select.seconds <= read.seconds
    assert bolt["id"] not in str(select.attributes)

    assert not [span for span in collector.spans if span.trace == "1" * 32]  # the caller does not sample it
    (lost,) = collector.named("GET")
    assert (lost.parent, lost.attributes["error.type"], lost.failed) == ("", "NOT_FOUND", False)

    placed, flushes = collector.named("POST /orders"), collector.named("place orders")
    assert sum(flush.attributes["depot.batch_size"] for flush in flushes) == 5
    by_id = {span.id: span for span in placed}
    for flush in flushes:
        assert flush.parent in by_id
        assert flush.links < by_id.keys()
        assert len(flush.links) == flush.attributes["depot.batch_size"] - 1
        assert all(flush.id in by_id[other].links for other in flush.links)
        statements = [span.name for span in collector.spans if span.parent == flush.id]
        assert {"postgresql begin", "postgresql commit"} <= set(statements)
    assert set(logged.values()) >= {span.trace for span in placed}


async def test_an_unhandled_error_is_a_failed_span_without_the_row(
    database_url: str, tmp_path: Path, key: str, database: Any
) -> None:
    await database.fetch("alter table items add check (name <> 'hunter2') not valid")
    async with collecting() as collector:
        with depot_serve(database_url, tmp_path / "home", DEPOT_TRACES_URL=collector.url) as server:
            async with server.client(key) as client:
                await client.post("/items", json={"sku": "A", "name": "hunter2", "price": "1"})
            await asyncio.to_thread(server.stop)
    (crashed,) = collector.named("POST /items")
    assert (crashed.failed, crashed.attributes["error.type"]) == (True, "INTERNAL_ERROR")
    assert [span for span in collector.spans if span.parent == crashed.id and span.failed]
    assert "hunter2" not in str([span.attributes for span in collector.spans])


async def test_new_traces_are_sampled_at_the_configured_ratio(
    database_url: str, tmp_path: Path, key: str
) -> None:
    async with collecting() as collector:
        environment = {"DEPOT_TRACES_URL": collector.url, "DEPOT_TRACES_RATIO": "0"}
        with depot_serve(database_url, tmp_path / "home", **environment) as server:
            async with server.client(key) as client:
                await client.get("/items")
                await client.get("/resources", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
            await asyncio.to_thread(server.stop)
    assert {span.trace for span in collector.spans} == {TRACE}


async def test_jobs_of_a_worker_are_spans(database_url: str, tmp_path: Path, key: str) -> None:
    async with collecting() as collector:
        with (
            depot_serve(database_url, tmp_path / "home", DEPOT_JOB_TEST_KINDS="1") as server,
            depot_worker(database_url, tmp_path / "home", DEPOT_TRACES_URL=collector.url) as worker,
        ):
            async with server.client(key) as client:
                job = await process(client, seconds=0)
                await until(client, job, "succeeded")
            await asyncio.to_thread(worker.stop)
    (run,) = collector.named("job system.sleep")
    assert (run.attributes["depot.job"], run.attributes["depot.attempt"], run.parent) == (job, 1, "")
    assert [span for span in collector.spans if span.parent == run.id]


async def test_an_unreachable_collector_delays_neither_requests_nor_shutdown(
    database_url: str, tmp_path: Path, key: str
) -> None:
    environment = {"DEPOT_TRACES_URL": "http://127.0.0.1:1/v1/traces", "DEPOT_DRAIN_SECONDS": "0"}
    with depot_serve(database_url, tmp_path / "home", **environment) as server:
        async with server.client(key) as client:
            for _ in range(20):
                assert (await client.get("/items")).status_code == 200
        started = monotonic()
        assert await asyncio.to_thread(server.stop) == 0
        assert monotonic() - started < 15


def test_without_the_setting_opentelemetry_is_not_imported(tmp_path: Path) -> None:
    program = """
import sys
from service import cli, worker
from service.server import processes
from service.app import create_app
from service.settings import Settings
create_app(Settings(database_url="postgresql://unused"), worker=True)
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("opentelemetry.")}
sys.exit(", ".join(loaded - {"semconv"}))  # attribute names, which Litestar imports
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr.strip()) == ("", "")


START_BOTH = """
import sys
from service.cli import main
for command in ("serve", "worker"):
    sys.argv = ["depot", command]
    try:
        main()
    except SystemExit as ended:
        print(command, "ended with", ended.code)
"""


def test_the_setting_without_the_extra_is_a_startup_error(tmp_path: Path) -> None:
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").touch()
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "DATABASE_URL": "postgresql://u@127.0.0.1:1/d",
        "DEPOT_TRACES_URL": "http://127.0.0.1:4318/v1/traces",
    }
    done = subprocess.run(
        [sys.executable, "-c", START_BOTH], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "serve ended with 1\nworker ended with 1\n"
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith("depot: DEPOT_TRACES_URL is set, but OpenTelemetry is not installed")
