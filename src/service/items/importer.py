"""CSV import: COPY into a staging table, then merge with statements over all rows.

The same statements record movements and events.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from time import monotonic
from typing import TextIO

from msgspec import UNSET, Struct
from uuid_utils.compat import uuid7

from service.database.servers import Connection
from service.events.journal import Author
from service.items.csv_rows import OPTIONAL, REQUIRED, InvalidRow, Row, read_rows
from service.items.schemas import ItemCreate
from service.items.statements import AUDITED_FIELDS_JSON, ITEM_JSON, RECORD_ITEM_EVENTS
from service.values import Currency, encode_json, price_problem

STAGING_COLUMNS = ("line", "id", *REQUIRED, *OPTIONAL)

BAD_ROWS_LISTED_MAX = 1000
LOOP_SLICE_SECONDS = 0.005
"""Seconds of parsing before yielding to the event loop."""
STATEMENT_TIMEOUT_SECONDS = 3600.0
"""Files can be large, and orders may hold locks on their items."""

CREATE_STAGING_TABLE = """
create temporary table staged (line int, id uuid, sku text, name text, price text, description text,
  currency text, quantity int, attributes text, low_stock_at int) on commit drop"""

DELETE_DUPLICATES = """
with duplicates as (
  delete from staged s using (select sku, min(line) as line from staged group by sku) first
  where s.sku = first.sku and s.line > first.line returning s.line, s.sku, first.line as first_line
)
select line, sku, first_line, count(*) over () from duplicates order by line limit $1"""

DELETE_UNFIT_PRICES = """
with existing as (
  select sku, items.currency from items join staged using (sku) order by items.id for no key update of items
), priced as (
  select sku, coalesce(e.currency, n.currency) as currency from staged n left join existing e using (sku)
), unfit as (
  delete from staged s using priced p where p.sku = s.sku and scale(s.price::numeric) > decimals(p.currency)
  returning s.line, p.currency, s.price
)
select line, currency, price, count(*) over () from unfit order by line limit $1"""
"""For files without a currency column: an existing item keeps its currency, which the new price must fit, and
a new item gets the default currency."""

INSERT_NEW = f"""
with created as (
  insert into items (id, sku, name, price, description, currency, quantity, attributes,
    low_stock_at, version)
  select id, sku, name, price::numeric, description, currency, quantity, attributes::jsonb, low_stock_at, 1
  from staged order by sku on conflict (sku) do nothing returning *
), movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity)
  select id, version, 'import', quantity, quantity from created where quantity > 0
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'item.created', id::text, $1, $2, {ITEM_JSON}::jsonb from created
), merged as (delete from staged using created where staged.sku = created.sku)
select count(*) from created"""

LOCK_EXISTING = """
with existing as (select 1 from items join staged using (sku) order by items.id for no key update of items)
select count(*) from existing"""

UPDATE_EXISTING = f"""
with before as (
  select i.* from items i join staged using (sku)
), changed as (
  update items i set ({{columns}}) = ({{values}}), version = i.version + 1, updated_at = now()
  from staged s, before
  where i.sku = s.sku and i.id = before.id and row({{current}})::text is distinct from row({{values}})::text
  returning i.*, $1::text as actor, $2::text as request_id, i.quantity - before.quantity as delta,
    changes({AUDITED_FIELDS_JSON.format("before")}, {AUDITED_FIELDS_JSON.format("i")}) as changes
), movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity)
  select id, version, 'import', delta, quantity from changed where delta <> 0
), recorded as ({RECORD_ITEM_EVENTS}
)
select count(*) from changed"""
"""`_merge` fills in the columns of the file. The old and the new values are compared as text, because as JSON
1.5 equals 1.50."""
NEW_VALUES = {
    "price": "s.price::numeric(12, 2)",
    "description": "coalesce(s.description, case when i.description = '' then '' end)",
    "attributes": "s.attributes::jsonb",
}
"""Expressions for new values. In CSV, an empty cell stands for a null and for an empty description."""


class ImportReport(Struct):
    """Result of an import: items created, updated and unchanged, and invalid rows."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    bad: int = 0
    bad_rows: list[InvalidRow] = []
    """The first invalid rows."""


class InvalidRows(Exception):
    """Some rows are invalid, so none is imported."""

    def __init__(self, report: ImportReport) -> None:
        rows = "row" if report.bad == 1 else "rows"
        super().__init__(f"{report.bad} invalid {rows}; nothing was imported")
        self.report = report


