"""Arrays of PostgreSQL's own types are sent without a lookup of their types."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import cast
from uuid import UUID

import pytest

from service.database.array_types import OIDS
from service.database.database import Database
from service.database.servers import Connection
from tests.support.app_helpers import pooled_connection

VALUES = {
    "bool": True,
    "bytea": b"\x00\xff",
    "int4": -1,
    "int8": 1 << 40,
    "date": date(2026, 2, 28),
    "timestamptz": datetime(2026, 2, 28, 12, tzinfo=UTC),
    "interval": timedelta(days=1, seconds=1),
    "uuid": UUID(int=7),
}


@pytest.mark.parametrize(("name", "value"), [*VALUES.items(), ("jsonb", {"a": 1})])
async def test_a_pooled_connection_sends_and_receives_an_array_in_one_statement(
    database: Database, name: str, value: object
) -> None:
    async with pooled_connection(database) as connection:
        await assert_one_statement(connection, name, value)


@pytest.mark.parametrize(("name", "value"), [*VALUES.items(), ("jsonb", '{"a": 1}')])
async def test_a_dedicated_connection_does_so_too(database: Database, name: str, value: object) -> None:
    async with database.dedicated_connection() as connection:
        await assert_one_statement(connection, name, value)


@pytest.mark.parametrize(("name", "value"), VALUES.items())
async def test_a_connection_of_the_orm_does_so_too(database: Database, name: str, value: object) -> None:
    async with database.orm_session() as session:
        connection = await (await session.connection()).get_raw_connection()
        await assert_one_statement(cast("Connection", connection.driver_connection), name, value)


async def assert_one_statement(connection: Connection, name: str, value: object) -> None:
    statements = []
    with connection.query_logger(lambda record: statements.append(record.query)):
        assert await connection.fetchval(f"select $1::{name}[]", [value, None]) == [value, None]
        await asyncio.sleep(0)  # asyncpg calls loggers in the next turn of the event loop
    assert len(statements) == 1


async def test_the_oids_are_those_of_the_server(database: Database) -> None:
    read = "select oid::int, typelem::int from pg_type where typname = '_' || $1"
    assert {name: tuple(await database.fetchrow(read, name) or ()) for name in OIDS} == OIDS
