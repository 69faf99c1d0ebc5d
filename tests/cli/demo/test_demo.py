"""A made-up shop is as sound as a real one: the doctor finds nothing, and the API serves it."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from conftest import Client
from service.cli.demo import fill as demo
from service.cli.demo import history as past
from service.cli.demo.fill import DemoConflict, DemoSize, fill
from service.cli.demo.history import History
from service.cli.doctor.run import run_checks
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import connected, item
from tests.support.depot_command import NEW_INTERPRETER, run_depot
from tests.support.embedded_server import Server

SMALL = DemoSize(items=60, orders=400, days=20)


def ignored(_name: str, _count: int) -> None: ...


async def findings(database: Database, settings: Settings) -> list[str]:
    return [str(finding) async for _, found in run_checks(database, settings) for finding in found]


async def test_all_that_is_made_up_agrees(
    client: Client, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "BATCH_ORDERS", 150)
    progress: list[tuple[str, int]] = []
    await fill(database, settings, SMALL, lambda name, count: progress.append((name, count)))
    assert await findings(database, settings) == []
    assert [count for name, count in progress if name == "orders"] == [150, 300, 400]
    statuses = await database.fetchval("select count(distinct status) from orders")
    causes = await database.fetchval("select count(distinct cause) from movements")
    assert (statuses, causes) == (3, 4)
    report = (await client.get("/reports/financial")).json()["report"]
    assert sum(total["orders"] for total in report["totals"]) == 400
    closed_until = await database.fetchval("select closed_until from books")
    assert closed_until > datetime.now(UTC) - timedelta(hours=2)
    page = (await client.get("/orders?limit=200")).json()
    times = [order["created_at"] for order in page["data"]]
    assert all(newer >= older for newer, older in pairwise(times))
    assert (await client.get("/items?q=steel&in_stock=false")).status_code == 200


async def test_there_is_one_demo_in_a_database(database: Database, settings: Settings) -> None:
    await fill(database, settings, DemoSize(items=3, orders=2, days=1), ignored)
    with pytest.raises(DemoConflict, match="already"):
        await fill(database, settings, SMALL, ignored)
    assert await database.fetchval("select count(*) from items") == 3


async def test_a_shop_that_has_items_gets_no_others_unless_that_is_wanted(
    client: Client, database: Database, settings: Settings
) -> None:
    await item(client)
    with pytest.raises(DemoConflict, match="not empty"):
        await fill(database, settings, SMALL, ignored, only_if_empty=True)
    await fill(database, settings, SMALL, ignored)
    assert await database.fetchval("select count(*) from items") == 61


def test_the_embedded_database_is_filled_without_yes(own_server: Server) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environment["DEPOT_HOME"] = str(own_server.home)
    sizes = ["--items", "5", "--orders", "5", "--days", "1"]
    made = run_depot(["demo", *sizes], env=environment, timeout=120)
    assert made.returncode == 0, made.stderr


async def test_demo_data_is_rejected_if_a_webhook_would_receive_its_events(
    client: Client, database: Database, settings: Settings
) -> None:
    created = await client.post("/webhooks", json={"url": "https://example.com/", "events": ["order.placed"]})
    assert created.status_code == 201
    with pytest.raises(DemoConflict, match="webhook"):
        await fill(database, settings, SMALL, ignored)
    assert await database.fetchval("select count(*) from items") == 0


async def test_what_fails_half_way_leaves_nothing(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.statements, "UPDATE_ITEMS", "select 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await fill(database, settings, SMALL, ignored)
    for table in ("items", "orders", "events", "movements"):
        assert await database.fetchval(f"select count(*) from {table}") == 0


async def test_it_needs_no_superuser(settings: Settings, database_url: str) -> None:
    role = f"plain_{uuid4().hex[:8]}"
    async with connected(database_url) as connection:
        await connection.execute(f"create role {role}; grant all on all tables in schema public to {role}")
        plain = replace(
            settings, database_url=f"{database_url}{'&' if '?' in database_url else '?'}role={role}"
        )
        async with Database(plain).open() as database:
            assert await database.fetchval("select current_user") == role
            await fill(database, settings, SMALL, ignored)
        assert await connection.fetchval("select count(*) from orders") == 400
        await connection.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize(("items", "orders", "days"), [(1, 0, 1), (1, 30, 1), (2, 50, 3), (49, 10, 400)])
def test_any_size_has_a_past(items: int, orders: int, days: int) -> None:
    history = History(items, orders, days, datetime(2026, 11, 24, 0, 0, 1, tzinfo=UTC))
    batches = list(history.batches())
    assert sum(batch.orders for batch in batches) == orders
    assert len(list(history.item_rows())) == items
    assert all(quantity >= 0 for quantity in history.stock)


def test_the_command_fills_the_database_and_shows_its_progress(database_url: str, tmp_path: object) -> None:
    environment = {**os.environ, "DATABASE_URL": database_url, "DEPOT_HOME": str(tmp_path)}

    def run(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return run_depot(arguments, env={**environment, **more}, timeout=120)

    refused = run("demo")
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    made = run("demo", "--yes", "--items", "20", "--orders", "50", "--days", "5", **NEW_INTERPRETER)
    assert made.returncode == 0, made.stderr
    assert "orders" in made.stderr
    again = run("demo", "--yes")
    assert again.returncode == 1
    assert "already" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1, again.stderr
