"""The doctor sees what it is there to see, names it, and finds nothing wrong with an honest shop."""

import os
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from msgspec.structs import replace

from conftest import AS_OWNER, Client
from service.audit.chain import seal
from service.auth.keys import key_id
from service.auth.store import create_key, rotate_key
from service.blobs import open_blob_store
from service.cli.doctor import run as doctor
from service.cli.doctor.checks import CHECKS
from service.cli.doctor.run import (
    CHAIN_CHECK,
    CHECK_NAMES,
    MISSING_BLOBS_CHECK,
    ORPHAN_BLOBS_CHECK,
    STORE_CHECK,
    Finding,
    run_checks,
)
from service.database.database import Database
from service.reports.books import close_books
from service.settings import Settings
from service.times import lowest_uuid7
from tests.support.app_helpers import connected, item, order
from tests.support.consistency import discrepancies
from tests.support.depot_command import NEW_INTERPRETER, run_depot
from tests.support.job_helpers import done, running_worker
from tests.support.ledger_samples import backdate

PNG = Path(__file__).parents[2] / "documents" / "files" / "netpbm.png"


@pytest.fixture
async def shop(client: Client, database: Database, settings: Settings) -> AsyncIterator[Settings]:
    """One of everything, some of it on days that are closed."""
    bolt, nut, gone = await item(client, 9), await item(client, 9, sku="NUT"), await item(client)
    await client.delete(f"/items/{gone['id']}")
    await client.post(f"/items/{bolt['id']}/stock", json={"delta": 5})
    for quantity in (0, 3):
        await client.patch(f"/items/{nut['id']}", json={"quantity": quantity})
    counted = {"quantity": 7, "expected": 3, "reason": "counted"}
    (await client.post(f"/items/{nut['id']}/stock", json=counted)).raise_for_status()
    for archived in ((bolt, True), (bolt, False), (await item(client), True)):
        await client.patch(f"/items/{archived[0]['id']}", json={"archived": archived[1]})
    await rotate_a_key(database)
    body = {"url": "https://example.invalid/", "events": ["order.fulfilled"]}
    webhook = (await client.post("/webhooks", json=body)).json()
    (await client.post(f"/webhooks/{webhook['id']}/test")).raise_for_status()
    for end in ("cancel", "fulfil", None):
        placed = (await order(client, (bolt, 2), (nut, 1))).json()
        if end:
            await client.post(f"/orders/{placed['id']}/{end}")
    async with running_worker(settings, database):  # which does not seal what is backdated next
        await done(client, "report.export")
    # The worker ends before it could inspect the document, which would leave a thumbnail without a row.
    (
        await client.post("/documents", files={"file": ("dot.png", PNG.read_bytes(), "image/png")})
    ).raise_for_status()
    await backdate(database, timedelta(days=3))
    await close_books(database, settings)
    await seal(database, settings)
    yield replace(settings, orphan_kept_seconds=0)


async def rotate_a_key(database: Database) -> None:
    async with database.orm_session() as session:
        token = await create_key(session, name="shop", scopes=["items:read"])
        await session.flush()
        assert await rotate_key(session, str(key_id(token)), overlap=timedelta(hours=1))


async def findings(database: Database, settings: Settings) -> list[Finding]:
    return [finding async for _, found in run_checks(database, settings) for finding in found]


async def test_an_honest_shop_has_no_findings(shop: Settings, database: Database) -> None:
    assert await findings(database, shop) == []
    assert await database.fetchval("select count(*) from daily_item_sales") == 2


