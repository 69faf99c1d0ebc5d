"""Prices have at most the decimals of their currency, and replies have exactly those."""

from decimal import Decimal

import pytest

from conftest import Client
from service.database.database import Database
from service.values import WITHOUT_DECIMALS, Currency, format_amount, price_problem
from tests.support.app_helpers import item, order
from tests.support.reply_assertions import wrong_fields


async def test_a_yen_price_has_no_decimals_wherever_it_is_shown(client: Client, database: Database) -> None:
    bolt = await item(client, 10, price="1200", currency="JPY")
    path = f"/items/{bolt['id']}"
    keyed = {"Idempotency-Key": "k-1"}
    shown = [
        bolt,
        (await client.get(path)).json(),
        (await client.get("/items")).json()["data"][0],
        (await client.patch(path, json={"name": "Nut"})).json(),
        (await client.post(f"{path}/stock", json={"delta": 1})).json(),
        (await client.post(f"{path}/stock", json={"delta": 1}, headers=keyed)).json(),
    ]
    assert [each["price"] for each in shown] == ["1200"] * len(shown)
    changed = (await client.patch(path, json={"price": "1300"})).json()
    assert changed["price"] == "1300"
    changes = await database.fetchval(
        "select payload->'changes'->'price' from events where type = 'item.updated' order by id desc limit 1"
    )
    assert changes == {"from": "1200", "to": "1300"}


async def test_an_order_and_a_report_in_yen_have_no_decimals(client: Client, database: Database) -> None:
    bolt = await item(client, 10, price="1200", currency="JPY")
    placed = (await order(client, (bolt, 2))).json()
    stored = (await client.get(f"/orders/{placed['id']}")).json()
    cancelled = (await client.post(f"/orders/{placed['id']}/cancel")).json()
    await order(client, (bolt, 3))
    for each in (placed, stored, cancelled):
        assert (each["total"], each["lines"][0]["unit_price"], each["lines"][0]["amount"]) == (
            "2400",
            "1200",
            "2400",
        )
    events = await database.fetch(
        "select payload->>'total' from events where type like 'order.%' order by id"
    )
    assert [total for (total,) in events] == ["2400", "2400", "3600"]
    report = (await client.get("/reports/financial")).json()["report"]
    for sums in (report["totals"][0], report["daily"][0]):
        assert (sums["sales"], sums["refunds"], sums["net"]) == ("6000", "2400", "3600")
    assert report["top_items"][0]["amount"] == "3600"


@pytest.mark.parametrize("price", ["1980.50", "1980.5", "1980.00", "0.0"])
async def test_a_yen_price_with_decimals_is_rejected(client: Client, price: str) -> None:
    new = {"sku": "A", "name": "Bolt", "price": price, "currency": "JPY"}
    assert wrong_fields(await client.post("/items", json=new)) == {"/price"}
    yen, dollars = await item(client, price="5", currency="JPY"), await item(client, price="9.99")
    assert wrong_fields(await client.patch(f"/items/{yen['id']}", json={"price": price})) == {"/price"}
    both = {"price": price, "currency": "JPY"}
    assert wrong_fields(await client.patch(f"/items/{dollars['id']}", json=both)) == {"/price"}
    assert wrong_fields(await client.patch(f"/items/{dollars['id']}", json={"currency": "JPY"})) == {
        "/currency"
    }
    assert (await client.get(f"/items/{dollars['id']}")).json() == dollars
    assert (await client.get(f"/items/{yen['id']}")).json() == yen


async def test_an_item_may_change_to_a_currency_that_fits_its_price(client: Client) -> None:
    bolt = await item(client, price="12")
    changed = (await client.patch(f"/items/{bolt['id']}", json={"currency": "JPY"})).json()
    assert (changed["price"], changed["currency"]) == ("12", "JPY")
    changed = (await client.patch(f"/items/{bolt['id']}", json={"currency": "EUR", "price": "0.5"})).json()
    assert (changed["price"], changed["currency"]) == ("0.50", "EUR")


async def test_an_older_yen_price_with_decimals_is_shown_as_it_is_and_can_be_changed(
    client: Client, database: Database
) -> None:
    bolt = await item(client, 5, price="5", currency="JPY")
    await database.fetch("update items set price = 5.50")
    path = f"/items/{bolt['id']}"
    assert (await client.get(path)).json()["price"] == "5.50"
    assert (await client.patch(path, json={"name": "Nut"})).json()["price"] == "5.50"
    assert (await order(client, (bolt, 1))).json()["total"] == "5.50"
    assert (await client.patch(path, json={"price": "6"})).json()["price"] == "6"


@pytest.mark.parametrize("currency", ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])
async def test_a_currency_of_three_decimals_is_rejected(client: Client, currency: str) -> None:
    new = {"sku": "A", "name": "Bolt", "price": "1.5", "currency": currency}
    assert wrong_fields(await client.post("/items", json=new)) == {"/currency"}


async def test_the_database_knows_the_decimals_of_every_currency(database: Database) -> None:
    amounts = [Decimal("0.00"), Decimal("12.00"), Decimal("12.50"), Decimal("-3.00")]
    for currency in Currency.__args__:  # type: ignore[attr-defined]
        rows = await database.fetch(
            "select amount_text(amount, $1) from unnest($2::numeric[]) amount", currency, amounts
        )
        assert [text for (text,) in rows] == [format_amount(amount, currency) for amount in amounts]
        assert (price_problem("1.5", currency) is not None) == (currency in WITHOUT_DECIMALS)
