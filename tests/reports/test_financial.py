"""The financial report: exact to the cent, whatever the ledger holds."""

import asyncio
import csv
import io
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from litestar.testing import TestClient

from conftest import Client
from service.app import create_app
from service.reports.financial import period
from service.settings import Settings
from service.values import format_amount
from tests.support.app_helpers import item, order
from tests.support.ledger_samples import DAYS, MOMENTS, SALES, Line, Sale, by_day, top_items, write
from tests.support.reply_assertions import assert_refused, wrong_fields

PATH = "/reports/financial"
FEBRUARY, APRIL = (day.date() for day in DAYS)
MakeKey = Callable[..., Awaitable[str]]


async def report(client: Client, **query: Any) -> dict[str, Any]:
    reply = await client.get(PATH, params=query)
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()["report"]
    return content


async def test_a_report_contains_what_was_sold_and_refunded_today(client: Client) -> None:
    bolt, nut = await item(client, 50), await item(client, 50, price="0.10")
    await order(client, (bolt, 2), (nut, 5))
    cancelled = (await order(client, (bolt, 1))).json()
    await client.post(f"/orders/{cancelled['id']}/cancel")
    reported = await report(client)
    today = datetime.now(UTC).date()
    assert reported.keys() == {"from", "to", "generated_at", "totals", "daily", "top_items"}
    assert (reported["from"], reported["to"]) == (
        str(today - timedelta(days=29)),
        str(today + timedelta(days=1)),
    )
    sums = {"currency": "USD", "orders": 2, "sales": "30.47", "refunds": "9.99", "net": "20.48"}
    assert reported["totals"] == [sums]
    assert reported["daily"] == [{"date": str(today), **sums}]
    assert reported["top_items"] == [
        {"currency": "USD", "item_id": bolt["id"], "sku": bolt["sku"], "quantity": 2, "amount": "19.98"},
        {"currency": "USD", "item_id": nut["id"], "sku": nut["sku"], "quantity": 5, "amount": "0.50"},
    ]


async def test_every_currency_has_its_own_ten_top_items(client: Client) -> None:
    for currency, price in (("JPY", "900000"), ("USD", "1.00")):
        sold = [await item(client, 50, price=price, currency=currency) for _ in range(11)]
        await order(client, *((bolt, number + 1) for number, bolt in enumerate(sold)))
    ranked = [(top["currency"], top["quantity"]) for top in (await report(client))["top_items"]]
    assert ranked == [(currency, quantity) for currency in ("JPY", "USD") for quantity in range(11, 1, -1)]


async def test_an_empty_ledger_is_an_empty_report(client: Client) -> None:
    reported = await report(client)
    assert (reported["totals"], reported["daily"], reported["top_items"]) == ([], [], [])


