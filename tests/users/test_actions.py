"""Users' actions: stored before the reply, listed newest first, and events for subscribed webhooks."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from conftest import Client
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import connected, running
from tests.support.reply_assertions import all_rows, assert_refused, wrong_fields

ANN = "/users/ann@example.org/actions"
LOGIN = {"action": "login", "metadata": {"ip": "192.0.2.7", "score": 1.10}}


async def test_an_action_is_completed_and_listed(client: Client) -> None:
    done = await client.post(ANN, json=LOGIN)
    assert done.status_code == 201
    assert done.json().keys() == {"status", "id"}
    assert done.json()["status"] == "action_completed"
    (listed,) = (await client.get(ANN)).json()["data"]
    assert listed["created_at"].endswith("Z")
    assert {**listed, "created_at": ""} == {
        "id": done.json()["id"], "user_id": "ann@example.org", "created_at": "", **LOGIN
    }  # fmt: skip


FIXED_CLOCK = """
create function public.uuidv7() returns uuid language sql volatile as $$
  select ('0fffffff-ffff-7000-8000-' || right(md5(random()::text), 12))::uuid $$"""


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_the_id_of_an_action_comes_from_the_clock_of_the_database(
    settings: Settings, key: str, database_url: str, headers: dict[str, str]
) -> None:
    async with connected(database_url) as connection:
        name = await connection.fetchval("select current_database()")
        await connection.execute(f"alter database {name} set search_path = public, pg_catalog")
        await connection.execute(FIXED_CLOCK.replace("create", "create or replace"))
    async with running(settings, key) as client:
        recorded = (await client.post(ANN, json=LOGIN, headers=headers)).json()
        (listed,) = (await client.get(ANN)).json()["data"]
    assert recorded["id"].startswith("0fffffff")
    assert listed["id"] == recorded["id"]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_location_is_the_url_of_the_action(client: Client, headers: dict[str, str]) -> None:
    recorded = await client.post(ANN, json=LOGIN, headers=headers)
    assert recorded.headers["Location"] == f"{ANN}/{recorded.json()['id']}"
    if headers:
        repeated = await client.post(ANN, json=LOGIN, headers=headers)
        assert repeated.headers["Location"] == recorded.headers["Location"]
    found = await client.get(recorded.headers["Location"])
    (listed,) = (await client.get(ANN)).json()["data"]
    assert found.json() == listed
    unchanged = await client.get(found.request.url.path, headers={"If-None-Match": found.headers["ETag"]})
    assert unchanged.status_code == 304


async def test_an_action_belongs_to_one_user(client: Client) -> None:
    recorded = (await client.post(ANN, json=LOGIN)).json()
    assert_refused(await client.get(f"/users/bob/actions/{recorded['id']}"), 404, "NOT_FOUND")
    (created,) = (await client.get("/audit", params={"entity": "key"})).json()["data"]
    assert_refused(
        await client.get(f"/users/{created['entity_id']}/actions/{created['id']}"), 404, "NOT_FOUND"
    )


async def test_metadata_keeps_its_digits_and_may_be_left_out(client: Client) -> None:
    await client.post(ANN, content=b'{"action":"pay","metadata":{"amount":1.10}}', headers=JSON)
    await client.post(ANN, json={"action": "logout"})
    logout, pay = (await client.get(ANN)).json()["data"]
    assert logout["metadata"] is None
    assert b'"amount":1.10' in (await client.get(ANN)).content
    assert pay["action"] == "pay"


JSON = {"Content-Type": "application/json"}


async def test_each_user_has_a_list_of_their_own_newest_first(client: Client) -> None:
    for number in range(5):
        await client.post(ANN, json={"action": f"step-{number}"})
        await client.post("/users/bob/actions", json={"action": "other"})
    listed = await all_rows(client, ANN, limit=2)
    assert [action["action"] for action in listed] == [f"step-{number}" for number in (4, 3, 2, 1, 0)]


async def test_the_list_of_an_unknown_user_is_empty(client: Client) -> None:
    assert (await client.get("/users/nobody/actions")).json() == {"data": [], "next_cursor": None}


async def test_an_event_of_an_item_with_the_same_id_is_not_an_action(client: Client) -> None:
    item = (await client.post("/items", json={"sku": "A", "name": "A", "price": "1"})).json()
    assert (await client.get(f"/users/{item['id']}/actions")).json()["data"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "/action"),
        ({"action": ""}, "/action"),
        ({"action": "a" * 101}, "/action"),
        ({"action": None}, "/action"),
        ({"action": 5}, "/action"),
        ({"action": "a\0b"}, "/action"),
        ({"action": "a", "metadata": []}, "/metadata"),
        ({"action": "a", "metadata": "text"}, "/metadata"),
        ({"action": "a", "metadata": {"k": "x" * 20_000}}, "/metadata"),
        ({"action": "a", "other": 1}, "/other"),
    ],
)
async def test_every_wrong_field_of_an_action_is_reported(client: Client, body: Any, field: str) -> None:
    assert wrong_fields(await client.post(ANN, json=body)) == {field}
    assert (await client.get(ANN)).json()["data"] == []


@pytest.mark.parametrize("user", ["a b", "a%2Fb", "ü", "a" * 129, "a%00"])
async def test_a_malformed_user_id_is_rejected(client: Client, user: str) -> None:
    for reply in (
        await client.post(f"/users/{user}/actions", json=LOGIN),
        await client.get(f"/users/{user}/actions"),
    ):
        assert reply.status_code in {404, 422}, reply.text
        assert_refused(reply, reply.status_code, reply.headers["X-Error-Code"])


async def test_an_action_is_an_event_with_its_id_and_its_author(client: Client, database: Database) -> None:
    reply = await client.post(ANN, json=LOGIN, headers={"X-Request-ID": "r-1"})
    event = await database.fetchrow("select * from events where type = 'user.action'")
    assert event is not None
    assert event["id"] == UUID(reply.json()["id"])
    assert (event["subject"], event["request_id"]) == ("ann@example.org", "r-1")
    assert event["payload"]["action"] == "login"


async def test_a_repeated_action_happens_once(client: Client) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await client.post(ANN, json=LOGIN, headers=key)
    again = await client.post(ANN, json=LOGIN, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len((await client.get(ANN)).json()["data"]) == 1
    assert_refused(await client.post(ANN, json={"action": "x"}, headers=key), 422, "IDEMPOTENCY_MISMATCH")
    assert (await client.post("/users/bob/actions", json=LOGIN, headers=key)).status_code == 201


async def test_concurrent_repetitions_of_an_action_at_two_replicas_store_it_once(
    settings: Settings, key: str
) -> None:
    async with running(settings, key) as one, running(settings, key) as other:

        async def act(client: httpx.AsyncClient) -> httpx.Response:
            return await client.post(ANN, json=LOGIN, headers={"Idempotency-Key": "k-1"})

        replies = await asyncio.gather(*[act(client) for client in (one, other) * 10])
        done = {reply.content for reply in replies if reply.status_code == 201}
        assert {reply.status_code for reply in replies} <= {201, 409}
        assert len(done) == 1
        assert len((await one.get(ANN)).json()["data"]) == 1
