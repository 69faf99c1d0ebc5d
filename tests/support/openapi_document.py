"""Helpers for tests of the OpenAPI document: its operations, objects and schemas."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from service.app import create_app
from service.docs import encode_document
from service.settings import Settings

Json = dict[str, Any]
METHODS = {"get", "put", "post", "patch", "delete"}


@cache
def published_document() -> Json:
    """Return the document of this version. The fork server builds it for all workers of pytest."""
    document: Json = json.loads(
        encode_document(create_app(Settings(database_url="postgresql://nowhere/none")))
    )
    return document


def operations(described: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in described["paths"].items():
        for method in methods.keys() & METHODS:
            yield f"{method.upper()} {path}", methods[method]


def nodes(node: Any) -> Iterator[Json]:
    """Yield every object of the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from nodes(child)


def resolve(described: Json, node: Json) -> Json:
    while "$ref" in node:
        found: Any = described
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        node = found
    return node


def variants(described: Json, node: Json) -> Iterator[Json]:
    """Yield a schema, or its alternatives by `anyOf` or `oneOf`."""
    node = resolve(described, node)
    for option in node.get("anyOf") or node.get("oneOf") or [node]:
        yield resolve(described, option)
