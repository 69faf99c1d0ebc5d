"""A large database, which `depot demo` builds on its own embedded PostgreSQL and later runs reuse."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import msgspec
from msgspec import Struct

import service.database.database
from bench.database import Database
from bench.peer import DEPOT, depot, environment_of
from service.database.embedded import postgres
from service.reports.books import close_books
from service.settings import Settings

OPTIONS = {
    "shared_buffers": "2GB",
    "maintenance_work_mem": "512MB",
    "effective_cache_size": "8GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
}
"""Options that a database of this size needs; the default is 128 MB of buffers and costs of spinning
disks.
"""
CARELESS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}
"""Options while it is built; after a crash it is built again."""


class Size(Struct, frozen=True):
    items: int
    orders: int
    days: int

    @property
    def name(self) -> str:
        return f"scale-{self.items}-{self.orders}"


class Warehouse(Struct, frozen=True):
    """A database that `depot demo` built, and the seconds that took."""

    database: Database
    home: Path
    build_seconds: float

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.database.url, str(self.home))


@contextmanager
def warehouse(directory: Path, size: Size) -> Iterator[Warehouse]:
    """Yield the warehouse below `directory`. Build it unless a complete one exists."""
    home = directory / size.name
    built = home / "built.json"
    if not built.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        built.write_bytes(msgspec.json.encode(_build(home, size)))
    with postgres(home, OPTIONS) as url:
        found = Warehouse(Database(url), home, msgspec.json.decode(built.read_bytes(), type=float))
        depot(found.environment, "migrate")
        yield found


def stocked(warehouse: Warehouse, size: Size) -> Warehouse:
    """Create another database on the same server, and replace one of the same name."""
    name = f"small_{size.items}"
    warehouse.database.value(f"drop database if exists {name} with (force)")
    small = Warehouse(warehouse.database.create(name), warehouse.home, 0)
    _fill(small, size)
    return small


def close(shop: Warehouse) -> None:
    """Close the books, as a worker does every hour."""

    async def closing() -> None:
        settings = Settings(database_url=shop.database.url)
        async with service.database.database.Database(settings).open() as database:
            await close_books(database, settings)

    asyncio.run(closing())


def _build(home: Path, size: Size) -> float:
    """Build the database and return the seconds it took."""
    with postgres(home, OPTIONS | CARELESS) as url:
        started = monotonic()
        _fill(Warehouse(Database(url), home, 0), size)
        return round(monotonic() - started)


def _fill(empty: Warehouse, size: Size) -> None:
    numbers = (f"--items={size.items}", f"--orders={size.orders}", f"--days={size.days}")
    for arguments in (("migrate",), ("demo", "--yes", *numbers)):
        subprocess.run([DEPOT, *arguments], env=empty.environment, check=True)
