"""`depot items import`: all rows or, if any row is invalid, none; and which rows are invalid."""

import asyncio
import csv
import json
import os
import signal
from collections.abc import Sequence
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple
from unittest.mock import ANY

import httpx
import pytest

from service.database.database import Database
from service.events.journal import CLI
from service.items.csv_rows import ENCODING, InvalidFile, InvalidRow
from service.items.importer import ImportReport, InvalidRows, import_items
from service.values import encode_json
from tests.support.app_helpers import (
    MAX_WAIT_SECONDS,
    item,
    locked,
    order,
    wait_for_locks,
    wait_until_idle,
)
from tests.support.consistency import discrepancies
from tests.support.depot_command import NEW_INTERPRETER, Process, run_depot, start_depot

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


async def load(database: Database, file: Path, *, skip_bad: bool = False) -> ImportReport:
    """Import without a process of its own."""

    async def on_progress(bytes_read: int) -> None:
        assert bytes_read > 0

    try:
        with file.open(encoding=ENCODING, newline="") as text:
            async with database.session() as session, session.transaction():
                connection = await session.connection()
                return await import_items(connection, text, CLI, skip_bad=skip_bad, on_progress=on_progress)
    except InvalidRows as refused:
        return refused.report


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "items.csv"


def write(file: Path, header: str, *rows: Sequence[object]) -> None:
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def write_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def stored(database: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch("select * from items order by sku")]


# Ten thousand rows, with the command


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
    assert [tuple(row) for row in causes] == [("import", MANY - 1)]  # one of the items has no pieces
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
    assert "1 bad row; nothing was imported" in err
    assert await stored(database) == []
    status, out, err = await depot_import(database_url, file, "--skip-bad")
    assert (status, out) == (0, "999 created, 0 updated, 0 unchanged, 1 skipped")
    assert "line 602: price: " in err
    assert len(await stored(database)) == 999


async def test_a_file_that_is_not_csv_of_items_is_one_clear_error(database_url: str, file: Path) -> None:
    write(file, "sku,name", ["A", "Bolt"])
    status, out, err = await depot_import(database_url, file)
    assert (status, out) == (1, "")
    assert "the header lacks required columns: price" in err
    assert "Traceback" not in err


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


async def test_imports_and_orders_at_the_same_time_keep_the_books(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, file: Path
) -> None:
    over = asyncio.Event()
    items = [await item(concurrent_client, 1000) for _ in range(20)]
    sold: dict[str, str] = {}

    async def buy() -> None:
        while not over.is_set():
            placed = (
                await order(concurrent_client, (items[len(sold) % 20], 1), (items[len(sold) % 7], 2))
            ).json()
            sold[placed["id"]] = placed["total"]

    buyers = [asyncio.create_task(buy()) for _ in range(8)]
    for quantity in (800, 900):
        write(
            file,
            "sku,name,price,quantity",
            *[[f"N-{n}", "New", "1", 1] for n in range(500)],
            *[[each["sku"], f"Bolt at {quantity}", "1.50", quantity] for each in items],
        )
        reports = await asyncio.gather(load(database, file), load(database, file))
        assert [report.bad for report in reports] == [0, 0]
    over.set()
    await asyncio.gather(*buyers)
    assert len(sold) > 20
    assert await discrepancies(database_url, sold) == []


async def test_an_import_records_the_difference_to_the_stock_left_when_its_lock_is_granted(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, file: Path
) -> None:
    first, second = sorted(
        [await item(concurrent_client, 5), await item(concurrent_client, 5)], key=itemgetter("id")
    )
    write(file, "sku,name,price,quantity", *[[each["sku"], "Bolt", "1", 10] for each in (second, first)])
    async with locked(database_url, first) as holder:
        importing = asyncio.create_task(load(database, file))
        await wait_for_locks(holder, 1)
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            assert (await order(concurrent_client, (second, 1))).status_code == 201
    assert (await importing).updated == 2
    movements = await database.fetch("select delta from movements where cause = 'import' order by item_id")
    assert [delta for (delta,) in movements] == [5, 6]
    assert await discrepancies(database_url) == []


