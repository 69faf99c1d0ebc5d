"""Convert CSV rows to items and back; an export can be imported again.

A row that the API would reject is invalid here too.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from service.errors import Detail
from service.http.validation import find_errors, find_unstorable
from service.items.schemas import ATTRIBUTES_BYTES_MAX, Item, ItemCreate
from service.values import (
    DEPTH_MAX,
    decode_json,
    encode_csv,
    encode_json,
    nesting,
    price_problem,
    text_size_problem,
)

ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark."""
REQUIRED = ("sku", "name", "price")
OPTIONAL = ("description", "currency", "quantity", "attributes", "low_stock_at")
NULLABLE = ("description", "attributes", "low_stock_at")
TEXTS = ("sku", "name", "description")
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""Cells that spreadsheets run as formulas, and cells that are already escaped. See OWASP, "CSV Injection"."""
INTEGER = re.compile(r"-?[0-9]+")
INTEGER_LENGTH_MAX = 18
"""Longer numbers are too large however they continue."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
CELL_LENGTH_MAX = 1_048_576
csv.field_size_limit(CELL_LENGTH_MAX)
NOT_UTF8 = 'the file is not valid UTF-8; a spreadsheet saves it as "CSV UTF-8"'
CSV_ERRORS = {
    "expected after": "a quotation mark inside a quoted cell must be doubled",
    "field larger than": f"a cell has more than {CELL_LENGTH_MAX} characters; is its quotation mark closed?",
    "unexpected end": "the quotation mark of a cell is not closed",
}
"""Plain words for the errors of Python's `csv`."""
ENDLESS_CELL = ("field larger than", "unexpected end")
ATTRIBUTES_LENGTH_MAX = 2 * ATTRIBUTES_BYTES_MAX
"""Maximum length as written, with whitespace and escapes; parsing more would block the event loop."""


class InvalidFile(ValueError):
    """The file is not a CSV file of items."""


class InvalidCell(ValueError):
    """A cell is not what its column expects."""


class InvalidRow(Struct, frozen=True):
    line: int
    problems: list[str]


Row: TypeAlias = ItemCreate | InvalidRow | None
"""An item, an invalid row, or None for a row without any content."""


def read_rows(text: TextIO) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    """Return the columns, and for each row its line number with the item or its errors."""
    reader = csv.reader(text, strict=True)
    columns = _read_header(reader)
    return [name for name in columns if name], _rows(reader, columns)


def _read_header(reader: Any) -> list[str]:
    """Return the names of the columns, of which some may be empty."""
    try:
        header: list[str] = next(reader, [])
    except UnicodeDecodeError:
        raise InvalidFile(NOT_UTF8) from None
    except csv.Error as error:
        raise InvalidFile(f"the first line is not valid CSV: {_describe(error)}") from None
    columns = [name.strip().lower() for name in header]
    named = [name for name in columns if name]
    if not named:
        raise InvalidFile(f"the first line is empty; it must name the columns: {', '.join(REQUIRED)}")
    if len(header) == 1 and (separator := next((mark for mark in SEPARATORS if mark in header[0]), None)):
        raise InvalidFile(f"the columns are separated by {SEPARATORS[separator]}; use commas")
    if missing := [name for name in REQUIRED if name not in named]:
        raise InvalidFile(f"the header lacks required columns: {', '.join(missing)}")
    if unknown := [name for name in named if name not in REQUIRED + OPTIONAL]:
        raise InvalidFile(f"the header has unknown columns: {', '.join(unknown)}")
    if len(set(named)) < len(named):
        raise InvalidFile("the header has a duplicate column")
    return columns


def _rows(reader: Any, columns: list[str]) -> Iterator[tuple[int, Row]]:
    line = reader.line_num + 1
    while True:
        row: Row = None
        try:
            cells = next(reader)
            if any(cell and not cell.isspace() for cell in cells):
                row = _parse(line, columns, cells)
        except StopIteration:
            return
        except UnicodeDecodeError:
            raise InvalidFile(NOT_UTF8) from None  # the reader is ahead, so the line is not known
        except csv.Error as error:
            row = _malformed(line, reader.line_num, error)
        yield line, row
        line = reader.line_num + 1


