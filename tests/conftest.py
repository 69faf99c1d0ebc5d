"""Every test has a real, migrated PostgreSQL database of its own, cloned from a template."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

import s3
from service import migrate
from service.app import create_app
from service.auth.store import create_key
from service.db import Database
from service.embedded import postgres
from service.settings import Settings
from shop import running

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "500"}
"""For a throw-away server: its durability is PostgreSQL's own business, and tested there."""

AS_OWNER = "set session_replication_role = replica"
"""Past the triggers, as somebody could who owns the database."""

Client = AsyncTestClient[Litestar]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def shared_home() -> Path:
    """Where the embedded server lives that all xdist workers of this run share.

    Not in pytest's own folders: those are closed to other users, and a server started by root is one.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return Path(tempfile.gettempdir()) / f"depot-tests-{run}"


def pytest_sessionfinish() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(shared_home(), ignore_errors=True)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server to make databases on: `TEST_DATABASE_URL`, or an embedded one."""
    given = os.environ.get("TEST_DATABASE_URL")
    server: AbstractContextManager[str] = nullcontext(given) if given else postgres(shared_home(), FAST)
    with server as url:
        yield url


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for a `DEPOT_HOME` with an embedded server of its own (see `shared_home` for the place)."""
    with tempfile.TemporaryDirectory(prefix="depot-home-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"depot_template_{uuid4().hex[:12]}"
    execute(server_url, f"create database {name}")
    migrate.upgrade(Settings(database_url=at(server_url, name)))
    yield name
    execute(server_url, f"drop database {name} with (force)")


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    name = f"depot_test_{uuid4().hex[:12]}"
    execute(server_url, f"create database {name} template {template}")
    yield at(server_url, name)
    execute(server_url, f"drop database {name} with (force)")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path, pool_size=8, records_pool_size=2)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(params=["file", "s3"])
def both_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """A test that has this is done twice: with blobs in a local directory, and on S3. Its `blob_url`."""
    if request.param == "file":
        return None
    for name, value in s3.account(request.getfixturevalue("s3_endpoint")).items():
        monkeypatch.setenv(name, value)
    return s3.new_url()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with Database(settings).open() as database:
        yield database


@pytest.fixture
def make_key(database: Database) -> Callable[..., Awaitable[str]]:
    """Mint an API key with the scopes given."""

    async def make(*scopes: str) -> str:
        async with database.sessions() as session, session.begin():
            return await create_key(session, name="test", scopes=list(scopes))

    return make


@pytest.fixture
async def key(make_key: Callable[..., Awaitable[str]]) -> str:
    return await make_key("admin")


@pytest.fixture
async def client(settings: Settings, key: str) -> AsyncIterator[Client]:
    """A client of the real application, with a key that may do everything."""
    async with AsyncTestClient(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


@pytest.fixture
async def crowd(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """Such a client whose requests overlap: AsyncTestClient waits for every reply before the next request."""
    async with running(settings, key) as client:
        yield client


def at(server_url: str, name: str) -> str:
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
