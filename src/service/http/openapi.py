"""What Litestar's OpenAPI document leaves out: exact schemas, every error, the scope each operation needs."""

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from litestar.routes import HTTPRoute
from msgspec import Struct

from service import errors
from service.errors import Fault
from service.http.body import MERGE_PATCH
from service.http.idempotency import IdempotencyMismatch
from service.http.reply import Reply

Json = dict[str, Any]
REF = "#/components/schemas/"
PAGE = re.compile(r"Page[_[](?:[\w.]*\.)?(\w+?)[_\]]$")


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
    """Complete Litestar's document."""
    kinds: list[Any] = [Error, Problem]
    for path, method, handler in operations(app):
        _describe(document["paths"][path][method], method, handler)
        kinds += _bodies(handler)
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REF + "{name}")
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["paths"] = dict(sorted(document["paths"].items()))
    portable: Json = _portable(document)
    return portable


def operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Path, method and handler of everything that is documented."""
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else []:
            if handler.resolve_include_in_schema():
                for method in handler.http_methods:
                    yield route.path_format or "/", str(method).lower(), handler


def _bodies(handler: HTTPRouteHandler) -> list[Any]:
    """The types of the bodies an operation takes and gives."""
    given, taken = _given(handler), handler.parsed_data_field
    return [given] * (given not in {type(None), Stream}) + ([] if taken is None else [taken.annotation])


def _given(handler: HTTPRouteHandler) -> Any:
    annotation = handler.parsed_fn_signature.return_type.annotation
    if get_origin(annotation) in {Reply, Response}:
        (annotation,) = get_args(annotation)
    return annotation


def _describe(operation: Json, method: str, handler: HTTPRouteHandler) -> None:
    summary, _, rest = (handler.fn.__doc__ or "").strip().partition("\n")
    operation["summary"] = summary.rstrip(".")
    operation["description"] = re.sub(r"\s*\n\s*", " ", rest.strip()) or summary
    if scope := handler.opt.get("scope"):
        operation["security"] = [{"apiKey": [scope]}]
        operation["description"] += f"\n\nNeeds the scope `{scope}`."
    replies = {status: reply for status, reply in operation["responses"].items() if status.startswith("2")}
    parameters = operation.setdefault("parameters", [])
    if method == "get" and hasattr(_given(handler), "version") and scope:
        parameters.append(
            _header("If-None-Match", "The `ETag` you have: 304 without a body if it is current.")
        )
        replies["304"] = {"description": "You have the current version."}
    if errors.PreconditionFailed in handler.opt.get("faults", []):
        parameters.append(_header("If-Match", "The `ETag` you have seen: 412 if it has changed since."))
    if IdempotencyMismatch in handler.opt.get("faults", []):
        parameters.append(
            _header("Idempotency-Key", "What repeats one within 24 hours happens once.", "9f1c")
        )
    if method == "patch":
        content = operation["requestBody"]["content"]
        content[MERGE_PATCH] = content[errors.JSON]
    operation["responses"] = dict(sorted({**replies, **_refusals(handler)}.items()))


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


def _header(name: str, description: str, example: str = '"3"') -> Json:
    schema = {"type": "string", "examples": [example]}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _portable(node: Any, name: str = "") -> Any:
    r"""The same in words every generator knows.

    Python's `\Z`, which a trailing newline does not pass, is `$` in the dialect of JSON Schema;
    `Page[Item]` becomes `ItemPage`.
    """
    if isinstance(node, dict):
        return {PAGE.sub(r"\1Page", key): _portable(value, key) for key, value in node.items()}
    if isinstance(node, list):
        return [_portable(item) for item in node]
    if isinstance(node, str):
        return node.replace(r"\Z", "$") if name == "pattern" else PAGE.sub(r"\1Page", node)
    return node
