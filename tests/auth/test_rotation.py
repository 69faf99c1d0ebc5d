"""A rotated key works until its overlap ends, and its successor has all that it had."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from conftest import Client
from service.auth.keys import key_id
from service.auth.store import create_key, revoke_key, rotate_key
from service.database.database import Database
from tests.support.app_helpers import eventually

Mint = Callable[..., Awaitable[str]]
DAY = timedelta(days=1)
EXPIRY = "select expires_at from api_keys where id = $1"


async def rotate(database: Database, key: str, overlap: timedelta = DAY) -> str:
    async with database.orm_session() as session:
        token = await rotate_key(session, str(key_id(key)), overlap=overlap)
    assert token is not None
    return token


async def read_key(client: Client, key: str) -> Any:
    return await client.get("/key", headers={"Authorization": f"Bearer {key}"})


async def test_both_keys_work_during_the_overlap_and_only_the_new_one_after_it(
    client: Client, database: Database, make_key: Mint
) -> None:
    old = await make_key("items:read")
    new = await rotate(database, old, timedelta(seconds=1))
    assert (await read_key(client, old)).status_code == 200
    assert (await read_key(client, new)).status_code == 200

    async def old_is_refused() -> bool:
        return (await read_key(client, old)).status_code == 401

    await eventually(old_is_refused)
    assert (await read_key(client, new)).status_code == 200


async def test_without_an_overlap_the_old_key_ends_immediately(
    client: Client, database: Database, make_key: Mint
) -> None:
    old = await make_key("items:read")
    await rotate(database, old, timedelta(0))
    assert (await read_key(client, old)).status_code == 401


async def test_the_new_key_has_the_name_scopes_lifetime_and_rate_limit_of_the_old_one(
    client: Client, database: Database
) -> None:
    async with database.orm_session() as session:
        old = await create_key(
            session, name="shop", scopes=["items:read"], rate_limit="9/hour", expires_in=90 * DAY
        )
    before = (await read_key(client, old)).json()
    after = (await read_key(client, await rotate(database, old))).json()
    assert after["id"] != before["id"]
    assert {**after, "id": "", "expires_at": ""} == {**before, "id": "", "expires_at": ""}
    assert after["expires_at"] > before["expires_at"]


async def test_a_key_that_expires_before_the_overlap_ends_is_not_prolonged(database: Database) -> None:
    async with database.orm_session() as session:
        old = await create_key(session, name="shop", scopes=["admin"], expires_in=DAY)
    before = await database.fetchval(EXPIRY, key_id(old))
    await rotate(database, old, 7 * DAY)
    assert await database.fetchval(EXPIRY, key_id(old)) == before


async def test_a_rotation_is_in_the_audit_trail(client: Client, database: Database, make_key: Mint) -> None:
    old = await make_key("items:read")
    new = await rotate(database, old)
    entries = (await client.get("/audit", params={"entity": f"key/{key_id(old)}"})).json()["data"]
    assert [entry["type"] for entry in entries] == ["key.rotated", "key.created"]
    assert entries[0]["data"]["replaced_by"] == key_id(new)
    assert entries[0]["changes"]["expires_at"]["from"] is None


async def test_only_a_valid_key_that_was_not_replaced_is_rotated(database: Database, make_key: Mint) -> None:
    revoked, rotated = await make_key("admin"), await make_key("admin")
    async with database.orm_session() as session:
        assert await revoke_key(session, str(key_id(revoked)))
        assert await rotate_key(session, "nobody", overlap=DAY) is None
    with pytest.raises(ValueError, match="is revoked"):
        await rotate(database, revoked)
    successor = await rotate(database, rotated)
    with pytest.raises(ValueError, match=str(key_id(successor))):
        await rotate(database, rotated)