async def test_an_item_may_be_renamed_to_a_sku_of_the_file_while_an_import_waits_for_it(
    concurrent_client: httpx.AsyncClient, database: Database, database_url: str, file: Path
) -> None:
    bolt = await item(concurrent_client, 5)
    write(file, "sku,name,price", [bolt["sku"], "Bolt", "1"], ["NEW", "Bolt", "1"])
    async with locked(database_url, bolt) as holder:
        importing = asyncio.create_task(load(database, file))
        await wait_for_locks(holder, 1)
        await holder.execute("update items set sku = 'NEW' where id = $1", bolt["id"])
    report = await importing
    assert (report.created, report.updated) == (1, 1)


# Invalid rows


async def test_lines_are_counted_as_an_editor_does(database: Database, file: Path) -> None:
    write(
        file,
        "sku,name,price,description",
        ["A", "Bolt", "1", "three\nlines\nof text"],
        ["B", "Bolt", "x", "fine"],
        ["C", "Bolt", "1", "two\r\nlines"],
        [],
        ["D", "Bolt", "y", ""],
    )
    report = await load(database, file)
    assert [row.line for row in report.bad_rows] == [5, 9]
    assert await stored(database) == []


BAD = {
    "quantity: 5.0": ["A", "Bolt", "1", "5.0", "", "USD", ""],
    "quantity: 1e3": ["A", "Bolt", "1", "1e3", "", "USD", ""],
    "quantity: empty": ["A", "Bolt", "1", "", "", "USD", ""],
    "quantity: negative": ["A", "Bolt", "1", "-1", "", "USD", ""],
    "quantity: too much": ["A", "Bolt", "1", "2147483648", "", "USD", ""],
    "quantity: far too much": ["A", "Bolt", "1", "9" * 5000, "", "USD", ""],
    "quantity: other digits": ["A", "Bolt", "1", "٣", "", "USD", ""],
    "price: NaN": ["A", "Bolt", "NaN", "1", "", "USD", ""],
    "price: Infinity": ["A", "Bolt", "Infinity", "1", "", "USD", ""],
    "price: exponent": ["A", "Bolt", "1e2", "1", "", "USD", ""],
    "price: three decimals": ["A", "Bolt", "0.999", "1", "", "USD", ""],
    "price: negative": ["A", "Bolt", "-1", "1", "", "USD", ""],
    "price: empty": ["A", "Bolt", "", "1", "", "USD", ""],
    "currency: unknown": ["A", "Bolt", "1", "1", "", "XXX", ""],
    "sku: blank": ["A B", "Bolt", "1", "1", "", "USD", ""],
    "sku: newline": ["A\n", "Bolt", "1", "1", "", "USD", ""],
    "sku: empty": ["", "Bolt", "1", "1", "", "USD", ""],
    "name: empty": ["A", "", "1", "1", "", "USD", ""],
    "name: long": ["A", "x" * 201, "1", "1", "", "USD", ""],
    "name: NUL": ["A", "Bo\0lt", "1", "1", "", "USD", ""],
    "description: NUL": ["A", "Bolt", "1", "1", "\0", "USD", ""],
    "attributes: a list": ["A", "Bolt", "1", "1", "", "USD", "[]"],
    "attributes: a number": ["A", "Bolt", "1", "1", "", "USD", "5"],
    "attributes: not JSON": ["A", "Bolt", "1", "1", "", "USD", "{a}"],
    "attributes/a: NUL": ["A", "Bolt", "1", "1", "", "USD", '{"a": "\\u0000"}'],
    "attributes/a: no number": ["A", "Bolt", "1", "1", "", "USD", '{"a": 1e99999}'],
    "attributes: digits": ["A", "Bolt", "1", "1", "", "USD", '{"a": ' + "9" * 5000 + "}"],
    "attributes: deep": ["A", "Bolt", "1", "1", "", "USD", '{"a": ' + "[" * 200 + "]" * 200 + "}"],
    "attributes: bottomless": ["A", "Bolt", "1", "1", "", "USD", "[" * 50_000],
    "attributes: large": ["A", "Bolt", "1", "1", "", "USD", '{"a": "' + "x" * 16_384 + '"}'],
    "has 6 cells, but the header has 7 columns": ["A", "Bolt", "1", "1", "", "USD"],
    "has 8 cells, but the header has 7 columns": ["A", "Bolt", "1", "1", "", "USD", "", "x"],
}


