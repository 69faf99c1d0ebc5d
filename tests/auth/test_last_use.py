"""The last use of a key is stored to the minute, beside the requests."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from msgspec.structs import replace
from structlog.testing import capture_logs

from service.auth.authenticator import KeyAuthenticator
from service.auth.keys import key_id
from service.auth.last_use import LastUseRecorder
from service.auth.store import list_keys
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import eventually, running

Mint = Callable[..., Awaitable[str]]
LAST_USE = "select last_used_at from api_keys where id = $1"
AGE = "update api_keys set last_used_at = now() - interval '61 seconds' where id = $1 returning last_used_at"


async def last_use(database: Database, key: str) -> Any:
    return await database.fetchval(LAST_USE, key_id(key))


async def test_a_used_key_shows_when_and_an_unused_one_does_not(
    settings: Settings, database: Database, make_key: Mint
) -> None:
    used, unused = await make_key("items:read"), await make_key("items:read")
    async with running(settings, used) as client:
        assert (await client.get("/key")).status_code == 200
        await eventually(lambda: last_use(database, used))
    async with database.orm_session() as session:
        shown = {row[0]: row[5] for row in await list_keys(session)}
    at = await last_use(database, used)
    assert shown[str(key_id(used))] == f"{at:%Y-%m-%d %H:%M}"
    assert shown[str(key_id(unused))] == "never"


async def test_it_is_written_again_only_after_a_minute(database: Database, make_key: Mint) -> None:
    key, due = await make_key("items:read"), list[str]()
    identity = str(key_id(key))

    async def look_up() -> list[str]:
        await KeyAuthenticator(database, secret=None, cache_max=1, on_use_due=due.append).authenticate(
            f"Bearer {key}"
        )
        return due

    assert await look_up() == [identity]
    recorder = LastUseRecorder(database)
    async with recorder.open():
        recorder.record(identity)
        await eventually(lambda: last_use(database, key))
        first = await last_use(database, key)
        assert await look_up() == [identity]
        sentinel = await make_key("items:read")
        for recorded in (identity, str(key_id(sentinel))):
            recorder.record(recorded)
        await eventually(lambda: last_use(database, sentinel))
        assert await last_use(database, key) == first
        aged = await database.fetchval(AGE, identity)
        assert await look_up() == [identity] * 2
        recorder.record(identity)

        async def is_written_again() -> bool:
            return bool(await last_use(database, key) > aged)

        await eventually(is_written_again)


async def test_a_refused_key_was_not_used(settings: Settings, database: Database, make_key: Mint) -> None:
    key, sentinel = await make_key("items:read"), await make_key("items:read")
    await database.fetchval("update api_keys set expires_at = now() where id = $1", key_id(key))
    async with running(settings, key) as client:
        assert (await client.get("/key")).status_code == 401
        await client.get("/key", headers={"Authorization": f"Bearer {sentinel}"})
        await eventually(lambda: last_use(database, sentinel))
    assert await last_use(database, key) is None


async def test_a_locked_row_delays_neither_requests_nor_the_use_of_other_keys(
    settings: Settings, database: Database, database_url: str, make_key: Mint
) -> None:
    locked, other = await make_key("items:read"), await make_key("items:read")
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("select from api_keys where id = $1 for update", key_id(locked))
            async with running(settings, locked) as client:
                assert (await client.get("/key")).status_code == 200
                await client.get("/key", headers={"Authorization": f"Bearer {other}"})
                await eventually(lambda: last_use(database, other), max_wait_seconds=3)
    finally:
        await holder.close()


async def test_a_failed_write_is_logged_and_later_ones_work(
    settings: Settings, database: Database, make_key: Mint
) -> None:
    key = await make_key("items:read")
    async with Database(replace(settings, statement_timeout_seconds=0.2)).open() as narrow:
        recorder = LastUseRecorder(narrow)
        async with recorder.open():
            with capture_logs() as logs:
                async with database.session() as session, session.transaction():
                    await session.execute("lock table api_keys in access exclusive mode")
                    recorder.record(str(key_id(key)))

                    async def is_logged() -> bool:
                        return [entry["event"] for entry in logs] == ["key_use_not_recorded"]

                    await eventually(is_logged)
            recorder.record(str(key_id(key)))
            await eventually(lambda: last_use(database, key))
