"""`GET /metrics`: who may read it, and that what it says is so."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from time import monotonic

import httpx
import pytest
from litestar.testing import AsyncTestClient
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from test_health import ANSWER_SECONDS

from conftest import Client
from service.app import create_app
from service.auth.authenticator import EXPIRE_AFTER_SECONDS
from service.auth.store import create_key, revoke_key
from service.database.database import Database
from service.docs import build_document
from service.health.database_metrics import DatabaseMetrics
from service.health.metrics_endpoint import TEXT, ScrapeCache
from service.jobs.kinds import KindRegistry
from service.observability.metrics import Metrics
from service.settings import Settings
from tests.support import job_helpers as labour
from tests.support.app_helpers import eventually, item, locked, order, running, wait_for_locks
from tests.support.embedded_server import Server
from tests.support.job_helpers import process, until
from tests.support.reply_assertions import assert_refused
from tests.support.scraped_metrics import ScrapedMetrics, scraped
from webhooks.receiver import receiver, record_event, subscribe

Make = Callable[..., Awaitable[str]]
pytestmark = pytest.mark.usefixtures("own_app")  # its metrics count from the start of the application


@pytest.fixture
async def open_client(settings: Settings) -> AsyncIterator[Client]:
    async with AsyncTestClient(create_app(replace(settings, metrics="open"))) as client:
        yield client


async def test_it_needs_a_key_with_its_scope(client: Client, make_key: Make) -> None:
    for key, status in ((await make_key("metrics:read"), 200), (await make_key("items:read"), 403)):
        reply = await client.get("/metrics", headers={"Authorization": f"Bearer {key}"})
        assert reply.status_code == status
    assert_refused(await client.get("/metrics", headers={"Authorization": ""}), 401, "UNAUTHENTICATED")


async def test_it_is_open_if_it_is_set_so(open_client: Client) -> None:
    assert (await open_client.get("/metrics")).status_code == 200
    assert_refused(await open_client.get("/items"), 401, "UNAUTHENTICATED")


def test_the_document_says_who_may_read_it(settings: Settings) -> None:
    def security(settings: Settings) -> object:
        return build_document(create_app(settings))["paths"]["/metrics"]["get"].get("security")

    assert security(settings) == [{"apiKey": ["metrics:read"]}]
    assert not security(replace(settings, metrics="open"))


async def test_it_is_text_or_what_is_preferred(client: Client) -> None:
    plain = await client.get("/metrics")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert not [name for name in ScrapedMetrics(plain.text).families if name.endswith("_created")]
    accept = (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
        "text/plain;version=1.0.0;q=0.5,*/*;q=0.1"
    )
    preferred = await client.get("/metrics", headers={"Accept": accept})
    assert preferred.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in read_openmetrics(preferred.text)}
    assert families["depot_http_requests"].type == "counter"
    for strange in ("application/openmetrics-text;version=x;escaping=\x1b", "image/png", ",;=,"):
        reply = await client.get("/metrics", headers={"Accept": strange})
        assert reply.status_code == 200


async def test_head_and_options_work(client: Client) -> None:
    head = await client.head("/metrics")
    assert (head.status_code, head.text, int(head.headers["Content-Length"]) > 1000) == (200, "", True)
    assert (await client.options("/metrics")).headers["Allow"] == "GET, HEAD, OPTIONS"


async def test_requests_are_counted_by_the_template_of_their_route(client: Client) -> None:
    before = await scraped(client)
    for number in range(3):
        await client.get(f"/items/0192a000-0000-7000-8000-00000000000{number}")
        await client.get(f"/nowhere/{number}?q={number}")
    await client.head("/items")
    await client.options("/items")
    after = await scraped(client)

    def counted(**labels: str) -> float:
        return after.sum("http_requests_total", **labels) - before.sum("http_requests_total", **labels)

    assert counted(route="/items/{item_id}", method="GET", status="404") == 3
    assert counted(route="unrouted", method="GET", status="404") == 3
    assert counted(route="/items", method="HEAD", status="200") == 1
    assert counted(route="/items", method="OPTIONS", status="204") == 1
    assert counted(route="/metrics", method="GET", status="200") == 1
    assert counted() == 9
    assert after.sum("http_request_seconds_count", route="/items/{item_id}", method="GET") == 3
    assert after.sum("http_errors_total", code="NOT_FOUND") == 6


async def test_labels_are_of_few_values_whatever_is_sent(client: Client) -> None:
    for number in range(20):
        await client.request(f"ODD{number}", f"/items/{number}", headers={"X-Request-ID": f"r{number}"})
        await client.get(f"/%0a%1b[31m{number}", headers={"User-Agent": f"agent-{number}"})
    figures = await scraped(client)
    assert figures.values("method") == {"GET", "other"}
    assert figures.values("route") == {"unrouted"}
    assert len(figures.samples) < 300


async def test_a_crash_and_a_client_that_left_are_counted(client: Client, database: Database) -> None:
    await database.fetch("alter table items add check (name <> 'no') not valid")
    reply = await client.post("/items", json={"sku": "A", "name": "no", "price": "1"})
    assert_refused(reply, 500, "INTERNAL_ERROR")
    figures = await scraped(client)
    assert figures.sum("http_requests_total", route="/items", method="POST", status="500") == 1
    assert figures.sum("http_errors_total", code="INTERNAL_ERROR") == 1


async def test_orders_under_way_are_seen(settings: Settings, key: str, database_url: str) -> None:
    started = monotonic()
    async with running(replace(settings, placement_flushes_max=1), key) as client:
        bolt = await item(client, 100)
        async with locked(database_url, bolt) as connection:
            first = asyncio.create_task(order(client, (bolt, 1)))
            await wait_for_locks(connection, 1)
            others = [asyncio.create_task(order(client, (bolt, 1))) for _ in range(4)]

            async def seen() -> bool:
                figures = await scraped(client)
                assert figures.sum("db_pool_connections", pool="statements", state="in_use") >= 1
                return figures.sum("placement_waiting") == 4 and figures.sum("http_requests_in_flight") == 6

            await eventually(seen)
        assert {reply.status_code for reply in await asyncio.gather(first, *others)} == {201}
        figures = await scraped(client)
    assert (figures.sum("placement_waiting"), figures.sum("http_requests_in_flight")) == (0, 1)
    assert figures.sum("placement_batch_orders_sum") == 5
    assert figures.sum("placement_batch_orders_count") == figures.sum("placement_flush_seconds_count") == 2
    assert 0 < figures.sum("placement_flush_seconds_sum") < monotonic() - started


async def test_a_scrape_is_never_shed(settings: Settings, key: str, database_url: str) -> None:
    async with running(replace(settings, in_flight_max=1), key) as client:
        bolt = await item(client, 100)
        async with locked(database_url, bolt) as connection:
            waits = asyncio.create_task(order(client, (bolt, 1)))
            await wait_for_locks(connection, 1)
            assert_refused(await client.get("/items"), 503, "OVERLOADED")
            assert (await scraped(client)).sum("http_errors_total", code="OVERLOADED") == 1
        assert (await waits).status_code == 201


async def test_requests_that_wait_for_a_connection_are_seen(settings: Settings, key: str) -> None:
    app = create_app(replace(settings, pool_size=1))
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {key}"}
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://depot") as client:
        client.headers.update(headers)
        await client.get("/items")
        sessions = app.dependencies["session"].dependency()  # type: ignore[union-attr,operator]
        async with aclosing(sessions):
            await (await anext(sessions)).connection()
            waiting = asyncio.create_task(client.get("/items"))

            async def seen() -> bool:
                return (await scraped(client)).sum("db_pool_waiting") == 1

            await eventually(seen)
        assert (await waiting).status_code == 200
        assert (await scraped(client)).sum("db_pool_waiting") == 0


async def test_jobs_are_counted_by_kind_and_status(settings: Settings, key: str) -> None:
    known = replace(settings, job_test_kinds=True, job_attempts_max=1)
    async with running(known, key) as client:
        waits, fails = await process(client, seconds=0), await process(client, seconds=0, fail_times=1)

        async def due() -> bool:
            figures = await scraped(client)
            queued = figures.sum("jobs", kind=labour.SLEEP, status="queued")
            return queued == 2 and 0 < figures.sum("job_oldest_due_seconds", kind=labour.SLEEP) < 60

        await eventually(due)
        assert (await scraped(client)).sum("jobs", kind="report.export") == 0
    async with AsyncTestClient(create_app(known, worker=True)) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        await until(client, waits, "succeeded")
        await until(client, fails, "failed")
        figures = await scraped(client)

        async def counted() -> bool:
            figures = await scraped(client)
            return figures.sum("job_runs_total") == 2 and "depot_jobs" in figures.families

        await eventually(counted)
        figures = await scraped(client)
        assert figures.sum("job_runs_total", kind=labour.SLEEP, outcome="succeeded") == 1
        assert figures.sum("job_runs_total", kind=labour.SLEEP, outcome="failed") == 1
        assert figures.sum("job_run_seconds_count") == 2
        assert figures.sum("jobs", kind=labour.SLEEP, status="failed") == 1
        assert figures.sum("jobs", status="queued") == 0


async def test_deliveries_are_counted_and_what_is_owed_is_seen(
    settings: Settings, key: str, database: Database
) -> None:
    allowing = replace(settings, webhook_allow_private=True)
    started = monotonic()
    async with running(allowing, key) as client:
        async with receiver() as taking, receiver(status=500) as failing:
            await subscribe(database, taking.url)
            await subscribe(database, failing.url)
            await record_event(database)
            await taking.until(1)
            await failing.until(1)

            async def recorded() -> bool:
                return (await scraped(client)).sum("webhook_attempts_total") == 2

            await eventually(recorded)
        figures = await scraped(client)
        assert figures.sum("webhook_attempts_total", outcome="delivered") == 1
        assert figures.sum("webhook_attempts_total", outcome="retried") == 1
        assert figures.sum("webhook_attempt_seconds_count") == 2
        assert 0 < figures.sum("webhook_attempt_seconds_sum") < 2 * (monotonic() - started)
    await database.fetch(
        "update deliveries set due_at = now() - interval '90 seconds' where due_at is not null"
    )
    # No dispatcher takes it meanwhile.
    scrapes = ScrapeCache(Metrics(), DatabaseMetrics(database, KindRegistry([])))
    async with scrapes.open():
        figures = ScrapedMetrics(await scrapes.text(TEXT))
    assert figures.sum("webhook_deliveries_pending") == 1
    assert 90 <= figures.sum("webhook_lag_seconds") < 150


async def test_concurrent_scrapes_share_their_work(settings: Settings, key: str) -> None:
    async with running(settings, key) as client:
        replies = await asyncio.gather(*(client.get("/metrics") for _ in range(50)))
        bodies = {reply.text for reply in replies}
        assert {reply.status_code for reply in replies} == {200}
        assert len(bodies) < 10


@pytest.mark.parametrize("trouble", [Server.suspended, Server.away])
async def test_without_the_database_it_answers_within_a_second(
    own_server: Server, tmp_path: Path, trouble: Callable[[Server], AbstractContextManager[None]]
) -> None:
    settings = Settings(database_url=own_server.url, home=tmp_path)
    async with Database(settings).open() as database, database.orm_session() as session:
        key = await create_key(session, name="test", scopes=["metrics:read"])
        stranger = await create_key(session, name="stranger", scopes=["metrics:read"])
    async with running(settings, key) as client:
        assert (await scraped(client)).sum("database_up") == 1
        with trouble(own_server):
            await asyncio.sleep(EXPIRE_AFTER_SECONDS)  # so long a known key is believed without asking

            async def down() -> bool:
                return (await scraped(client)).sum("database_up") == 0

            await eventually(down)
            for _ in range(2):
                started = monotonic()
                figures = await scraped(client)
                assert monotonic() - started < ANSWER_SECONDS
                assert figures.sum("database_up") == 0
                assert figures.sum("http_requests_total", route="/metrics") >= 1
                assert "depot_jobs" not in figures.families
            unknown = await client.get("/metrics", headers={"Authorization": f"Bearer {stranger}"})
            assert_refused(unknown, 503, "DATABASE_UNAVAILABLE")

        async def up() -> bool:
            return (await scraped(client)).sum("database_up") == 1

        await eventually(up)


async def test_a_revoked_key_reads_no_more(client: Client, database: Database, make_key: Make) -> None:
    key = await make_key("metrics:read")
    headers = {"Authorization": f"Bearer {key}"}
    assert (await client.get("/metrics", headers=headers)).status_code == 200
    async with database.orm_session() as session:
        assert await revoke_key(session, key.split("_")[1])

    async def noticed() -> bool:
        return (await client.get("/metrics", headers=headers)).status_code == 401

    await eventually(noticed)