@pytest.mark.parametrize(("what", "row"), BAD.items(), ids=BAD)
async def test_an_invalid_cell_is_reported_with_its_line_and_column(
    what: str, row: list[str], database: Database, file: Path
) -> None:
    write(file, "sku,name,price,quantity,description,currency,attributes", row,
          ["GOOD", "Nut", "0.05", "3", "", "EUR", '{"size": 1.10}'])  # fmt: skip
    report = await load(database, file, skip_bad=True)
    assert (report.created, report.bad, [bad.line for bad in report.bad_rows]) == (1, 1, [2])
    ((problem,),) = [bad.problems for bad in report.bad_rows]
    assert problem.startswith(what.partition(":")[0])
    assert [row["sku"] for row in await stored(database)] == ["GOOD"]


async def test_of_many_invalid_rows_the_first_thousand_are_listed_and_all_are_counted(
    database: Database, file: Path
) -> None:
    rows = [[f"S-{n}", "Bolt", "x" if n % 2 else "1"] for n in range(1800)]
    write(file, "sku,name,price", *rows, *[["S-0", "Bolt", "1"]] * 1100)
    report = await load(database, file)
    assert report.bad == 900 + 1100
    assert [row.line for row in report.bad_rows] == [*range(3, 1802, 2), *range(1802, 1902)]


async def test_every_invalid_cell_of_a_row_is_reported(database: Database, file: Path) -> None:
    write(file, "sku,name,price,quantity", ["A B", "", "x", "y"])
    report = await load(database, file)
    assert {problem.partition(":")[0] for problem in report.bad_rows[0].problems} == {
        "sku",
        "name",
        "price",
        "quantity",
    }


async def test_a_repeated_sku_is_an_invalid_row_that_names_the_first(database: Database, file: Path) -> None:
    write(
        file,
        "sku,name,price",
        ["A", "First", "1"],
        ["B", "Other", "1"],
        ["A", "Second", "2"],
        ["A", "x", "3"],
    )
    refused = await load(database, file)
    assert refused.bad_rows == [
        InvalidRow(4, ["sku: A is already in line 2"]),
        InvalidRow(5, ["sku: A is already in line 2"]),
    ]
    assert await stored(database) == []
    assert (await load(database, file, skip_bad=True)).created == 2
    assert [row["name"] for row in await stored(database)] == ["First", "Other"]


# What an import changes


async def test_columns_missing_from_the_file_keep_their_values(database: Database, file: Path) -> None:
    write(file, "sku,name,price,quantity,description,currency,attributes",
          ["A", "Bolt", "1", "5", "Long", "EUR", '{"size": 1.10}'])  # fmt: skip
    await load(database, file)
    write(file, "price,name,sku", ["2.5", "Screw", "A"])
    report = await load(database, file)
    assert (report.created, report.updated, report.unchanged) == (0, 1, 0)
    (now,) = await stored(database)
    assert (now["name"], now["price"], now["version"]) == ("Screw", Decimal("2.50"), 2)
    assert (now["quantity"], now["description"], now["currency"]) == (5, "Long", "EUR")
    assert str(now["attributes"]["size"]) == "1.10"


async def test_an_empty_cell_clears_a_nullable_field(database: Database, file: Path) -> None:
    write(file, "sku,name,price,description,attributes", ["A", "Bolt", "1", "Long", "{}"])
    await load(database, file)
    write(file, "sku,name,price,description,attributes", ["A", "Bolt", "1", "", ""])
    await load(database, file)
    (now,) = await stored(database)
    assert (now["description"], now["attributes"], now["version"]) == (None, None, 2)


async def test_a_row_that_changes_nothing_keeps_the_version(database: Database, file: Path) -> None:
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1", "5"], ["B", "Nut", "1", "5"])
    await load(database, file)
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1.00", "5"], ["B", "Nut", "1.01", "5"])
    report = await load(database, file)
    assert (report.updated, report.unchanged) == (1, 1)
    assert [row["version"] for row in await stored(database)] == [1, 2]


