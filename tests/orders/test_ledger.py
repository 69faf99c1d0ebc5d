"""The checker of all storms sees what it is there to see."""

import pytest

from conftest import AS_OWNER, Client
from ledger import discrepancies
from shop import connected, item, order

SABOTAGE = {
    "update items set quantity = quantity + 1": "not the sum of its movements",
    "update movements set resulting_quantity = 99 where cause = 'order'": "does not continue",
    "update items set version = 1": "newer than its item",
    "update orders set total = total + 1": "not the sum of its lines",
    "delete from order_lines where line_no = 2": "not the sum of its lines",
    "update order_lines set line_no = 7 where line_no = 2": "not numbered",
    f"{AS_OWNER}; delete from transactions": "not in the ledger",
    f"{AS_OWNER}; update transactions set amount = amount + 1": "not in the ledger",
    f"{AS_OWNER}; update transactions set created_at = now()": "not in the ledger",
    "update orders set status = 'cancelled'": "refunds are not those",
    "update movements set order_id = gen_random_uuid() where cause = 'order'": "the movements for it differ",
    "update movements set cause = 'cancel' where cause = 'order'": "stock did not come back",
    f"{AS_OWNER}; delete from events where type = 'order.placed'": "its event differ",
    AS_OWNER + '; update events set payload = payload || \'{"total": "1.00"}\'': "its event differ",
    "insert into events (type, subject, actor, payload) "
    "select type, subject, actor, payload from events": "its event differ",
}


async def test_an_honest_shop_has_no_discrepancies(client: Client, database_url: str) -> None:
    placed = await order(client, (await item(client, 5), 2), (await item(client, 5), 1))
    assert await discrepancies(database_url, {placed.json()["id"]: placed.json()["total"]}) == []


@pytest.mark.parametrize(("sabotage", "found"), SABOTAGE.items())
async def test_a_discrepancy_is_found(sabotage: str, found: str, client: Client, database_url: str) -> None:
    await order(client, (await item(client, 5), 2), (await item(client, 5), 1))
    async with connected(database_url) as connection:
        await connection.execute(sabotage)
    assert any(found in discrepancy for discrepancy in await discrepancies(database_url))


async def test_a_lost_order_is_found(client: Client, database_url: str) -> None:
    (lost,) = await discrepancies(database_url, {"019ab000-0000-7000-8000-000000000000": "9.99"})
    assert "was acknowledged" in lost