DAMAGE = {
    "every item's quantity equals the sum of its movements": [
        "update items set quantity = quantity + 1",
        "delete from movements where cause = 'set' and version = 1",
    ],
    "every movement's resulting quantity equals the running sum": [
        "update movements set resulting_quantity = 99 where cause = 'order'"
    ],
    "no movement is newer than its item": ["update items set version = 1"],
    "every order's total equals the sum of its lines": [
        "update orders set total = total + 1",
        "delete from order_lines where line_no = 2",
    ],
    "the lines of every order are numbered without gaps": [
        "update order_lines set line_no = 7 where line_no = 2"
    ],
    "every order has one matching sale in the ledger": [
        "delete from transactions where kind = 'sale'",
        "update transactions set amount = amount + 1",
        "update transactions set created_at = now()",
        "update transactions set currency = 'EUR'",
    ],
    "the refunds match the cancelled orders": [
        "update orders set status = 'cancelled' where status = 'fulfilled'",
        "delete from transactions where kind = 'refund'",
        "update transactions set amount = 0.01 where kind = 'refund'",
    ],
    "the lines of every order match its stock movements": [
        "update movements set order_id = gen_random_uuid() where cause = 'order'"
    ],
    "exactly the cancelled orders were restocked": [
        "delete from movements where cause = 'cancel'",
        "update movements set cause = 'cancel' where cause = 'order'",
    ],
    "every order matches its order.placed event": [
        "delete from events where type = 'order.placed'",
        'update events set payload = payload || \'{"total": "1.00"}\'',
        "insert into events (type, subject, actor, payload) select type, subject, actor, payload from events",
    ],
    "every order's status matches its cancelled and fulfilled events": [
        "delete from events where type = 'order.cancelled'",
        "update orders set status = 'placed' where status = 'fulfilled'",
    ],
    "the end of every order has the time of its event": [
        "update orders set cancelled_at = cancelled_at + interval '1 second' where status = 'cancelled'",
        "update orders set fulfilled_at = created_at where status = 'placed'",
        "update orders set cancelled_at = fulfilled_at where status = 'fulfilled'",
    ],
    "the stock in every order's events matches its movements": [
        "update events set payload = jsonb_set(payload, '{stock,1,quantity}', '99') "
        "where type = 'order.placed'",
        "update events set payload = jsonb_set(payload, '{stock,0,version}', '99') "
        "where type = 'order.cancelled'",
    ],
    "the items match their created and deleted events": [
        "delete from events where type = 'item.created'",
        "delete from events where type = 'item.deleted'",
        "insert into items (id, sku, name, price, currency, quantity, version) "
        "values (gen_random_uuid(), 'X', 'X', 1, 'USD', 0, 1)",
    ],
    "every change of stock matches its event": [
        "delete from events where type = 'item.updated'",
        "update events set payload = jsonb_set(payload, '{changes,quantity,to}', '99') "
        "where type = 'item.updated' and payload->'changes' ? 'quantity'",
        "update movements set resulting_quantity = 99 where reason = 'counted'",
    ],
    "every item.back_in_stock event matches a rise of the stock from 0": [
        "update events set payload = payload || '{\"quantity\": 99}' where type = 'item.back_in_stock'",
        "delete from movements where cause = 'set' and delta = 3",
    ],
    "every item is archived or not as in its last event": [
        "update items set archived = not archived",
        "update items set archived = true where sku = 'NUT'",
        "delete from events where payload #>> '{changes,archived,to}' = 'true'",
        "delete from events where payload #>> '{changes,archived,to}' = 'false'",
    ],
    "the documents match their stored and deleted events": [
        "delete from events where type = 'document.stored'"
    ],
    "every finished job has an event": ["delete from events where type = 'job.finished'"],
    "every pending delivery has its event": [
        "delete from events where type = 'webhook.test'",
        "update deliveries set event_id = gen_random_uuid()",
    ],
    "every rotated key expires and has a successor with its rights": [
        "update api_keys set expires_at = null",
        "delete from api_keys where replaced_by is null",
        "update api_keys set scopes = '{admin}' where replaced_by is null",
        "update api_keys set rate_limit = '1/hour' where replaced_by is not null",
    ],
    "every key.rotated event matches its key": [
        "delete from api_keys where replaced_by is not null",
        "update api_keys set replaced_by = null",
    ],
    "the reference count of every stored content is correct": [
        "update contents set uses = 2",
        "delete from documents",
    ],
    "the activity of every session is tracked": ["set local track_activities = off"],
    "the daily rollups match the ledger": [
        "update daily_sales set refunds = refunds + 0.01",
        "delete from daily_sales",
        "insert into daily_sales values ('2020-01-01', 'USD', 1, 1, 0)",
    ],
    "the daily item rollups match the ledger": [
        "update daily_item_sales set quantity = quantity + 1",
        "delete from daily_item_sales",
        "insert into daily_item_sales values (gen_random_uuid(), 'USD', '2020-01-01', 1, 1)",
    ],
    CHAIN_CHECK: ["update events set actor = 'somebody'", "delete from seals where position = 2"],
    MISSING_BLOBS_CHECK: [
        "update contents set key = 'documents/gone'",
        "update documents set thumbnail = 'thumbnails/x'",
    ],
    ORPHAN_BLOBS_CHECK: ["delete from documents; delete from contents"],
}


