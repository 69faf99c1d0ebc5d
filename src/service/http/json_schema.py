"""JSON Schema of request and reply types, exact and portable across client generators."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import fields

from service.events.journal import EventType
from service.values import Currency

Json = dict[str, Any]
REF = "#/components/schemas/"
PAGE = re.compile(r"Page[_[](?:[\w.]*\.)?(\w+?)[_\]]$")

LENGTHS = {"uuid": 36, "date": 10, "date-time": 32}
NO_NUL = {"pattern": r"^[^\u0000]*$"}
INT32 = {"format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
INT64 = {"format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
NAMED_ENUMS: dict[str, Json] = {
    "Currency": {
        "type": "string",
        "description": "ISO 4217.",
        "enum": sorted(get_args(Currency)),
        "examples": ["USD"],
    },
    "EventType": {
        "type": "string",
        "description": "Type of an event to which webhooks can subscribe. A later version can add more.",
        "enum": sorted(get_args(EventType)),
    },
}
"""Schemas of enums that generated clients define once, by name."""
SAMPLES: Json = {
    "uuid": "01a221da-02e2-72d1-9bdd-dcc49716d1b3",
    "date-time": "2026-11-28T11:11:05.442520Z",
    "date": "2026-11-28",
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "object": {},
}
"""Examples of required fields that have none of their own, by format or type."""


def build_schemas(request_types: Iterable[Any], reply_types: Iterable[Any]) -> Json:
    """Return the schemas of request and reply bodies by name, with all types they reference.

    A Struct's `json_schema` adds what annotations cannot express.
    """
    reply_types = list(reply_types)
    types = [*request_types, *reply_types]
    replies = {schema_name(struct) for type_ in reply_types for struct in structs(type_)}
    _, components = msgspec.json.schema_components(types, ref_template=REF + "{name}")
    schemas: Json = to_portable(components)
    for struct in (struct for type_ in types for struct in structs(type_)):
        schema = schemas[schema_name(struct)]
        schema |= getattr(struct, "json_schema", {})
        if schema_name(struct) in replies:  # a field with a default is always present in a reply
            schema["required"] = [field.encode_name for field in fields(struct) if field.default is not UNSET]
    schemas |= NAMED_ENUMS
    schemas["File"] = {"type": "string", "format": "binary"}
    return dict(sorted(schemas.items()))


def structs(type_: Any) -> Iterator[Any]:
    """Yield all Structs that a type contains."""
    origin = get_origin(type_) or type_
    if isinstance(origin, type) and issubclass(origin, Struct):
        yield type_
        for field in fields(type_):
            yield from structs(field.type)
    for inner in get_args(type_):
        yield from structs(inner)


def schema_name(struct: Any) -> str:
    """Return the schema name; `Page[Item]` becomes `ItemPage`."""
    return "".join(part.__name__ for part in (*get_args(struct), get_origin(struct) or struct))


def to_portable(node: Any, key: str = "") -> Any:
    r"""Rewrite a schema so that every generator understands it.

    Python's `\Z`, which rejects a trailing newline, is `$` in the dialect of JSON Schema.
    """
    if isinstance(node, dict):
        if name := _enum_name(node.get("enum", [])):
            return {"$ref": REF + name, **{k: v for k, v in node.items() if k in {"default"}}}
        renamed = {PAGE.sub(r"\1Page", k): to_portable(v, k) for k, v in node.items()}
        return _with_implied_bounds({k: v for k, v in renamed.items() if (k, v) != ("default", None)})
    if isinstance(node, list):
        return [to_portable(item) for item in node]
    if isinstance(node, str):
        return node.replace(r"\Z", "$") if key == "pattern" else PAGE.sub(r"\1Page", node)
    return int(node) if isinstance(node, float) and node.is_integer() else node


def example(schemas: Json, schema: Json, *, required: bool = True) -> Any:
    """Return an example of a schema. Optional fields are in it only if they have an example themselves."""
    while "$ref" in schema:
        schema = schemas[schema["$ref"].removeprefix(REF)]
    if "examples" in schema:
        return schema["examples"][0]
    if options := schema.get("oneOf", schema.get("anyOf")):
        return example(schemas, options[0], required=required)
    if "properties" in schema:
        needed = schema.get("required", [])
        fields = {
            name: example(schemas, field, required=name in needed)
            for name, field in schema["properties"].items()
        }
        return {name: value for name, value in fields.items() if value is not None or name in needed}
    if schema.get("type") == "array":
        return [example(schemas, schema["items"])]
    if "enum" in schema:
        return schema["enum"][0]
    return SAMPLES.get(schema.get("format", ""), SAMPLES.get(schema.get("type", ""))) if required else None


def _enum_name(values: list[Any]) -> str | None:
    return next((name for name, schema in NAMED_ENUMS.items() if set(schema["enum"]) == set(values)), None)


def _with_implied_bounds(schema: Json) -> Json:
    """Add bounds that the service implies but JSON Schema must state."""
    implied: Json = {}
    match schema:
        case {"enum": [str(), *_]}:
            implied = {"type": "string"}
        case {"type": "string", "format": str(format_)}:
            implied = {"maxLength": LENGTHS[format_]} if format_ in LENGTHS else {}
        case {"type": "string"}:
            implied = NO_NUL
        case {"type": "integer"}:
            bounds = (schema.get("minimum", INT64["minimum"]), schema.get("maximum", INT64["maximum"]))
            implied = INT32 if max(map(abs, bounds)) <= INT32["maximum"] else INT64
        case {"type": "object"} if not schema.keys() & {"properties", "additionalProperties"}:
            implied = {"additionalProperties": True}
    return {**implied, **schema}
