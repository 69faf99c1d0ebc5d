"""Call every documented operation over a real socket, in a scenario where each succeeds."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.support.app_helpers import eventually
from tests.support.depot_command import NEW_INTERPRETER
from tests.support.depot_process import depot_serve, depot_worker
from tests.support.recording_receiver import recording_receiver

Ask = Callable[..., Awaitable[Any]]
BOLT = {"sku": "BOLT-M8", "name": "Bolt", "price": "9.99", "quantity": 5}
NUT = {"sku": "NUT-M8", "name": "Nut", "price": "0.10"}
ORDER = {"customer_id": "c-1", "lines": [{"sku": "BOLT-M8", "quantity": 2}]}


async def test_every_documented_operation_works_over_a_real_socket(
    database_url: str, key: str, tmp_path: Path
) -> None:
    with depot_serve(
        database_url,
        tmp_path / "home",
        DEPOT_WEBHOOK_ALLOW_PRIVATE="1",
        DEPOT_JOB_TEST_KINDS="1",
        **NEW_INTERPRETER,
    ) as server:
        async with server.client(key) as client:
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            with depot_worker(database_url, tmp_path / "home", **NEW_INTERPRETER):
                answered = await story(client)
    documented = {
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    }
    assert answered == documented


async def story(client: httpx.AsyncClient) -> set[tuple[str, str]]:
    """Run the scenario; return the method and path template of each call."""
    asked: set[tuple[str, str]] = set()

    async def ask(method: str, path: str, status: int, body: object = None, **names: str) -> Any:
        asked.add((method, path))
        sent: dict[str, Any] = {"files": {"file": body}} if isinstance(body, tuple) else {"json": body}
        reply = await client.request(method, path.format(**names), **sent)
        assert reply.status_code == status, (method, path, reply.text)
        return reply.json() if reply.headers.get("Content-Type") == "application/json" else reply.text

    for path in ("/health", "/health/live", "/health/ready", "/key"):
        await ask("GET", path, 200)
    bolt = await ask("POST", "/items", 201, BOLT)
    nut = await ask("POST", "/items", 201, NUT)
    assert (await ask("PATCH", "/items/{item_id}", 200, {"name": "M8"}, item_id=bolt["id"]))["version"] == 2
    stocked = await ask("POST", "/items/{item_id}/stock", 200, {"delta": 3}, item_id=bolt["id"])
    assert stocked["quantity"] == 8
    restocked = await ask("POST", "/stock", 200, {"changes": [{"sku": NUT["sku"], "delta": 1}]})
    assert restocked["data"][0]["version"] == 2
    order = await ask("POST", "/orders", 201, ORDER)
    assert order["total"] == "19.98"
    assert await ask("GET", "/orders/{order_id}", 200, order_id=order["id"]) == order
    assert (await ask("GET", "/orders", 200))["data"] == [order]
    assert (await ask("GET", "/items/{item_id}", 200, item_id=bolt["id"]))["quantity"] == 6
    moved = await ask("GET", "/items/{item_id}/movements", 200, item_id=bolt["id"])
    assert [movement["delta"] for movement in moved["data"]] == [-2, 3, 5]
    again = await ask("POST", "/orders", 201, ORDER)
    assert (await ask("POST", "/orders/{order_id}/cancel", 200, order_id=again["id"]))[
        "status"
    ] == "cancelled"
    assert (await ask("POST", "/orders/{order_id}/fulfil", 200, order_id=order["id"]))[
        "status"
    ] == "fulfilled"
    third = await ask("POST", "/orders", 201, ORDER)
    fulfilled = await ask("POST", "/orders/{order_id}/fulfill", 200, order_id=third["id"])
    assert fulfilled["status"] == "fulfilled"
    change = {"reference": "PO-3", "metadata": {"gift": True}}
    patched = await ask("PATCH", "/orders/{order_id}", 200, change, order_id=third["id"])
    assert {name: patched[name] for name in change} == change
    await ask("DELETE", "/items/{item_id}", 204, item_id=nut["id"])
    await story_of_users(ask)
    report = await ask("GET", "/reports/financial", 200)
    assert report["report"]["totals"][0]["refunds"] == "19.98"
    assert (await ask("GET", "/audit", 200))["data"][0]["type"] == "user.action"
    assert [item["sku"] for item in (await ask("GET", "/items", 200))["data"]] == ["BOLT-M8"]
    printer = {"resource_id": "printer-3"}
    made = await ask("PUT", "/resources/{resource_id}", 201, {"status": "on"}, **printer)
    assert await ask("GET", "/resources/{resource_id}", 200, **printer) == made
    assert (await ask("GET", "/resources", 200))["data"] == [made]
    patched = await ask("PATCH", "/resources/{resource_id}", 200, {"status": "off"}, **printer)
    assert patched["updated"] == {"status": "off"}
    await ask("DELETE", "/resources/{resource_id}", 204, **printer)
    await story_of_jobs(ask)
    await story_of_documents(ask)
    await story_of_webhooks(ask)
    return asked


async def story_of_users(ask: Ask) -> None:
    login = await ask("POST", "/users/{user_id}/actions", 201, {"action": "login"}, user_id="ann")
    names = {"user_id": "ann", "action_id": login["id"]}
    assert (await ask("GET", "/users/{user_id}/actions/{action_id}", 200, **names))["action"] == "login"
    assert len((await ask("GET", "/users/{user_id}/actions", 200, user_id="ann"))["data"]) == 1
    assert (await ask("GET", "/events", 200))["next_cursor"]


async def story_of_jobs(ask: Ask) -> None:
    job = {"job_id": (await ask("POST", "/process", 202, {"kind": "report.export", "payload": {}}))["id"]}
    assert '"status":"succeeded"' in await ask("GET", "/jobs/{job_id}/events", 200, **job)
    exported = await ask("GET", "/jobs/{job_id}", 200, **job)
    assert exported["progress"] == 100
    assert (await ask("GET", "/jobs/{job_id}/output", 200, **job)).startswith("date,")
    sleep = {"kind": "system.sleep", "payload": {"seconds": 60}}
    job = {"job_id": (await ask("POST", "/process", 202, sleep))["id"]}
    assert (await ask("DELETE", "/jobs/{job_id}", 200, **job))["status"] == "cancelled"
    assert (await ask("POST", "/jobs/{job_id}/cancel", 200, **job))["status"] == "cancelled"
    no_items = {"kind": "catalog.import", "payload": {"csv": "colour\nred\n"}}
    job = {"job_id": (await ask("POST", "/process", 202, no_items))["id"]}
    assert '"status":"failed"' in await ask("GET", "/jobs/{job_id}/events", 200, **job)
    assert (await ask("POST", "/jobs/{job_id}/retry", 202, **job))["status"] == "queued"
    assert len((await ask("GET", "/jobs", 200))["data"]) == 3


async def story_of_documents(ask: Ask) -> None:
    content = BytesIO()
    Image.new("RGB", (512, 256)).save(content, "PNG")
    cat = ("cat.png", content.getvalue(), "image/png")
    document = await ask("POST", "/documents", 201, cat)
    uploaded = await ask("POST", "/upload", 201, cat)
    assert [listed["id"] for listed in (await ask("GET", "/documents", 200))["data"]] == [
        uploaded["id"],
        document["id"],
    ]
    names = {"document_id": document["id"]}

    async def ready() -> bool:
        return bool((await ask("GET", "/documents/{document_id}", 200, **names))["status"] == "ready")

    await eventually(ready)
    assert "PNG" in await ask("GET", "/documents/{document_id}/content", 200, **names)
    assert "WEBP" in await ask("GET", "/documents/{document_id}/thumbnail", 200, **names)
    await ask("DELETE", "/documents/{document_id}", 204, **names)
    assert "depot_http_requests_total" in await ask("GET", "/metrics", 200)


async def story_of_webhooks(ask: Ask) -> None:
    async with recording_receiver() as receiver:
        made = await ask("POST", "/webhooks", 201, {"url": receiver.url, "events": ["item.updated"]})
        receiver.secret, names = made.pop("secret"), {"webhook_id": made["id"]}
        assert await ask("GET", "/webhooks/{webhook_id}", 200, **names) == made
        assert (await ask("GET", "/webhooks", 200))["data"] == [made]
        owed = await ask("POST", "/webhooks/{webhook_id}/test", 202, **names)

        async def delivered() -> bool:
            listed = await ask("GET", "/webhooks/{webhook_id}/deliveries", 200, **names)
            return bool(listed["data"][0]["status"] == "delivered")

        await eventually(delivered)
        assert list(receiver.received) == [owed["event_id"]]
        resend = "/webhooks/{webhook_id}/deliveries/{delivery_id}/resend"
        assert (await ask("POST", resend, 202, delivery_id=owed["id"], **names))["status"] == "pending"
        now = datetime.now(UTC)
        period = {"from": (now - timedelta(hours=1)).isoformat(), "to": now.isoformat()}
        replay = await ask("POST", "/webhooks/{webhook_id}/replay", 202, period, **names)
        assert replay["status"] == "queued"
        assert "secret" in await ask("POST", "/webhooks/{webhook_id}/secret", 200, **names)
        patched = await ask("PATCH", "/webhooks/{webhook_id}", 200, {"enabled": False}, **names)
        assert patched["version"] == 3
        await ask("DELETE", "/webhooks/{webhook_id}", 204, **names)
