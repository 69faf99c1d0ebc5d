"""An import rejects files that are not CSV of items, and stops at an invalid row unless it may be skipped."""

from pathlib import Path

import pytest

from service.database.database import Database
from service.items.csv_rows import InvalidFile, InvalidRow
from service.items.importer import ImportReport
from tests.support.import_helpers import load, stored, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "items.csv"


def write_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)


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


async def test_the_first_thousand_invalid_rows_are_listed_and_all_are_counted(
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
