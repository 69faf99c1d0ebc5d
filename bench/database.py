"""An embedded PostgreSQL with its default, durable settings, and a database on it for each peer."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
from msgspec import Struct

from bench.errors import BenchError
from service.database.embedded import postgres

ITEMS = 1000
"""Items are numbered from 1; number 0 is the hot one."""
STOCK = 10_000_000
"""The stock of every item, which no load that ends in time can sell."""
QUERY_SECONDS, SETTLE_SECONDS, LOOK_SECONDS = 600.0, 10.0, 0.05
CALM = 3
"""The number of consecutive checks that must find the database idle."""

SEED = """
with seeded as (
  insert into items (id, sku, name, price, currency, quantity, version)
  select ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'BENCH-' || n, 'Item ' || n,
    9.99, 'USD', $2, 1
  from generate_series(0, $1::int) n
  returning id, version, quantity
)
insert into movements (item_id, version, cause, delta, resulting_quantity)
select id, version, 'set', quantity, quantity from seeded"""

BUSY = """
select count(*) from pg_stat_activity
where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()"""

POSTMASTER = "select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"


class Database(Struct, frozen=True):
    """A database of the benchmark's server."""

    url: str

    def value(self, query: str, *arguments: object) -> Any:
        """Return the first value of the first row, on a new connection."""
        return asyncio.run(_fetchval(self.url, query, arguments))

    def create(self, name: str) -> "Database":
        """Create another database on the same server."""
        self.value(f"create database {name}")
        head, _, query = self.url.partition("?")
        return Database(f"{head.rpartition('/')[0]}/{name}?{query}")

    def seed(self) -> None:
        self.value(SEED, ITEMS, STOCK)

    def postmaster(self) -> int:
        pid: int = self.value(POSTMASTER)
        return pid

    def tidy(self) -> None:
        """Write and clean up what a load left, so that the next load does not pay for it."""
        self.value("vacuum analyze")
        self.value("checkpoint")

    def settle(self) -> None:
        """Wait for requests that the service still handles after wrk has closed its connections."""
        asyncio.run(_settle(self.url))


@contextmanager
def server(directory: Path) -> Iterator[Database]:
    """Run PostgreSQL as `depot dev` starts it, below `directory`.

    The system's temporary directory may be in memory, where a durable commit costs nothing.
    """
    with TemporaryDirectory(dir=directory, prefix="home-") as home, postgres(Path(home)) as url:
        yield Database(url)


def item_id(number: int) -> str:
    return f"01900000-0000-7000-8000-{number:012d}"


async def _fetchval(url: str, query: str, arguments: tuple[object, ...]) -> Any:
    connection = await asyncpg.connect(url, command_timeout=QUERY_SECONDS)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


async def _settle(url: str) -> None:
    """Wait on one connection, because the CPU of new ones would count as PostgreSQL's."""
    connection = await asyncpg.connect(url, command_timeout=QUERY_SECONDS)
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            calm = 0
            while calm < CALM:
                calm = 0 if await connection.fetchval(BUSY) else calm + 1
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise BenchError("the database is still busy long after the load ended") from None
    finally:
        await connection.close()
