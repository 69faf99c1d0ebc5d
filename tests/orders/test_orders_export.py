"""`orders.export`: the lines of all orders of a period as a CSV file."""

import csv
from collections.abc import AsyncIterator
from io import StringIO
from typing import Any

import httpx
import pytest

from service.database.database import Database
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import connected, item, order
from tests.support.job_helpers import done, running_worker
from tests.support.reply_assertions import assert_refused

EXPORT = "orders.export"
YEARS = {"from": "2020-01-01", "to": "2100-01-01"}


@pytest.fixture
async def worker(settings: Settings, database: Database) -> AsyncIterator[Worker]:
    async with running_worker(settings, database) as worker:
        yield worker


async def rows(client: httpx.AsyncClient, **payload: str) -> list[dict[str, str]]:
    job = await done(client, EXPORT, **payload)
    reply = (await client.get(f"/jobs/{job['id']}/output")).raise_for_status()
    exported = list(csv.DictReader(StringIO(reply.text, newline="")))
    assert job["result"]["rows"] == len(exported)
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    return exported


async def test_an_export_has_every_line_of_every_order(
    concurrent_client: httpx.AsyncClient, worker: Worker
) -> None:
    bolt, yen = (
        await item(concurrent_client, 9),
        await item(concurrent_client, 9, price="120", currency="JPY"),
    )
    nut = await item(concurrent_client, 9, name='Nut, "M8"', price="0.05")
    first = (await order(concurrent_client, (bolt, 2), (nut, 3), reference="PO-1", metadata={"a": 1})).json()
    second = (await order(concurrent_client, (yen, 1), customer_id="c-2")).json()
    cancel = {"reason": "ordered twice"}
    second = (await concurrent_client.post(f"/orders/{second['id']}/cancel", json=cancel)).json()
    exported = await rows(concurrent_client, **YEARS)
    expected = [
        {
            "order_id": placed["id"],
            **{name: placed[name] or "" for name in ("status", "customer_id", "reference", "currency")},
            "line": str(number),
            **{name: str(line[name]) for name in ("item_id", "sku", "name", "quantity")},
            **{name: line[name] for name in ("unit_price", "amount")},
            **{name: placed[name] or "" for name in ("created_at", "updated_at", "fulfilled_at")},
            **{name: placed[name] or "" for name in ("cancelled_at", "cancel_reason")},
            "metadata": '{"a": 1}' if placed is first else "",
        }
        for placed in (first, second)
        for number, line in enumerate(placed["lines"], start=1)
    ]
    assert exported == expected
    assert list(exported[0]) == list(expected[0])


async def test_the_end_of_a_period_is_exclusive_and_a_status_filters(
    concurrent_client: httpx.AsyncClient, worker: Worker
) -> None:
    bolt = await item(concurrent_client, 9)
    first, second, third = [(await order(concurrent_client, (bolt, 1))).json() for _ in range(3)]
    await concurrent_client.post(f"/orders/{second['id']}/fulfil")

    async def found(**payload: str) -> list[str]:
        return [row["order_id"] for row in await rows(concurrent_client, **payload)]

    begin, end = first["created_at"], third["created_at"]
    assert await found(**{"from": begin, "to": end}) == [first["id"], second["id"]]
    assert await found(**{"from": begin, "to": end}, status="fulfilled") == [second["id"]]
    assert await found(**{"from": "2020-01-01", "to": "2020-01-02"}) == []


async def test_a_cell_that_a_spreadsheet_would_evaluate_is_escaped(
    concurrent_client: httpx.AsyncClient, worker: Worker
) -> None:
    bolt = await item(concurrent_client, 9, name="=1+1")
    await order(concurrent_client, (bolt, 1), customer_id="@me", reference="-2")
    (row,) = await rows(concurrent_client, **YEARS)
    assert (row["name"], row["customer_id"], row["reference"]) == ("'=1+1", "'@me", "'-2")


async def test_many_orders_are_streamed(
    concurrent_client: httpx.AsyncClient, worker: Worker, database_url: str
) -> None:
    bolt = await item(concurrent_client, 9)
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(
            "insert into orders (id, status, customer_id, currency, total, version, created_at) "
            "select uuidv7(), 'placed', 'c-' || n, 'USD', 1, 1, now() from generate_series(1, 2500) n"
        )
        await connection.execute(
            "insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount) "
            "select id, 1, $1, 'S', 'N', 1, 1, 1 from orders",
            bolt["id"],
        )
    exported = await rows(concurrent_client, **YEARS)
    assert len({row["order_id"] for row in exported}) == 2500
    assert [row["order_id"] for row in exported] == sorted(row["order_id"] for row in exported)


@pytest.mark.parametrize(
    ("payload", "field", "message"),
    [
        ({"to": "2026-01-01"}, "/payload/from", "is required"),
        ({"from": "2026-01-01"}, "/payload/to", "is required"),
        (
            {"from": "yesterday", "to": "2026-01-01"},
            "/payload/from",
            "must be an RFC 3339 time or date, such as 2026-11-23T12:00:00Z",
        ),
        ({"from": "2026-01-01", "to": "2026-01-01"}, "/payload", "`to` must be after `from`"),
        (YEARS | {"status": "lost"}, "/payload/status", "must be one of placed, fulfilled, cancelled"),
        (YEARS | {"format": "xml"}, "/payload/format", "is not a known field"),
    ],
)
async def test_an_invalid_payload_is_rejected_immediately(
    concurrent_client: httpx.AsyncClient, payload: dict[str, Any], field: str, message: str
) -> None:
    refused = await concurrent_client.post("/process", json={"kind": EXPORT, "payload": payload})
    details = assert_refused(refused, 422, "VALIDATION_FAILED")["details"]
    assert [(detail["field"], detail["message"]) for detail in details] == [(field, message)]
