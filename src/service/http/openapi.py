"""Completes Litestar's OpenAPI document: exact schemas, examples, all error replies, required scopes."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from litestar.routes import HTTPRoute
from msgspec import Meta

from service import errors
from service.auth.keys import ANY_SCOPE
from service.constraints import find_in_type
from service.errors import Fault
from service.http.error_responses import (
    HEADERS,
    Error,
    Problem,
    error_response,
    header_references,
    header_schema,
    response_name,
    with_error_codes,
)
from service.http.idempotency import HEADER
from service.http.json_schema import REF, Json, build_schemas, example, to_portable
from service.http.reply import Reply
from service.http.request import MERGE_PATCH
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
SUCCESSES = {
    "200": "The request succeeded.",
    "201": "Created.",
    "202": "Accepted; the work is done after the reply.",
    "204": "The request succeeded; there is no content.",
    "206": "The requested byte range.",
}


def complete_document(
    app: Litestar, document: Json, request_types: Iterable[Any], reply_types: Iterable[Any]
) -> Json:
    """Complete Litestar's document. The types are those that no signature names."""
    request_types = list(request_types)
    reply_types = [Error, Problem, *reply_types]
    responses: Json = {}
    for path, method, handler in operations(app):
        operation = document["paths"][path][method]
        _complete_operation(operation, method, handler)
        for status, faults in _faults_by_status(handler).items():
            name = response_name(faults)
            responses[name] = error_response(faults)
            operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
        operation["responses"] = dict(sorted(operation["responses"].items()))
        reply_types += [_reply_type(handler)] if _reply_type(handler) not in {type(None), Stream} else []
        request_types += [handler.parsed_data_field.annotation] if handler.parsed_data_field else []
    document["paths"] = dict(sorted(document["paths"].items()))
    completed: Json = to_portable(document)
    completed["components"] |= {
        "schemas": with_error_codes(_with_merge_patches(build_schemas(request_types, reply_types))),
        "responses": dict(sorted(responses.items())),
        "headers": to_portable(HEADERS),
        "parameters": to_portable(PARAMETERS),
    }
    return completed


def add_examples(document: Json) -> None:
    """Give every JSON request body an example that the operation accepts."""
    for operations_ in [*document["paths"].values(), *document["webhooks"].values()]:
        for operation in operations_.values():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                if media_type != "multipart/form-data":
                    content["example"] = example(document["components"]["schemas"], content["schema"])


def operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Yield path, method and handler of every documented operation."""
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else []:
            if handler.resolve_include_in_schema():
                for method in handler.http_methods:
                    yield route.path_format or "/", str(method).lower(), handler


def _complete_operation(operation: Json, method: str, handler: HTTPRouteHandler) -> None:
    summary, _, rest = (handler.fn.__doc__ or "").strip().partition("\n")
    scope = handler.opt.get("scope")
    access = "Every valid API key may call it." if scope == ANY_SCOPE else f"Requires the scope `{scope}`."
    details = [re.sub(r"\s*\n\s*", " ", rest.strip())] + [access] * bool(scope)
    operation["summary"] = summary.rstrip(".")
    operation["description"] = "\n\n".join(filter(None, details))
    operation["security"] = [{"apiKey": [] if scope == ANY_SCOPE else [scope]}] if scope else []
    if "requestBody" in operation:
        operation["requestBody"]["required"] = not handler.opt.get("optional_body")
    if method == "patch":
        content = operation["requestBody"]["content"]
        reference = content[errors.JSON]["schema"]["$ref"]
        content[MERGE_PATCH] = {"schema": {"$ref": _merge_patch_name(reference)}}
    operation["responses"] = dict(_success_responses(operation, method, handler))
    operation["parameters"] = [
        *(_parameter(parameter, handler) for parameter in operation.get("parameters", [])),
        *({"$ref": f"#/components/parameters/{name}"} for name in _headers(operation, method, handler)),
    ]


def _with_merge_patches(schemas: Json) -> Json:
    """Add a schema of its own for each merge patch, so that generated clients distinguish the two."""
    patches = {_merge_patch_name(name): schema for name, schema in schemas.items() if name.endswith("Patch")}
    about = {"description": "A merge patch (RFC 7396): members of objects are merged; null removes one."}
    named = {name: {**schema, "title": name, **about} for name, schema in patches.items()}
    return dict(sorted({**schemas, **named}.items()))


def _merge_patch_name(patch: str) -> str:
    return patch.removesuffix("Patch") + "MergePatch"


def _success_responses(operation: Json, method: str, handler: HTTPRouteHandler) -> Iterator[tuple[str, Json]]:
    names = ["ETag"] * _versioned(handler) + ["Idempotent-Replayed"] * _is_idempotent(handler)
    names += ["RateLimit"] * ("scope" in handler.opt)
    for status, reply in operation["responses"].items():
        if status.startswith("2"):
            has_location = status == "201" and get_origin(_annotation(handler)) is Reply
            also = ["Location"] * (has_location or handler.opt.get("has_location", False))
            also += handler.opt.get("headers", ())
            also += ["Content-Range"] * (status == "206")
            reply["headers"] = {**reply.get("headers", {}), **header_references(*names, *also)}
            reply["description"] = SUCCESSES[status]
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


def _parameter(parameter: Json, handler: HTTPRouteHandler) -> Json:
    """Simplify Litestar's parameter: a query cannot carry null. A required one has its type's example."""
    schema = {key: value for key, value in parameter["schema"].items() if key != "description"}
    for option in schema.pop("oneOf", []):
        schema |= option if option.get("type") != "null" else {}
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    if schema.get("type") == "array":  # Litestar drops the bounds of the entries
        schema["items"] = msgspec.json.schema(_entry_type(parameter["name"], handler))
    about = parameter.get("description", f"The id of the {parameter['name'].removesuffix('_id')}.")
    return {
        **{key: parameter[key] for key in ("name", "in", "required")},
        "description": about,
        "schema": schema,
        **({"example": examples[0]} if (examples := _examples(parameter["name"], handler)) else {}),
    }


def _entry_type(name: str, handler: HTTPRouteHandler) -> Any:
    """Return the type of the entries of a parameter that is a list."""
    parameters = handler.parsed_fn_signature.parameters
    field = parameters.get(name) or parameters[f"{name}_"]  # `id` is a function of Python's
    return get_args(find_in_type(field.raw, lambda part: get_origin(part) is list))[0]


def _examples(name: str, handler: HTTPRouteHandler) -> list[Any]:
    field = handler.parsed_fn_signature.parameters.get(name)
    meta = find_in_type(field.raw, lambda part: isinstance(part, Meta) and part.examples) if field else None
    return list(meta.examples) if meta else []


def _content(media_type: str) -> Json:
    """Return the schema of a non-JSON reply."""
    return {"type": "string"} if media_type.startswith("text/") else {"$ref": REF + "File"}


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
