"""Sixteen clients order, cancel, fulfil and change stock at the same time; then all data is compared.

The model adds up the acknowledged replies, in whatever order the requests took effect.
"""

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import httpx
import pytest
from msgspec import Struct, field

from service.database.database import Database
from service.reports.books import close_books
from service.settings import Settings
from tests.support.app_helpers import item
from tests.support.consistency import discrepancies
from tests.support.ledger_samples import backdate

CLIENTS, STEPS = 16, 12
REPORT = "/reports/financial"


class Model(Struct):
    """The state of the shop that follows from the replies."""

    stock: Counter[str]
    orders: dict[str, Any] = field(default_factory=dict)
    final_statuses: dict[str, set[str]] = field(default_factory=dict)
    """The statuses that clients received for an order that ended."""

    def placed(self, order: dict[str, Any]) -> None:
        self.orders[order["id"]] = order
        for line in order["lines"]:
            self.stock[line["item_id"]] -= line["quantity"]

    def ended(self, order: dict[str, Any]) -> None:
        """Record the end of an order, once: a second cancel returns the same order."""
        final_statuses = self.final_statuses.setdefault(order["id"], set())
        if order["status"] == "cancelled" and "cancelled" not in final_statuses:
            for line in order["lines"]:
                self.stock[line["item_id"]] += line["quantity"]
        final_statuses.add(order["status"])

    def sums(self) -> dict[str, tuple[int, Decimal, Decimal]]:
        """Return the number of orders, the sales and the refunds by currency."""
        found: dict[str, tuple[int, Decimal, Decimal]] = {}
        for order in self.orders.values():
            count, sales, refunds = found.get(order["currency"], (0, Decimal(0), Decimal(0)))
            total = Decimal(order["total"])
            back = total if "cancelled" in self.final_statuses.get(order["id"], ()) else Decimal(0)
            found[order["currency"]] = (count + 1, sales + total, refunds + back)
        return found

    def best(self) -> list[tuple[str, str, int, str]]:
        """Return the ten best-selling items of each currency, net of cancellations."""
        sold: dict[tuple[str, str, str], tuple[int, Decimal]] = {}
        for order in self.orders.values():
            if "cancelled" not in self.final_statuses.get(order["id"], ()):
                for line in order["lines"]:
                    key = (order["currency"], line["sku"], line["item_id"])
                    units, amount = sold.get(key, (0, Decimal(0)))
                    sold[key] = (units + line["quantity"], amount + Decimal(line["amount"]))
        ranking = sorted(sold.items(), key=lambda entry: (entry[0][0], -entry[1][1], entry[0][1]))
        best = [(currency, item_id, *net) for (currency, _, item_id), net in ranking]
        currencies = sorted({entry[0] for entry in best})
        tens = [[entry for entry in best if entry[0] == currency][:10] for currency in currencies]
        return [(*entry[:3], f"{entry[3]:.2f}") for ten in tens for entry in ten]


async def act(client: httpx.AsyncClient, model: Model, items: list[str], random: Random) -> None:
    for _ in range(STEPS):
        step = random.choice(["order", "order", "order", "stock", "cancel", "fulfil"])
        if step == "order":
            chosen = random.sample(items, random.randint(1, 3))
            lines = [{"item_id": item_id, "quantity": random.randint(1, 4)} for item_id in chosen]
            reply = await client.post("/orders", json={"customer_id": "c", "lines": lines})
            if acknowledged(reply, 201, "INSUFFICIENT_STOCK", "MIXED_CURRENCIES"):
                model.placed(reply.json())
        elif step == "stock":
            item_id, delta = random.choice(items), random.choice([-4, -1, 2, 5])
            reply = await client.post(f"/items/{item_id}/stock", json={"delta": delta})
            if acknowledged(reply, 200, "INSUFFICIENT_STOCK"):
                model.stock[item_id] += delta
        elif model.orders:
            order_id = random.choice(list(model.orders))
            reply = await client.post(f"/orders/{order_id}/{step}")
            if acknowledged(reply, 200, "INVALID_STATE"):
                model.ended(reply.json())


def acknowledged(reply: httpx.Response, status: int, *refusals: str) -> bool:
    assert reply.status_code == status or reply.headers["X-Error-Code"] in refusals, reply.text
    return reply.status_code == status


@pytest.mark.parametrize("seed", range(3))
async def test_stock_ledger_and_report_agree_with_the_replies(
    seed: int, concurrent_client: httpx.AsyncClient, database: Database, settings: Settings, database_url: str
) -> None:
    catalog = [
        await item(
            concurrent_client, 12, price=f"{number}.{number:02}", currency="EUR" if number > 9 else "USD"
        )
        for number in range(12)
    ]
    model = Model(Counter({item["id"]: 12 for item in catalog}))
    items = [item["id"] for item in catalog]
    await asyncio.gather(
        *[act(concurrent_client, model, items, Random(seed * 100 + n)) for n in range(CLIENTS)]
    )

    stored = (await concurrent_client.get("/items")).json()["data"]
    assert {item["id"]: item["quantity"] for item in stored} == model.stock
    assert all(len(ends) == 1 for ends in model.final_statuses.values())
    for order_id, order in model.orders.items():
        (status,) = model.final_statuses.get(order_id, {order["status"]})
        assert (await concurrent_client.get(f"/orders/{order_id}")).json()["status"] == status
    totals = {order_id: order["total"] for order_id, order in model.orders.items()}
    assert await discrepancies(database_url, totals) == []

    await agrees(concurrent_client, model, datetime.now(UTC).date())
    await backdate(database, timedelta(days=40))
    assert await close_books(database, settings) >= 40
    assert await discrepancies(database_url, totals) == []
    await agrees(concurrent_client, model, datetime.now(UTC).date() - timedelta(days=40))


async def agrees(client: httpx.AsyncClient, model: Model, day: date) -> None:
    """Compare the report on a day and the day before with the model: midnight may have passed meanwhile."""
    period = {"from": str(day - timedelta(days=1)), "to": str(day + timedelta(days=1))}
    report = (await client.get(REPORT, params=period)).raise_for_status().json()["report"]
    assert {
        total["currency"]: (total["orders"], Decimal(total["sales"]), Decimal(total["refunds"]))
        for total in report["totals"]
    } == model.sums()
    names = ("currency", "item_id", "quantity", "amount")
    assert [tuple(top[name] for name in names) for top in report["top_items"]] == model.best()
