"""A busy key costs no query, a revoked or expired one is refused within a second, a bad one no memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from time import monotonic

import httpx
import pytest
from msgspec.structs import replace

from conftest import Client
from service.auth.authenticator import KeyAuthenticator
from service.auth.keys import key_id, mint
from service.auth.store import create_key, revoke_key
from service.database.database import Database
from service.errors import Overloaded, Unauthenticated
from service.settings import Settings
from tests.support.app_helpers import pooled_connection
from tests.support.depot_process import depot_serve
from tests.support.reply_assertions import assert_refused

Mint = Callable[..., Awaitable[str]]
WITHIN_SECONDS = 1.0


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[Database]:
    """A database of a single connection, so that its queries can be watched."""
    async with Database(replace(settings, pool_size=1)).open() as database:
        yield database


async def test_a_busy_key_costs_one_query_in_its_first_moments(narrow: Database, key: str) -> None:
    authenticator = KeyAuthenticator(narrow, secret=None, cache_max=10)
    await authenticator.authenticate(f"Bearer {key}")
    queries: list[str] = []
    async with pooled_connection(narrow) as connection:
        connection.add_query_logger(lambda record: queries.append(record.query))
    started = monotonic()
    while monotonic() - started < 0.2:
        assert (await authenticator.authenticate(f"Bearer {key}")).has_scope("items:read")
        await asyncio.sleep(0)
    assert queries == []
    while not queries:  # it is looked up again, beside the requests that use it
        await authenticator.authenticate(f"Bearer {key}")
        await asyncio.sleep(0)
    assert len(queries) == 1
    assert monotonic() - started < WITHIN_SECONDS


async def test_many_requests_with_a_new_key_share_one_query(narrow: Database, key: str) -> None:
    authenticator = KeyAuthenticator(narrow, secret=None, cache_max=10)
    queries: list[str] = []
    async with pooled_connection(narrow) as connection:
        connection.add_query_logger(lambda record: queries.append(record.query))
    await asyncio.gather(*(authenticator.authenticate(f"Bearer {key}") for _ in range(50)))
    assert len([query for query in queries if "api_keys" in query]) == 1


async def test_lookups_of_unknown_keys_leave_connections_to_other_work(database: Database) -> None:
    authenticator = KeyAuthenticator(database, secret=None, cache_max=10, unknown_lookups_max=2)
    lookups = [asyncio.create_task(authenticator.authenticate(f"Bearer {mint()}")) for _ in range(100)]
    used: set[int] = set()
    while not all(lookup.done() for lookup in lookups):
        used.add(max(database.pool.in_use, database.pool.waiters))
        await asyncio.sleep(0)
    assert max(used) == 2
    assert {type(lookup.exception()) for lookup in lookups} <= {Unauthenticated, Overloaded}


async def test_many_bad_keys_take_no_room(database: Database) -> None:
    authenticator = KeyAuthenticator(database, secret=None, cache_max=10)
    for key in [mint() for _ in range(200)] + [f"nonsense {number}" for number in range(200)]:
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(f"Bearer {key}")
    assert not authenticator._cache
    assert not authenticator._lookups


async def test_many_good_keys_take_bounded_room_and_all_work(database: Database, make_key: Mint) -> None:
    authenticator = KeyAuthenticator(database, secret=None, cache_max=3)
    keys = [await make_key("items:read") for _ in range(8)]
    for key in keys * 2:
        assert (await authenticator.authenticate(f"Bearer {key}")).id == key_id(key)
        assert len(authenticator._cache) <= 3


async def test_keys_hashed_with_another_secret_are_refused(database: Database, key: str) -> None:
    authenticator = KeyAuthenticator(database, secret="another secret, of 32 characters", cache_max=3)
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(f"Bearer {key}")


async def test_keys_hashed_with_the_previous_secret_are_accepted_while_it_is_set(database: Database) -> None:
    former, current = "the former secret, of 32 characters", "the current secret, of 32 characters"
    async with database.orm_session() as session:
        old = await create_key(session, name="old", scopes=["admin"], secret=former)
        new = await create_key(session, name="new", scopes=["admin"], secret=current)
    changing = KeyAuthenticator(database, secret=current, previous_secret=former, cache_max=3)
    for key in (old, new):
        assert (await changing.authenticate(f"Bearer {key}")).id == key_id(key)
    changed = KeyAuthenticator(database, secret=current, cache_max=3)
    assert (await changed.authenticate(f"Bearer {new}")).id == key_id(new)
    with pytest.raises(Unauthenticated):
        await changed.authenticate(f"Bearer {old}")


async def test_an_expired_key_is_refused(client: Client, database: Database) -> None:
    async with database.orm_session() as session:
        key = await create_key(session, name="old", scopes=["admin"], expires_in=timedelta(seconds=-1))
    error = assert_refused(await get_items(client, key), 401, "UNAUTHENTICATED")
    assert error["message"] == "The API key has expired"


async def test_a_key_expires_in_the_midst_of_its_use(client: Client, database: Database) -> None:
    async with database.orm_session() as session:
        key = await create_key(session, name="short", scopes=["admin"], expires_in=timedelta(seconds=1))
    assert (await get_items(client, key)).status_code == 200
    assert_refused(await refusal(client, key), 401, "UNAUTHENTICATED")


async def test_a_revoked_key_is_refused_everywhere_within_a_second(
    database_url: str, database: Database, make_key: Mint, tmp_path: Path
) -> None:
    key = await make_key("admin")
    with (
        depot_serve(database_url, tmp_path / "one") as one,
        depot_serve(database_url, tmp_path / "two") as two,
    ):
        async with one.client(key) as first, two.client(key) as second:
            for _ in range(20):
                assert (await get_items(first, key)).status_code == 200
                assert (await get_items(second, key)).status_code == 200
            async with database.orm_session() as session:
                assert await revoke_key(session, str(key_id(key)))
            assert_refused(await refusal(first, key), 401, "UNAUTHENTICATED")
            assert_refused(await refusal(second, key), 401, "UNAUTHENTICATED")


async def test_a_revoked_key_that_was_not_used_for_a_second_is_rejected_immediately(
    database: Database, key: str
) -> None:
    authenticator = KeyAuthenticator(database, secret=None, cache_max=3)
    await authenticator.authenticate(f"Bearer {key}")
    async with database.orm_session() as session:
        assert await revoke_key(session, str(key_id(key)))
    await asyncio.sleep(WITHIN_SECONDS)
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(f"Bearer {key}")


async def get_items(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.get("/items", headers={"Authorization": f"Bearer {key}"})


async def refusal(client: httpx.AsyncClient, key: str) -> httpx.Response:
    """The first reply that is not a success; it has to come within the second."""
    deadline = monotonic() + WITHIN_SECONDS
    while (reply := await get_items(client, key)).status_code == 200:
        assert monotonic() < deadline
    return reply
