"""`depot items import`: it imports all rows or, if any row is invalid, none, and reports the invalid ones."""

import asyncio
import os
import signal
from decimal import Decimal
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple
from unittest.mock import ANY

import httpx
import pytest

from service.database.database import Database
from tests.support.app_helpers import item, locked, wait_for_locks, wait_until_idle
from tests.support.consistency import discrepancies
from tests.support.depot_command import NEW_INTERPRETER, Process, run_depot, start_depot
from tests.support.import_helpers import stored, write

MANY = 10_000


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


def start(database_url: str, file: Path) -> Process:
    environment = {**os.environ, "DATABASE_URL": database_url}
    return start_depot(["items", "import", str(file)], env=environment, stdout=PIPE, stderr=PIPE)


async def depot_import(database_url: str, file: Path, *options: str, **environment: str) -> Outcome:
    environment = {**os.environ, "DATABASE_URL": database_url, **environment}
    completed = await asyncio.to_thread(run_depot, ["items", "import", str(file), *options], env=environment)
    return Outcome(completed.returncode, completed.stdout.strip(), completed.stderr)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "items.csv"


async def test_ten_thousand_rows_are_created_then_unchanged_then_updated(
    database: Database, database_url: str, file: Path
) -> None:
    rows = [[f"SKU-{n:05}", f"Bolt {n}", "9.99", f"{n}"] for n in range(MANY)]
    write(file, "sku,name,price,quantity", *rows)
    assert await depot_import(database_url, file, **NEW_INTERPRETER) == (
        0,
        "10000 created, 0 updated, 0 unchanged, 0 skipped",
        ANY,
    )
    assert await depot_import(database_url, file) == (
        0,
        "0 created, 0 updated, 10000 unchanged, 0 skipped",
        ANY,
    )
    rows[::10] = [[sku, name, "8.49", quantity] for sku, name, _, quantity in rows[::10]]
    write(file, "sku,name,price,quantity", *rows)
    assert await depot_import(database_url, file) == (
        0,
        "0 created, 1000 updated, 9000 unchanged, 0 skipped",
        ANY,
    )

    versions = await database.fetch("select version, price, count(*) from items group by 1, 2 order by 1")
    assert [tuple(row) for row in versions] == [(1, Decimal("9.99"), 9000), (2, Decimal("8.49"), 1000)]
    causes = await database.fetch("select cause, count(*) from movements group by 1")
    assert [tuple(row) for row in causes] == [("import", MANY - 1)]  # one of the items has no units
    assert await discrepancies(database_url) == []


async def test_one_invalid_row_in_a_thousand_stops_the_import_unless_it_may_be_skipped(
    database: Database, database_url: str, file: Path
) -> None:
    rows = [[f"SKU-{n:05}", "Bolt", "9.99"] for n in range(1000)]
    rows[600][2] = "free"
    write(file, "sku,name,price", *rows)
    status, out, err = await depot_import(database_url, file)
    assert (status, out) == (1, "")
    (problem,) = [line for line in err.splitlines() if line.startswith("line ")]
    assert problem.startswith("line 602: price: must be a decimal string")
    assert problem.endswith("two decimals")  # the whole message on one line, however narrow the terminal
    assert (
        "depot: 1 invalid row; nothing was imported; use --skip-bad to import the valid rows"
        in err.splitlines()
    )
    assert await stored(database) == []
    status, out, err = await depot_import(database_url, file, "--skip-bad")
    assert (status, out) == (0, "999 created, 0 updated, 0 unchanged, 1 skipped")
    assert "line 602: price: " in err
    assert len(await stored(database)) == 999


async def test_a_file_that_is_not_csv_of_items_is_one_clear_error(database_url: str, file: Path) -> None:
    write(file, "sku,name", ["A", "Bolt"])
    status, out, err = await depot_import(database_url, file)
    assert (status, out) == (1, "")
    assert "depot: the header lacks required columns: price" in err.splitlines()


async def test_an_import_killed_halfway_leaves_nothing_behind(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, file: Path
) -> None:
    bolt = await item(concurrent_client, 5)
    write(file, "sku,name,price,quantity", *[[f"N-{n}", "New", "1", 1] for n in range(2000)],
          [bolt["sku"], "Changed", "2", 9])  # fmt: skip
    async with locked(database_url, bolt) as holder:
        importing = start(database_url, file)
        await wait_for_locks(holder, 1)  # the new items are inserted, the old one waits
        importing.send_signal(signal.SIGKILL)
        importing.communicate()
    await wait_until_idle(database_url)
    assert await database.fetchval("select count(*) from items") == 1
    assert (await concurrent_client.get(f"/items/{bolt['id']}")).json() == bolt
    assert await discrepancies(database_url) == []
    assert (await depot_import(database_url, file))[:2] == (
        0,
        "2000 created, 1 updated, 0 unchanged, 0 skipped",
    )
