"""Fixtures for pytest: the real application on a real PostgreSQL, with a clean database for every test.

`pytest_plugins = ["service.testing"]` in a `conftest.py` brings the fixtures, which docs/testing.md shows.
Databases are created on the server of `TEST_DATABASE_URL`, or on an embedded one that all processes of a
run (pytest-xdist) share. Each is a clone of `TEST_DATABASE_TEMPLATE` there, or of a template that is migrated
for the run. To change a setting, override `depot_settings`. Requires the extra `testing`.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

import asyncpg
import pytest
import structlog
from msgspec.structs import replace

with warnings.catch_warnings():
    # A suite that turns warnings into errors could not import what the libraries use of each other.
    warnings.simplefilter("ignore", DeprecationWarning)
    from litestar import Litestar
    from litestar.testing import AsyncTestClient, TestClient

    from service.app import create_app
    from service.auth.store import create_key
    from service.database import migrate
    from service.database.database import Database
    from service.database.embedded import postgres
    from service.settings import Settings
    from service.testing.inbox import Inbox, open_inbox
    from service.testing.live_server import serving


FAST_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    "max_connections": "500",
    "autovacuum": "off",
    "io_method": "sync",
    "file_copy_method": "clone",
}
"""Options of a throw-away server, whose durability does not matter. A clone costs less than a copy."""

MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  # a file system in memory, where Linux has one
MEMORY_BYTES_MIN = 4 << 30
"""The least size. A server and its log take some hundred megabytes; containers often have 64."""


def pytest_configure(config: pytest.Config) -> None:
    """Set the id of the run, which pytest-xdist tells its workers, and keep tracebacks in logs short.

    A traceback with all local variables occupies the event loop for seconds.
    """
    config.addinivalue_line("filterwarnings", "ignore:The declarative_mixin decorator:DeprecationWarning")
    of_worker = getattr(config, "workerinput", {}).get("testrunuid")
    config.option.testrunuid = of_worker or getattr(config.option, "testrunuid", None) or uuid4().hex
    if not structlog.is_configured():
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Let the plugin that runs the test set up `async_depot`, too: anyio's or pytest-asyncio.

    In its strict mode pytest-asyncio sets up only fixtures that are marked as its own.
    """
    if fixturedef.argname == "async_depot":
        is_asyncio_test = request.node.get_closest_marker("asyncio") is not None
        vars(fixturedef.func)["_force_asyncio_fixture"] = is_asyncio_test
    return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the template, and the server's directory, once all workers have ended."""
    if hasattr(config, "workerinput"):
        return
    template = _template_file(config)
    name = template.read_text() if template.exists() else ""  # empty if it could not be created
    if name and (server := os.environ.get("TEST_DATABASE_URL")):
        execute(server, f"drop database {name} with (force)")
    shutil.rmtree(_shared_home(config), ignore_errors=True)


@pytest.fixture(scope="session")
def depot_scratch() -> Path:
    """Return the parent directory of throw-away servers."""
    return scratch_directory()


@pytest.fixture(scope="session")
def depot_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """Return the URL of the server that the databases are created on."""
    configured = os.environ.get("TEST_DATABASE_URL")
    server: AbstractContextManager[str] = (
        nullcontext(configured) if configured else postgres(_shared_home(pytestconfig), FAST_OPTIONS)
    )
    with server as url:
        yield url


@pytest.fixture(scope="session")
def depot_template(depot_server: str, pytestconfig: pytest.Config) -> str:
    """Return the name of a migrated database that has no connections. All processes of a run share it."""
    if configured := os.environ.get("TEST_DATABASE_TEMPLATE"):
        return configured
    run = uuid5(NAMESPACE_OID, pytestconfig.option.testrunuid)  # users may choose any text
    name = f"depot_template_{run.hex[:12]}"
    _shared_home(pytestconfig).mkdir(exist_ok=True)
    with _template_file(pytestconfig).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not file.seek(0, os.SEEK_END):
            execute(depot_server, f"create database {name}")
            migrate.upgrade(Settings(database_url=database_url_for(depot_server, name)))
            file.write(name)
    return name


