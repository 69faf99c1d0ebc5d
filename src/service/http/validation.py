"""Says everything that is wrong with a JSON value, where msgspec stops at the first."""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import chain, islice
from typing import Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo, fields

from service.errors import Detail
from service.values import NUMBER_RANGE_MESSAGE, is_storable

DETAILS_MAX = 1000
"""No human reads more, and a body of a megabyte of wrong numbers must not keep the event loop."""

PATH_SUFFIX = re.compile(r" - at `.*`$")
PATH = re.compile(r"`\$((?:[.]\w+|\[\d+\])*)")


def find_errors(value: object, kind: Any) -> list[Detail]:
    """List the wrong fields of `value`, decoded JSON, against the type `kind`. Empty: it fits.

    What no bound can say is a type's rule, `Meta(extra={"rule": …})`: a function that returns what is wrong,
    and that `__post_init__` asks as well; or, of several fields, a Struct's own `problem_of`.
    """
    return list(islice(_explain(value, kind, ""), DETAILS_MAX))


def find_unstorable(value: object) -> list[Detail]:
    """List what is JSON and still nothing for PostgreSQL: U+0000 in strings, numbers beyond a double's."""
    return list(islice(_unstorable(value, ""), DETAILS_MAX))


def to_detail(error: msgspec.ValidationError) -> Detail:
    """msgspec's own error, which knows the place as `$.lines[0].quantity`."""
    place = PATH.search(str(error))
    steps = re.findall(r"\w+", place[1]) if place else []
    return Detail("".join(f"/{step}" for step in steps), describe_error(error))


def depth(value: object) -> int:
    """How deep arrays and objects are nested."""
    levels, nodes = 0, [value]
    while nodes := [child for node in nodes for child in _children(node)]:
        levels += 1
    return levels


def _explain(value: object, kind: Any, pointer: str) -> Iterator[Detail]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        within = _nested_errors(value, kind, pointer)
        itself = Detail(pointer, describe_error(error))
        yield from chain([next(within, itself)], within)
    else:
        rule = _find(kind, lambda t: isinstance(t, Meta) and t.extra and "rule" in t.extra)
        problem = rule and rule.extra["rule"](value)
        if problem:
            yield Detail(pointer, problem)


def _unstorable(value: object, pointer: str) -> Iterator[Detail]:
    if isinstance(value, str) and "\0" in value:
        yield Detail(pointer, "NUL characters are not allowed")
    elif isinstance(value, Decimal | int) and not is_storable(value):
        yield Detail(pointer, NUMBER_RANGE_MESSAGE)
    elif isinstance(value, dict):
        for name, child in value.items():
            if "\0" in name:
                yield Detail(pointer, "NUL characters are not allowed in names")
            else:
                yield from _unstorable(child, pointer + pointer_step(name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _unstorable(child, f"{pointer}/{index}")


def describe_error(error: msgspec.ValidationError) -> str:
    """msgspec's words without the place, and with JSON's name for what is a Decimal only here."""
    return PATH_SUFFIX.sub("", str(error)).replace("`decimal`", "`float`")


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def pointer_step(name: str) -> str:
    """One step of a JSON Pointer (RFC 6901 §3)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _nested_errors(value: object, kind: Any, pointer: str) -> Iterator[Detail]:
    struct = _find(kind, lambda t: isinstance(t, type) and issubclass(t, msgspec.Struct))
    if struct is not None and isinstance(value, dict):
        yield from _in_struct(value, struct, pointer)
    array = _find(kind, _is_list)
    if array is not None and isinstance(value, list):
        (item,) = get_args(array)
        for index, child in enumerate(value):
            yield from _explain(child, item, f"{pointer}/{index}")


def _in_struct(value: dict[str, object], struct: type[msgspec.Struct], pointer: str) -> Iterator[Detail]:
    expected = {field.encode_name: field for field in fields(struct)}
    for name, field in expected.items():
        if name in value:
            yield from _explain(value[name], field.type, pointer + pointer_step(name))
        elif _required(field):
            yield Detail(pointer + pointer_step(name), "This field is required")
    for name in value:
        if name not in expected:
            yield Detail(pointer + pointer_step(name), "This field is not known")
    rule = getattr(struct, "problem_of", None)
    if rule is not None and (problem := rule(value)):
        yield Detail(pointer, problem)


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