async def import_items(
    connection: Connection,
    text: TextIO,
    author: Author,
    *,
    currency: Currency,
    skip_bad: bool,
    on_progress: Callable[[int], Awaitable[None]],
) -> ImportReport:
    """Create items with new SKUs and update the others; columns missing from the file keep their values.

    `currency` is that of new items if the file has no column for it.
    `text` must be opened with `csv_rows.ENCODING` and newline="". `on_progress` receives the bytes read so
    far. All changes are in the caller's transaction, which must be rolled back if this raises: `InvalidFile`
    for a bad header or encoding, `InvalidRows` unless invalid rows are skipped.
    """
    report = ImportReport()
    await connection.execute(f"set local statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'")
    await connection.execute(CREATE_STAGING_TABLE)
    columns, rows = read_rows(text)
    records = _records(rows, text, currency, report, on_progress)
    await connection.copy_records_to_table(
        "staged", records=records, columns=STAGING_COLUMNS, timeout=STATEMENT_TIMEOUT_SECONDS
    )
    await _drop_duplicate_skus(connection, report)
    if "currency" not in columns:
        await _drop_unfit_prices(connection, report)
    if report.bad and not skip_bad:
        raise InvalidRows(report)
    await _merge(connection, columns, author, report)
    return report


async def _records(
    rows: Iterator[tuple[int, Row]],
    text: TextIO,
    default_currency: Currency,
    report: ImportReport,
    on_progress: Callable[[int], Awaitable[None]],
) -> AsyncIterator[tuple[object, ...]]:
    since = monotonic()
    for line, item in rows:
        if monotonic() - since > LOOP_SLICE_SECONDS:
            await on_progress(text.buffer.tell())
            await asyncio.sleep(0)
            since = monotonic()
        if isinstance(item, ItemCreate):
            attributes = None if item.attributes is None else encode_json(item.attributes).decode()
            currency = default_currency if item.currency is UNSET else item.currency
            yield (line, uuid7(), item.sku, item.name, item.price, item.description, currency,
                   item.quantity, attributes, item.low_stock_at)  # fmt: skip
        elif isinstance(item, InvalidRow):
            _add(report, item)
    await on_progress(text.buffer.tell())


def _add(report: ImportReport, row: InvalidRow) -> None:
    report.bad += 1
    if len(report.bad_rows) < BAD_ROWS_LISTED_MAX:
        report.bad_rows.append(row)


async def _drop_duplicate_skus(connection: Connection, report: ImportReport) -> None:
    rows = await connection.fetch(DELETE_DUPLICATES, BAD_ROWS_LISTED_MAX, timeout=STATEMENT_TIMEOUT_SECONDS)
    dropped = [InvalidRow(line, [f"sku: {sku} is already in line {first}"]) for line, sku, first, _ in rows]
    _add_dropped(report, dropped, rows[0]["count"] if rows else 0)


async def _drop_unfit_prices(connection: Connection, report: ImportReport) -> None:
    rows = await connection.fetch(DELETE_UNFIT_PRICES, BAD_ROWS_LISTED_MAX, timeout=STATEMENT_TIMEOUT_SECONDS)
    dropped = [
        InvalidRow(line, [f"price: {price_problem(price, currency)}"]) for line, currency, price, _ in rows
    ]
    _add_dropped(report, dropped, rows[0]["count"] if rows else 0)


def _add_dropped(report: ImportReport, rows: list[InvalidRow], count: int) -> None:
    report.bad += count
    report.bad_rows = sorted(report.bad_rows + rows, key=lambda row: row.line)[:BAD_ROWS_LISTED_MAX]


async def _merge(connection: Connection, columns: list[str], author: Author, report: ImportReport) -> None:
    by = (author.actor, author.request_id)
    # Lock existing items before inserting new ones, to avoid a deadlock with a transaction that holds one of
    # them, such as a PATCH that renames it to a SKU of this file.
    await connection.fetchval(LOCK_EXISTING, timeout=STATEMENT_TIMEOUT_SECONDS)
    report.created = await connection.fetchval(INSERT_NEW, *by, timeout=STATEMENT_TIMEOUT_SECONDS)
    # The staging table has lost the rows of new items, so this counts only the others.
    existing = await connection.fetchval(LOCK_EXISTING, timeout=STATEMENT_TIMEOUT_SECONDS)
    updated = [name for name in columns if name != "sku"]
    statement = UPDATE_EXISTING.format(
        columns=", ".join(updated),
        values=", ".join(NEW_VALUES.get(name, f"s.{name}") for name in updated),
        current=", ".join(f"i.{name}" for name in updated),
    )
    report.updated = await connection.fetchval(statement, *by, timeout=STATEMENT_TIMEOUT_SECONDS)
    report.unchanged = existing - report.updated
