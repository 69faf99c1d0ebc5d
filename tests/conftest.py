"""Every test has a real, migrated PostgreSQL database, which is as new.

A test with a client shares an application with others (`tests/support/shared_app.py`), unless it changes the
environment or asks for one of its own. Any other test has a database that no other test uses at that time.
"""

# ruff: noqa: E402  # the statements before the imports
import gc
import sys

gc.set_threshold(100_000, 20, 20)  # collections took a sixth of the time of the imports, and of each test

from tests.support.depot_command import forked_interpreter

if "-n" in sys.argv and "-n 0" not in " ".join(sys.argv):
    forked_interpreter()  # the fork server imports Depot while this process does

import asyncio
import os
import tempfile
from collections import ChainMap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
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
from tests.support.shared_app import SharedApp, SharedApps

if TYPE_CHECKING:
    from service.testing import DatabaseFactory

pytest_plugins = ["service.testing"]
signature_cache.install()
# To load the system's authorities took 18 ms of each HTTP client, and no test opens a connection with TLS.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "support" / "authority.pem")

AS_OWNER = "set session_replication_role = replica"
"""A statement that disables triggers, as the owner of the database can."""

Client = AsyncTestClient[Litestar]
MakeKey = Callable[..., Awaitable[str]]

CLIENTS = {"client", "concurrent_client", "make_key"}
NOT_SHARED = {"monkeypatch", "own_app"}
"""Fixtures of tests that change more than the rows and blobs of their application."""

LONG_MODULES = (
    *("test_fuzz", "test_chaos", "test_database_away", "test_pgbouncer", "test_rolling", "test_torture"),
    *("test_bombs", "test_storm", "test_overload", "test_raw", "test_stateful"),
)
"""Proofs that take seconds each."""
WAITING_MODULES = (
    *("test_latency", "test_commits", "test_monitor", "test_servers", "test_standby", "test_health"),
    *("test_worker_process", "test_worker", "test_processes", "test_server", "test_streams", "test_runner"),
    *("test_tracing", "test_cli", "test_dev", "test_logs"),
)
"""Tests that wait for deadlines and processes, and need little of the processor."""


def pytest_xdist_auto_num_workers() -> int:
    """Use three workers more than processors: the first two often wait for deadlines, and all for replies."""
    return (os.cpu_count() or 1) + 3


def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Fork the workers from a process that has imported Depot, which takes each of them a second."""
    if interpreter := forked_interpreter():
        for spec in specs:
            spec.python = interpreter


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the first worker the long proofs first, and the second one the tests that wait.

    `--dist worksteal` gives each worker a part of the list. A worker that is ready takes from another's end.
    """
    rank = {name: number for number, name in enumerate((*LONG_MODULES, *WAITING_MODULES))}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    long = sum(item.path.stem in LONG_MODULES for item in items)
    waiting = items[long : long + sum(item.path.stem in WAITING_MODULES for item in items)]
    others = items[long + len(waiting) :]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    rest_of_first = max(len(items) // workers - long, 0)
    items[long:] = [*others[:rest_of_first], *waiting, *others[rest_of_first:]]


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Collect once what pytest and the interpreter would collect nine times at their end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_url(depot_server: str) -> str:
    return depot_server


@pytest.fixture(scope="session")
def depot_databases(depot_server: str) -> "Iterator[DatabaseFactory]":
    # Imported here, because `service.testing` is a plugin: pytest rewrites it before anything imports it.
    from tests.support.recycled_databases import RecyclingFactory  # noqa: PLC0415

    databases = RecyclingFactory(depot_server)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def keyed_template(server_url: str, depot_template: str) -> Iterator[tuple[str, str]]:
    """Return the name of a template that has an API key with every scope, and that key.

    To create one in each test took a tenth of its time.
    """
    from service.testing import database_url_for, mint  # noqa: PLC0415  # see `depot_databases`

    with cloned(server_url, depot_template) as name:
        yield name, asyncio.run(mint(Settings(database_url=database_url_for(server_url, name)), "admin"))


@pytest.fixture
def depot_database_template(request: pytest.FixtureRequest, depot_template: str) -> str:
    """Return the template with the key if the test uses that."""
    if not {"key", *CLIENTS} & set(request.fixturenames):
        return depot_template
    template, _ = request.getfixturevalue("keyed_template")
    return str(template)


@pytest.fixture
def database_url(shared: SharedApp | None, request: pytest.FixtureRequest) -> str:
    url = shared.settings.database_url if shared else request.getfixturevalue("depot_database_url")
    return str(url)


@pytest.fixture
def settings(shared: SharedApp | None, request: pytest.FixtureRequest) -> Settings:
    """Return the settings of the test's application."""
    if shared:
        return shared.settings
    return replace(request.getfixturevalue("depot_settings"), **changed_settings(request))


def changed_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the settings of the test's markers, of which that of the test itself is the first, and store."""
    changes = dict(ChainMap(*(marker.kwargs for marker in request.node.iter_markers("settings"))))
    if "both_stores" in request.fixturenames and (url := request.getfixturevalue("both_stores")):
        changes["blob_url"] = url
    return changes


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
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run an S3 server, and yield its URL and its directory."""
    folder = tmp_path_factory.mktemp("s3")
    with s3.serving(folder) as endpoint:
        yield endpoint, folder


@pytest.fixture(params=["file", "s3"])
def both_stores(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Run the test twice, with blobs in a directory and on S3. Yield its `blob_url`."""
    if request.param == "file":
        yield None
        return
    with s3.empty_store(*request.getfixturevalue("s3_server")) as url:
        yield url


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
) -> Iterator[SharedApps]:
    """Return the applications of all tests of this worker."""
    apps = SharedApps(depot_databases, keyed_template[0], lambda: tmp_path_factory.mktemp("home"))
    yield apps
    apps.close()


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Iterator[SharedApp | None]:
    """Return the shared application, or None for a test that has none or needs one of its own."""
    used = {*request.fixturenames, *vars(request.module)}
    if NOT_SHARED & used or not CLIENTS & used:
        yield None
        return
    apps: SharedApps = request.getfixturevalue("shared_apps")
    changes = changed_settings(request)
    yield apps.get(**changes)
    apps.restore(**changes)


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
    from service.testing import database_url_for  # noqa: PLC0415  # see `depot_databases`

    with cloned(server_url, "template1") as name:
        yield Settings(database_url=database_url_for(server_url, name))


@contextmanager
def cloned(server_url: str, template: str) -> Iterator[str]:
    from service.testing import execute  # noqa: PLC0415  # see `depot_databases`

    name = f"depot_cloned_{uuid4().hex[:12]}"
    execute(server_url, f"create database {name} template {template}")
    yield name
    execute(server_url, f"drop database {name} with (force)")
