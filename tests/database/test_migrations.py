"""The schema: built by migrations, reversible, and the same as that of the models."""

import asyncio
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Connection
from sqlalchemy.ext.asyncio import create_async_engine

from service.database import migrate
from service.database.database import SCHEMA
from service.models import Base
from service.settings import Settings, StartupError
from service.testing import database_url_for, execute
from tests.support.depot_command import run_depot

ROOT = Path(__file__).parents[2]


async def tables(settings: Settings) -> set[str]:
    assert settings.database_url
    connection = await asyncpg.connect(settings.database_url)
    rows = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
    await connection.close()
    return {row[0] for row in rows}


def test_the_service_knows_the_newest_revision() -> None:
    assert ScriptDirectory(str(migrate.migrations_dir())).get_current_head() == SCHEMA


def test_migrations_run_up_down_and_up_again(empty_database: Settings) -> None:
    migrate.upgrade(empty_database)
    migrate.commands(empty_database).downgrade("base")
    assert asyncio.run(tables(empty_database)) == {migrate.VERSION_TABLE}
    migrate.upgrade(empty_database)
    assert set(Base.metadata.tables) < asyncio.run(tables(empty_database))


def test_a_database_whose_encoding_is_not_utf_8_is_rejected(server_url: str) -> None:
    name = f"depot_ascii_{uuid4().hex[:12]}"
    execute(server_url, f"create database {name} encoding 'SQL_ASCII' locale 'C' template template0")
    with pytest.raises(StartupError, match="encoded as SQL_ASCII"):
        migrate.upgrade(Settings(database_url=database_url_for(server_url, name)))
    execute(server_url, f"drop database {name} with (force)")


async def test_the_models_match_the_migrated_schema(database_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "include_object": lambda _o, name, *_: name != migrate.VERSION_TABLE}
        return compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(database_url))
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_every_check_of_the_models_is_in_the_schema_and_all_have_names(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        "select conname from pg_constraint where connamespace = 'public'::regnamespace and contype = 'c'"
    )
    await connection.close()
    declared = {
        str(check.name)
        for table in Base.metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }
    assert {row[0] for row in rows} == declared
    assert "None" not in declared


def test_replicas_can_migrate_at_the_same_time(empty_database: Settings) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_database.database_url or ""}

    def run(_: int) -> int:
        return run_depot(["migrate"], env=environment).returncode

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [0, 0, 0]
    assert set(Base.metadata.tables) < asyncio.run(tables(empty_database))


def test_migrations_may_be_in_a_directory_with_any_name(
    empty_database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(migrate.migrations_dir(), tmp_path / 'Ann\'s & 100% "more"')
    monkeypatch.setattr(migrate, "migrations_dir", lambda: copy)
    migrate.upgrade(empty_database)
    assert migrate.current_revision(empty_database) == SCHEMA


def test_the_wheel_brings_its_migrations(empty_database: Settings, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("depot_service-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "import service.cli; assert 'installed' in service.cli.__file__; service.cli.main()"
    subprocess.run(
        [sys.executable, "-c", code, "migrate"],
        env={"PYTHONPATH": str(tmp_path / "installed"), "DATABASE_URL": empty_database.database_url or ""},
        cwd=tmp_path,
        check=True,
    )
    assert set(Base.metadata.tables) < asyncio.run(tables(empty_database))


PLACED_BEFORE = """
insert into orders (id, status, customer_id, currency, total, version, created_at)
select uuidv7(), (array['placed', 'fulfilled', 'cancelled'])[1 + n % 3], 'c-1', 'USD', 1, 1, '2026-01-01'
from generate_series(1, 30) n;
insert into events (type, subject, actor, payload, created_at)
select 'order.' || status, id::text, 'cli', '{}', '2026-01-02' from orders where status <> 'placed'"""


async def test_orders_that_ended_before_their_times_were_stored_get_them_from_the_journal(
    empty_database: Settings,
) -> None:
    await asyncio.to_thread(migrate.commands(empty_database).upgrade, "0013")
    connection = await asyncpg.connect(empty_database.database_url)
    await connection.execute(PLACED_BEFORE)
    await asyncio.to_thread(migrate.upgrade, empty_database)
    rows = await connection.fetch(
        "select status, date(updated_at)::text, date(fulfilled_at)::text, date(cancelled_at)::text, count(*) "
        "from orders group by 1, 2, 3, 4 order by 1"
    )
    await connection.close()
    assert [tuple(row) for row in rows] == [
        ("cancelled", "2026-01-02", None, "2026-01-02", 10),
        ("fulfilled", "2026-01-02", "2026-01-02", None, 10),
        ("placed", None, None, None, 10),
    ]
