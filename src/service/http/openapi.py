"""Completes Litestar's OpenAPI document: exact schemas, all error replies, required scopes."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from litestar.routes import HTTPRoute

from service import errors
from service.errors import Fault
from service.http.error_responses import (
    HEADERS,
    Error,
    Problem,
    error_response,
    header_references,
    header_schema,
    response_name,
)
from service.http.idempotency import HEADER
from service.http.json_schema import INT32, REF, Json, build_schemas, to_portable
from service.http.middleware import MERGE_PATCH
from service.http.reply import Reply
from service.idempotency.replies import IdempotencyMismatch


def parameter(name: str, description: str, **schema: object) -> Json:
    return {"name": name, "in": "header", "required": False, **header_schema(description, **schema)}


PARAMETERS = {
    "IfMatch": parameter(
        "If-Match", "Apply the change only if the resource has this `ETag`; otherwise 412.", examples=['"3"']
    ),
    "IfNoneMatch": parameter(
        "If-None-Match", "Return 304 without a body if the resource still has this `ETag`.", examples=['"3"']
    ),
    "OnlyNew": parameter(
        "If-None-Match", "`*` allows only creation: 412 if the resource exists.", examples=["*"]
    ),
    "IdempotencyKey": parameter(
        HEADER,
        "Makes the request idempotent: repeated with the same key within 24 hours, it takes effect once "
        "and gets the first reply.",
        pattern=r"^[!-~]([ -~]{0,253}[!-~])?\Z",  # surrounding whitespace is not part of it (RFC 9110 §5.5)
        maxLength=255,
    ),
    "Range": parameter("Range", "One range of bytes (RFC 9110 §14).", examples=["bytes=0-99"]),
    "IfRange": parameter(
        "If-Range",
        "Return the range only if the file has this `ETag`; otherwise return the whole file.",
        examples=['"9f1c"'],
    ),
}


def complete_document(app: Litestar, document: Json, more_request_types: Iterable[Any] = ()) -> Json:
    """Complete Litestar's document. `more_request_types` are types that no signature names."""
    taken = list(more_request_types)
    given: list[Any] = [Error, Problem]
    refusals: Json = {}
    for path, method, handler in operations(app):
        operation = document["paths"][path][method]
        _complete_operation(operation, method, handler)
        for status, faults in _faults_by_status(handler).items():
            refusals[response_name(faults)] = error_response(faults)
            operation["responses"][str(status)] = {"$ref": f"#/components/responses/{response_name(faults)}"}
        operation["responses"] = dict(sorted(operation["responses"].items()))
        given += [_reply_type(handler)] if _reply_type(handler) not in {type(None), Stream} else []
        taken += [handler.parsed_data_field.annotation] if handler.parsed_data_field else []
    document["paths"] = dict(sorted(document["paths"].items()))
    described: Json = to_portable(document)
    described["components"] |= {
        "schemas": build_schemas(taken, given),
        "responses": dict(sorted(refusals.items())),
        "headers": to_portable(HEADERS),
        "parameters": to_portable(PARAMETERS),
    }
    return described


def operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Yield path, method and handler of every documented operation."""
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else []:
            if handler.resolve_include_in_schema():
                for method in handler.http_methods:
                    yield route.path_format or "/", str(method).lower(), handler


def _complete_operation(operation: Json, method: str, handler: HTTPRouteHandler) -> None:
    summary, _, rest = (handler.fn.__doc__ or "").strip().partition("\n")
    operation["summary"] = summary.rstrip(".")
    operation["description"] = re.sub(r"\s*\n\s*", " ", rest.strip()) or summary
    scope = handler.opt.get("scope")
    operation["security"] = [{"apiKey": [scope]}] if scope else []
    if scope:
        operation["description"] += f"\n\nRequires the scope `{scope}`."
    if method == "patch":
        content = operation["requestBody"]["content"]
        content[MERGE_PATCH] = content[errors.JSON]
    operation["responses"] = dict(_success_responses(operation, method, handler))
    operation["parameters"] = [
        *map(_parameter, operation.get("parameters", [])),
        *({"$ref": f"#/components/parameters/{name}"} for name in _headers(operation, method, handler)),
    ]


def _success_responses(operation: Json, method: str, handler: HTTPRouteHandler) -> Iterator[tuple[str, Json]]:
    carried = ["ETag"] * _versioned(handler) + ["Idempotent-Replayed"] * _is_idempotent(handler)
    carried += ["RateLimit"] * ("scope" in handler.opt)
    for status, reply in operation["responses"].items():
        if status.startswith("2"):
            located = status == "201" and get_origin(_annotation(handler)) is Reply
            also = ["Location"] * (located or "located" in handler.opt) + ["Content-Range"] * (
                status == "206"
            )
            reply["headers"] = {**reply.get("headers", {}), **header_references(*carried, *also)}
            if media := {kind: {"schema": _content(kind)} for kind in handler.opt.get("media", [])}:
                reply["content"] = media if _reply_type(handler) is Stream else {**reply["content"], **media}
            yield status, reply
    if method == "get" and _conditional(handler):
        yield "304", {"description": "Not modified.", "headers": header_references("ETag")}


def _headers(operation: Json, method: str, handler: HTTPRouteHandler) -> Iterator[str]:
    """Yield the request headers of an operation by component name."""
    if method == "get" and _conditional(handler):
        yield "IfNoneMatch"
    if errors.PreconditionFailed in handler.opt.get("faults", []):
        yield "IfMatch"
        if method == "put":
            yield "OnlyNew"
    if _is_idempotent(handler):
        yield "IdempotencyKey"
    if "206" in operation["responses"]:
        yield from ("Range", "IfRange")


def _parameter(described: Json) -> Json:
    """Simplify Litestar's parameter: a query cannot carry null."""
    schema = {key: value for key, value in described["schema"].items() if key != "description"}
    for option in schema.pop("oneOf", []):
        schema |= option if option.get("type") != "null" else {}
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    about = described.get("description", f"The id of the {described['name'].removesuffix('_id')}.")
    kept = {key: described[key] for key in ("name", "in", "required")}
    return {**kept, "description": about, "schema": schema}


def _content(media_type: str) -> Json:
    """Return the schema of a non-JSON reply."""
    text = {"type": "string", "maxLength": INT32["maximum"]}
    return text if media_type.startswith("text/") else {"$ref": REF + "File"}


def _annotation(handler: HTTPRouteHandler) -> Any:
    return handler.parsed_fn_signature.return_type.annotation


def _reply_type(handler: HTTPRouteHandler) -> Any:
    """Return the type of a reply's body."""
    annotation = _annotation(handler)
    return get_args(annotation)[0] if get_origin(annotation) in {Reply, Response} else annotation


def _versioned(handler: HTTPRouteHandler) -> bool:
    return hasattr(_reply_type(handler), "version") and bool(handler.opt.get("scope"))


def _conditional(handler: HTTPRouteHandler) -> bool:
    return _versioned(handler) or bool(handler.opt.get("conditional"))


def _is_idempotent(handler: HTTPRouteHandler) -> bool:
    return IdempotencyMismatch in handler.opt.get("faults", [])


def _faults_by_status(handler: HTTPRouteHandler) -> dict[int, list[type[Fault]]]:
    by_status: dict[int, list[type[Fault]]] = {}
    for fault in dict.fromkeys(_faults(handler)):
        by_status.setdefault(fault.status, []).append(fault)
    return by_status


def _faults(handler: HTTPRouteHandler) -> Iterator[type[Fault]]:
    yield from handler.opt.get("faults", [])
    if handler.opt.get("scope"):
        yield from (errors.Unauthenticated, errors.Forbidden)
        yield from (errors.DatabaseUnavailable, errors.Overloaded, errors.TimedOut)
        yield from (errors.ValidationFailed, errors.RateLimited)
    if handler.parsed_data_field is not None:
        yield from (errors.MalformedJson, errors.TooLarge, errors.UnsupportedMediaType)
    yield from (errors.HeadTooLarge, errors.InternalError)
