"""Every test has a real, migrated PostgreSQL database of its own, cloned from a template."""

import asyncio
import gc
import os
import tempfile
from collections import ChainMap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from msgspec.structs import replace

from service.app import create_app
from service.auth.store import create_key
from service.database.database import Database
from service.database.embedded import postgres
from service.settings import Settings
from tests.support import s3_server as s3
from tests.support import signature_cache
from tests.support.app_helpers import running
from tests.support.embedded_server import Server
from tests.support.postgres_nodes import copy_migrated_data
from tests.support.shared_app import SharedApp, shared_app

if TYPE_CHECKING:
    from service.testing import DatabaseFactory

pytest_plugins = ["service.testing"]
signature_cache.install()

AS_OWNER = "set session_replication_role = replica"
"""A statement that disables triggers, as the owner of the database can."""

Client = AsyncTestClient[Litestar]
MakeKey = Callable[..., Awaitable[str]]

CLIENTS = {"client", "concurrent_client", "make_key"}
NOT_SHARED = {"settings", "database_url", "database", "monkeypatch", "own_app"}
"""Fixtures through which a test could change more than the rows and blobs of its application."""

LONG_MODULES = (
    *("test_fuzz", "test_chaos", "test_database_away", "test_pgbouncer", "test_rolling", "test_torture"),
    *("test_bombs", "test_storm", "test_overload", "test_raw", "test_stateful"),
)
"""Proofs that take seconds each. They run one after the other while other workers do the rest."""


def pytest_xdist_auto_num_workers() -> int:
    """Use one worker more than processors: many tests wait for a deadline.

    With one more still, tests that starve for a second see a database that seems down.
    """
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long proofs first: `--dist worksteal` gives the first tests to the first worker."""
    order = {name: number for number, name in enumerate(LONG_MODULES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """Collect garbage less often: scanning the imported modules took a sixth of a test's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_url(depot_server: str) -> str:
    return depot_server


@pytest.fixture(scope="session")
def keyed_template(depot_databases: "DatabaseFactory", depot_template: str) -> Iterator[tuple[str, str]]:
    """Return the name of a template that has an API key with every scope, and that key.

    To create one in each test took a tenth of its time.
    """
    from service.testing import mint  # noqa: PLC0415  # pytest has to import its plugins first

    name = depot_databases.acquire(depot_template)
    yield name, asyncio.run(mint(Settings(database_url=depot_databases.url(name)), "admin"))
    depot_databases.drop(name)


@pytest.fixture
def depot_database_template(request: pytest.FixtureRequest, depot_template: str) -> str:
    """Return the template with the key if the test uses that."""
    if not {"key", *CLIENTS} & set(request.fixturenames):
        return depot_template
    template, _ = request.getfixturevalue("keyed_template")
    return str(template)


@pytest.fixture
def database_url(depot_database_url: str) -> str:
    return depot_database_url


@pytest.fixture
def settings(depot_settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return replace(depot_settings, **changed_settings(request))


def changed_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the settings of the test's markers. That of the test itself is the first."""
    return dict(ChainMap(*(marker.kwargs for marker in request.node.iter_markers("settings"))))


@pytest.fixture
def home(depot_scratch: Path) -> Iterator[Path]:
    """Yield a `DEPOT_HOME` for an embedded server, which other users can enter."""
    with tempfile.TemporaryDirectory(
        prefix="depot-home-", dir=depot_scratch, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@pytest.fixture
def own_server(home: Path) -> Iterator[Server]:
    copy_migrated_data(home / "postgres")
    with postgres(home, {"fsync": "off"}) as url:
        yield Server(home, url)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(params=["file", "s3"])
def both_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run the test twice, with blobs in a directory and on S3. Return its `blob_url`."""
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
def key(keyed_template: tuple[str, str]) -> str:
    """Return an API key with every scope, which the test's database has from the start."""
    return keyed_template[1]


@pytest.fixture(scope="session")
def shared_apps(
    depot_databases: "DatabaseFactory",
    keyed_template: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., SharedApp]]:
    """Return a function that returns the application with these settings of all tests of this worker."""
    with ExitStack() as stack:

        @cache
        def get(**changes: Any) -> SharedApp:
            name = depot_databases.acquire(keyed_template[0])
            stack.callback(depot_databases.drop, name)
            home = tmp_path_factory.mktemp("home")
            settings = Settings(database_url=depot_databases.url(name), home=home, **changes)
            return stack.enter_context(shared_app(settings))

        yield get


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Iterator[SharedApp | None]:
    """Return the shared application, or None for a test that needs one of its own."""
    if NOT_SHARED & {*request.fixturenames, *vars(request.module)}:
        yield None
        return
    app = request.getfixturevalue("shared_apps")(**changed_settings(request))
    yield app
    app.restore()


@pytest.fixture
def own_app() -> None:
    """Let a test have an application of its own, because it sees more of it than its rows and blobs."""


@pytest.fixture
def app_settings(shared: SharedApp | None, request: pytest.FixtureRequest) -> Settings:
    """Return the settings of the application that the clients call, for what it stores."""
    settings: Settings = shared.settings if shared else request.getfixturevalue("settings")
    return settings


@pytest.fixture
def make_key(shared: SharedApp | None, request: pytest.FixtureRequest) -> MakeKey:
    """Return a function that creates an API key with the given scopes."""
    if shared:
        return shared.create_key
    database: Database = request.getfixturevalue("database")

    async def make(*scopes: str) -> str:
        async with database.orm_session() as session:
            return await create_key(session, name="test", scopes=list(scopes))

    return make


@pytest.fixture
async def client(shared: SharedApp | None, key: str, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """Yield an authorized client of the real application."""
    if shared:
        yield shared.client(key)
        return
    async with AsyncTestClient(create_app(request.getfixturevalue("settings"))) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


@pytest.fixture
async def concurrent_client(
    shared: SharedApp | None, key: str, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an authorized client whose requests overlap, unlike those of AsyncTestClient."""
    if shared:
        yield shared.concurrent_client(key)
        return
    async with running(request.getfixturevalue("settings"), key) as client:
        yield client


@pytest.fixture
def empty_database(server_url: str) -> Iterator[Settings]:
    """A database without a schema."""
    # Here, since it is a plugin: pytest rewrites it before anything imports it.
    from service.testing import database_url_for, execute  # noqa: PLC0415

    name = f"depot_empty_{uuid4().hex[:12]}"
    execute(server_url, f"create database {name}")
    yield Settings(database_url=database_url_for(server_url, name))
    execute(server_url, f"drop database {name} with (force)")