async def test_a_price_must_fit_the_currency_of_the_row_or_else_of_the_item(
    database: Database, file: Path
) -> None:
    write(file, "sku,name,price,currency", ["YEN", "Bolt", "1200", "JPY"], ["HALF", "Bolt", "0.5", "JPY"])
    report = await load(database, file, skip_bad=True)
    assert report.bad_rows == [InvalidRow(3, ["price: must have no decimals, because JPY has none"])]
    write(file, "sku,name,price", ["USD", "Bolt", "9.99"], ["YEN", "Bolt", "9.99"])
    report = await load(database, file, skip_bad=True)
    assert report.bad_rows == [InvalidRow(3, ["price: must have no decimals, because JPY has none"])]
    assert [(row["sku"], row["price"]) for row in await stored(database)] == [
        ("USD", Decimal("9.99")),
        ("YEN", Decimal(1200)),
    ]


async def test_a_number_of_attributes_with_another_scale_is_a_change(database: Database, file: Path) -> None:
    for size in ("1.5", "1.50", "1.50"):
        write(file, "sku,name,price,attributes", ["A", "Bolt", "1", f'{{"size": {size}}}'])
        await load(database, file)
    (now,) = await stored(database)
    assert (now["version"], str(now["attributes"]["size"])) == (2, "1.50")


async def test_a_new_quantity_is_recorded_as_a_movement(
    database: Database, database_url: str, file: Path
) -> None:
    for quantity in ("5", "0", "7", "7"):
        write(file, "sku,name,price,quantity", ["A", "Bolt", "1", quantity])
        await load(database, file)
    movements = await database.fetch(
        "select cause, delta, resulting_quantity, version from movements order by version"
    )
    assert [tuple(row) for row in movements] == [
        ("import", 5, 5, 1),
        ("import", -5, 0, 2),
        ("import", 7, 7, 3),
    ]
    assert await discrepancies(database_url) == []


# Events of an import


async def journal(database: Database) -> list[dict[str, Any]]:
    events = await database.fetch(
        "select type, subject, actor, request_id, payload from events where type like 'item.%' order by id"
    )
    return [dict(row) for row in events]


async def test_the_event_of_a_created_item_is_the_item_as_the_api_returns_it(
    concurrent_client: httpx.AsyncClient, database: Database, file: Path
) -> None:
    write(file, "sku,name,price,quantity,description,attributes",
          ["A", "Schraube ×", "9.5", "3", "", '{"size": 1.10}'],
          ["B", "Nut", "0", "0", "Long", ""])  # fmt: skip
    await load(database, file)
    events = await journal(database)
    shown = {row["sku"]: row for row in (await concurrent_client.get("/items")).json()["data"]}
    assert {event["payload"]["sku"]: event["subject"] for event in events} == {
        sku: row["id"] for sku, row in shown.items()
    }
    for event in events:
        assert (event["type"], event["actor"], event["request_id"]) == ("item.created", "cli", None)
        assert json.loads(encode_json(event["payload"])) == shown[event["payload"]["sku"]]
    assert str(events[0]["payload"]["attributes"]["size"]) == "1.10"


async def test_the_event_of_a_changed_item_is_the_difference_and_unchanged_items_have_none(
    database: Database, file: Path
) -> None:
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1", "50"], ["B", "Nut", "1", "5"])
    await load(database, file)
    write(file, "sku,name,price,quantity", ["A", "Bolt", "1.50", "40"], ["B", "Nut", "1.00", "5"])
    await load(database, file)
    (_, _, event) = await journal(database)
    assert (event["type"], event["actor"]) == ("item.updated", "cli")
    assert event["payload"] == {
        "id": event["subject"],
        "version": 2,
        "changes": {"price": {"from": "1.00", "to": "1.50"}, "quantity": {"from": 50, "to": 40}},
    }


