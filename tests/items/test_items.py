"""Items over HTTP."""

from conftest import Client

BOLT = {"sku": "BOLT-M8", "name": "Bolt", "price": "9.99", "quantity": 5}


async def test_a_created_item_can_be_read(client: Client) -> None:
    created = await client.post("/items", json=BOLT)
    assert created.status_code == 201, created.text
    read = await client.get(created.headers["Location"])
    assert read.json() == created.json()
    assert read.headers["ETag"] == '"1"'
