"""Says everything that is wrong with a JSON value, where msgspec stops at the first."""

import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from service.errors import Detail

DETAILS_MAX = 1000
"""No human reads more, and a body of a megabyte of wrong numbers must not keep the event loop."""

WHERE = re.compile(r" - at `.*`$")


def explain(value: object, kind: Any, *, strict: bool = True) -> list[Detail]:
    """List the wrong fields of `value`, decoded JSON, against the type `kind`. Empty: it fits.

    `strict=False` takes text for numbers, as cells of a CSV are.
    """
    return list(islice(_explain(value, kind, "", strict), DETAILS_MAX))


def nul_fields(value: object) -> list[Detail]:
    """List the strings with U+0000, which PostgreSQL cannot store."""
    return list(islice(_nul(value, ""), DETAILS_MAX))


def _explain(value: object, kind: Any, pointer: str, strict: bool) -> Iterator[Detail]:
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        within = _within(value, kind, pointer, strict)
        itself = Detail(pointer, WHERE.sub("", str(error)))
        yield from chain([next(within, itself)], within)


def _nul(value: object, pointer: str) -> Iterator[Detail]:
    if isinstance(value, str) and "\0" in value:
        yield Detail(pointer, "NUL characters are not allowed")
    elif isinstance(value, dict):
        for name, child in value.items():
            if "\0" in name:
                yield Detail(pointer, "NUL characters are not allowed in names")
            else:
                yield from _nul(child, pointer + escape(name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _nul(child, f"{pointer}/{index}")


def escape(name: str) -> str:
    """One step of a JSON Pointer (RFC 6901 §3)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _within(value: object, kind: Any, pointer: str, strict: bool) -> Iterator[Detail]:
    struct = _find(kind, lambda t: isinstance(t, type) and issubclass(t, msgspec.Struct))
    if struct is not None and isinstance(value, dict):
        yield from _in_struct(value, struct, pointer, strict)
    array = _find(kind, _is_list)
    if array is not None and isinstance(value, list):
        (item,) = get_args(array)
        for index, child in enumerate(value):
            yield from _explain(child, item, f"{pointer}/{index}", strict)


def _in_struct(
    value: dict[str, object], struct: type[msgspec.Struct], pointer: str, strict: bool
) -> Iterator[Detail]:
    expected = {field.encode_name: field for field in fields(struct)}
    for name, field in expected.items():
        if name in value:
            yield from _explain(value[name], field.type, pointer + escape(name), strict)
        elif _required(field):
            yield Detail(pointer + escape(name), "This field is required")
    for name in value:
        if name not in expected:
            yield Detail(pointer + escape(name), "This field is not known")


def _required(field: FieldInfo) -> bool:
    return field.default is NODEFAULT and field.default_factory is NODEFAULT


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def _find(kind: Any, wanted: Any) -> Any:
    """The first type that is `wanted` inside Annotated and unions."""
    if wanted(kind):
        return kind
    if _is_list(kind) or not get_args(kind):
        return None
    candidates = (_find(inner, wanted) for inner in get_args(kind))
    return next((found for found in candidates if found is not None), None)