async def test_an_import_records_the_same_events_as_a_patch(
    concurrent_client: httpx.AsyncClient, database: Database, file: Path
) -> None:
    old = {"description": "Old", "attributes": {"a": 1.10}}
    patched, imported = await item(concurrent_client, 9, **old), await item(concurrent_client, 9, **old)
    new = {"name": "Nut", "price": "8.00", "quantity": 4, "description": None, "attributes": {"a": 1.2}}
    await concurrent_client.patch(f"/items/{patched['id']}", json=new)
    write(file, "sku,name,price,quantity,description,attributes",
          [imported["sku"], "Nut", "8", "4", "", '{"a": 1.2}'])  # fmt: skip
    await load(database, file)
    events: dict[str, list[Any]] = {patched["id"]: [], imported["id"]: []}
    for event in await journal(database):
        events[event["subject"]].append((event["type"], {**event["payload"], "id": "", "sku": ""}))
    assert [type_ for type_, _ in events[patched["id"]]] == ["item.created", "item.updated", "item.low_stock"]
    assert events[imported["id"]][1:] == events[patched["id"]][1:]


async def test_a_rejected_import_records_no_events(database: Database, file: Path) -> None:
    write(file, "sku,name,price", ["A", "Bolt", "1"], ["B", "Nut", "x"])
    assert (await load(database, file)).bad == 1
    assert await journal(database) == []


# Files


async def test_a_byte_order_mark_and_crlf_are_fine(database: Database, file: Path) -> None:
    write_bytes(file, "\ufeffsku,name,price\r\nA,Schraube ×,1\r\nB,Mutter,2\r\n".encode())
    assert (await load(database, file)).created == 2
    assert [row["name"] for row in await stored(database)] == ["Schraube ×", "Mutter"]


async def test_a_header_alone_imports_nothing(database: Database, file: Path) -> None:
    write(file, "sku,name,price")
    assert await load(database, file) == ImportReport()


NO_CSV_OF_ITEMS = {
    "empty": (b"", "the first line is empty; it must name the columns: sku, name, price"),
    "an empty first line": (b"\n\nsku,name,price\n", "the first line is empty"),
    "a first line of separators": (b",,,\r\nsku,name,price\r\n", "the first line is empty"),
    "semicolons": (b"sku;name;price\r\nA;Bolt;1,00\r\n", "separated by semicolons; use commas"),
    "a named separator": (b"sep=;\r\nsku;name;price\r\n", "separated by semicolons; use commas"),
    "tabs": (b"sku\tname\tprice\nA\tBolt\t1\n", "separated by tabs; use commas"),
    "a column missing": (b"sku,name\nA,Bolt\n", "the header lacks required columns: price"),
    "an unknown column": (b"sku,name,price,colour\nA,Bolt,1,red\n", "unknown columns: colour"),
    "a column twice": (b"sku,name,price,name\nA,Bolt,1,Nut\n", "duplicate column"),
    "not UTF-8": ("sku,name,price\nA,Käse,1\n".encode("latin-1"), "not valid UTF-8"),
    "not UTF-8 far down": (
        b"sku,name,price\n" + b"A,B,1\n" * 9000 + b"\xff",
        "the file is not valid UTF-8",
    ),
    "UTF-16": ("sku,name,price\nA,Bolt,1\n".encode("utf-16"), "not valid UTF-8; a spreadsheet saves it"),
    "binary": (bytes(range(256)) * 40, "the"),
    "cut off in a quoted cell": (
        b'sku,name,price\nA,"Bolt,1\n',
        "line 2: the quotation mark of a cell is not closed",
    ),
    "a cell without end": (
        b'sku,name,price\nA,"' + b"x\n" * 600_000 + b",1\n",
        "line 2: a cell has more than 1048576 characters",
    ),
}


@pytest.mark.parametrize(("content", "why"), NO_CSV_OF_ITEMS.values(), ids=NO_CSV_OF_ITEMS)
async def test_a_file_that_is_not_csv_of_items_is_rejected_as_a_whole(
    content: bytes, why: str, database: Database, file: Path
) -> None:
    write_bytes(file, content)
    with pytest.raises(InvalidFile, match=why):
        await load(database, file, skip_bad=True)
    assert await stored(database) == []
