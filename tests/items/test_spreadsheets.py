"""Files as spreadsheets write them, and messages for the people who made them."""

import io

import pytest

from service.items.csv_rows import InvalidRow, read_rows
from service.items.importer import ImportReport, InvalidRows
from service.items.schemas import ItemCreate


def read(text: str) -> list[ItemCreate | InvalidRow]:
    _, rows = read_rows(io.StringIO(text, newline=""))
    return [row for _, row in rows if row is not None]


def bolt(**fields: object) -> ItemCreate:
    return ItemCreate(sku="A", name="Bolt", price="1.00", **fields)  # type: ignore[arg-type]


def test_rows_of_nothing_but_separators_are_no_rows() -> None:
    assert read("sku,name,price\r\nA,Bolt,1.00\r\n,,\r\n , ,\r\n,,,,\r\n\r\n") == [bolt()]


@pytest.mark.parametrize(
    "text",
    [
        "sku,name,price,,\r\nA,Bolt,1.00,,\r\n",
        "sku,name,price,,\r\nA,Bolt,1.00\r\n",
        "sku,,name,price\r\nA,,Bolt,1.00\r\n",
        "sku,,name,price\r\nA,a note,Bolt,1.00\r\n",
        "sku,name,price\r\nA,Bolt,1.00,,\r\n",
        "SKU, Name,Price \r\nA,Bolt,1.00\r\n",
    ],
)
def test_columns_without_a_name_and_cells_beyond_the_header_are_ignored(text: str) -> None:
    assert read(text) == [bolt()]


def test_a_cell_beyond_the_header_that_has_content_is_an_error() -> None:
    (row,) = read("sku,name,price\nA,Bolt,1.00,surprise\n")
    assert row == InvalidRow(2, ["has 4 cells, but the header has 3 columns"])


def test_a_malformed_row_is_one_invalid_row() -> None:
    text = (
        'sku,name,price\r\nI,"5" bolt",1.00\r\nA,Bolt,1.00\r\nJ,"two\r\nlines" more,1.00\r\nA,Bolt,1.00\r\n'
    )
    rule = "a quotation mark inside a quoted cell must be doubled"
    assert read(text) == [
        InvalidRow(2, [f"is not valid CSV: {rule}"]),
        bolt(),
        InvalidRow(4, [f"is not valid CSV, up to line 5: {rule}"]),
        bolt(),
    ]


def test_an_oversized_row_is_one_invalid_row() -> None:
    long, lines = "x" * 140_000, "x\n" * 70_000
    text = f'sku,name,price,description\nK,Bolt,1.00,{long}\nL,Bolt,1.00,"{lines}"\nA,Bolt,1.00,\n'
    problem = "description: must have at most 4000 characters"
    assert read(text) == [InvalidRow(2, [problem]), InvalidRow(3, [problem]), bolt()]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("quantity", "1,000", "must be a whole number"),
        ("quantity", "5.0", "must be a whole number"),
        ("quantity", "", "must be a whole number"),
        ("quantity", "-1", "must be at least 0"),
        ("quantity", "9" * 5000, "must be at most 2147483647"),
        ("currency", "$", "must be the ISO 4217 code of a currency with at most two decimals, such as USD"),
        ("currency", "", "must be the ISO 4217 code of a currency with at most two decimals, such as USD"),
        ("attributes", "red", "must be valid JSON"),
        ("attributes", "[]", "must be an object or null"),
    ],
)
def test_a_message_about_a_cell_says_what_is_expected(column: str, cell: str, expected: str) -> None:
    (row,) = read(f'sku,name,price,{column}\nA,Bolt,1.00,"{cell}"\n')
    assert row == InvalidRow(2, [f"{column}: {expected}"])


def test_every_invalid_cell_is_named() -> None:
    (row,) = read("sku,name,price,quantity,attributes\nA B,Bolt,1.00,x,{\n")
    assert isinstance(row, InvalidRow)
    assert {problem.partition(":")[0] for problem in row.problems} == {"sku", "quantity", "attributes"}


@pytest.mark.parametrize(("count", "words"), [(1, "1 invalid row;"), (2, "2 invalid rows;")])
def test_invalid_rows_are_counted_in_english(count: int, words: str) -> None:
    assert str(InvalidRows(ImportReport(bad=count))).startswith(words)