def test_no_kind_is_left_out() -> None:
    assert {*DAMAGE, STORE_CHECK} == set(CHECK_NAMES)


@pytest.mark.parametrize("age", [None, timedelta(days=10)], ids=["", "after a prune"])
async def test_damage_of_rows_is_found(
    shop: Settings, database: Database, database_url: str, age: timedelta | None
) -> None:
    if age is not None:
        pruned_id = lowest_uuid7(datetime.now(UTC) - age)
        await database.fetch("update sealing set pruned_id = $1", pruned_id)
    cases = [(kind, statement) for kind in CHECKS for statement in DAMAGE[kind]]
    async with connected(database_url) as connection:
        for kind, statement in cases:
            damage = connection.transaction()
            await damage.start()
            await connection.execute(f"{AS_OWNER}; {statement}")
            assert await doctor.violations(connection, CHECKS[kind]), (kind, statement)
            await damage.rollback()


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind not in CHECKS])
async def test_damage_of_chain_and_blobs_is_found(
    kind: str, shop: Settings, database: Database, database_url: str
) -> None:
    for statement in DAMAGE[kind]:
        async with connected(database_url) as connection:
            await connection.execute(f"{AS_OWNER}; {statement}")
        assert any(finding.check == kind for finding in await findings(database, shop)), statement


async def test_a_lost_file_is_found_and_one_too_many(shop: Settings, database: Database) -> None:
    store = open_blob_store(shop)
    (key,) = [row["key"] for row in await database.fetch("select key from contents")]
    await store.delete(key)
    await store.put("documents/stray", b"x")
    found = {str(finding) for finding in await findings(database, shop)}
    sha256 = await database.fetchval("select encode(sha256, 'hex') from contents")
    assert found == {
        f"{MISSING_BLOBS_CHECK}: {key}, referenced by content {sha256}",
        f"{ORPHAN_BLOBS_CHECK}: documents/stray",
    }
    young = replace(shop, orphan_kept_seconds=3600)
    assert [finding.check for finding in await findings(database, young)] == [MISSING_BLOBS_CHECK]


async def test_a_store_that_cannot_be_read_is_a_finding(
    shop: Settings, database: Database, tmp_path: object
) -> None:
    broken = replace(shop, blob_url="file:///proc/none")
    assert [finding.check for finding in await findings(database, broken)] == [STORE_CHECK]


async def test_some_of_many_differences_are_named(
    shop: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LISTED_MAX", 1)
    await database.fetch("update items set quantity = quantity + 1")
    found = await findings(database, shop)
    assert [finding.text for finding in found][1:] == ["and more"]


async def test_the_command_names_what_differs_and_fails(shop: Settings, database: Database) -> None:
    def run(**environment: str) -> "subprocess.CompletedProcess[str]":
        environment |= {"DATABASE_URL": shop.database_url or "", "DEPOT_HOME": str(shop.home)}
        return run_depot(["doctor"], env={**os.environ, **environment})

    honest = run(**NEW_INTERPRETER)
    assert (honest.returncode, honest.stdout) == (0, ""), honest.stderr
    assert "✓ every item's quantity equals the sum of its movements" in honest.stderr
    assert honest.stderr.splitlines()[-1] == f"{len(CHECK_NAMES)} checks passed"
    bolt: UUID = await database.fetchval("update items set quantity = 77 where quantity > 7 returning id")
    found = run()
    assert found.returncode == 1
    assert found.stdout.startswith(
        f"every item's quantity equals the sum of its movements: item {bolt}, sku "
    )
    assert "quantity 77, moved " in found.stdout
    assert f"1 of {len(CHECK_NAMES)} checks failed" in found.stderr


async def test_a_lost_order_is_found(client: Client, database_url: str) -> None:
    (lost,) = await discrepancies(database_url, {"019ab000-0000-7000-8000-000000000000": "9.99"})
    assert "was acknowledged" in lost
