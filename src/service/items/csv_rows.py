"""Rows of a CSV file as items, and the other way round: what is written can be read again.

Strict: what the API refuses is a bad row here.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeAlias

import msgspec
from msgspec import Struct

from service.errors import Detail
from service.http.request import DEPTH_MAX
from service.http.validation import depth, find_errors, find_unstorable
from service.items.schemas import ATTRIBUTES_BYTES_MAX, Item, ItemCreate
from service.values import decode_json, encode_json

ENCODING = "utf-8-sig"
"""With or without a byte order mark."""
REQUIRED = ("sku", "name", "price")
OPTIONAL = ("description", "currency", "quantity", "attributes")
NULLABLE = ("description", "attributes")
TEXTS = ("sku", "name", "description")
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""What spreadsheets run, and what is shielded from them already. See OWASP, "CSV Injection"."""
INTEGER = re.compile(r"-?[0-9]{1,18}")
ATTRIBUTES_LENGTH_MAX = 2 * ATTRIBUTES_BYTES_MAX
"""As written, with blanks and escapes: to look at much more would keep the event loop."""


class InvalidFile(ValueError):
    """Not a CSV of items at all."""


class InvalidCell(ValueError):
    """Attributes that are not worth a closer look."""


class InvalidRow(Struct, frozen=True):
    line: int
    problems: list[str]


Row: TypeAlias = ItemCreate | InvalidRow | None
"""None: an empty line."""


def read_rows(text: TextIO) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    """The columns, and for each row the line it begins in with the item or what is wrong with it."""
    reader = csv.reader(text, strict=True)
    try:
        columns = next(reader, [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidFile(f"the file is not CSV in UTF-8: {error}") from None
    if missing := [name for name in REQUIRED if name not in columns]:
        raise InvalidFile(f"the header lacks {', '.join(missing)}")
    if unknown := [name for name in columns if name not in REQUIRED + OPTIONAL]:
        raise InvalidFile(f"the header has unknown columns: {', '.join(unknown)}")
    if len(set(columns)) < len(columns):
        raise InvalidFile("the header names a column twice")
    return columns, _rows(reader, columns)


def _rows(reader: Any, columns: list[str]) -> Iterator[tuple[int, Row]]:
    line = reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidFile(f"line {line}: the file is not CSV in UTF-8: {error}") from None
        yield line, _parse(line, columns, cells) if cells else None
        line = reader.line_num + 1


def _parse(line: int, columns: list[str], cells: list[str]) -> ItemCreate | InvalidRow:
    if len(cells) != len(columns):
        return InvalidRow(line, [f"{len(cells)} cells where the header has {len(columns)}"])
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
        wrong = find_unstorable(values)
        if not wrong:
            return msgspec.convert(values, ItemCreate)
    except msgspec.ValidationError:
        wrong = find_errors(values, ItemCreate)
    except InvalidCell as error:
        wrong = [Detail("/attributes", str(error))]
    except (msgspec.DecodeError, RecursionError):
        wrong = [Detail("/attributes", "not JSON")]
    return InvalidRow(line, [_problem(detail) for detail in wrong])


def _attributes(text: str) -> Any:
    if len(text) > ATTRIBUTES_LENGTH_MAX:
        raise InvalidCell(f"must not be larger than {ATTRIBUTES_BYTES_MAX} bytes of JSON")
    attributes = decode_json(text)
    if depth(attributes) >= DEPTH_MAX:
        raise InvalidCell(f"nested more than {DEPTH_MAX} levels deep")
    return attributes


def _problem(detail: Detail) -> str:
    field = detail.field.removeprefix("/")
    return f"{field}: {detail.message}" if field else detail.message


def to_csv(items: Iterable[Item]) -> str:
    """RFC 4180, with the columns an import takes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(REQUIRED + OPTIONAL)
    for item in items:
        attributes = "" if item.attributes is None else encode_json(item.attributes).decode()
        cells = (
            _escape_formula(item.sku),
            _escape_formula(item.name),
            item.price,
            _escape_formula(item.description or ""),
        )
        writer.writerow((*cells, item.currency, item.quantity, attributes))
    return text.getvalue()


def _escape_formula(text: str) -> str:
    """A formula begins with an apostrophe more than it has: a spreadsheet shows it and does not run it."""
    return f"'{text}" if FORMULA.match(text) else text


def _unescape_formula(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
