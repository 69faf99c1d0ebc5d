"""`report.export`: the days of the ledger as a CSV file, exact, however often it is begun."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conftest import AS_OWNER
from service.blobs import open_blob_store
from service.database.database import Database
from service.events.journal import CLI
from service.jobs.operations import read_job, submit
from service.jobs.schemas import JobCreate
from service.reports.export import requested_on
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import connected, eventually, in_session, item, order
from tests.support.job_helpers import done, process, read, running_worker, until
from tests.support.ledger_samples import DAYS, SALES, Sale, by_day, write
from tests.support.reply_assertions import assert_refused, wrong_fields

EXPORT = "report.export"
HEADER = "date,currency,orders,sales,refunds,net"
FEBRUARY, APRIL = (day.date() for day in DAYS)


@pytest.fixture
async def worker(settings: Settings, database: Database) -> AsyncIterator[Worker]:
    async with running_worker(settings, database) as worker:
        yield worker


async def lines(client: httpx.AsyncClient, job_id: str) -> list[str]:
    text = (await client.get(f"/jobs/{job_id}/output")).raise_for_status().text
    assert text.endswith("\r\n")
    return text.removesuffix("\r\n").split("\r\n")


async def test_what_was_sold_in_the_last_thirty_days_is_a_file(
    concurrent_client: httpx.AsyncClient, worker: Worker
) -> None:
    cancelled = (await order(concurrent_client, (await item(concurrent_client, 9), 1))).json()
    await order(concurrent_client, (await item(concurrent_client, 9, price="0.10"), 3))
    await order(concurrent_client, (await item(concurrent_client, 9, currency="EUR"), 2))
    await concurrent_client.post(f"/orders/{cancelled['id']}/cancel")
    job = await done(concurrent_client, EXPORT)
    today = datetime.now(UTC).date()
    filename = f"financial-{today - timedelta(days=29)}-{today + timedelta(days=1)}.csv"
    reply = await concurrent_client.get(f"/jobs/{job['id']}/output")
    assert job["result"] == {
        "rows": 2,
        "output": {
            "key": f"exports/{job['id']}.csv",
            "filename": filename,
            "content_type": "text/csv; charset=utf-8",
            "size_bytes": len(reply.content),
        },
    }
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert filename in reply.headers["Content-Disposition"]
    assert await lines(concurrent_client, job["id"]) == [
        HEADER,
        f"{today},EUR,1,19.98,0.00,19.98",
        f"{today},USD,2,10.29,9.99,0.30",
    ]


async def test_an_empty_ledger_is_a_header(concurrent_client: httpx.AsyncClient, worker: Worker) -> None:
    job = await done(
        concurrent_client, EXPORT, **{"from": "2026-01-01", "to": "2026-02-01", "currency": "EUR"}
    )
    assert (job["result"]["rows"], job["result"]["output"]["size_bytes"]) == (0, len(HEADER) + 2)
    assert job["result"]["output"]["filename"] == "financial-2026-01-01-2026-02-01.csv"
    assert await lines(concurrent_client, job["id"]) == [HEADER]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"from": "2026-01-02", "to": "2026-01-02"}, "/payload"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "/payload"),
        ({"to": "0001-01-02"}, "/payload"),
        ({"from": "9999-12-31"}, "/payload"),
        ({"from": "2026-02-30"}, "/payload/from"),
        ({"to": "tomorrow"}, "/payload/to"),
        ({"to": 20260101}, "/payload/to"),
        ({"currency": "XXX"}, "/payload/currency"),
        ({"until": "2026-01-01"}, "/payload/until"),
    ],
)
async def test_an_impossible_period_is_rejected_immediately(
    concurrent_client: httpx.AsyncClient, payload: dict[str, Any], field: str
) -> None:
    reply = await concurrent_client.post("/process", json={"kind": EXPORT, "payload": payload})
    assert wrong_fields(reply) == {field}


async def test_the_longest_period_there_is(concurrent_client: httpx.AsyncClient, worker: Worker) -> None:
    await done(concurrent_client, EXPORT, **{"from": "0001-01-01", "to": "9999-12-31"})


def test_the_file_is_what_brute_force_makes_of_the_ledger(settings: Settings, database_url: str) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def begin() -> Database:
            database = await stack.enter_async_context(Database(settings).open())
            await stack.enter_async_context(running_worker(settings, database))
            return database

        database = runner.run(begin())

        @given(SALES, st.data())
        @hypothesis_settings(max_examples=20, deadline=None, phases=[Phase.generate])  # shrinking takes long
        def agree(sales: list[Sale], data: st.DataObject) -> None:
            first = data.draw(st.dates(FEBRUARY, APRIL - timedelta(days=1)))
            end = data.draw(st.dates(first + timedelta(days=1), APRIL + timedelta(days=1)))
            currency = data.draw(st.sampled_from([None, "USD", "EUR"]))
            expected = [",".join(map(str, day)) for day in by_day(sales, first, end, currency)]
            runner.run(write(database_url, sales))
            exported = runner.run(export(settings, database, first, end, currency))
            assert exported.decode().split("\r\n") == [HEADER, *expected, ""]

        try:
            agree()
        finally:
            runner.run(stack.aclose())


async def export(
    settings: Settings, database: Database, first: date, end: date, currency: str | None
) -> bytes:
    new = JobCreate(EXPORT, {"from": first, "to": end, "currency": currency})
    job_id = (await in_session(database, submit, new, CLI, None)).id

    async def succeeded() -> bool:
        return (await in_session(database, read_job, job_id)).status == "succeeded"

    await eventually(succeeded)
    _, chunks = await open_blob_store(settings).get(f"exports/{job_id}.csv")
    return b"".join([chunk async for chunk in chunks])


async def test_a_day_is_from_midnight_to_midnight_in_utc_even_when_clocks_change(
    concurrent_client: httpx.AsyncClient, database_url: str, worker: Worker
) -> None:
    midnight = datetime(2026, 3, 29, tzinfo=UTC)
    before, after = midnight - timedelta(microseconds=1), midnight + timedelta(days=1)
    sales = [Sale(at, 1, 1, Decimal(1), "USD", None) for at in (before, midnight, after)]
    await write(database_url, [*sales, Sale(before, 1, 1, Decimal(5), "USD", midnight)])
    job = await done(concurrent_client, EXPORT, **{"from": "2026-03-28", "to": "2026-03-30"})
    assert (await lines(concurrent_client, job["id"]))[1:] == [
        "2026-03-28,USD,2,6.00,0.00,6.00",
        "2026-03-29,USD,1,1.00,5.00,-4.00",
    ]


async def test_ten_years_in_many_currencies_are_streamed(
    concurrent_client: httpx.AsyncClient, database_url: str, worker: Worker
) -> None:
    async with connected(database_url) as connection:
        await connection.execute(f"""{AS_OWNER}; insert into transactions
            (id, order_id, kind, amount, currency, created_at)
            select uuidv7(), uuidv7(), 'sale', n, code, timestamptz '2016-01-01 12:00Z' + n * interval '1 day'
            from generate_series(0, 3649) n, unnest(array['EUR', 'USD', 'JPY']) code""")
    job = await done(concurrent_client, EXPORT, **{"from": "2016-01-01", "to": "2026-01-01"})
    exported = (await lines(concurrent_client, job["id"]))[1:]
    assert job["result"]["rows"] == len(exported) == 3650 * 3
    assert exported == sorted(exported)
    assert exported[-1] == "2025-12-28,USD,1,3649.00,0.00,3649.00"


async def test_a_second_run_writes_the_same_file(
    concurrent_client: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    (settings.home / "blobs").write_text("in the way")
    async with running_worker(settings, database):
        job_id = await process(concurrent_client, EXPORT)

        async def failed_once() -> bool:
            error = (await read(concurrent_client, job_id))["error"]
            assert error in {None, "The file storage is unavailable; retry later"}
            return error is not None

        await eventually(failed_once)
        assert_refused(await concurrent_client.get(f"/jobs/{job_id}/output"), 404, "NOT_FOUND")
        (settings.home / "blobs").unlink()
        job = await until(concurrent_client, job_id, "succeeded")
    assert job["attempts"] > 1
    assert await lines(concurrent_client, job_id) == [HEADER]


def test_the_day_of_the_request_is_that_of_the_id_of_the_job() -> None:
    last_moment = UUID(int=int(datetime(2026, 2, 28, 23, 59, 59, 999_000, UTC).timestamp() * 1000) << 80)
    assert requested_on(last_moment) == date(2026, 2, 28)
    assert requested_on(UUID(int=last_moment.int + (1 << 80))) == date(2026, 3, 1)
