"""Databases of tests that are emptied and used again, which takes a third of the time of a new one."""

from collections import defaultdict
from typing import Any, NamedTuple

import asyncpg

from service.database.servers import Connection
from service.testing import DatabaseFactory
from tests.support.shared_app import CONNECTION_ERRORS, READ_SCHEMA, READ_TABLES

READ_SIZE = f"select sum(pg_total_relation_size(table_name)) from ({READ_TABLES}) as tables (table_name)"
SIZE_MAX_BYTES = 8 << 20
"""Beyond this, deleted rows would slow down the next tests."""

END_SESSIONS = """
select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()"""

READ_INSERT = """
select format(
    'insert into %s select * from jsonb_populate_recordset(null::%1$s, %L);', $1::text, jsonb_agg(row))
from {} as row having count(*) > 0"""

READ_SEQUENCES = """
select format('select setval(%L, %s, %L);', schemaname || '.' || sequencename,
    coalesce(last_value, start_value), last_value is not null)
from pg_sequences"""


class Contents(NamedTuple):
    schema: str
    restore: str
    """Statements that restore all rows and sequences."""


class RecyclingFactory(DatabaseFactory):
    """Drops a database only if more than its rows was changed."""

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url)
        self._templates: dict[str, str] = {}
        self._contents: dict[str, Contents] = {}
        self._restored: defaultdict[str, list[str]] = defaultdict(list)
        self._connections: dict[str, Connection] = {}
        """They stay open: to open one takes longer than to restore the rows."""

    def close(self) -> None:
        self._raise_failures()
        self._contents.clear()
        for names in self._restored.values():
            for name in names:
                self.drop(name)
        super().close()

    def _clone(self, template: str) -> str:
        if self._restored[template]:
            return self._restored[template].pop()
        name = super()._clone(template)
        self._templates[name] = template
        if template not in self._contents:
            self._contents[template] = self._runner.run(read_contents(self.url(name)))
        return name

    def _drop(self, name: str) -> None:
        template = self._templates[name]
        contents = self._contents.get(template)
        if contents and self._runner.run(self._restore(name, contents)):
            self._restored[template].append(name)
            return
        if connection := self._connections.pop(name, None):
            connection.terminate()
        super()._drop(name)

    async def _restore(self, name: str, contents: Contents) -> bool:
        """Restore all rows. Return False if the database needs more than that."""
        try:
            if name not in self._connections:
                self._connections[name] = await asyncpg.connect(self.url(name))
            connection = self._connections[name]
            await connection.fetchval(END_SESSIONS)
            if await connection.fetchval(READ_SCHEMA) != contents.schema:
                return False
            if await connection.fetchval(READ_SIZE) > SIZE_MAX_BYTES:
                return False
            await connection.execute(contents.restore)
        except CONNECTION_ERRORS:
            return False
        return True


async def read_contents(url: str) -> Contents:
    connection = await asyncpg.connect(url)
    try:
        tables = [table for (table,) in await connection.fetch(READ_TABLES)]
        statements = ["set session_replication_role = replica;"]
        statements += [f"delete from {table};" for table in tables]
        for table in tables:
            statements += await column(connection, READ_INSERT.format(table), table)
        statements += await column(connection, READ_SEQUENCES)
        return Contents(await connection.fetchval(READ_SCHEMA), "".join(statements))
    finally:
        await connection.close()


async def column(connection: Connection, statement: str, *arguments: Any) -> list[str]:
    return [value for (value,) in await connection.fetch(statement, *arguments)]
