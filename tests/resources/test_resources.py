"""Resources over HTTP: simple records under client-chosen ids."""

import asyncio
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from conftest import Client
from service.database.database import Database
from service.settings import Settings
from service.values import encode_json
from tests.support.app_helpers import connected, running
from tests.support.reply_assertions import JSON, MERGE_PATCH, all_rows, assert_refused, wrong_fields

PATH = "/resources/printer-3"
FULL: dict[str, Any] = {"status": "on", "metadata": {"room": "12", "ink": {"black": 80, "blue": 20}}}


async def put(client: httpx.AsyncClient, path: str = PATH, **fields: Any) -> dict[str, Any]:
    resource: dict[str, Any] = (await client.put(path, json={**FULL, **fields})).raise_for_status().json()
    return resource


async def test_a_resource_is_created_under_its_id_and_then_replaced(client: Client) -> None:
    created = await client.put(PATH, json=FULL)
    assert (created.status_code, created.headers["Location"], created.headers["ETag"]) == (201, PATH, '"1"')
    replaced = await client.put(PATH, json={"status": "off"})
    assert (replaced.status_code, replaced.headers["ETag"]) == (200, '"2"')
    assert "Location" not in replaced.headers
    assert (await client.get(PATH)).json() == replaced.json()
    assert replaced.json() == {
        "id": "printer-3",
        "status": "off",
        "metadata": None,  # replaced as a whole: a field that is not sent has its default
        "version": 2,
        "created_at": created.json()["created_at"],
        "updated_at": replaced.json()["updated_at"],
    }


async def test_metadata_keeps_every_digit(client: Client) -> None:
    metadata = b'{"a":1.10,"b":12345678901234567.89,"c":123456789012345678901234567890}'
    body = b'{"status": "on", "metadata": ' + metadata + b"}"
    await client.put(PATH, content=body, headers={"Content-Type": "application/json"})
    assert b'"metadata":' + metadata in (await client.get(PATH)).content


OLD = b'{"on":0,"list":[0],"size":1.5,"level":1}'  # in the order that PostgreSQL returns
NEW = b'{"on":false,"list":[false],"size":1.50,"level":true}'


@pytest.mark.parametrize(("method", "headers"), [("PUT", JSON), ("PATCH", JSON), ("PATCH", MERGE_PATCH)])
async def test_a_change_between_values_that_python_finds_equal_is_stored_and_recorded(
    client: Client, database: Database, method: str, headers: dict[str, str]
) -> None:
    await client.put(PATH, content=b'{"status": "on", "metadata": ' + OLD + b"}", headers=JSON)
    body = b'{"status": "on", "metadata": ' + NEW + b"}"
    reply = await client.request(method, PATH, content=body, headers=headers)
    assert b'"metadata":' + NEW in reply.content
    assert b'"metadata":' + NEW in (await client.get(PATH)).content
    payload = await database.fetchval("select payload from events where type = 'resource.updated'")
    assert payload["changes"].keys() == {"metadata"}
    assert encode_json(payload["changes"]["metadata"]["to"]) == NEW


async def test_every_wrong_field_is_listed(client: Client) -> None:
    reply = await client.put(PATH, json={"status": "", "metadata": [], "id": "x"})
    assert wrong_fields(reply) == {"/status", "/metadata", "/id"}
    assert wrong_fields(await client.put(PATH, json={})) == {"/status"}
    assert wrong_fields(await client.put(PATH, json={"status": "x" * 65})) == {"/status"}


async def test_a_put_can_require_that_the_id_is_new(client: Client) -> None:
    must_not_exist = {"If-None-Match": "*"}
    assert (await client.put(PATH, json=FULL, headers=must_not_exist)).status_code == 201
    reply = await client.put(PATH, json=FULL, headers=must_not_exist)
    assert_refused(reply, 412, "PRECONDITION_FAILED")
    assert reply.headers["ETag"] == '"1"'


@pytest.mark.parametrize("tag", ["*", '"1"'])
async def test_a_put_can_require_that_the_id_exists(client: Client, tag: str) -> None:
    assert_refused(await client.put(PATH, json=FULL, headers={"If-Match": tag}), 412, "PRECONDITION_FAILED")
    await put(client)
    assert (await client.put(PATH, json=FULL, headers={"If-Match": tag})).status_code == 200


