"""A database is used again for another test only if it is as new."""

from typing import TYPE_CHECKING, Any

from tests.support.app_helpers import connected
from tests.support.shared_app import READ_TABLES

if TYPE_CHECKING:
    from service.testing import DatabaseFactory

CHANGES = """
insert into events (type, subject, actor, payload) values ('user.action', 'ann', 'key', '{}');
delete from secrets; update sealing set settled_at = now();
select nextval(oid::regclass) from pg_class where relkind = 'S';"""


async def read_contents(url: str) -> dict[str, Any]:
    async with connected(url) as connection:
        tables = [table for (table,) in await connection.fetch(READ_TABLES)]
        rows = {table: await connection.fetch(f"table {table} order by 1") for table in tables}
        return rows | {"sequences": await connection.fetch("table pg_sequences order by 1, 2")}


def acquire_several(databases: "DatabaseFactory", template: str) -> list[str]:
    """Return the next databases. One is prepared before it is needed, so a released one is not the first."""
    names = [databases.acquire(template) for _ in range(3)]
    for name in names:
        databases.drop(name)
    return names


async def test_rows_and_sequences_are_restored(
    depot_databases: "DatabaseFactory", depot_template: str
) -> None:
    name = depot_databases.acquire(depot_template)
    url = depot_databases.url(name)
    before = await read_contents(url)
    async with connected(url) as connection:
        await connection.execute(CHANGES)
    assert await read_contents(url) != before
    depot_databases.drop(name)
    assert name in acquire_several(depot_databases, depot_template)
    assert await read_contents(url) == before


async def test_a_database_whose_schema_was_changed_is_not_used_again(
    depot_databases: "DatabaseFactory", depot_template: str
) -> None:
    name = depot_databases.acquire(depot_template)
    async with connected(depot_databases.url(name)) as connection:
        await connection.execute("alter table items add check (name <> 'no')")
    depot_databases.drop(name)
    assert name not in acquire_several(depot_databases, depot_template)
