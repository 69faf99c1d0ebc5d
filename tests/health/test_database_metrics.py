"""A backlog or a lock hides no metric but its own, and a count costs the same for any backlog."""

from collections.abc import AsyncIterator
from time import monotonic

import pytest

from service.database.database import Database
from service.health.database_metrics import DELIVERIES_MAX, JOBS_MAX, TIMEOUT_SECONDS, DatabaseMetrics
from service.health.metrics_endpoint import TEXT, ScrapeCache
from service.jobs.kinds import KindRegistry
from service.observability.metrics import Metrics
from tests.support.app_helpers import connected
from tests.support.scraped_metrics import ScrapedMetrics

WEBHOOK = """
insert into webhooks (id, url, events, enabled, secret, version)
values ('01900000-0000-7000-8000-000000000000', 'http://127.0.0.1:1/', '{item.created}', true, 'x', 1)"""
BACKLOG = """
insert into deliveries (webhook_id, event_id, due_at)
select '01900000-0000-7000-8000-000000000000', gen_random_uuid(), now() - interval '100 seconds'
from generate_series(1, $1)"""
FAILED_JOBS = """
insert into jobs (id, kind, payload, status, queue_id, finished_at)
select gen_random_uuid(), 'system.sleep', '{}', 'failed', 0, now() from generate_series(1, $1)"""


@pytest.fixture
async def scrapes(database: Database) -> AsyncIterator[ScrapeCache]:
    cache = ScrapeCache(Metrics(), DatabaseMetrics(database, KindRegistry([])))
    async with cache.open():
        yield cache


async def test_counts_of_a_backlog_are_capped_and_its_age_is_exact(
    database: Database, database_url: str, scrapes: ScrapeCache
) -> None:
    async with connected(database_url) as owner:
        await owner.execute(WEBHOOK)
        await owner.execute(BACKLOG, 3 * DELIVERIES_MAX)
        await owner.execute(FAILED_JOBS, 2 * JOBS_MAX)
        await owner.execute("analyze")
    metrics = ScrapedMetrics(await scrapes.text(TEXT))
    assert metrics.sum("webhook_deliveries_pending") == DELIVERIES_MAX
    assert 100 <= metrics.sum("webhook_lag_seconds") < 150
    assert metrics.sum("jobs", status="failed") == JOBS_MAX


async def test_a_query_that_does_not_finish_hides_no_other_metric(
    database_url: str, scrapes: ScrapeCache
) -> None:
    async with connected(database_url) as other, other.transaction():
        await other.execute("lock table jobs in access exclusive mode")
        started = monotonic()
        metrics = ScrapedMetrics(await scrapes.text(TEXT))
    assert monotonic() - started < TIMEOUT_SECONDS
    assert metrics.sum("database_up") == 1
    assert "depot_jobs" not in metrics.families
    assert {"depot_webhook_deliveries_pending", "depot_webhook_lag_seconds"} <= set(metrics.families)
