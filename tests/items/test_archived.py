"""An archived item is withdrawn from sale, and the books stay as they are."""

import asyncio
from io import BytesIO, TextIOWrapper

import httpx
import pytest

from conftest import Client
from service.database.database import Database
from service.database.servers import Connection
from service.events.journal import CLI
from service.items.csv_rows import ENCODING
from service.items.importer import import_items
from service.items.statements import READ_PAGES
from service.times import LAST_ID
from tests.support.app_helpers import Json, in_session, item, order, pooled_connection, stock
from tests.support.reply_assertions import all_rows, assert_refused

FILL = """
insert into items (id, sku, name, price, currency, quantity, version)
select uuidv7(), 'SKU-' || n, 'Bolt', 1, 'USD', n, 1 from generate_series(1, 3000) n"""
LOW_STOCK = "select count(*) from events where type = 'item.low_stock'"


async def archive(client: httpx.AsyncClient, archived_item: Json) -> None:
    reply = await client.patch(f"/items/{archived_item['id']}", json={"archived": True})
    assert (reply.status_code, reply.json()["archived"]) == (200, True)


async def test_an_order_is_refused_with_all_lines_that_name_an_archived_item(client: Client) -> None:
    bolt, nut, washer = [await item(client, 10) for _ in range(3)]
    await archive(client, bolt)
    await archive(client, nut)
    reply = await order(client, (bolt, 1), (washer, 1), (nut, 1), (bolt, 2))
    assert assert_refused(reply, 409, "ITEM_ARCHIVED")["details"] == [
        {"item_id": bolt["id"], "sku": bolt["sku"], "lines": [0, 3]},
        {"item_id": nut["id"], "sku": nut["sku"], "lines": [2]},
    ]
    assert [await stock(client, each) for each in (bolt, nut, washer)] == [10, 10, 10]


async def test_a_batch_refuses_only_the_orders_that_name_an_archived_item(
    concurrent_client: httpx.AsyncClient,
) -> None:
    bolt, nut = await item(concurrent_client, 100), await item(concurrent_client, 100)
    await archive(concurrent_client, bolt)
    replies = await asyncio.gather(
        *(order(concurrent_client, (bolt if number % 2 else nut, 1)) for number in range(40))
    )
    assert [reply.status_code for reply in replies] == [201, 409] * 20
    assert (await stock(concurrent_client, bolt), await stock(concurrent_client, nut)) == (100, 80)


async def test_older_orders_of_an_archived_item_are_cancelled_and_fulfilled(client: Client) -> None:
    bolt = await item(client, 10)
    first, second = [(await order(client, (bolt, 2))).json()["id"] for _ in range(2)]
    await archive(client, bolt)
    assert (await client.post(f"/orders/{first}/cancel")).json()["status"] == "cancelled"
    assert (await client.post(f"/orders/{second}/fulfil")).json()["status"] == "fulfilled"
    assert await stock(client, bolt) == 8


async def test_an_archived_item_keeps_its_sku_and_can_be_put_on_sale_again(client: Client) -> None:
    bolt = await item(client, 10)
    await archive(client, bolt)
    again = {"sku": bolt["sku"], "name": "Other", "price": "1"}
    assert_refused(await client.post("/items", json=again), 409, "DUPLICATE_SKU")
    await client.patch(f"/items/{bolt['id']}", json={"archived": False})
    assert (await order(client, (bolt, 1))).status_code == 201


async def test_lists_have_archived_items_only_on_request(client: Client) -> None:
    bolt, nut = await item(client), await item(client)
    await archive(client, bolt)
    assert [row["id"] for row in await all_rows(client, "/items")] == [nut["id"]]
    assert [row["id"] for row in await all_rows(client, "/items", archived="false")] == [nut["id"]]
    assert [row["id"] for row in await all_rows(client, "/items", archived="true")] == [bolt["id"]]
    assert await all_rows(client, "/items", sku=bolt["sku"]) == []
    assert (await client.get(f"/items/{bolt['id']}")).json()["archived"] is True


@pytest.mark.parametrize("plan_mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("archived", [True, False])
async def test_a_page_reads_no_items_of_the_other_kind(
    database: Database, archived: bool, plan_mode: str
) -> None:
    """The newest items are of the other kind, and a page does not skip them one by one."""
    async with pooled_connection(database) as connection:
        await connection.execute(FILL)
        await connection.execute("update items set archived = $1 where quantity > 1000", not archived)
        await connection.execute("update items set archived = $1 where quantity <= 1000", archived)
        await connection.execute("analyze items")
        plan = await plan_of_page(connection, archived, plan_mode)
        assert any("ix_items_archived_id" in line for line in plan), plan
        assert not any("Rows Removed" in line for line in plan), plan


async def test_a_page_of_a_few_archived_items_does_not_read_all_items(database: Database) -> None:
    """A plan that serves all pages is made while nearly no item is archived, and finds those few."""
    async with pooled_connection(database) as connection:
        await connection.execute(FILL)
        await connection.execute("vacuum analyze items")
        plan = await plan_of_page(connection, True, "force_generic_plan")
        assert any("ix_items_archived_id" in line for line in plan), plan
        assert not any("Rows Removed" in line for line in plan), plan


async def plan_of_page(connection: Connection, archived: bool, mode: str) -> list[str]:
    await connection.execute(f"set plan_cache_mode = {mode}; prepare page as {READ_PAGES}")
    rows = await connection.fetch(
        f"explain analyze execute page ('{{{archived}}}', '{{{LAST_ID}}}', '{{50}}')"
    )
    return [row[0] for row in rows]


async def test_low_stock_of_an_archived_item_is_not_told(client: Client, database: Database) -> None:
    bolt = await item(client, 10)
    await archive(client, bolt)
    await client.post(f"/items/{bolt['id']}/stock", json={"delta": -6})
    await client.patch(f"/items/{bolt['id']}", json={"quantity": 0})
    await client.post(f"/items/{bolt['id']}/stock", json={"delta": 3})
    assert (await database.fetch(LOW_STOCK))[0][0] == 0
    assert await database.fetch("select 1 from events where type = 'item.back_in_stock'") == []


async def test_an_import_leaves_an_archived_item_archived(client: Client, database: Database) -> None:
    bolt = await item(client, 10)
    await archive(client, bolt)
    content = f"sku,name,price,quantity\n{bolt['sku']},Renamed,1.00,3\n".encode()

    async def ignore(_: int) -> None:
        """Nobody watches."""

    async def import_file(session: object) -> None:
        async with session.transaction():  # type: ignore[attr-defined]
            text = TextIOWrapper(BytesIO(content), ENCODING, newline="")
            connection = await session.connection()  # type: ignore[attr-defined]
            await import_items(connection, text, CLI, currency="USD", skip_bad=False, on_progress=ignore)

    await in_session(database, import_file)
    imported = (await client.get(f"/items/{bolt['id']}")).json()
    assert (imported["name"], imported["archived"]) == ("Renamed", True)
