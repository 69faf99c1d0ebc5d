"""An import changes what its file names, and records movements and events, also beside orders."""

import asyncio
import json
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.database.database import Database
from service.items.csv_rows import InvalidRow
from service.values import encode_json
from tests.support.app_helpers import MAX_WAIT_SECONDS, item, locked, order, wait_for_locks
from tests.support.consistency import discrepancies
from tests.support.import_helpers import load, stored, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "items.csv"


# Orders at the same time


async def test_imports_and_orders_at_the_same_time_keep_the_books(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, file: Path
) -> None:
    over = asyncio.Event()
    items = [await item(concurrent_client, 1000) for _ in range(20)]
    sold: dict[str, str] = {}

    async def buy() -> None:
        while not over.is_set():
            placed = (
                await order(concurrent_client, (items[len(sold) % 20], 1), (items[len(sold) % 7], 2))
            ).json()
            sold[placed["id"]] = placed["total"]

    buyers = [asyncio.create_task(buy()) for _ in range(8)]
    for quantity in (800, 900):
        write(
            file,
            "sku,name,price,quantity",
            *[[f"N-{n}", "New", "1", 1] for n in range(500)],
            *[[each["sku"], f"Bolt at {quantity}", "1.50", quantity] for each in items],
        )
        reports = await asyncio.gather(load(database, file), load(database, file))
        assert [report.bad for report in reports] == [0, 0]
    over.set()
    await asyncio.gather(*buyers)
    assert len(sold) > 20
    assert await discrepancies(database_url, sold) == []


async def test_an_import_records_the_difference_to_the_stock_left_when_its_lock_is_granted(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, file: Path
) -> None:
    first, second = sorted(
        [await item(concurrent_client, 5), await item(concurrent_client, 5)], key=itemgetter("id")
    )
    write(file, "sku,name,price,quantity", *[[each["sku"], "Bolt", "1", 10] for each in (second, first)])
    async with locked(database_url, first) as holder:
        importing = asyncio.create_task(load(database, file))
        await wait_for_locks(holder, 1)
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            assert (await order(concurrent_client, (second, 1))).status_code == 201
    assert (await importing).updated == 2
    movements = await database.fetch("select delta from movements where cause = 'import' order by item_id")
    assert [delta for (delta,) in movements] == [5, 6]
    assert await discrepancies(database_url) == []


async def test_an_item_may_be_renamed_to_a_sku_of_the_file_while_an_import_waits_for_it(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, file: Path
) -> None:
    bolt = await item(concurrent_client, 5)
    write(file, "sku,name,price", [bolt["sku"], "Bolt", "1"], ["NEW", "Bolt", "1"])
    async with locked(database_url, bolt) as holder:
        importing = asyncio.create_task(load(database, file))
        await wait_for_locks(holder, 1)
        await holder.execute("update items set sku = 'NEW' where id = $1", bolt["id"])
    report = await importing
    assert (report.created, report.updated) == (1, 1)


# What an import changes


async def test_columns_missing_from_the_file_keep_their_values(database: Database, file: Path) -> None:
    write(file, "sku,name,price,quantity,description,currency,attributes",
          ["A", "Bolt", "1", "5", "Long", "EUR", '{"size": 1.10}'])  # fmt: skip
    await load(database, file)
    write(file, "price,name,sku", ["2.5", "Screw", "A"])
    report = await load(database, file)
    assert (report.created, report.updated, report.unchanged) == (0, 1, 0)
    (now,) = await stored(database)
    assert (now["name"], now["price"], now["version"]) == ("Screw", Decimal("2.50"), 2)
    assert (now["quantity"], now["description"], now["currency"]) == (5, "Long", "EUR")
    assert str(now["attributes"]["size"]) == "1.10"


async def test_an_empty_cell_clears_a_nullable_field(database: Database, file: Path) -> None:
    write(file, "sku,name,price,description,attributes", ["A", "Bolt", "1", "Long", "{}"])
    await load(database, file)
    write(file, "sku,name,price,description,attributes", ["A", "Bolt", "1", "", ""])
    await load(database, file)
    (now,) = await stored(database)
    assert (now["description"], now["attributes"], now["version"]) == (None, None, 2)


async def test_a_row_that_changes_nothing_keeps_the_version(database: Database, file: Path) -> None:
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1", "5"], ["B", "Nut", "1", "5"])
    await load(database, file)
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1.00", "5"], ["B", "Nut", "1.01", "5"])
    report = await load(database, file)
    assert (report.updated, report.unchanged) == (1, 1)
    assert [row["version"] for row in await stored(database)] == [1, 2]


