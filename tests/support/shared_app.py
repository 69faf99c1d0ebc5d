"""One application with its database, for all tests of a pytest worker.

For a test with an application of its own, the database, connections and Litestar take ten times as long as
its requests. Most tests change only rows and blobs. Both are restored after each, as soon as the application
is idle. After a test that changes more, such as the schema, the next one gets a new application. What the
application keeps in memory belongs to ids and keys, which are new in each test.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from litestar import Litestar
from litestar.testing import AsyncTestClient

from service.app import components_of, create_app
from service.auth.store import create_key
from service.database.servers import Connection
from service.settings import Settings
from tests.support.app_helpers import eventually

if TYPE_CHECKING:
    from service.testing import DatabaseFactory

READ_TABLES = """
select oid::regclass::text from pg_class
where relkind = 'r' and relnamespace::regnamespace::text in ('public', 'queue')"""


CATALOGS = ("pg_class", "pg_attribute", "pg_constraint", "pg_trigger", "pg_proc", "pg_type", "pg_namespace")
NEWEST_ROWS = ", ".join(
    f"(select (count(*), age('3'::xid) - min(age(xmin))) from {name})" for name in CATALOGS
)
READ_SCHEMA = f"""
select concat(
    {NEWEST_ROWS},
    (select count(*) from pg_statistic),
    (select count(*) from pg_db_role_setting where setdatabase = pg_database.oid)
)
from pg_database where datname = current_database()"""
"""What changes with the schema, the settings of the database, and the statistics of the planner."""
CONNECTION_ERRORS = (OSError, asyncpg.InterfaceError, asyncpg.PostgresError)
"""Errors of a connection that a test has closed."""


@contextmanager
def shared_app(settings: Settings) -> Iterator["SharedApp"]:
    """Run the application until the block ends, in a thread and an event loop of its own."""
    with start_blocking_portal() as portal:
        app = SharedApp(create_app(settings), settings, portal)
        with portal.wrap_async_context_manager(app.open()):
            yield app


class SharedApps:
    """The applications of a worker, by their settings."""

    def __init__(self, databases: "DatabaseFactory", template: str, homes: Callable[[], Path]) -> None:
        self._databases = databases
        self._template = template
        self._homes = homes
        self._apps: dict[str, tuple[SharedApp, ExitStack]] = {}

    def get(self, **changes: Any) -> "SharedApp":
        """Return the application with these settings other than the defaults."""
        if (key := repr(changes)) not in self._apps:
            with ExitStack() as stack:
                name = self._databases.acquire(self._template)
                stack.callback(self._databases.drop, name)
                settings = Settings(database_url=self._databases.url(name), home=self._homes(), **changes)
                self._apps[key] = stack.enter_context(shared_app(settings)), stack.pop_all()
        return self._apps[key][0]

    def restore(self, **changes: Any) -> None:
        """Let the next test with these settings find the application as new."""
        app, stack = self._apps[repr(changes)]
        if not app.restore():
            del self._apps[repr(changes)]
            stack.close()

    def close(self) -> None:
        for _, stack in self._apps.values():
            stack.close()


class SharedApp:
    def __init__(self, app: Litestar, settings: Settings, portal: BlockingPortal) -> None:
        self.settings = settings
        self._app = app
        self._database = components_of(app).database
        self._portal = portal

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with self._app.lifespan():
            self._connection = await asyncpg.connect(self.settings.database_url)
            try:
                await create_restoring_function(self._connection)
                self._schema = await self._connection.fetchval(READ_SCHEMA)
                self._lasting_tasks = asyncio.all_tasks()
                yield
            finally:
                await self._connection.close()

    def client(self, key: str) -> AsyncTestClient[Litestar]:
        """Return a client that sends one request after the other."""
        client = AsyncTestClient(self._app)
        client.blocking_portal = self._portal
        client.headers["Authorization"] = f"Bearer {key}"
        return client

    def concurrent_client(self, key: str) -> httpx.AsyncClient:
        """Return a client whose requests overlap."""
        return httpx.AsyncClient(
            transport=PortalTransport(self._app, self._portal),
            base_url="http://depot",
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )

    async def create_key(self, *scopes: str) -> str:
        async def create() -> str:
            async with self._database.orm_session() as session:
                return await create_key(session, name="test", scopes=list(scopes))

        return self._portal.call(create)

    def restore(self) -> bool:
        """Restore the rows and the blobs once the application is idle. Return False if more was changed."""
        return self._portal.call(self._restore)

    async def _restore(self) -> bool:
        await eventually(self._is_idle)
        try:
            if await self._connection.fetchval(READ_SCHEMA) != self._schema:
                return False
            await self._connection.execute("select pg_temp.restore_rows()")
        except CONNECTION_ERRORS:
            return False
        for path in self.settings.home.iterdir():
            shutil.rmtree(path)
        return True

    async def _is_idle(self) -> bool:
        tasks = asyncio.all_tasks() - self._lasting_tasks - {asyncio.current_task()}
        return not tasks and not self._database.pool.in_use


class PortalTransport(httpx.AsyncBaseTransport):
    """Passes requests to the event loop of the application."""

    def __init__(self, app: Litestar, portal: BlockingPortal) -> None:
        self._transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # Litestar types scopes more narrowly
        self._portal = portal

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        handling = self._portal.start_task_soon(self._transport.handle_async_request, request)
        return await asyncio.wrap_future(handling)


async def create_restoring_function(connection: Connection) -> None:
    """Create a function that restores all rows as they are now."""
    statements = []
    for number, (table,) in enumerate(await connection.fetch(READ_TABLES)):
        statements.append(f"delete from {table};")
        if await connection.fetchval(f"select exists (select from {table})"):
            await connection.execute(f"create temporary table original_{number} as table {table}")
            statements.append(f"insert into {table} table original_{number};")
    await connection.execute(
        f"""create function pg_temp.restore_rows() returns void language plpgsql
        set session_replication_role = replica as $$ begin {" ".join(statements)} end $$"""
    )