def test_a_report_is_what_brute_force_makes_of_the_ledger(
    settings: Settings, database_url: str, key: str, anyio_backend: str
) -> None:
    with TestClient(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {key}"

        @given(SALES, st.data())
        @hypothesis_settings(max_examples=30, deadline=None)
        def agree(sales: list[Sale], data: st.DataObject) -> None:
            closed_until = data.draw(st.none() | MOMENTS)
            asyncio.run(write(database_url, sales, closed_until))
            begin = data.draw(st.dates(FEBRUARY, APRIL - timedelta(days=1)))
            end = data.draw(st.dates(begin + timedelta(days=1), APRIL + timedelta(days=1)))
            currency = data.draw(st.sampled_from([None, "USD", "EUR"]))
            query = {"from": str(begin), "to": str(end), **({"currency": currency} if currency else {})}
            reported = client.get(PATH, params=query).raise_for_status().json()["report"]
            expected = by_day(sales, begin, end, currency)
            assert [tuple(day.values()) for day in reported["daily"]] == expected
            assert reported["totals"] == added_up(expected)
            top = [
                (top["currency"], top["sku"], top["quantity"], top["amount"]) for top in reported["top_items"]
            ]
            assert top == top_items(sales, begin, end, currency)

        agree()


def added_up(days: list[Line]) -> list[dict[str, Any]]:
    return [
        {
            "currency": currency,
            "orders": sum(day[2] for day in days if day[1] == currency),
            **{
                name: format_amount(
                    sum((Decimal(day[position]) for day in days if day[1] == currency), Decimal(0)),  # type: ignore[call-overload]
                    currency,
                )
                for position, name in ((3, "sales"), (4, "refunds"), (5, "net"))
            },
        }
        for currency in sorted({day[1] for day in days})
    ]


async def test_csv_has_the_days_as_a_file(client: Client) -> None:
    await order(client, (await item(client, 5), 2))
    reply = await client.get(PATH, headers={"Accept": "text/csv"})
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    name = r"attachment; filename=\"(financial-[0-9-]{21}\.csv)\"; filename\*=UTF-8''\1"
    assert re.fullmatch(name, reply.headers["Content-Disposition"])
    rows = list(csv.reader(io.StringIO(reply.text)))
    assert rows[0] == ["date", "currency", "orders", "sales", "refunds", "net"]
    assert rows[1:] == [[str(datetime.now(UTC).date()), "USD", "1", "19.98", "0.00", "19.98"]]


async def test_a_browser_gets_a_page_that_needs_nothing_from_outside(client: Client) -> None:
    bolt = await item(client, 5)
    await order(client, (bolt, 2))
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    reply = await client.get(PATH, headers={"Accept": browser})
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "19.98" in reply.text
    assert bolt["sku"] in reply.text
    assert "<rect" in reply.text
    assert not re.search(r"https?://|<script|<link|@import|url\(", reply.text)
    empty = await client.get(
        PATH, params={"from": "2020-01-01", "to": "2020-01-02"}, headers={"Accept": browser}
    )
    assert "There were no sales" in empty.text


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "/from"),
        ({"from": "2026-02-30"}, "/from"),
        ({"to": "2026-13-01"}, "/to"),
        ({"from": "2026-01-02", "to": "2026-01-02"}, "/from"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "/from"),
        ({"currency": "usd"}, "/currency"),
        ({"currency": "XXX"}, "/currency"),
        ({"from": "20260101"}, "/from"),
        ({"to": "0001-01-05"}, "/to"),
        ({"from": "9999-12-31"}, "/from"),
    ],
)
async def test_a_period_has_a_form_and_bounds(client: Client, query: dict[str, str], field: str) -> None:
    assert wrong_fields(await client.get(PATH, params=query), "query") == {field}


@pytest.mark.parametrize("period", [("1970-01-01", "2100-01-01"), ("0001-01-01", "9999-12-31")])
async def test_all_that_was_ever_sold_is_a_period(client: Client, period: tuple[str, str]) -> None:
    bolt = await item(client, 3)
    assert (await order(client, (bolt, 2))).status_code == 201
    query = dict(zip(("from", "to"), period, strict=True))
    report = (await client.get(PATH, params=query)).json()["report"]
    assert (report["from"], report["to"]) == period
    assert [(total["orders"], total["net"]) for total in report["totals"]] == [(1, "19.98")]
    drawn = (await client.get(PATH, params=query, headers={"Accept": "text/html"})).text
    assert drawn.count('<rect class="net"') == 2  # one for each size of screen
    assert len(drawn) < 20_000


async def test_it_needs_its_scope(client: Client, make_key: MakeKey) -> None:
    key = await make_key("orders:read")
    assert_refused(await client.get(PATH, headers={"Authorization": f"Bearer {key}"}), 403, "FORBIDDEN")


TODAY = date(2026, 3, 31)


@pytest.mark.parametrize(
    ("begin", "end", "found"),
    [
        (None, None, (date(2026, 3, 2), date(2026, 4, 1))),
        (None, date(2026, 3, 1), (date(2026, 1, 30), date(2026, 3, 1))),
        (date(2026, 3, 30), None, (date(2026, 3, 30), date(2026, 4, 1))),
        (date(2026, 5, 1), None, (date(2026, 5, 1), date(2026, 5, 2))),
    ],
)
def test_what_a_period_is_when_half_of_it_is_given(
    begin: date | None, end: date | None, found: tuple[date, date]
) -> None:
    assert period(begin, end, TODAY) == found