async def test_a_price_must_fit_the_currency_of_the_row_or_else_of_the_item(
    database: Database, file: Path
) -> None:
    write(file, "sku,name,price,currency", ["YEN", "Bolt", "1200", "JPY"], ["HALF", "Bolt", "0.5", "JPY"])
    report = await load(database, file, skip_bad=True)
    assert report.bad_rows == [InvalidRow(3, ["price: must have no decimals, because JPY has none"])]
    write(file, "sku,name,price", ["USD", "Bolt", "9.99"], ["YEN", "Bolt", "9.99"])
    report = await load(database, file, skip_bad=True)
    assert report.bad_rows == [InvalidRow(3, ["price: must have no decimals, because JPY has none"])]
    assert [(row["sku"], row["price"]) for row in await stored(database)] == [
        ("USD", Decimal("9.99")),
        ("YEN", Decimal(1200)),
    ]


async def test_a_number_of_attributes_with_another_scale_is_a_change(database: Database, file: Path) -> None:
    for size in ("1.5", "1.50", "1.50"):
        write(file, "sku,name,price,attributes", ["A", "Bolt", "1", f'{{"size": {size}}}'])
        await load(database, file)
    (now,) = await stored(database)
    assert (now["version"], str(now["attributes"]["size"])) == (2, "1.50")


async def test_a_new_quantity_is_recorded_as_a_movement(
    database: Database, database_url: str, file: Path
) -> None:
    for quantity in ("5", "0", "7", "7"):
        write(file, "sku,name,price,quantity", ["A", "Bolt", "1", quantity])
        await load(database, file)
    movements = await database.fetch(
        "select cause, delta, resulting_quantity, version from movements order by version"
    )
    assert [tuple(row) for row in movements] == [
        ("import", 5, 5, 1),
        ("import", -5, 0, 2),
        ("import", 7, 7, 3),
    ]
    assert await discrepancies(database_url) == []


# Events of an import


async def journal(database: Database) -> list[dict[str, Any]]:
    events = await database.fetch(
        "select type, subject, actor, request_id, payload from events where type like 'item.%' order by id"
    )
    return [dict(row) for row in events]


async def test_the_event_of_a_created_item_is_the_item_as_the_api_returns_it(
    concurrent_client: httpx.AsyncClient, database: Database, file: Path
) -> None:
    write(file, "sku,name,price,quantity,description,attributes",
          ["A", "Schraube ×", "9.5", "3", "", '{"size": 1.10}'],
          ["B", "Nut", "0", "0", "Long", ""])  # fmt: skip
    await load(database, file)
    events = await journal(database)
    shown = {row["sku"]: row for row in (await concurrent_client.get("/items")).json()["data"]}
    assert {event["payload"]["sku"]: event["subject"] for event in events} == {
        sku: row["id"] for sku, row in shown.items()
    }
    for event in events:
        assert (event["type"], event["actor"], event["request_id"]) == ("item.created", "cli", None)
        assert json.loads(encode_json(event["payload"])) == shown[event["payload"]["sku"]]
    assert str(events[0]["payload"]["attributes"]["size"]) == "1.10"


async def test_the_event_of_a_changed_item_is_the_difference_and_unchanged_items_have_none(
    database: Database, file: Path
) -> None:
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1", "50"], ["B", "Nut", "1", "5"])
    await load(database, file)
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1.50", "40"], ["B", "Nut", "1.00", "5"])
    await load(database, file)
    (_, _, event) = await journal(database)
    assert (event["type"], event["actor"]) == ("item.updated", "cli")
    assert event["payload"] == {
        "id": event["subject"],
        "version": 2,
        "changes": {"price": {"from": "1.00", "to": "1.50"}, "quantity": {"from": 50, "to": 40}},
    }


async def test_an_import_records_the_same_events_as_a_patch(
    concurrent_client: httpx.AsyncClient, database: Database, file: Path
) -> None:
    old = {"description": "Old", "attributes": {"a": 1.10}}
    patched, imported = await item(concurrent_client, 9, **old), await item(concurrent_client, 9, **old)
    new = {"name": "Nut", "price": "8.00", "quantity": 4, "description": None, "attributes": {"a": 1.2}}
    await concurrent_client.patch(f"/items/{patched['id']}", json=new)
    write(file, "sku,name,price,quantity,description,attributes",
          [imported["sku"], "Nut", "8", "4", "", '{"a": 1.2}'])  # fmt: skip
    await load(database, file)
    events: dict[str, list[Any]] = {patched["id"]: [], imported["id"]: []}
    for event in await journal(database):
        events[event["subject"]].append((event["type"], {**event["payload"], "id": "", "sku": ""}))
    assert [type_ for type_, _ in events[patched["id"]]] == ["item.created", "item.updated", "item.low_stock"]
    assert events[imported["id"]][1:] == events[patched["id"]][1:]


async def test_a_rejected_import_records_no_events(database: Database, file: Path) -> None:
    write(file, "sku,name,price", ["A", "Bolt", "1"], ["B", "Nut", "x"])
    assert (await load(database, file)).bad == 1
    assert await journal(database) == []
