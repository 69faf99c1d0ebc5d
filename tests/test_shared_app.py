"""Tests that use nothing but HTTP share an application, and nothing of one is left for the next."""

import asyncio
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import Client
from service.blobs import BlobStore, open_blob_store
from tests.support.app_helpers import connected, item, locked, order, wait_for_locks
from tests.support.s3_server import empty_store
from tests.support.shared_app import READ_TABLES, SharedApp, SharedApps

pytestmark = pytest.mark.usefixtures("client")
WEBHOOK = {"url": "https://example.com/hook", "events": ["*"]}
CHANGED = {
    *("items", "movements", "orders", "order_lines", "transactions"),
    *("resources", "resource_tombstones", "documents", "jobs", "queue.pgqueuer", "webhooks"),
    *("deliveries", "events", "idempotency_keys", "api_keys"),
}
"""Tables with rows of `change_everything`."""


@pytest.fixture
def app(shared: SharedApp | None) -> SharedApp:
    assert shared is not None
    return shared


async def read_rows(app: SharedApp) -> dict[str, list[Any]]:
    async with connected(str(app.settings.database_url)) as connection:
        tables = [table for (table,) in await connection.fetch(READ_TABLES)]
        return {table: await connection.fetch(f"table {table} order by 1") for table in tables}


def picture() -> bytes:
    encoded = BytesIO()
    Image.new("L", (1, 1)).save(encoded, "png")
    return encoded.getvalue()


async def keys(store: BlobStore) -> list[str]:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    return [key async for batch in store.keys("", tomorrow) for key in batch]


async def change_everything(app: SharedApp, key: str) -> None:
    client = app.client(key)
    await app.create_key("items:read")
    await client.post("/webhooks", json=WEBHOOK, headers={"Idempotency-Key": "k"})
    assert (await order(client, (await item(client, quantity=5), 2))).status_code == 201
    await client.put("/resources/r-1", json={"status": "new"})
    await client.put("/resources/r-2", json={"status": "new"})
    await client.delete("/resources/r-1")
    await client.post("/documents", files={"file": ("cat.png", picture(), "image/png")})


async def test_no_row_and_no_blob_of_a_test_is_left(app: SharedApp, key: str) -> None:
    before = await read_rows(app)
    await change_everything(app, key)
    changed = await read_rows(app)
    assert {table for table in before if changed[table] != before[table]} >= CHANGED
    assert list(app.settings.home.iterdir())
    app.restore()
    assert await read_rows(app) == before
    assert not list(app.settings.home.iterdir())


async def test_the_rows_are_restored_once_no_request_is_in_progress(app: SharedApp, key: str) -> None:
    before = await read_rows(app)
    client = app.concurrent_client(key)
    bolt = await item(client)
    async with locked(str(app.settings.database_url), bolt) as blocker:
        changing = asyncio.create_task(client.patch(f"/items/{bolt['id']}", json={"name": "Nut"}))
        await wait_for_locks(blocker, 1)
        restoring = asyncio.create_task(asyncio.to_thread(app.restore))
        await asyncio.sleep(0.05)
        assert not restoring.done()
    await asyncio.gather(changing, restoring)
    assert changing.result().status_code == 200
    assert await read_rows(app) == before


async def test_a_test_that_uses_only_http_shares_its_application(
    client: Client, shared: SharedApp | None
) -> None:
    assert shared is not None


@pytest.mark.settings(job_test_kinds=True)
async def test_a_test_with_other_settings_shares_an_application_with_its_like(
    client: Client, shared: SharedApp | None
) -> None:
    assert shared is not None
    assert shared.settings.job_test_kinds
    assert (
        await client.post("/process", json={"kind": "system.sleep", "payload": {"seconds": 0}})
    ).is_success


async def test_a_test_with_both_stores_shares_an_application(
    client: Client, shared: SharedApp | None, both_stores: str | None
) -> None:
    assert shared is not None
    assert shared.settings.blob_url == both_stores
    file = {"file": ("cat.png", picture(), "image/png")}
    assert (await client.post("/documents", files=file)).is_success
    assert len(await keys(open_blob_store(shared.settings))) == 1


async def test_no_blob_on_s3_is_left(s3_server: tuple[str, Path]) -> None:
    with empty_store(*s3_server) as url:
        store = BlobStore(url)
        await store.put("exports/a", b"x")
        assert await keys(store) == ["exports/a"]
    with empty_store(*s3_server) as again:
        assert again == url
        assert await keys(store) == []


async def test_after_a_change_of_the_schema_the_next_test_gets_a_new_application(
    shared_apps: SharedApps, app: SharedApp, key: str
) -> None:
    async with connected(str(app.settings.database_url)) as connection:
        await connection.execute("alter table items rename to gone")
    shared_apps.restore()
    renewed = shared_apps.get()
    assert renewed is not app
    assert (await renewed.client(key).get("/items")).status_code == 200


@pytest.mark.usefixtures("own_app")
async def test_a_test_that_sees_more_has_its_own_application(shared: SharedApp | None) -> None:
    assert shared is None
