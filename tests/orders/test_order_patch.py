"""Only the reference and the metadata of an order can be changed."""

import asyncio
from typing import Any

import httpx
import pytest

from conftest import Client
from service.database.database import Database
from tests.support.app_helpers import item, order
from tests.support.consistency import discrepancies
from tests.support.reply_assertions import assert_refused

MERGE = {"Content-Type": "application/merge-patch+json"}
UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
async def placed(client: Client) -> dict[str, Any]:
    bolt = await item(client, 10)
    metadata = {"channel": "web", "gift": {"wrap": True, "note": "Hi"}}
    content: dict[str, Any] = (await order(client, (bolt, 4), reference="PO-1", metadata=metadata)).json()
    return content


async def test_only_the_fields_that_are_sent_change(client: Client, placed: dict[str, Any]) -> None:
    reply = await client.patch(f"/orders/{placed['id']}", json={"reference": "PO-2"})
    changed = {"reference": "PO-2", "version": 2, "updated_at": reply.json()["updated_at"]}
    assert (reply.status_code, reply.json()) == (200, {**placed, **changed})
    assert reply.json()["updated_at"] > placed["updated_at"]
    assert reply.headers["ETag"] == '"2"'
    assert (await client.get(f"/orders/{placed['id']}")).json() == reply.json()
    cleared = await client.patch(f"/orders/{placed['id']}", json={"metadata": None})
    assert (cleared.json()["reference"], cleared.json()["metadata"]) == ("PO-2", None)


async def test_null_clears_the_reference(client: Client, placed: dict[str, Any]) -> None:
    reply = await client.patch(f"/orders/{placed['id']}", json={"reference": None})
    assert (reply.json()["reference"], reply.json()["metadata"]) == (None, placed["metadata"])
    assert (await client.get("/orders?reference=PO-1")).json()["data"] == []


@pytest.mark.parametrize("headers", [{}, MERGE])
async def test_a_patch_without_fields_is_rejected(
    client: Client, placed: dict[str, Any], headers: dict[str, str]
) -> None:
    reply = await client.patch(f"/orders/{placed['id']}", json={}, headers=headers)
    assert assert_refused(reply, 400, "NO_FIELDS")["message"] == "No fields provided for update"


async def test_json_replaces_the_metadata_and_a_merge_patch_merges_it(
    client: Client, placed: dict[str, Any]
) -> None:
    path, change = f"/orders/{placed['id']}", {"metadata": {"gift": {"note": None, "paid": 1}}}
    merged = await client.patch(path, json=change, headers=MERGE)
    assert merged.json()["metadata"] == {"channel": "web", "gift": {"wrap": True, "paid": 1}}
    replaced = await client.patch(path, json={"metadata": {"a": 1}})
    assert replaced.json()["metadata"] == {"a": 1}


async def test_metadata_has_at_most_16_kib_even_after_a_merge(client: Client, placed: dict[str, Any]) -> None:
    path, half = f"/orders/{placed['id']}", "x" * 9_000
    assert (await client.patch(path, json={"metadata": {"a": half}})).status_code == 200
    for headers, metadata in ((MERGE, {"b": half}), ({}, {"a": half, "b": half})):
        refused = await client.patch(path, json={"metadata": metadata}, headers=headers)
        assert assert_refused(refused, 422, "VALIDATION_FAILED")["details"] == [
            {"field": "/metadata", "message": "must be at most 16384 bytes of JSON", "source": "body"}
        ]
    bolt = await item(client, 1)
    assert_refused(await order(client, (bolt, 1), metadata={"a": half * 2}), 422, "VALIDATION_FAILED")


@pytest.mark.parametrize("name", ["status", "customer_id", "lines", "total", "version", "cancel_reason"])
async def test_no_other_field_of_an_order_can_be_changed(
    client: Client, placed: dict[str, Any], name: str
) -> None:
    refused = await client.patch(f"/orders/{placed['id']}", json={name: placed[name], "reference": "PO-2"})
    assert assert_refused(refused, 422, "VALIDATION_FAILED")["details"][0]["field"] == f"/{name}"
    assert (await client.get(f"/orders/{placed['id']}")).json() == placed


async def test_only_the_expected_version_is_changed(client: Client, placed: dict[str, Any]) -> None:
    path, change = f"/orders/{placed['id']}", {"reference": "PO-2"}
    stale = await client.patch(path, json=change, headers={"If-Match": '"7"'})
    assert_refused(stale, 412, "PRECONDITION_FAILED")
    assert stale.headers["ETag"] == '"1"'
    assert (await client.patch(path, json=change, headers={"If-Match": '"1"'})).status_code == 200


@pytest.mark.parametrize("headers", [{}, MERGE])
async def test_an_order_must_exist(client: Client, headers: dict[str, str]) -> None:
    reply = await client.patch(f"/orders/{UNKNOWN}", json={"metadata": {"a": 1}}, headers=headers)
    assert_refused(reply, 404, "NOT_FOUND")


@pytest.mark.parametrize("step", ["cancel", "fulfil"])
async def test_an_order_that_has_ended_can_still_be_annotated(
    client: Client, placed: dict[str, Any], step: str, database_url: str
) -> None:
    ended = (await client.post(f"/orders/{placed['id']}/{step}")).json()
    reply = (await client.patch(f"/orders/{placed['id']}", json={"reference": "PO-9"})).json()
    assert reply == {**ended, "reference": "PO-9", "version": 3, "updated_at": reply["updated_at"]}
    assert await discrepancies(database_url) == []


async def test_concurrent_changes_of_different_fields_all_survive(
    concurrent_client: httpx.AsyncClient,
) -> None:
    placed = (await order(concurrent_client, (await item(concurrent_client, 1), 1))).json()
    changes = [{"metadata": {f"key-{number}": number}} for number in range(12)]
    path = f"/orders/{placed['id']}"
    await asyncio.gather(
        concurrent_client.patch(path, json={"reference": "PO-5"}),
        concurrent_client.post(f"{path}/fulfil"),
        *[concurrent_client.patch(path, json=change, headers=MERGE) for change in changes],
    )
    final = (await concurrent_client.get(path)).json()
    assert final["metadata"] == {f"key-{number}": number for number in range(12)}
    assert (final["reference"], final["status"], final["version"]) == ("PO-5", "fulfilled", 15)


async def test_a_change_is_in_the_audit_trail(
    client: Client, placed: dict[str, Any], database: Database
) -> None:
    headers = {"X-Request-ID": "r-7"}
    await client.patch(
        f"/orders/{placed['id']}", json={"reference": "PO-2", "metadata": placed["metadata"]}, headers=headers
    )
    event = await database.fetchrow("select * from events where type = 'order.updated'")
    assert event is not None
    assert (event["subject"], event["request_id"]) == (placed["id"], "r-7")
    assert event["payload"] == {
        "id": placed["id"],
        "version": 2,
        "changes": {"reference": {"from": "PO-1", "to": "PO-2"}},
    }