def _malformed(line: int, last_line: int, error: csv.Error) -> InvalidRow:
    """Return the invalid row; raise `InvalidFile` if the reader cannot tell where the row ends."""
    if any(words in str(error) for words in ENDLESS_CELL):
        raise InvalidFile(f"line {line}: {_describe(error)}")
    end = "" if last_line == line else f", up to line {last_line}"
    return InvalidRow(line, [f"is not valid CSV{end}: {_describe(error)}"])


def _describe(error: csv.Error) -> str:
    return next((text for words, text in CSV_ERRORS.items() if words in str(error)), "it is malformed")


def _parse(line: int, columns: list[str], cells: list[str]) -> ItemCreate | InvalidRow:
    width = max(number for number, name in enumerate(columns, start=1) if name)
    if len(cells) < width or any(cells[len(columns) :]):
        return InvalidRow(line, [f"has {len(cells)} cells, but the header has {len(columns)} columns"])
    values: dict[str, Any] = {}
    errors = []
    for name, cell in zip(columns, cells, strict=False):
        try:
            if name:
                values[name] = _decode_cell(name, cell)
        except InvalidCell as error:
            errors.append(Detail(f"/{name}", str(error)))
    errors += find_unstorable(values)
    if not errors:
        try:
            item = msgspec.convert(values, ItemCreate)
        except msgspec.ValidationError:
            pass  # `find_errors` lists all errors below; here it would slow valid rows down by a third
        else:
            # Without a currency in the file, the import compares the price with that of the item.
            problem = None if item.currency is UNSET else price_problem(item.price, item.currency)
            return InvalidRow(line, [f"price: {problem}"]) if problem else item
    errors += find_errors(values, ItemCreate)
    return InvalidRow(line, [f"{detail.field.removeprefix('/')}: {detail.message}" for detail in errors])


def _decode_cell(name: str, cell: str) -> Any:
    if cell == "" and name in NULLABLE:
        return None
    if name in TEXTS:
        return _unescape_formula(cell)
    if name == "attributes":
        return _attributes(cell)
    if name in {"quantity", "low_stock_at"}:  # in msgspec's lax mode 5.0 and 1e3 are whole numbers as well
        if not INTEGER.fullmatch(cell):
            raise InvalidCell("must be a whole number")
        return int(cell[:INTEGER_LENGTH_MAX])
    return cell


def _attributes(cell: str) -> Any:
    text = cell.encode()
    try:
        if len(text) > ATTRIBUTES_LENGTH_MAX:
            raise InvalidCell(f"must be at most {ATTRIBUTES_BYTES_MAX} bytes of JSON")
        if problem := text_size_problem(text, ATTRIBUTES_BYTES_MAX):
            raise InvalidCell(problem)
        if nesting(text) >= DEPTH_MAX:
            raise InvalidCell(f"must not be nested more than {DEPTH_MAX} levels deep")
        return decode_json(text)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidCell("must be valid JSON") from None


def to_csv(items: Iterable[Item]) -> str:
    """Return the items as CSV (RFC 4180), with the columns of an import."""
    return encode_csv([REQUIRED + OPTIONAL, *map(_cells, items)])


def _cells(item: Item) -> tuple[object, ...]:
    sku, name, description = map(escape_formula, (item.sku, item.name, item.description or ""))
    attributes = "" if item.attributes is None else encode_json(item.attributes).decode()
    low_stock_at = "" if item.low_stock_at is None else item.low_stock_at
    return sku, name, item.price, description, item.currency, item.quantity, attributes, low_stock_at


def escape_formula(text: str) -> str:
    """Escape a formula with a leading apostrophe, so that a spreadsheet shows it and does not run it."""
    return f"'{text}" if FORMULA.match(text) else text


def _unescape_formula(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
