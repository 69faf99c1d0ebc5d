"""Convert CSV rows to items and back; an export can be imported again.

A row that the API would reject is invalid here too.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeAlias

import msgspec
from msgspec import Struct

from service.errors import Detail
from service.http.validation import find_errors, find_unstorable
from service.items.schemas import ATTRIBUTES_BYTES_MAX, Item, ItemCreate
from service.values import DEPTH_MAX, decode_json, encode_csv, encode_json, nesting, text_size_problem

ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark."""
REQUIRED = ("sku", "name", "price")
OPTIONAL = ("description", "currency", "quantity", "attributes")
NULLABLE = ("description", "attributes")
TEXTS = ("sku", "name", "description")
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""Cells that spreadsheets run as formulas, and cells that are already escaped. See OWASP, "CSV Injection"."""
INTEGER = re.compile(r"-?[0-9]{1,18}")
ATTRIBUTES_LENGTH_MAX = 2 * ATTRIBUTES_BYTES_MAX
"""Maximum length as written, with whitespace and escapes; parsing more would block the event loop."""


class InvalidFile(ValueError):
    """The file is not a CSV file of items."""


class InvalidCell(ValueError):
    """Attributes are beyond the limits and are not parsed further."""


class InvalidRow(Struct, frozen=True):
    line: int
    problems: list[str]


Row: TypeAlias = ItemCreate | InvalidRow | None
"""An item, an invalid row, or None for an empty line."""


def read_rows(text: TextIO) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    """Return the columns, and for each row its line number with the item or its errors."""
    reader = csv.reader(text, strict=True)
    try:
        columns = next(reader, [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidFile(f"the file is not valid UTF-8 CSV: {error}") from None
    if missing := [name for name in REQUIRED if name not in columns]:
        raise InvalidFile(f"the header lacks required columns: {', '.join(missing)}")
    if unknown := [name for name in columns if name not in REQUIRED + OPTIONAL]:
        raise InvalidFile(f"the header has unknown columns: {', '.join(unknown)}")
    if len(set(columns)) < len(columns):
        raise InvalidFile("the header has a duplicate column")
    return columns, _rows(reader, columns)


def _rows(reader: Any, columns: list[str]) -> Iterator[tuple[int, Row]]:
    line = reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidFile(f"line {line}: the file is not valid UTF-8 CSV: {error}") from None
        yield line, _parse(line, columns, cells) if cells else None
        line = reader.line_num + 1


def _parse(line: int, columns: list[str], cells: list[str]) -> ItemCreate | InvalidRow:
    if len(cells) != len(columns):
        return InvalidRow(line, [f"has {len(cells)} cells, but the header has {len(columns)} columns"])
    values: dict[str, Any] = dict(zip(columns, cells, strict=True))
    for name in TEXTS:
        if name in values:
            values[name] = _unescape_formula(values[name])
    for name in NULLABLE:
        if values.get(name) == "":
            values[name] = None
    if INTEGER.fullmatch(values.get("quantity", "")):  # msgspec's lax mode would take 5.0 and 1e3 as well
        values["quantity"] = int(values["quantity"])
    try:
        if values.get("attributes") is not None:
            values["attributes"] = _attributes(values["attributes"])
        errors = find_unstorable(values)
        if not errors:
            return msgspec.convert(values, ItemCreate)
    except msgspec.ValidationError:
        errors = find_errors(values, ItemCreate)
    except InvalidCell as error:
        errors = [Detail("/attributes", str(error))]
    except (msgspec.DecodeError, RecursionError):
        errors = [Detail("/attributes", "must be valid JSON")]
    return InvalidRow(line, [_problem(detail) for detail in errors])


def _attributes(cell: str) -> Any:
    text = cell.encode()
    if len(text) > ATTRIBUTES_LENGTH_MAX:
        raise InvalidCell(f"must be at most {ATTRIBUTES_BYTES_MAX} bytes of JSON")
    if problem := text_size_problem(text, ATTRIBUTES_BYTES_MAX):
        raise InvalidCell(problem)
    if nesting(text) >= DEPTH_MAX:
        raise InvalidCell(f"must not be nested more than {DEPTH_MAX} levels deep")
    return decode_json(text)


def _problem(detail: Detail) -> str:
    field = detail.field.removeprefix("/")
    return f"{field}: {detail.message}" if field else detail.message


def to_csv(items: Iterable[Item]) -> str:
    """Return the items as CSV (RFC 4180), with the columns of an import."""
    return encode_csv([REQUIRED + OPTIONAL, *map(_cells, items)])


def _cells(item: Item) -> tuple[object, ...]:
    sku, name, description = map(_escape_formula, (item.sku, item.name, item.description or ""))
    attributes = "" if item.attributes is None else encode_json(item.attributes).decode()
    return sku, name, item.price, description, item.currency, item.quantity, attributes


def _escape_formula(text: str) -> str:
    """Escape a formula with a leading apostrophe, so that a spreadsheet shows it and does not run it."""
    return f"'{text}" if FORMULA.match(text) else text


def _unescape_formula(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
