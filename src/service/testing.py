"""Test against Depot with pytest: the real application on a real PostgreSQL, clean for every test.

`pytest_plugins = ["service.testing"]` in a `conftest.py` brings the fixtures; most tests need only `depot`.
Databases are made on the server of `TEST_DATABASE_URL`, or on an embedded one that all processes of a run
(pytest-xdist) share; as copies of `TEST_DATABASE_TEMPLATE` there, or of one that is migrated for the run.
To change a setting, override `depot_settings`. Needs the extra `testing`.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import structlog
from litestar import Litestar
from litestar.testing import AsyncTestClient, TestClient
from msgspec.structs import replace

from service.app import create_app
from service.auth.store import create_key
from service.database import migrate
from service.database.database import Database
from service.database.embedded import postgres
from service.settings import Settings

FAST_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    "max_connections": "500",
}
"""For a throw-away server: its durability is PostgreSQL's own business."""

MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  # a file system in memory, where Linux has one
MEMORY_BYTES_MIN = 4 << 30
"""How large it has to be. A database and its log take some hundred megabytes; containers often have 64."""


def pytest_configure() -> None:
    """A crash is told plainly: to draw it with all local variables takes the event loop seconds."""
    if not structlog.is_configured():
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


def pytest_sessionfinish() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(_shared_home(), ignore_errors=True)


@pytest.fixture(scope="session")
def depot_scratch() -> Path:
    return scratch_directory()


@pytest.fixture(scope="session")
def depot_server() -> Iterator[str]:
    """The URL of the server that the databases are made on."""
    given = os.environ.get("TEST_DATABASE_URL")
    server: AbstractContextManager[str] = (
        nullcontext(given) if given else postgres(_shared_home(), FAST_OPTIONS)
    )
    with server as url:
        yield url


@pytest.fixture(scope="session")
def depot_template(depot_server: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    if given := os.environ.get("TEST_DATABASE_TEMPLATE"):
        yield given
        return
    name = f"depot_template_{uuid4().hex[:12]}"
    execute(depot_server, f"create database {name}")
    migrate.upgrade(Settings(database_url=database_url_for(depot_server, name)))
    yield name
    execute(depot_server, f"drop database {name} with (force)")


@pytest.fixture
def depot_database_url(depot_server: str, depot_template: str) -> Iterator[str]:
    """A database of the test's own, with the schema and nothing in it."""
    name = f"depot_test_{uuid4().hex[:12]}"
    # half as long as by its log, and less of a burden to the others
    execute(depot_server, f"create database {name} template {depot_template} strategy file_copy")
    yield database_url_for(depot_server, name)
    execute(depot_server, f"drop database {name} with (force)")


@pytest.fixture
def depot_settings(depot_database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=depot_database_url, home=tmp_path, pool_size=8, records_pool_size=2)


@pytest.fixture
def depot_key(depot_settings: Settings) -> str:
    """An API key with the scope `admin`."""
    return asyncio.run(mint(depot_settings, "admin"))


@pytest.fixture
def depot(depot_settings: Settings, depot_key: str) -> Iterator[TestClient[Litestar]]:
    """A client that may do everything, of the application with a worker: jobs run and webhooks are sent."""
    with TestClient(_application(depot_settings)) as client:
        client.headers["Authorization"] = f"Bearer {depot_key}"
        yield client


@pytest.fixture
async def async_depot(depot_settings: Settings, depot_key: str) -> AsyncIterator[AsyncTestClient[Litestar]]:
    """The same for tests that are coroutines (anyio's plugin runs them: `anyio_mode = "auto"`)."""
    async with AsyncTestClient(_application(depot_settings)) as client:
        client.headers["Authorization"] = f"Bearer {depot_key}"
        yield client


async def mint(settings: Settings, *scopes: str) -> str:
    """Make an API key with these scopes."""
    async with Database(settings).open() as database, database.sessions() as session, session.begin():
        return await create_key(session, name="test", scopes=list(scopes), secret=settings.secret)


def database_url_for(server_url: str, name: str) -> str:
    """The URL of another database on the same server."""
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
    """Where throw-away servers live: in memory, where a database is cloned in 16 ms and not 100, or on disk.

    Not in pytest's own folders: those are closed to other users, and a server started by root is one.
    """
    roomy = MEMORY_DIRECTORY.is_dir() and shutil.disk_usage(MEMORY_DIRECTORY).total >= MEMORY_BYTES_MIN
    return MEMORY_DIRECTORY if roomy else Path(tempfile.gettempdir())


def _application(settings: Settings) -> Litestar:
    return create_app(replace(settings, webhook_allow_private=True, job_test_kinds=True), worker=True)


def _shared_home() -> Path:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return scratch_directory() / f"depot-tests-{run}"