class DatabaseFactory:
    """Clones and drops databases on one connection, and clones the next one while a test runs."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._thread = ThreadPoolExecutor(1)  # the connection belongs to one event loop, hence to one thread
        self._runner = asyncio.Runner()
        self._connection = self._thread.submit(self._runner.run, asyncpg.connect(server_url)).result()
        self._ready: dict[str, Future[str]] = {}
        self._dropped: list[Future[None]] = []

    def url(self, name: str) -> str:
        return database_url_for(self._server_url, name)

    def acquire(self, template: str) -> str:
        """Return the name of a clone that no other test has."""
        clone = self._ready.pop(template, None) or self._thread.submit(self._clone, template)
        self._ready[template] = self._thread.submit(self._clone, template)
        return clone.result()

    def drop(self, name: str) -> None:
        """Drop the database soon. A failure is raised by the next call or by `close`."""
        self._raise_failures()
        self._dropped = [self._thread.submit(self._drop, name)]

    def close(self) -> None:
        for clone in self._ready.values():
            self.drop(clone.result())
        self._raise_failures()
        self._thread.submit(self._runner.run, self._connection.close()).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _clone(self, template: str) -> str:
        name = f"depot_test_{uuid4().hex[:12]}"
        # The strategy file_copy takes half as long as wal_log, and slows other connections less.
        self._execute(f"create database {name} template {template} strategy file_copy")
        return name

    def _drop(self, name: str) -> None:
        self._execute(f"drop database {name} with (force)")

    def _execute(self, statement: str) -> None:
        self._runner.run(self._connection.execute(statement))

    def _raise_failures(self) -> None:
        for dropped in self._dropped:
            dropped.result()


@pytest.fixture(scope="session")
def depot_databases(depot_server: str) -> Iterator[DatabaseFactory]:
    """Return the factory of the tests' databases."""
    databases = DatabaseFactory(depot_server)
    yield databases
    databases.close()


@pytest.fixture
def depot_database_template(depot_template: str) -> str:
    """Return the template of the test's database. Override it to start with rows."""
    return depot_template


@pytest.fixture
def depot_database_url(depot_databases: DatabaseFactory, depot_database_template: str) -> Iterator[str]:
    """Return the URL of a database of this test, with the schema and without rows."""
    name = depot_databases.acquire(depot_database_template)
    yield depot_databases.url(name)
    depot_databases.drop(name)


@pytest.fixture
def depot_settings(depot_database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=depot_database_url, home=tmp_path, pool_size=8, records_pool_size=2)


@pytest.fixture
def depot_key(depot_settings: Settings) -> str:
    """Return an API key with the scope `admin`."""
    return asyncio.run(mint(depot_settings, "admin"))


@pytest.fixture
def depot(
    request: pytest.FixtureRequest, depot_settings: Settings, depot_key: str
) -> Iterator[TestClient[Litestar]]:
    """Return an authorized client of the application with a worker, which runs jobs and sends webhooks."""
    with TestClient(_application(request, depot_settings)) as client:
        client.headers["Authorization"] = f"Bearer {depot_key}"
        yield client


@pytest.fixture
async def async_depot(
    request: pytest.FixtureRequest, depot_settings: Settings, depot_key: str
) -> AsyncIterator[AsyncTestClient[Litestar]]:
    """Return the same as `depot`, for tests that are coroutines."""
    async with AsyncTestClient(_application(request, depot_settings)) as client:
        client.headers["Authorization"] = f"Bearer {depot_key}"
        yield client


@pytest.fixture
def depot_url(request: pytest.FixtureRequest, depot_settings: Settings) -> Iterator[str]:
    """Return the URL of the same application on a real socket. `depot_key` is a key for it."""
    with serving(_application(request, depot_settings), depot_settings) as url:
        yield url


@pytest.fixture
def depot_inbox(depot_settings: Settings) -> Iterator[Inbox]:
    """Return a receiver of all events, which verifies their signatures."""
    with open_inbox(depot_settings) as inbox:
        yield inbox


async def mint(settings: Settings, *scopes: str) -> str:
    """Create an API key with these scopes and return it."""
    async with Database(settings).open() as database, database.orm_session() as session:
        return await create_key(session, name="test", scopes=list(scopes), secret=settings.secret)


def database_url_for(server_url: str, name: str) -> str:
    """Return the URL of another database on the same server."""
    head, _, query = server_url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def execute(url: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def scratch_directory() -> Path:
    """Return the parent directory of throw-away servers, in memory if there is enough.

    In memory a clone takes 16 ms, on disk 100 ms.
    pytest's own directories do not serve: they are closed to other users, and a server that root starts
    runs as another user.
    """
    is_large = MEMORY_DIRECTORY.is_dir() and shutil.disk_usage(MEMORY_DIRECTORY).total >= MEMORY_BYTES_MIN
    return MEMORY_DIRECTORY if is_large else Path(tempfile.gettempdir())


def _application(request: pytest.FixtureRequest, settings: Settings) -> Litestar:
    """Return the application. The inbox opens first: a running dispatcher would notice it a second late."""
    if "depot_inbox" in request.fixturenames:
        request.getfixturevalue("depot_inbox")
    return create_app(replace(settings, webhook_allow_private=True, job_test_kinds=True), worker=True)


def _shared_home(config: pytest.Config) -> Path:
    return scratch_directory() / f"depot-tests-{config.option.testrunuid}"


def _template_file(config: pytest.Config) -> Path:
    return _shared_home(config) / "template"
