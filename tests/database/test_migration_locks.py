"""Migrations let other transactions write: none locks an existing table for the length of a scan."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event

from service.database import migrate
from service.settings import Settings, StartupError
from tests.support.app_helpers import connected, wait_for_locks

FIRST_RELEASE = "0006"
"""Databases with older schemas predate the first release, so their tables are small."""
SINGLE_ROW_TABLES = {"books", "sealing"}

TABLE = r"(?:only\s+)?(?:public\.)?\"?(?P<table>\w+)"
BLOCKING = [
    re.compile(rf"create\s+(?:unique\s+)?index\s+(?!concurrently).*?\son\s+{TABLE}"),
    re.compile(rf"reindex\s+(?:\(.*\)\s*)?(?:index|table)\s+(?!concurrently){TABLE}"),
    re.compile(rf"alter\s+table\s+{TABLE}\W.*add\s+(?:constraint|check|foreign|unique|primary|exclude)\b"
               r"(?!.*\bnot\s+valid\b)(?!.*\busing\s+index\b)"),
    re.compile(rf"alter\s+table\s+{TABLE}\W.*\bset\s+not\s+null"),
    re.compile(rf"alter\s+table\s+{TABLE}\W.*alter\s+(?:column\s+)?\S+\s+(?:set\s+data\s+)?type\b"),
    re.compile(rf"alter\s+table\s+{TABLE}\W.*add\s+column\b.*\b(?:unique|primary\s+key|references|generated"
               r"|uuidv7|gen_random_uuid|random|clock_timestamp)\b"),
    re.compile(rf"(?:update|delete\s+from)\s+{TABLE}"),
    re.compile(rf"(?:vacuum\s+full|cluster|lock(?:\s+table)?)\s+{TABLE}"),
]  # fmt: skip
CREATED_TABLE = re.compile(rf"create\s+table\s+(?:if\s+not\s+exists\s+)?{TABLE}")


def blocked_table(statement: str) -> str | None:
    """Return the table that a statement locks while it scans or rewrites it."""
    text = " ".join(statement.lower().split())
    match = next((match for pattern in BLOCKING if (match := pattern.match(text))), None)
    return match["table"] if match else None


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("CREATE INDEX ix ON items (name)", "items"),
        ("create unique index ix on items (name)", "items"),
        ("create index concurrently ix on items (name)", None),
        ("create unique index concurrently ix on items (name)", None),
        ("reindex index ix_items_parts", "ix_items_parts"),
        ("reindex index concurrently ix_items_parts", None),
        ("alter table items add constraint c check (price > 0)", "items"),
        ("alter table items add constraint c check (price > 0) not valid", None),
        ("alter table items validate constraint c", None),
        ("alter table items add constraint c unique using index ix", None),
        ("ALTER TABLE items ALTER COLUMN name SET NOT NULL", "items"),
        ("ALTER TABLE items ALTER COLUMN name TYPE varchar", "items"),
        ("ALTER TABLE items ADD COLUMN low_stock_at INTEGER DEFAULT 5", None),
        ("ALTER TABLE items ADD COLUMN tag UUID DEFAULT gen_random_uuid()", "items"),
        ("update items set archived = false", "items"),
        ("insert into books values (true)", None),
        ("drop index ix_items_parts", None),
    ],
)
def test_statements_that_block_writers_are_known(statement: str, table: str | None) -> None:
    assert blocked_table(statement) == table


@contextmanager
def recorded_statements() -> Iterator[list[str]]:
    statements: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


def test_no_migration_locks_an_existing_table_for_the_length_of_a_scan(empty_database: Settings) -> None:
    revisions = ScriptDirectory(str(migrate.migrations_dir())).walk_revisions()
    existing: set[str] = set()
    for revision in reversed([script.revision for script in revisions]):
        with recorded_statements() as statements:
            migrate.upgrade(empty_database, revision)
        if revision > FIRST_RELEASE:
            blocked = {statement: blocked_table(statement) for statement in statements}
            allowed = {None, migrate.VERSION_TABLE, *SINGLE_ROW_TABLES}
            wrong = {text: table for text, table in blocked.items() if table not in allowed}
            assert not {
                text for text, table in wrong.items() if table in existing or "reindex" in text.lower()
            }
        created = (CREATED_TABLE.match(" ".join(text.lower().split())) for text in statements)
        existing |= {match["table"] for match in created if match}


@pytest.mark.parametrize("revision", ["0007", "0011"])
async def test_items_are_written_while_an_index_on_them_waits_to_be_built(
    empty_database: Settings, revision: str
) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database, f"{int(revision) - 1:04}")
    url = empty_database.database_url or ""
    async with connected(url) as first, connected(url) as second:
        transaction = first.transaction()
        await transaction.start()
        await add_item(first, "A")
        migrating = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database, revision))
        await wait_for_locks(second, 1)
        await second.execute("set lock_timeout = '3s'")
        await add_item(second, "B")
        await transaction.commit()
        await migrating
        valid = await second.fetchval(
            "select bool_and(indisvalid) from pg_index where indrelid = 'items'::regclass"
        )
        assert valid


@pytest.fixture
def brief_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(migrate, "LOCK_PAUSE_SECONDS", 0.1)


@pytest.mark.usefixtures("brief_waits")
async def test_a_migration_that_waits_for_a_long_transaction_does_not_block_others(
    empty_database: Settings,
) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database, "0014")
    url = empty_database.database_url or ""
    async with connected(url) as long, connected(url) as second:
        async with long.transaction():
            await long.fetch("select * from api_keys")
            migrating = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database, "0015"))
            await wait_for_locks(second, 1)
            await second.execute("set lock_timeout = '3s'")
            await second.fetch("select * from api_keys")
            await wait_for_locks(second, 1)  # it tries again
        await migrating
        assert await second.fetch("select rate_limit from api_keys") == []


@pytest.mark.usefixtures("brief_waits")
async def test_a_migration_gives_up_and_says_why(
    empty_database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_ATTEMPTS_MAX", 2)
    await asyncio.to_thread(migrate.upgrade, empty_database, "0014")
    async with connected(empty_database.database_url or "") as long, long.transaction():
        await long.fetch("select * from api_keys")
        with pytest.raises(StartupError, match="a long transaction holds a table"):
            await asyncio.to_thread(migrate.upgrade, empty_database)
    assert await asyncio.to_thread(migrate.current_revision, empty_database) == "0014"


async def add_item(connection: "asyncpg.Connection[asyncpg.Record]", sku: str) -> None:
    await connection.execute(
        "insert into items (id, sku, name, price, currency, quantity, version) "
        "values (gen_random_uuid(), $1, 'Bolt', 1, 'USD', 0, 1)",
        sku,
    )
