"""Items from CSV: streamed into a staging table by COPY, merged in one transaction: nothing half done."""

import csv
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import asyncpg
import msgspec
from msgspec import Struct
from uuid_utils.compat import uuid7

from service.errors import Detail
from service.http.body import DEPTH_MAX
from service.http.explain import depth, explain, unstorable
from service.items.schemas import ItemCreate
from service.values import decode_json, encode_json

REQUIRED = ("sku", "name", "price")
OPTIONAL = ("description", "currency", "quantity", "attributes")
NULLABLE = ("description", "attributes")
INTEGER = re.compile(r"-?[0-9]{1,18}")
STAGED = ("line", "id", *REQUIRED, *OPTIONAL)

STAGE = """
create temporary table staged (line int, id uuid, sku text, name text, price text, description text,
  currency text, quantity int, attributes text) on commit drop"""

REPEATED = """
delete from staged s using (select sku, min(line) as line from staged group by sku) first
where s.sku = first.sku and s.line > first.line returning s.line, s.sku, first.line as first_line"""

INSERT_NEW = """
with created as (
  insert into items (id, sku, name, price, description, currency, quantity, attributes, version)
  select id, sku, name, price::numeric, description, currency, quantity, attributes::jsonb, 1
  from staged order by sku on conflict (sku) do nothing returning id, sku, version, quantity
), moved as (
  insert into movements (item_id, version, cause, delta, resulting_quantity)
  select id, version, 'import', quantity, quantity from created where quantity > 0
), merged as (delete from staged using created where staged.sku = created.sku)
select count(*) from created"""

LOCK_OLD = "select 1 from items join staged using (sku) order by items.id for no key update of items"

UPDATE_OLD = """
with before as (
  select i.id, i.quantity from items i join staged using (sku)
), changed as (
  update items i set ({columns}) = ({values}), version = version + 1, updated_at = now()
  from staged s, before b
  where i.sku = s.sku and i.id = b.id and ({current}) is distinct from ({values})
  returning i.id, i.version, i.quantity, i.quantity - b.quantity as delta
), moved as (
  insert into movements (item_id, version, cause, delta, resulting_quantity)
  select id, version, 'import', delta, quantity from changed where delta <> 0
)
select count(*) from changed"""
CASTS = {"price": "s.price::numeric", "attributes": "s.attributes::jsonb"}


class BadRow(Struct, frozen=True):
    line: int
    problems: list[str]


class Report(Struct):
    """What an import did. With bad rows and without `skip_bad` it did nothing."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    bad: list[BadRow] = []


class Abandoned(Exception):
    """Rolls the transaction back; the report says why."""


class BadFile(ValueError):
    """Not a CSV of items at all."""


async def import_items(
    connection: "asyncpg.Connection[asyncpg.Record]",
    path: Path,
    *,
    skip_bad: bool,
    on_progress: Callable[[int], None],
) -> Report:
    """Create the items with new SKUs and update the others; columns the file lacks keep their values.

    `on_progress` gets the bytes read so far. Raises `BadFile` when the header or the encoding is wrong.
    """
    report = Report()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            async with connection.transaction():
                await connection.execute("set local statement_timeout = 0")
                await connection.execute(STAGE)
                columns, rows = read_rows(file)
                records = _records(rows, file, report, on_progress)
                await connection.copy_records_to_table("staged", records=records, columns=STAGED)
                for line, sku, first in await connection.fetch(REPEATED):
                    report.bad.append(BadRow(line, [f"sku: {sku} is in line {first} already"]))
                if report.bad and not skip_bad:
                    raise Abandoned
                await _merge(connection, columns, report)
    except Abandoned:
        pass
    report.bad.sort(key=lambda row: row.line)
    return report


def read_rows(file: TextIO) -> tuple[list[str], Iterator[tuple[int, ItemCreate | BadRow]]]:
    """The columns, and for each row the line it begins in with the item or what is wrong with it."""
    reader = csv.reader(file, strict=True)
    try:
        columns = next(reader, [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadFile(f"the file is not CSV in UTF-8: {error}") from None
    if missing := [name for name in REQUIRED if name not in columns]:
        raise BadFile(f"the header lacks {', '.join(missing)}")
    if unknown := [name for name in columns if name not in REQUIRED + OPTIONAL]:
        raise BadFile(f"the header has unknown columns: {', '.join(unknown)}")
    if len(set(columns)) < len(columns):
        raise BadFile("the header names a column twice")
    return columns, _rows(reader, columns)


def _rows(reader: Any, columns: list[str]) -> Iterator[tuple[int, ItemCreate | BadRow]]:
    line = reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadFile(f"line {line}: the file is not CSV in UTF-8: {error}") from None
        if cells:
            yield line, _parse(line, columns, cells)
        line = reader.line_num + 1


def _parse(line: int, columns: list[str], cells: list[str]) -> ItemCreate | BadRow:
    if len(cells) != len(columns):
        return BadRow(line, [f"{len(cells)} cells where the header has {len(columns)}"])
    values: dict[str, Any] = dict(zip(columns, cells, strict=True))
    for name in NULLABLE:
        if values.get(name) == "":
            values[name] = None
    if INTEGER.fullmatch(values.get("quantity", "")):  # msgspec's lax mode would take 5.0 and 1e3 as well
        values["quantity"] = int(values["quantity"])
    try:
        if values.get("attributes") is not None:
            values["attributes"] = decode_json(values["attributes"])
            if depth(values) > DEPTH_MAX:
                return BadRow(line, [f"attributes: nested more than {DEPTH_MAX} levels deep"])
        if wrong := unstorable(values):
            return BadRow(line, [_problem(detail) for detail in wrong])
        return msgspec.convert(values, ItemCreate)
    except msgspec.ValidationError:
        wrong = explain(values, ItemCreate)
        return BadRow(line, [_problem(detail) for detail in wrong])
    except (msgspec.DecodeError, RecursionError):
        return BadRow(line, ["attributes: not JSON"])


def _problem(detail: Detail) -> str:
    field = detail.field.removeprefix("/")
    return f"{field}: {detail.message}" if field else detail.message


async def _records(
    rows: Iterator[tuple[int, ItemCreate | BadRow]],
    file: TextIO,
    report: Report,
    on_progress: Callable[[int], None],
) -> AsyncIterator[tuple[object, ...]]:
    for line, item in rows:
        on_progress(file.buffer.tell())
        if isinstance(item, BadRow):
            report.bad.append(item)
            continue
        attributes = None if item.attributes is None else encode_json(item.attributes).decode()
        yield (line, uuid7(), item.sku, item.name, item.price, item.description, item.currency, item.quantity,
               attributes)  # fmt: skip


async def _merge(
    connection: "asyncpg.Connection[asyncpg.Record]", columns: list[str], report: Report
) -> None:
    report.created = await connection.fetchval(INSERT_NEW)
    report.unchanged = len(await connection.fetch(LOCK_OLD))
    kept = [name for name in columns if name != "sku"]
    statement = UPDATE_OLD.format(
        columns=", ".join(kept),
        values=", ".join(CASTS.get(name, f"s.{name}") for name in kept),
        current=", ".join(f"i.{name}" for name in kept),
    )
    report.updated = await connection.fetchval(statement)
    report.unchanged -= report.updated
