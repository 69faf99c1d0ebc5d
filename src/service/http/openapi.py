"""What Litestar's OpenAPI document leaves out: exact schemas, every error, the scope each operation needs."""

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from msgspec import Struct

from service import errors
from service.errors import Fault

Json = dict[str, Any]
REF = "#/components/schemas/"


class ErrorBody(Struct):
    code: str
    message: str
    path: str
    request_id: str
    details: list[dict[str, Any]] = []


class Error(Struct):
    """The error contract: the body of every reply that is not a 2xx."""

    error: ErrorBody


class Problem(Struct):
    """The same facts as RFC 9457 has them."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    details: list[dict[str, Any]] = []


def polish(app: Litestar, document: Json) -> Json:
    """Complete the document in place."""
    kinds: list[Any] = [Error, Problem]
    for path, method, handler in operations(app):
        operation = document["paths"][path][method]
        kinds += _kinds(handler)
        _describe(operation, handler)
    schemas = document["components"].setdefault("schemas", {})
    schemas.clear()
    _, exact = msgspec.json.schema_components(kinds, ref_template=REF + "{name}")
    schemas.update(sorted(exact.items()))
    portable: Json = _portable(document)
    return portable


def operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Path, method and handler of everything that is documented."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", []) if isinstance(route, HTTPRoute) else []:
            if handler.resolve_include_in_schema():
                for method in handler.http_methods:
                    yield route.path_format or "/", str(method).lower(), handler


def _kinds(handler: HTTPRouteHandler) -> list[Any]:
    """The types of the bodies an operation takes and gives."""
    given = handler.parsed_fn_signature.return_type.annotation
    if isinstance(get_origin(given), type) and issubclass(get_origin(given), Response):
        (given,) = get_args(given)
    taken = handler.parsed_data_field
    kinds = [given] if taken is None else [given, taken.annotation]
    return [kind for kind in kinds if isinstance(get_origin(kind) or kind, type) and kind is not type(None)]


def _describe(operation: Json, handler: HTTPRouteHandler) -> None:
    summary, _, rest = (handler.fn.__doc__ or "").strip().partition("\n")
    operation["summary"] = summary.rstrip(".")
    operation["description"] = re.sub(r"\s*\n\s*", " ", rest.strip()) or summary
    scope = handler.opt.get("scope")
    if scope:
        operation["security"] = [{"apiKey": [scope]}]
        operation["description"] += f"\n\nNeeds the scope `{scope}`."
    if errors.PreconditionFailed in handler.opt.get("faults", []):
        operation.setdefault("parameters", []).append(_if_match())
    operation["responses"] = dict(sorted({**_successes(operation), **_refusals(handler)}.items()))


def _successes(operation: Json) -> Json:
    return {status: reply for status, reply in operation["responses"].items() if status.startswith("2")}


def _refusals(handler: HTTPRouteHandler) -> Json:
    by_status: dict[int, list[type[Fault]]] = {}
    for fault in dict.fromkeys(_faults(handler)):
        by_status.setdefault(fault.status, []).append(fault)
    return {str(status): _refusal(faults) for status, faults in by_status.items()}


def _faults(handler: HTTPRouteHandler) -> Iterator[type[Fault]]:
    yield from handler.opt.get("faults", [])
    if handler.opt.get("scope"):
        yield from (errors.Unauthenticated, errors.Forbidden)
        yield from (errors.DatabaseUnavailable, errors.Overloaded)
    if handler.parsed_data_field is not None:
        yield from (errors.MalformedJson, errors.TooLarge, errors.UnsupportedMediaType)
    if handler.opt.get("scope"):
        yield errors.ValidationFailed
    yield errors.InternalError


def _refusal(faults: list[type[Fault]]) -> Json:
    return {
        "description": "; ".join(f"`{fault.code}`: {fault.message}" for fault in faults),
        "headers": {"X-Error-Code": {"schema": {"type": "string", "enum": [f.code for f in faults]}}},
        "content": {
            errors.JSON: {"schema": {"$ref": REF + "Error"}},
            errors.PROBLEM: {"schema": {"$ref": REF + "Problem"}},
        },
    }


def _if_match() -> Json:
    return {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "description": "The `ETag` you have seen: refused with 412 if it has changed since.",
        "schema": {"type": "string", "examples": ['"3"']},
    }


def _portable(node: Any) -> Any:
    r"""Python's `\Z`, which a trailing newline does not pass, is `$` in the dialect of JSON Schema."""
    if isinstance(node, dict):
        return {
            name: value.replace(r"\Z", "$")
            if name == "pattern" and isinstance(value, str)
            else _portable(value)
            for name, value in node.items()
        }
    return [_portable(item) for item in node] if isinstance(node, list) else node
