"""A story over a real socket that asks every documented operation once, and succeeds each time."""

from pathlib import Path
from typing import Any

import httpx

from live import live

BOLT = {"sku": "BOLT-M8", "name": "Bolt", "price": "9.99", "quantity": 5}
NUT = {"sku": "NUT-M8", "name": "Nut", "price": "0.10"}
ORDER = {"customer_id": "c-1", "lines": [{"sku": "BOLT-M8", "quantity": 2}]}


async def test_every_documented_operation_answers_over_a_real_socket(
    database_url: str, key: str, tmp_path: Path
) -> None:
    with live(database_url, tmp_path / "home") as server:
        async with server.client(key) as client:
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            answered = await story(client)
    documented = {
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    }
    assert answered == documented


async def story(client: httpx.AsyncClient) -> set[tuple[str, str]]:
    """Method and path template of what was asked."""
    asked: set[tuple[str, str]] = set()

    async def ask(method: str, path: str, status: int, body: object = None, **names: str) -> Any:
        asked.add((method, path))
        reply = await client.request(method, path.format(**names), json=body)
        assert reply.status_code == status, (method, path, reply.text)
        return reply.json() if reply.content else None

    for path in ("/health", "/health/live", "/health/ready"):
        await ask("GET", path, 200)
    bolt = await ask("POST", "/items", 201, BOLT)
    nut = await ask("POST", "/items", 201, NUT)
    assert (await ask("PATCH", "/items/{item_id}", 200, {"name": "M8"}, item_id=bolt["id"]))["version"] == 2
    stocked = await ask("POST", "/items/{item_id}/stock", 200, {"delta": 3}, item_id=bolt["id"])
    assert stocked["quantity"] == 8
    order = await ask("POST", "/orders", 201, ORDER)
    assert order["total"] == "19.98"
    assert await ask("GET", "/orders/{order_id}", 200, order_id=order["id"]) == order
    assert (await ask("GET", "/orders", 200))["data"] == [order]
    assert (await ask("GET", "/items/{item_id}", 200, item_id=bolt["id"]))["quantity"] == 6
    moved = await ask("GET", "/items/{item_id}/movements", 200, item_id=bolt["id"])
    assert [movement["delta"] for movement in moved["data"]] == [-2, 3, 5]
    await ask("DELETE", "/items/{item_id}", 204, item_id=nut["id"])
    assert [item["sku"] for item in (await ask("GET", "/items", 200))["data"]] == ["BOLT-M8"]
    printer = {"resource_id": "printer-3"}
    made = await ask("PUT", "/resources/{resource_id}", 201, {"status": "on"}, **printer)
    assert await ask("GET", "/resources/{resource_id}", 200, **printer) == made
    assert (await ask("GET", "/resources", 200))["data"] == [made]
    patched = await ask("PATCH", "/resources/{resource_id}", 200, {"status": "off"}, **printer)
    assert patched["updated"] == {"status": "off"}
    await ask("DELETE", "/resources/{resource_id}", 204, **printer)
    return asked
