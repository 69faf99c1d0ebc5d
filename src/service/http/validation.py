"""Find all errors in a JSON value; msgspec stops at the first."""

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo, fields

from service.constraints import describe_error, find_extra, find_in_type, find_rule
from service.errors import Detail
from service.values import NUMBER_RANGE_MESSAGE, is_storable, text_size_problem

DETAILS_MAX = 1000
"""Maximum number of errors, so that a large invalid body does not block the event loop."""

FIELD_BYTES_MAX = 262_144
"""Maximum size of a field without a bound of its own, with all its numbers written out."""

PATH = re.compile(r"`\$((?:[.]\w+|\[\d+\])*)")


def find_errors(value: object, type_: Any) -> list[Detail]:
    """Return all errors of `value`, decoded JSON, for type `type_`; empty if it is valid."""
    return list(islice(_errors(value, type_, ""), DETAILS_MAX))


def find_unstorable(value: object) -> list[Detail]:
    """Return errors for what PostgreSQL cannot store: U+0000 in strings, numbers beyond a double's range."""
    return list(islice(_unstorable(value, ""), DETAILS_MAX))


def to_detail(error: msgspec.ValidationError) -> Detail:
    """Convert msgspec's error, which has a path such as `$.lines[0].quantity`."""
    path = PATH.search(str(error))
    steps = re.findall(r"\w+", path[1]) if path else []
    return Detail("".join(f"/{step}" for step in steps), describe_error(error, Any))


class FieldBounds(NamedTuple):
    """The bounds of a field that are checked on its JSON text, before it is decoded."""

    bytes_max: int = FIELD_BYTES_MAX
    entries_max: int | None = None

    def problem(self, text: bytes) -> str | None:
        if problem := text_size_problem(text, self.bytes_max):
            return problem
        if self.entries_max is None or not text.startswith(b"["):
            return None
        count = len(msgspec.json.decode(text, type=list[msgspec.Raw]))
        return f"must have at most {self.entries_max} entries" if count > self.entries_max else None


@cache
def field_bounds(type_: Any) -> dict[str, FieldBounds]:
    """Return the bounds of a Struct's fields: `Meta(max_length=…)`, `Meta(extra={"bytes_max": …})`."""
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return {}
    return {field.encode_name: _bounds(field.type) for field in fields(type_)}


def _bounds(type_: Any) -> FieldBounds:
    bytes_max = find_extra(type_, "bytes_max") or FIELD_BYTES_MAX
    if find_in_type(type_, lambda part: get_origin(part) is list) is None:
        return FieldBounds(bytes_max)
    bounded = find_in_type(type_, lambda part: isinstance(part, Meta) and part.max_length is not None)
    return FieldBounds(bytes_max, bounded and bounded.max_length)


def pointer_step(name: str) -> str:
    """Return a name as a step of a JSON Pointer (RFC 6901 §3)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _errors(value: object, type_: Any, pointer: str) -> Iterator[Detail]:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        nested = _nested_errors(value, type_, pointer)
        first = next(nested, None)
        yield first or Detail(pointer, describe_error(error, type_))
        yield from nested
    else:
        rule = find_rule(type_)
        if rule is not None and value is not None and (problem := rule(value)):
            yield Detail(pointer, problem)


def _unstorable(value: object, pointer: str) -> Iterator[Detail]:
    if isinstance(value, str) and "\0" in value:
        yield Detail(pointer, "must not contain NUL characters")
    elif isinstance(value, Decimal | int) and not is_storable(value):
        yield Detail(pointer, NUMBER_RANGE_MESSAGE)
    elif isinstance(value, dict):
        for name, child in value.items():
            if "\0" in name:
                yield Detail(pointer, "must not have NUL characters in names")
            else:
                yield from _unstorable(child, pointer + pointer_step(name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _unstorable(child, f"{pointer}/{index}")


def _nested_errors(value: object, type_: Any, pointer: str) -> Iterator[Detail]:
    struct = find_in_type(type_, lambda part: isinstance(part, type) and issubclass(part, msgspec.Struct))
    if struct is not None and isinstance(value, dict):
        yield from _struct_errors(value, struct, pointer)
    array = find_in_type(type_, lambda part: get_origin(part) is list)
    if array is not None and isinstance(value, list):
        (item,) = get_args(array)
        for index, child in enumerate(value[:DETAILS_MAX]):
            yield from _errors(child, item, f"{pointer}/{index}")


def _struct_errors(value: dict[str, object], struct: type[msgspec.Struct], pointer: str) -> Iterator[Detail]:
    known = _known_fields(struct)
    for name, field in known.items():
        if name in value:
            yield from _errors(value[name], field.type, pointer + pointer_step(name))
        elif _is_required(field):
            yield Detail(pointer + pointer_step(name), "is required")
    for name in value:
        if name not in known:
            yield Detail(pointer + pointer_step(name), "is not a known field")
    rule = getattr(struct, "fields_problem", None)
    if rule is not None and (problem := rule(value)):
        yield Detail(pointer, problem)


@cache
def _known_fields(struct: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    return {field.encode_name: field for field in fields(struct)}


def _is_required(field: FieldInfo) -> bool:
    return field.default is NODEFAULT and field.default_factory is NODEFAULT
