"""JSON Schema of request and reply types, exact and portable across client generators."""

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
"""Text without its own rule: PostgreSQL cannot store NUL. Only replies have unbounded text."""
INT32 = {"format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
INT64 = {"format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
CURRENCIES = set(get_args(Currency))
ITEMS_MAX = 1_000_000
"""Maximum items of lists without their own bound: lists in replies that grow with their content."""


def build_schemas(taken: Iterable[Any], given: Iterable[Any]) -> Json:
    """Return the schemas of request and reply bodies by name, with all types they reference.

    A Struct's `json_schema` adds what annotations cannot express.
    """
    kinds = [*taken, *given]
    replies = {schema_name(struct) for kind in given for struct in structs(kind)}
    _, found = msgspec.json.schema_components(kinds, ref_template=REF + "{name}")
    described: Json = to_portable(found)
    for struct in (struct for kind in kinds for struct in structs(kind)):
        schema = described[schema_name(struct)]
        schema |= getattr(struct, "json_schema", {})
        _add_descriptions(schema, struct)
        if schema_name(struct) in replies:  # a field with a default is always present in a reply
            schema["required"] = [field.encode_name for field in fields(struct) if not _may_be_absent(field)]
    described["Currency"] = {"type": "string", "description": "ISO 4217.", "enum": sorted(CURRENCIES)}
    described["File"] = {"type": "string", "format": "binary"}
    return dict(sorted(described.items()))


def structs(kind: Any) -> Iterator[Any]:
    """Yield all Structs that a type contains."""
    if _is_struct(kind):
        yield kind
        for field in fields(kind):
            yield from structs(field.type)
    for inner in get_args(kind):
        yield from structs(inner)


def schema_name(struct: Any) -> str:
    """Return the schema name; `Page[Item]` becomes `ItemPage`."""
    return "".join(part.__name__ for part in (*get_args(struct), get_origin(struct) or struct))


def to_portable(node: Any, key: str = "") -> Any:
    r"""Rewrite a schema so that every generator understands it.

    Python's `\Z`, which rejects a trailing newline, is `$` in the dialect of JSON Schema.
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
    """Add bounds that the service implies but JSON Schema must state."""
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
    """Copy field docstrings into the descriptions."""
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
