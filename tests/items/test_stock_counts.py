"""Stock is counted while it is sold: a count overwrites no sale; many changes are all made or none."""

import asyncio
import os
import random
from collections import Counter
from time import monotonic
from typing import Any

import httpx
import pytest

from conftest import Client
from tests.support.app_helpers import Json, item, order, stock
from tests.support.consistency import discrepancies
from tests.support.reply_assertions import all_rows, assert_refused, wrong_fields

SECONDS = float(os.environ.get("PROOF_SECONDS", "0")) / 3
MOST = 2_147_483_647
NOWHERE = "00000000-0000-7000-8000-000000000000"


async def change(client: httpx.AsyncClient, *changes: Json, **fields: object) -> httpx.Response:
    return await client.post("/stock", json={"changes": changes, **fields})


async def test_a_count_is_set_if_the_stock_is_still_the_expected_one(client: Client) -> None:
    bolt = await item(client, 42)
    reply = await client.post(
        f"/items/{bolt['id']}/stock", json={"quantity": 40, "expected": 42, "reason": "count"}
    )
    assert (reply.status_code, reply.json()["quantity"], reply.headers["ETag"]) == (200, 40, '"2"')
    (moved, _) = await all_rows(client, f"/items/{bolt['id']}/movements")
    assert (moved["cause"], moved["delta"], moved["reason"]) == ("set", -2, "count")


async def test_a_count_is_rejected_if_the_stock_has_changed(client: Client) -> None:
    bolt = await item(client, 42)
    await order(client, (bolt, 1))
    reply = await client.post(f"/items/{bolt['id']}/stock", json={"quantity": 40, "expected": 42})
    assert assert_refused(reply, 409, "QUANTITY_CHANGED")["details"] == [{"expected": 42, "quantity": 41}]
    assert await stock(client, bolt) == 41


async def test_a_count_that_confirms_the_stock_moves_nothing(client: Client, database_url: str) -> None:
    bolt = await item(client, 42)
    reply = await client.post(f"/items/{bolt['id']}/stock", json={"quantity": 42, "expected": 42})
    assert (reply.status_code, reply.json()["version"]) == (200, 2)
    assert len(await all_rows(client, f"/items/{bolt['id']}/movements")) == 1
    assert await discrepancies(database_url) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": "count"},
        {"quantity": 40},
        {"expected": 42},
        {"delta": 1, "quantity": 40},
        {"delta": 1, "expected": 42},
        {"delta": 1, "quantity": 40, "expected": 42},
    ],
)
async def test_a_change_is_either_a_difference_or_a_count(client: Client, body: Json) -> None:
    bolt = await item(client, 42)
    assert wrong_fields(await client.post(f"/items/{bolt['id']}/stock", json=body)) == {""}
    named = {**body, "sku": bolt["sku"]}
    named.pop("reason", None)
    assert wrong_fields(await change(client, named)) == {"/changes/0"}


