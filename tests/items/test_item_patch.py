"""PATCH changes the fields that are sent, and nothing else."""

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Client
from service.database.database import Database
from service.values import encode_json
from tests.support.reply_assertions import JSON, MERGE_PATCH, assert_refused, wrong_fields

FULL = {
    "sku": "BOLT",
    "name": "Bolt",
    "description": "Steel",
    "price": "9.99",
    "currency": "EUR",
    "quantity": 5,
    "attributes": {"size": "M8", "finish": {"zinc": True, "colour": "blue"}},
}
NULLABLE = {"description", "attributes"}


@pytest.fixture
async def item(client: Client) -> str:
    location: str = (await client.post("/items", json=FULL)).headers["Location"]
    return location


async def test_an_omitted_field_keeps_its_value(client: Client, item: str) -> None:
    before = (await client.get(item)).json()
    reply = await client.patch(item, json={"name": "Nut"})
    after = reply.json()
    assert after == {**before, "name": "Nut", "version": 2, "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert reply.headers["ETag"] == '"2"'
    assert (await client.get(item)).json() == after


async def test_null_clears_a_nullable_field(client: Client, item: str) -> None:
    after = (await client.patch(item, json={"description": None, "attributes": None})).json()
    assert (after["description"], after["attributes"], after["name"]) == (None, None, "Bolt")


async def test_null_is_rejected_for_a_required_field(client: Client, item: str) -> None:
    reply = await client.patch(item, json=dict.fromkeys(FULL))
    assert wrong_fields(reply) == {f"/{name}" for name in FULL.keys() - NULLABLE}
    assert (await client.get(item)).json()["version"] == 1


async def test_an_empty_patch_is_rejected(client: Client, item: str) -> None:
    error = assert_refused(await client.patch(item, json={}), 400, "NO_FIELDS")
    assert error["message"] == "No fields provided for update"


async def test_fields_of_the_service_cannot_be_patched(client: Client, item: str) -> None:
    body = {"id": "x", "version": 7, "created_at": None, "name": "Nut"}
    assert wrong_fields(await client.patch(item, json=body)) == {"/id", "/version", "/created_at"}
    assert (await client.get(item)).json()["name"] == "Bolt"


async def test_a_change_of_attributes_between_values_that_compare_as_equal_is_stored_and_recorded(
    client: Client, database: Database, item: str
) -> None:
    old, new = b'{"size":1.5}', b'{"size":1.50}'
    for attributes in (old, new):
        await client.patch(item, content=b'{"attributes": ' + attributes + b"}", headers=JSON)
    assert b'"attributes":' + new in (await client.get(item)).content
    changes = await database.fetchval(
        "select payload->'changes' from events where type = 'item.updated' order by id desc limit 1"
    )
    assert encode_json(changes["attributes"]["from"]) == old
    assert encode_json(changes["attributes"]["to"]) == new


async def test_a_json_patch_replaces_attributes(client: Client, item: str) -> None:
    sent = {"finish": {"zinc": None}}
    assert (await client.patch(item, json={"attributes": sent}, headers=JSON)).json()["attributes"] == sent


async def test_a_merge_patch_merges_attributes(client: Client, item: str) -> None:
    sent = {"finish": {"zinc": None, "matt": True}, "length": 40}
    after = (await client.patch(item, json={"attributes": sent, "name": "Nut"}, headers=MERGE_PATCH)).json()
    assert after["name"] == "Nut"
    assert after["attributes"] == {"size": "M8", "finish": {"colour": "blue", "matt": True}, "length": 40}


async def test_a_merge_into_null_removes_nested_nulls(client: Client, item: str) -> None:
    await client.patch(item, json={"attributes": None}, headers=MERGE_PATCH)
    after = await client.patch(item, json={"attributes": {"a": {"b": None}}}, headers=MERGE_PATCH)
    assert after.json()["attributes"] == {"a": {}}


async def test_a_new_quantity_is_recorded_as_a_movement(client: Client, item: str) -> None:
    for quantity in (8, 8, 0):
        await client.patch(item, json={"quantity": quantity})
    await client.patch(item, json={"name": "Nut"})
    movements = (await client.get(f"{item}/movements")).json()["data"]
    assert [(m["cause"], m["delta"], m["resulting_quantity"], m["version"]) for m in movements] == [
        ("set", -8, 0, 4),
        ("set", 3, 8, 2),
        ("set", 5, 5, 1),
    ]


async def test_concurrent_patches_of_different_fields_all_survive(
    concurrent_client: httpx.AsyncClient, item: str
) -> None:
    for turn in range(10):
        fields: dict[str, Any] = {
            "name": f"Bolt {turn}",
            "description": f"Steel {turn}",
            "price": f"{turn}.50",
            "quantity": turn,
            "sku": f"BOLT-{turn}",
            "attributes": {"turn": turn},
        }
        await asyncio.gather(*(concurrent_client.patch(item, json={name: fields[name]}) for name in fields))
        after = (await concurrent_client.get(item)).json()
        assert {name: after[name] for name in fields} == fields
        assert after["version"] == 1 + (turn + 1) * len(fields)


async def test_concurrent_merges_of_different_attributes_all_survive(
    concurrent_client: httpx.AsyncClient, item: str
) -> None:
    patches = [{"attributes": {f"a{number}": number}} for number in range(30)]
    await asyncio.gather(
        *(concurrent_client.patch(item, json=patch, headers=MERGE_PATCH) for patch in patches)
    )
    attributes = (await concurrent_client.get(item)).json()["attributes"]
    assert attributes == {**FULL["attributes"], **{f"a{number}": number for number in range(30)}}  # type: ignore[dict-item]


async def test_one_of_several_concurrent_conditional_patches_succeeds(
    concurrent_client: httpx.AsyncClient, item: str
) -> None:
    replies = await asyncio.gather(
        *(
            concurrent_client.patch(item, json={"name": str(n)}, headers={"If-Match": '"1"'})
            for n in range(10)
        )
    )
    assert sorted(reply.status_code for reply in replies) == [200] + [412] * 9
    (winner,) = (reply.json() for reply in replies if reply.status_code == 200)
    assert (await concurrent_client.get(item)).json() == winner


VALUES = {
    "sku": ["BOLT", "NUT"],
    "name": ["Nut", "×"],
    "description": ["", "Brass"],
    "price": ["0", "1.5", "9999999999.99"],
    "currency": ["USD"],
    "quantity": [0, 5, 2_147_483_647],
    "attributes": [{}, {"a": [1, {"b": None}]}],
}
PATCHES = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from([*values, None]) for name, values in VALUES.items()}
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patch=PATCHES)
async def test_a_patch_changes_exactly_what_was_sent_or_nothing(
    client: Client, patch: dict[str, Any]
) -> None:
    created = await client.post("/items", json=FULL)
    path, before = created.headers["Location"], created.json()
    reply = await client.patch(path, json=patch)
    after = (await client.get(path)).json()
    await client.delete(path)
    if not patch:
        assert_refused(reply, 400, "NO_FIELDS")
        assert after == before
    elif nulls := {name for name in patch if patch[name] is None} - NULLABLE:
        assert wrong_fields(reply) == {f"/{name}" for name in nulls}
        assert after == before
    else:
        assert reply.json() == after
        changed = {**before, **patch, "version": 2, "updated_at": after["updated_at"]}
        assert after == {**changed, "price": f"{float(changed['price']):.2f}"}
