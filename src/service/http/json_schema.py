"""JSON Schema of the types on the wire, as exact as the service is, in words that every generator knows."""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from textwrap import dedent
from typing import Any, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import FieldInfo, fields

from service.values import Currency

Json = dict[str, Any]
REF = "#/components/schemas/"
PAGE = re.compile(r"Page[_[](?:[\w.]*\.)?(\w+?)[_\]]$")

LENGTHS = {"uuid": 36, "date": 10, "date-time": 32}
TEXT_BOUNDS = {"pattern": r"^[^\u0000]*$", "maxLength": 65_536}
"""A text without a rule of its own: PostgreSQL knows no NUL. Only replies have texts without a bound."""
INT32 = {"format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
INT64 = {"format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
CURRENCIES = set(get_args(Currency))
ITEMS_MAX = 1_000_000
"""Of lists without a bound of their own: those in replies that grow with what they report."""


def build_schemas(taken: Iterable[Any], given: Iterable[Any]) -> Json:
    """The schemas of the bodies of requests and replies by name, with whatever they refer to.

    A Struct's own `json_schema` says what no annotation of a field can.
    """
    kinds = [*taken, *given]
    replies = {schema_name(struct) for kind in given for struct in structs(kind)}
    _, found = msgspec.json.schema_components(kinds, ref_template=REF + "{name}")
    described: Json = to_portable(found)
    for struct in (struct for kind in kinds for struct in structs(kind)):
        schema = described[schema_name(struct)]
        schema |= getattr(struct, "json_schema", {})
        _add_descriptions(schema, struct)
        if schema_name(struct) in replies:  # what has a default is there all the same
            schema["required"] = [field.encode_name for field in fields(struct) if not _may_be_absent(field)]
    described["Currency"] = {"type": "string", "description": "ISO 4217.", "enum": sorted(CURRENCIES)}
    described["File"] = {"type": "string", "format": "binary"}
    return dict(sorted(described.items()))


def structs(kind: Any) -> Iterator[Any]:
    """Every Struct that values of this type hold."""
    if _is_struct(kind):
        yield kind
        for field in fields(kind):
            yield from structs(field.type)
    for inner in get_args(kind):
        yield from structs(inner)


def schema_name(struct: Any) -> str:
    """`Page[Item]` is called `ItemPage`."""
    return "".join(part.__name__ for part in (*get_args(struct), get_origin(struct) or struct))


def to_portable(node: Any, key: str = "") -> Any:
    r"""The same in words every generator knows, and no wider than what is meant.

    Python's `\Z`, which a trailing newline does not pass, is `$` in the dialect of JSON Schema.
    """
    if isinstance(node, dict):
        if set(node.get("enum", [])) == CURRENCIES:
            return {"$ref": REF + "Currency", **{k: v for k, v in node.items() if k in {"default"}}}
        named = {PAGE.sub(r"\1Page", k): to_portable(v, k) for k, v in node.items()}
        return _with_implied_bounds({k: v for k, v in named.items() if (k, v) != ("default", None)})
    if isinstance(node, list):
        return [to_portable(item) for item in node]
    if isinstance(node, str):
        return node.replace(r"\Z", "$") if key == "pattern" else PAGE.sub(r"\1Page", node)
    return int(node) if isinstance(node, float) and node.is_integer() else node


def _with_implied_bounds(schema: Json) -> Json:
    """With the bounds that go without saying here, but not in JSON Schema."""
    implied: Json = {}
    match schema:
        case {"enum": [str(), *_]}:
            implied = {"type": "string"}
        case {"type": "string", "format": str(kind)}:
            implied = {"maxLength": LENGTHS[kind]} if kind in LENGTHS else {}
        case {"type": "string"}:
            implied = TEXT_BOUNDS
        case {"type": "integer"}:
            bounds = (schema.get("minimum", INT64["minimum"]), schema.get("maximum", INT64["maximum"]))
            implied = INT32 if max(map(abs, bounds)) <= INT32["maximum"] else INT64
        case {"type": "array"}:
            implied = {"maxItems": ITEMS_MAX}
        case {"type": "object"} if not schema.keys() & {"properties", "additionalProperties"}:
            implied = {"additionalProperties": True}
    return {**implied, **schema}


def _add_descriptions(schema: Json, struct: Any) -> None:
    """What the code says under a field, its reader wants to know too."""
    for field, text in _field_docstrings(get_origin(struct) or struct):
        schema["properties"][field].setdefault("description", text)


def _field_docstrings(struct: type[Struct]) -> Iterator[tuple[str, str]]:
    encoded = {field.name: field.encode_name for field in fields(struct)}
    (body,) = ast.parse(dedent(inspect.getsource(struct))).body
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for statement, following in pairwise(statements):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(text))):
                yield encoded[field], inspect.cleandoc(text)


def _may_be_absent(field: FieldInfo) -> bool:
    return field.default is UNSET


def _is_struct(kind: Any) -> bool:
    kind = get_origin(kind) or kind
    return isinstance(kind, type) and issubclass(kind, Struct)