async def test_a_count_with_an_idempotency_key_is_made_once(client: Client) -> None:
    bolt = await item(client, 42)
    path, headers = f"/items/{bolt['id']}/stock", {"Idempotency-Key": "count"}
    body = {"quantity": 40, "expected": 42}
    first, again = [await client.post(path, json=body, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_many_items_change_together(client: Client) -> None:
    bolt, nut = await item(client, 42), await item(client, 5)
    changes = [{"sku": nut["sku"], "delta": 3}, {"item_id": bolt["id"], "quantity": 40, "expected": 42}]
    reply = await change(client, *changes, reason="count")
    assert (reply.status_code, reply.json()) == (
        200,
        {
            "data": [
                {"item_id": nut["id"], "sku": nut["sku"], "quantity": 8, "version": 2},
                {"item_id": bolt["id"], "sku": bolt["sku"], "quantity": 40, "version": 2},
            ]
        },
    )
    for changed in (bolt, nut):
        assert (await all_rows(client, f"/items/{changed['id']}/movements"))[0]["reason"] == "count"


async def test_every_change_that_is_not_possible_is_listed_and_none_is_made(client: Client) -> None:
    bolt, nut, washer, screw = [await item(client, 5) for _ in range(4)]
    reply = await change(
        client,
        {"sku": bolt["sku"], "delta": -6},
        {"sku": washer["sku"], "delta": 1},
        {"sku": nut["sku"], "quantity": 1, "expected": 4},
        {"item_id": screw["id"], "quantity": 1, "expected": 6},
    )
    assert assert_refused(reply, 409, "QUANTITY_CHANGED")["details"] == [
        {"item_id": nut["id"], "sku": nut["sku"], "change": 2, "expected": 4, "quantity": 5},
        {"item_id": screw["id"], "sku": screw["sku"], "change": 3, "expected": 6, "quantity": 5},
        {"item_id": bolt["id"], "sku": bolt["sku"], "change": 0, "requested": 6, "available": 5},
    ]
    short = await change(client, {"sku": bolt["sku"], "delta": -6}, {"sku": washer["sku"], "delta": 1})
    assert assert_refused(short, 409, "INSUFFICIENT_STOCK")["details"] == [
        {"item_id": bolt["id"], "sku": bolt["sku"], "requested": 6, "available": 5, "change": 0}
    ]
    assert [await stock(client, each) for each in (bolt, nut, washer, screw)] == [5, 5, 5, 5]


async def test_unknown_items_are_listed_by_what_names_them(client: Client) -> None:
    bolt = await item(client, 5)
    reply = await change(
        client,
        {"sku": "NOTHING", "delta": 1},
        {"sku": bolt["sku"], "delta": 1},
        {"item_id": NOWHERE, "delta": 1},
    )
    details = assert_refused(reply, 422, "UNKNOWN_ITEM")["details"]
    assert [detail["field"] for detail in details] == ["/changes/0/sku", "/changes/2/item_id"]
    assert await stock(client, bolt) == 5


async def test_an_item_that_is_named_twice_is_rejected_by_id_and_by_sku(client: Client) -> None:
    bolt = await item(client, 5)
    twice = await change(
        client,
        {"sku": bolt["sku"], "delta": 1},
        {"item_id": bolt["id"], "delta": 1},
        {"sku": bolt["sku"], "delta": 1},
    )
    assert wrong_fields(twice) == {"/changes/1", "/changes/2"}
    assert await stock(client, bolt) == 5


async def test_stock_of_many_items_stays_within_its_bounds(client: Client) -> None:
    bolt, nut = await item(client, 5), await item(client, 5)
    reply = await change(client, {"sku": nut["sku"], "delta": 1}, {"sku": bolt["sku"], "delta": MOST})
    assert wrong_fields(reply) == {"/changes/1/delta"}
    assert await stock(client, nut) == 5


@pytest.mark.parametrize("count", [0, 201])
async def test_a_change_of_stock_names_1_to_200_items(client: Client, count: int) -> None:
    changes = [{"sku": f"SKU-{number}", "delta": 1} for number in range(count)]
    assert wrong_fields(await change(client, *changes)) == {"/changes"}


async def test_two_hundred_items_change_together(client: Client) -> None:
    skus = [f"SKU-{number}" for number in range(200)]
    for sku in skus:
        await item(client, 5, sku=sku)
    reply = await change(client, *({"sku": sku, "delta": -5} for sku in reversed(skus)))
    assert [(row["sku"], row["quantity"]) for row in reply.json()["data"]] == [
        (sku, 0) for sku in reversed(skus)
    ]


async def test_changes_of_many_items_with_an_idempotency_key_are_made_once(
    concurrent_client: httpx.AsyncClient,
) -> None:
    bolt = await item(concurrent_client, 5)
    body = {"changes": [{"sku": bolt["sku"], "delta": -3}]}
    replies = await asyncio.gather(
        *(concurrent_client.post("/stock", json=body, headers={"Idempotency-Key": "once"}) for _ in range(5))
    )
    assert {reply.status_code for reply in replies} <= {200, 409}
    again = await concurrent_client.post("/stock", json=body, headers={"Idempotency-Key": "once"})
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert await stock(concurrent_client, bolt) == 2


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_counts_and_orders_agree_with_a_model(
    concurrent_client: httpx.AsyncClient, database_url: str, seed: int
) -> None:
    """Replay what succeeded, in the order of each item's versions: every count met the stock it expected.

    `make concurrency` repeats it for a minute.
    """
    started, rounds, outcomes = monotonic(), 0, Counter[str]()
    while not rounds or monotonic() - started < SECONDS:
        outcomes += await count_while_selling(concurrent_client, seed + 3 * rounds)
        rounds += 1
    assert {"changed", "201", "QUANTITY_CHANGED"} <= set(outcomes)
    assert await discrepancies(database_url) == []
    print(dict(outcomes))


async def count_while_selling(concurrent_client: httpx.AsyncClient, seed: int) -> Counter[str]:
    draw = random.Random(seed)
    items = [await item(concurrent_client, 30, low_stock_at=None) for _ in range(4)]
    applied: dict[tuple[str, int], Json] = {}

    async def count_and_adjust(number: int) -> str:
        chosen = draw.sample(items, draw.randint(1, 4))
        changes = []
        for each in chosen:
            if draw.random() < 0.5:
                now = await stock(concurrent_client, each)
                changes.append(
                    {"item_id": each["id"], "quantity": max(0, now + draw.randint(-3, 6)), "expected": now}
                )
            else:
                changes.append({"sku": each["sku"], "delta": draw.choice([-7, -2, 3, 9])})
        reply = await change(concurrent_client, *changes, reason=f"change {number}")
        if reply.status_code != 200:
            assert reply.json()["error"]["code"] in {"QUANTITY_CHANGED", "INSUFFICIENT_STOCK"}
            return str(reply.json()["error"]["code"])
        for row, made in zip(reply.json()["data"], changes, strict=True):
            applied[row["item_id"], row["version"]] = {**made, "result": row["quantity"]}
        return "changed"

    async def sell() -> str:
        lines = [(each, draw.randint(1, 3)) for each in draw.sample(items, draw.randint(1, 3))]
        return str((await order(concurrent_client, *lines)).status_code)

    outcomes = await asyncio.gather(
        *(count_and_adjust(number) if number % 2 else sell() for number in range(150))
    )
    for each in items:
        await replay(concurrent_client, each, applied)
    return Counter(outcomes)


async def replay(client: httpx.AsyncClient, each: Json, applied: dict[tuple[str, int], Any]) -> None:
    now = (await client.get(f"/items/{each['id']}")).json()
    moved = {row["version"]: row for row in await all_rows(client, f"/items/{each['id']}/movements")}
    quantity = 0
    for version in range(1, now["version"] + 1):
        made = applied.get((each["id"], version))
        if made is None:
            assert moved[version]["cause"] == ("order" if version > 1 else "set")
            quantity += moved[version]["delta"]
        elif "delta" in made:
            quantity += made["delta"]
        else:
            assert made["expected"] == quantity
            quantity = made["quantity"]
        assert quantity == (made["result"] if made else moved[version]["resulting_quantity"]) >= 0
    assert now["quantity"] == quantity
