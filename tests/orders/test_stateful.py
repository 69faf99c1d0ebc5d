"""The service agrees with a small model after any sequence of requests."""

import asyncio
from collections import Counter
from decimal import Decimal
from typing import Any

import asyncpg
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from litestar import Litestar
from litestar.testing import TestClient
from msgspec import Struct

from conftest import AS_OWNER
from service.app import create_app
from service.database.servers import Connection
from service.settings import Settings
from tests.support.consistency import read_discrepancies


class Known(Struct):
    """An item of the model."""

    sku: str
    price: Decimal
    quantity: int
    ordered: bool = False
    archived: bool = False


PRICES = st.decimals(0, 1000, places=2)
QUANTITIES = st.integers(0, 20)
ORDERED = st.integers(1, 8)


class Sold(Struct):
    """An order of the model."""

    quantities: dict[str, int]
    status: str = "placed"


class Shop(RuleBasedStateMachine):
    """Requests to the service, each compared with a model of its items and orders."""

    client: TestClient[Litestar]
    runner: asyncio.Runner
    connection: Connection
    items = Bundle("items")

    def __init__(self) -> None:
        super().__init__()
        tables = "items, movements, orders, order_lines, transactions, events"
        self.runner.run(self.connection.execute(f"{AS_OWNER}; truncate {tables}"))
        self.known: dict[str, Known] = {}
        self.sold: dict[str, str] = {}
        self.orders: dict[str, Sold] = {}

    @rule(target=items, number=st.integers(1, 5), price=PRICES, quantity=QUANTITIES)
    def create(self, number: int, price: Decimal, quantity: int) -> str:
        sku = f"SKU-{number}"
        taken = [item_id for item_id, item in self.known.items() if item.sku == sku]
        content = {"sku": sku, "name": "Bolt", "price": str(price), "quantity": quantity}
        created = self.client.post("/items", json=content)
        assert outcome(created) == ("DUPLICATE_SKU" if taken else 201)
        if taken:
            return taken[0]
        item_id: str = created.json()["id"]
        self.known[item_id] = Known(sku, price, quantity)
        return item_id

    @rule(item_id=items, price=st.none() | PRICES, quantity=st.none() | QUANTITIES)
    def patch(self, item_id: str, price: Decimal | None, quantity: int | None) -> None:
        changes: dict[str, Any] = {} if price is None else {"price": str(price)}
        changes |= {} if quantity is None else {"quantity": quantity}
        item = self.known.get(item_id)
        patched = self.client.patch(f"/items/{item_id}", json=changes)
        assert outcome(patched) == ("NO_FIELDS" if not changes else 200 if item else "NOT_FOUND")
        if item:
            item.price = item.price if price is None else price
            item.quantity = item.quantity if quantity is None else quantity

    @rule(item_id=items, delta=st.integers(-10, 10).filter(bool))
    def adjust(self, item_id: str, delta: int) -> None:
        item = self.known.get(item_id)
        adjusted = self.client.post(f"/items/{item_id}/stock", json={"delta": delta})
        if item is None:
            assert outcome(adjusted) == "NOT_FOUND"
        elif item.quantity + delta < 0:
            assert outcome(adjusted) == "INSUFFICIENT_STOCK"
        else:
            assert outcome(adjusted) == 200
            item.quantity += delta

    @rule(item_id=items, counted=QUANTITIES, difference=st.sampled_from([0, 0, 1, -1]))
    def count(self, item_id: str, counted: int, difference: int) -> None:
        item = self.known.get(item_id)
        expected = max(0, (item.quantity if item else 0) + difference)
        change = {"item_id": item_id, "quantity": counted, "expected": expected}
        reply = self.client.post("/stock", json={"changes": [change]})
        if item is None:
            assert outcome(reply) == "UNKNOWN_ITEM"
        elif item.quantity != expected:
            assert outcome(reply) == "QUANTITY_CHANGED"
        else:
            assert outcome(reply) == 200
            item.quantity = counted

    @rule(item_id=items, archived=st.booleans())
    def archive(self, item_id: str, archived: bool) -> None:
        item = self.known.get(item_id)
        reply = self.client.patch(f"/items/{item_id}", json={"archived": archived})
        assert outcome(reply) == (200 if item else "NOT_FOUND")
        if item:
            item.archived = archived

    @rule(lines=st.lists(st.tuples(items, ORDERED, st.booleans()), min_size=1, max_size=3))
    def order(self, lines: list[tuple[str, int, bool]]) -> None:
        placed = self.client.post(
            "/orders", json={"customer_id": "c", "lines": [self.line(*line) for line in lines]}
        )
        wanted: Counter[str] = Counter()
        for item_id, quantity, _ in lines:
            wanted[item_id] += quantity
        if not wanted.keys() <= self.known.keys():
            assert outcome(placed) == "UNKNOWN_ITEM"
        elif archived := {item_id for item_id in wanted if self.known[item_id].archived}:
            assert outcome(placed) == "ITEM_ARCHIVED"
            assert {detail["item_id"] for detail in placed.json()["error"]["details"]} == archived
        elif short := {
            item_id for item_id, quantity in wanted.items() if self.known[item_id].quantity < quantity
        }:
            assert outcome(placed) == "INSUFFICIENT_STOCK"
            assert {detail["item_id"] for detail in placed.json()["error"]["details"]} == short
        else:
            assert outcome(placed) == 201
            self.take(wanted, placed.json())

    @rule(choice=st.integers(0, 99), step=st.sampled_from(["cancel", "fulfil"]))
    def end(self, choice: int, step: str) -> None:
        if not self.orders:
            return
        order_id = sorted(self.orders)[choice % len(self.orders)]
        found = self.orders[order_id]
        ended = self.client.post(f"/orders/{order_id}/{step}")
        if found.status == "placed":
            assert outcome(ended) == 200
            found.status = {"cancel": "cancelled", "fulfil": "fulfilled"}[step]
            for item_id, quantity in found.quantities.items() if step == "cancel" else ():
                self.known[item_id].quantity += quantity
        elif found.status == "cancelled" and step == "cancel":
            assert outcome(ended) == 200
        else:
            assert outcome(ended) == "INVALID_STATE"
        assert self.client.get(f"/orders/{order_id}").json()["status"] == found.status

    @rule(item_id=items)
    def delete(self, item_id: str) -> None:
        item = self.known.get(item_id)
        deleted = self.client.delete(f"/items/{item_id}")
        assert outcome(deleted) == ("NOT_FOUND" if item is None else "IN_USE" if item.ordered else 204)
        if item and not item.ordered:
            del self.known[item_id]

    @invariant()
    def stock_and_prices_are_those_of_the_model(self) -> None:
        lists = [self.client.get("/items", params={"archived": archived}) for archived in (False, True)]
        stored = {item["id"]: item for items in lists for item in items.json()["data"]}
        assert {item_id: (item["quantity"], Decimal(item["price"])) for item_id, item in stored.items()} == {
            item_id: (item.quantity, item.price) for item_id, item in self.known.items()
        }

    def teardown(self) -> None:
        assert self.runner.run(read_discrepancies(self.connection, self.sold)) == []
        assert {order["id"] for order in self.client.get("/orders?limit=200").json()["data"]} == set(
            self.sold
        )

    def line(self, item_id: str, quantity: int, by_sku: bool) -> dict[str, object]:
        item = self.known.get(item_id)
        name = {"sku": item.sku} if item and by_sku else {"item_id": item_id}
        return {**name, "quantity": quantity}

    def take(self, wanted: Counter[str], order: dict[str, Any]) -> None:
        total = Decimal(0)
        for item_id, quantity in wanted.items():
            item = self.known[item_id]
            item.quantity -= quantity
            item.ordered = True
            total += item.price * quantity
        assert Decimal(order["total"]) == total
        self.sold[order["id"]] = order["total"]
        self.orders[order["id"]] = Sold(dict(wanted))


def outcome(reply: Any) -> int | str:
    """Return the status of a success, or the code of an error."""
    return str(reply.headers["X-Error-Code"]) if reply.status_code >= 400 else int(reply.status_code)


def test_the_service_does_what_the_model_does(
    settings: Settings, database_url: str, anyio_backend: str, key: str
) -> None:
    with TestClient(create_app(settings)) as client, asyncio.Runner() as runner:
        client.headers["Authorization"] = f"Bearer {key}"
        connection = runner.run(asyncpg.connect(database_url))
        Shop.client, Shop.runner, Shop.connection = client, runner, connection
        run_state_machine_as_test(
            Shop,
            settings=hypothesis_settings(
                max_examples=40,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(connection.close())