async def test_a_put_over_a_newer_version_is_rejected(client: Client) -> None:
    await put(client)
    await put(client)
    reply = await client.put(PATH, json={"status": "off"}, headers={"If-Match": '"1"'})
    assert_refused(reply, 412, "PRECONDITION_FAILED")
    assert reply.headers["ETag"] == '"2"'
    assert (await client.get(PATH)).json()["status"] == "on"


async def test_a_patch_returns_the_updated_fields_and_the_whole_resource(client: Client) -> None:
    before = await put(client)
    reply = await client.patch(PATH, json={"status": "off"})
    after = {**before, "status": "off", "version": 2, "updated_at": reply.json()["resource"]["updated_at"]}
    assert reply.json() == {"updated": {"status": "off"}, "resource": after}
    assert (reply.status_code, reply.headers["ETag"]) == (200, '"2"')
    assert (await client.get(PATH)).json() == after


async def test_null_clears_metadata_and_nothing_else(client: Client) -> None:
    await put(client)
    reply = (await client.patch(PATH, json={"metadata": None})).json()
    assert reply["updated"] == {"metadata": None}
    assert (reply["resource"]["metadata"], reply["resource"]["status"]) == (None, "on")
    assert wrong_fields(await client.patch(PATH, json={"status": None})) == {"/status"}


async def test_an_empty_patch_is_rejected(client: Client) -> None:
    await put(client)
    assert_refused(await client.patch(PATH, json={}), 400, "NO_FIELDS")


async def test_a_json_patch_replaces_metadata(client: Client) -> None:
    await put(client)
    reply = await client.patch(PATH, json={"metadata": {"ink": {"black": None}}})
    assert reply.json()["resource"]["metadata"] == {"ink": {"black": None}}


async def test_a_merge_patch_merges_metadata(client: Client) -> None:
    await put(client)
    sent = {"metadata": {"ink": {"black": None, "red": 5}}}
    reply = (await client.patch(PATH, json=sent, headers=MERGE_PATCH)).json()
    assert reply["resource"]["metadata"] == {"room": "12", "ink": {"blue": 20, "red": 5}}
    assert reply["updated"] == {"metadata": reply["resource"]["metadata"]}


async def test_concurrent_patches_of_different_fields_both_survive(
    concurrent_client: httpx.AsyncClient,
) -> None:
    await put(concurrent_client)
    for turn in range(10):
        fields: dict[str, Any] = {"status": f"s{turn}", "metadata": {"turn": turn}}
        await asyncio.gather(
            *(concurrent_client.patch(PATH, json={name: value}) for name, value in fields.items())
        )
        after = (await concurrent_client.get(PATH)).json()
        assert {name: after[name] for name in fields} == fields


async def test_concurrent_merges_all_survive(concurrent_client: httpx.AsyncClient) -> None:
    await put(concurrent_client, metadata=None)
    patches = [{"metadata": {f"m{number}": number}} for number in range(20)]
    await asyncio.gather(
        *(concurrent_client.patch(PATH, json=patch, headers=MERGE_PATCH) for patch in patches)
    )
    after = (await concurrent_client.get(PATH)).json()
    assert after["metadata"] == {f"m{number}": number for number in range(20)}
    assert after["version"] == 21


async def test_one_of_several_concurrent_puts_of_a_new_id_creates_and_the_others_replace(
    concurrent_client: httpx.AsyncClient,
) -> None:
    replies = await asyncio.gather(
        *(concurrent_client.put(PATH, json={"status": f"s{n}"}) for n in range(20))
    )
    assert sorted(reply.status_code for reply in replies) == [200] * 19 + [201]
    assert sorted(reply.json()["version"] for reply in replies) == list(range(1, 21))


