"""A list is planned once for all its pages."""

from uuid import UUID

from service.audit.feed import read_feed
from service.audit.trail import list_entries
from service.database.database import Database
from service.database.session import Session
from service.documents.store import list_documents
from service.items.catalog import list_movements
from service.jobs.operations import list_jobs
from service.orders.queries import list_orders
from service.settings import Settings
from service.times import FIRST_ID, LAST_ID
from tests.support.app_helpers import connected

ITEM = UUID(int=1)
FILL = f"""
insert into items (id, sku, name, price, currency, quantity, version)
select lpad(to_hex(n), 32, '0')::uuid, 'S' || n, 'Bolt', 1, 'EUR', 5, 1 from generate_series(1, 2000) n;
insert into movements (item_id, version, cause, delta, resulting_quantity)
select '{ITEM}', n, 'adjust', 1, n from generate_series(1, 2000) n;
insert into orders (id, status, customer_id, currency, total, version)
select gen_random_uuid(), 'placed', 'c-1', 'EUR', 1, 1 from generate_series(1, 2000) n;
insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
select id, 1, '{ITEM}', 'S1', 'Bolt', 1, 1, 1 from orders;
insert into jobs (id, kind, payload, queue_id)
select gen_random_uuid(), 'report.export', '{{}}', n from generate_series(1, 2000) n;
insert into contents (sha256, key, uses) values (sha256(''), 'empty', 2000);
insert into documents (id, filename, content_type, size_bytes, sha256)
select gen_random_uuid(), 'a.png', 'image/png', 1, sha256('') from generate_series(1, 2000) n;
insert into events (type, subject, actor, payload)
select 'user.action', 'u-1', 'cli', '{{}}' from generate_series(1, 2000) n;
analyze items, movements, orders, order_lines, jobs, documents, events"""
"""A plan for one page looks cheaper than one for an unknown limit only if the table is known to be large."""
PLANNED_FIRST = 5
"""Executions for which PostgreSQL plans a statement with the values of its parameters."""
RUNS = 8
PLANS = "select statement, custom_plans from pg_prepared_statements where statement ~ 'limit .[0-9]+$'"


async def read_lists(session: Session, limit: int) -> None:
    """Read the first page and a later one of each list."""
    for after in (None, LAST_ID):
        await list_orders(session, {"after": after}, limit)
        await list_entries(session, {"after": after}, limit)
        await list_entries(session, {"entity": "user", "after": after}, limit)
        await list_jobs(session, {"after": after}, limit)
        await list_documents(session, after, limit)
    await list_movements(session, ITEM, None, limit)
    await list_movements(session, ITEM, 1000, limit)
    await read_feed(session, {}, FIRST_ID, limit)


async def test_pages_of_lists_are_planned_a_few_times_only(settings: Settings, database_url: str) -> None:
    async with connected(database_url) as admin:
        await admin.execute(FILL)
    async with Database(settings).open() as database, database.session() as session:
        for limit in range(51, 51 + RUNS):
            await read_lists(session, limit)
        plans = {row["statement"]: row["custom_plans"] for row in await session.fetch(PLANS)}
    assert len(plans) == 12
    assert plans == dict.fromkeys(plans, PLANNED_FIRST)
