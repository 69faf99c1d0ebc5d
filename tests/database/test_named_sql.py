"""Named parameters become numbered ones; arrays of ids do not make PostgreSQL plan a statement again."""

from typing import Any
from uuid import UUID

import pytest

from service.database.database import Database
from service.database.named_sql import NamedSql
from service.items import statements as items
from service.items import stock_statements as stock
from service.orders import statements as orders
from service.settings import Settings
from tests.support.app_helpers import connected

STATEMENT = NamedSql("select :v2::uuid, :name, to_char(now(), 'HH24:MI'), '{\"a\": 1}' where :v2 is null")


FILL = """
insert into items (id, sku, name, price, currency, quantity, version, created_at, updated_at)
select gen_random_uuid(), 'S' || n, 'Bolt', 1, 'EUR', 5, 1, now(), now() from generate_series(1, 5000) n"""
ANALYZE = "analyze items"
"""On a table of unknown size, a plan for one id does not look cheaper than one for an unknown number."""
PLANNED_FIRST = 5
"""Executions for which PostgreSQL plans a statement with the values of its parameters."""
RUNS = 8
PLANS = "select custom_plans from pg_prepared_statements where statement = $1"

CHANGE: dict[str, Any] = {"versions": [None], "actors": ["ann"], "request_ids": ["r-1"]}
COUNT: dict[str, Any] = {"deltas": [1], "quantities": [None], "expected": [None], "reasons": ["found"]}


def calls(item_id: UUID) -> dict[str, list[Any]]:
    """Return a call of each statement that batches run."""
    ids = [item_id]
    return {
        "read items": [items.READ, ids],
        "read pages of items": [items.READ_PAGES, [False], ids, [51]],
        "lock attributes": [items.LOCK_ATTRIBUTES, ids],
        "patch items": items.PATCH(item_ids=ids, patches=[{"name": "Nut"}], **CHANGE),
        "adjust stock": stock.ADJUST(item_ids=ids, **COUNT, **CHANGE),
        "read orders": [orders.READ, ids],
        "lock stock": [orders.LOCK_STOCK, ids, [], "0"],
    }


def test_a_parameter_that_is_used_twice_has_one_number() -> None:
    assert STATEMENT.sql == ("select $1::uuid, $2, to_char(now(), 'HH24:MI'), '{\"a\": 1}' where $1 is null")


def test_a_call_returns_the_statement_and_its_arguments_in_order() -> None:
    assert STATEMENT(name="bolt", v2=7) == [STATEMENT.sql, 7, "bolt"]


def test_a_missing_argument_is_an_error() -> None:
    with pytest.raises(KeyError, match="name"):
        STATEMENT(v2=7)


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="color"):
        STATEMENT(v2=7, name="bolt", color="red")


async def test_the_statements_of_batches_are_planned_a_few_times_only(
    settings: Settings, database_url: str
) -> None:
    async with connected(database_url) as admin:
        await admin.execute(FILL)
        await admin.execute(ANALYZE)
        ids = [row["id"] for row in await admin.fetch("select id from items limit $1", RUNS)]
    async with Database(settings).open() as database, database.session() as session:
        for name in calls(ids[0]):
            for item_id in ids:
                await session.fetch(*calls(item_id)[name])
        plans = {name: await session.fetchval(PLANS, call[0]) for name, call in calls(ids[0]).items()}
    assert plans == dict.fromkeys(plans, PLANNED_FIRST)