async def test_concurrent_puts_and_deletes_of_one_id_never_fail(concurrent_client: httpx.AsyncClient) -> None:
    def change(number: int) -> Any:
        return concurrent_client.delete(PATH) if number % 2 else concurrent_client.put(PATH, json=FULL)

    puts, deletes = [], []
    for _ in range(6):  # in rounds, since more at once would wait for a connection for too long
        replies = await asyncio.gather(*(change(number) for number in range(10)))
        puts += replies[::2]
        deletes += replies[1::2]
    assert {reply.status_code for reply in puts} <= {200, 201}
    assert {reply.status_code for reply in deletes} <= {204, 404}
    versions = [reply.json()["version"] for reply in puts]
    assert len(set(versions)) == len(versions)


async def test_a_deleted_resource_is_gone(client: Client) -> None:
    await put(client)
    reply = await client.delete(PATH)
    assert (reply.status_code, reply.content) == (204, b"")
    for method in ("GET", "DELETE"):
        assert_refused(await client.request(method, PATH), 404, "NOT_FOUND")


async def test_a_new_resource_under_the_id_of_a_deleted_one_has_a_newer_version(client: Client) -> None:
    await put(client)
    await client.patch(PATH, json={"status": "off"})
    for version in (3, 4):
        await client.delete(PATH)
        assert (await put(client))["version"] == version
    old = {"If-Match": '"1", "2", "3"'}
    for reply in (
        await client.patch(PATH, json={"status": "off"}, headers=old),
        await client.put(PATH, json={"status": "off"}, headers=old),
        await client.delete(PATH, headers=old),
    ):
        assert_refused(reply, 412, "PRECONDITION_FAILED")
        assert reply.headers["ETag"] == '"4"'
    assert (await client.get(PATH, headers={"If-None-Match": '"1", "2", "3"'})).status_code == 200


@pytest.mark.parametrize("dots", ["%2E", "%2E%2E", ".%2E", "%2e."])
async def test_an_id_of_dots_that_clients_remove_from_paths_is_rejected(client: Client, dots: str) -> None:
    for method in ("PUT", "GET", "PATCH", "DELETE"):
        reply = await client.request(
            method, f"/resources/{dots}", json=None if method in {"GET", "DELETE"} else FULL
        )
        assert wrong_fields(reply, "path") == {"/resource_id"}
    for reply in (
        await client.post(f"/users/{dots}/actions", json={"action": "login"}),
        await client.get(f"/users/{dots}/actions"),
    ):
        assert wrong_fields(reply, "path") == {"/user_id"}


async def test_resources_are_listed_in_the_order_of_their_ids(client: Client) -> None:
    ids = ["B", "a", "_", "9", "...", ".a", "a.", "-", "Z", "z" * 64]
    for identity in ids:
        await put(client, f"/resources/{identity}")
    rows = await all_rows(client, "/resources", limit=3)
    assert [row["id"] for row in rows] == sorted(ids)


async def test_metadata_has_a_limit_that_a_merge_cannot_exceed_either(client: Client) -> None:
    largest = {"k": "x" * (65_536 - len('{"k":""}'))}
    assert (await client.put(PATH, json={"status": "on", "metadata": largest})).status_code == 201
    for body in ({"metadata": {"k": largest["k"] + "x"}}, {"metadata": {**largest, "more": 1}}):
        assert wrong_fields(await client.patch(PATH, json=body)) == {"/metadata"}
    reply = await client.patch(PATH, content=b'{"metadata": {"more": 1}}', headers=MERGE_PATCH)
    assert wrong_fields(reply) == {"/metadata"}


async def test_a_database_that_does_not_respond_is_not_an_internal_error(
    settings: Settings, key: str, database_url: str
) -> None:
    narrow = replace(settings, records_pool_size=1, pool_wait_seconds=0.5, statement_timeout_seconds=1.0)
    async with running(narrow, key) as client, connected(database_url) as connection:
        assert (await client.put(PATH, json={"status": "on"})).status_code == 201
        async with connection.transaction():
            await connection.execute("select 1 from resources for update")
            replies = await asyncio.gather(*(client.patch(PATH, json={"status": "off"}) for _ in range(2)))
        assert {reply.headers["X-Error-Code"] for reply in replies} == {"DATABASE_UNAVAILABLE", "OVERLOADED"}
        assert {reply.status_code for reply in replies} == {503}
        await connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        assert (await client.get(PATH)).status_code == 200
