"""Checks that each peer does the work that is measured, before and after the load."""

from decimal import Decimal
from typing import Any

import msgspec

from bench.database import ITEMS, STOCK, Database, item_id
from bench.errors import BenchError
from bench.peer import Running

QUANTITIES = (2, 3)
LINE_MAX = 1_000_000
"""The maximum quantity of a line."""

AUDIT = """
select jsonb_build_object(
  'every item holds what its movements add up to', not exists (
    select from items i where quantity <> (select sum(delta) from movements m where m.item_id = i.id)),
  'the orders took what the stock lost', (select coalesce(sum(quantity), 0) from order_lines)
    = (select count(*) * $1::bigint - sum(quantity) from items),
  'every order has its lines, and they add up', not exists (
    select from orders o where total is distinct from
      (select sum(amount) from order_lines l where l.order_id = o.id)),
  'every order is booked as one sale', not exists (
    select from orders o where array[total] is distinct from
      (select array_agg(amount) from transactions t where t.order_id = o.id and kind = 'sale')))::text"""


def prove(peer: Running) -> None:
    """Check one request of each kind in detail."""
    _prove_list(peer)
    _prove_patch(peer)
    _prove_order(peer)
    _prove_refusal(peer)


def audit(name: str, database: Database) -> None:
    """Check the stored data after all load. Raises `BenchError` for the first error."""
    findings = msgspec.json.decode(database.value(AUDIT, STOCK), type=dict[str, bool])
    for claim, holds in findings.items():
        if not holds:
            raise BenchError(f"{name}: it is not true that {claim}")


def expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise BenchError(f"{what}: {got!r} instead of {wanted!r}")


def _prove_list(peer: Running) -> None:
    """Check that the list has every item, newest first, page by page."""
    path, number = "/items?limit=50", ITEMS
    for _ in range(2):
        status, page = peer.ask("GET", path)
        expect(f"{peer.name}, GET items", status, 200)
        wanted = [_item(peer, number - n)[1] for n in range(50)]
        expect(f"{peer.name}, a page of items", page["data"], wanted)
        path, number = f"/items?limit=50&cursor={page['next_cursor']}", number - 50


def _prove_patch(peer: Running) -> None:
    path, before = _item(peer, 1)
    changes = {"name": "Proven", "price": "12.34"}
    status, after = peer.ask("PATCH", path, changes)
    expect(f"{peer.name}, PATCH item", status, 200)
    wanted = before | changes | {"version": before["version"] + 1, "updated_at": after["updated_at"]}
    expect(f"{peer.name}, the patched item", after, wanted)
    expect(f"{peer.name}, the patched item, read again", _item(peer, 1)[1], after)


def _prove_order(peer: Running) -> None:
    before = [_item(peer, number)[1] for number in (1, ITEMS)]
    status, order = peer.ask("POST", "/orders", _order([(1, QUANTITIES[0]), (ITEMS, QUANTITIES[1])]))
    expect(f"{peer.name}, POST order", status, 201)
    pairs = list(zip(before, QUANTITIES, strict=True))
    total = sum(Decimal(item["price"]) * quantity for item, quantity in pairs)
    expect(f"{peer.name}, the order's total", Decimal(order["total"]), total)
    sold = {line["item_id"]: line["quantity"] for line in order["lines"]}
    expect(f"{peer.name}, the order's lines", sold, {item["id"]: quantity for item, quantity in pairs})
    left = [_item(peer, number)[1]["quantity"] for number in (1, ITEMS)]
    expect(f"{peer.name}, the stock left", left, [item["quantity"] - quantity for item, quantity in pairs])


def _prove_refusal(peer: Running) -> None:
    """Check that an order is rejected as a whole if one of its items is short."""
    before = [_item(peer, number)[1] for number in (1, ITEMS)]
    too_much = [(ITEMS, LINE_MAX)] * (STOCK // LINE_MAX + 1)
    status, _ = peer.ask("POST", "/orders", _order([(1, 1), *too_much]))
    expect(f"{peer.name}, an order of more than there is", status, 409)
    expect(f"{peer.name}, the stock after it", [_item(peer, number)[1] for number in (1, ITEMS)], before)


def _order(lines: list[tuple[int, int]]) -> dict[str, Any]:
    numbered = [{"item_id": item_id(number), "quantity": quantity} for number, quantity in lines]
    return {"customer_id": "c-1", "lines": numbered}


def _item(peer: Running, number: int) -> tuple[str, dict[str, Any]]:
    path = f"/items/{item_id(number)}"
    status, item = peer.ask("GET", path)
    expect(f"{peer.name}, GET item", status, 200)
    expect(f"{peer.name}, the item's id", item["id"], item_id(number))
    return path, item
