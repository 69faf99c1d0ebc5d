"""OpenAPI descriptions of error replies."""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from service import errors
from service.errors import ClientClosedRequest, Fault, all_faults, problem_fields
from service.http.json_schema import REF, Json
from service.http.validation import DETAILS_MAX

Details = Annotated[list[dict[str, Any]], Meta(max_length=DETAILS_MAX)]


class ErrorBody(Struct):
    code: Annotated[str, Meta(description="Stable error code, such as NOT_FOUND.")]
    message: Annotated[str, Meta(description="Explanation for people; may change.")]
    path: str
    request_id: str
    details: Annotated[
        Details | UnsetType,
        Meta(description="Details; for a 422 one entry per invalid field, with its JSON Pointer."),
    ] = UNSET


class Error(Struct):
    """Body of every 4xx and 5xx reply."""

    error: ErrorBody


class Problem(Struct):
    """Body of every 4xx and 5xx reply to a client that accepts problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    details: Details | UnsetType = UNSET


def header_schema(description: str, **schema: object) -> Json:
    return {"description": description, "schema": {"type": "string", **schema}}


HEADERS = {
    "X-Request-ID": {
        **header_schema(
            "The client's request id, or a generated one.", pattern=r"^[A-Za-z0-9._-]{1,128}\Z", maxLength=128
        ),
        "required": True,
    },
    "ETag": header_schema("Version of the resource, for `If-Match` and `If-None-Match`.", examples=['"3"']),
    "Location": header_schema("URL of the resource.", format="uri-reference", maxLength=2048),
    "Retry-After": header_schema("Seconds to wait before a retry.", pattern=r"^[0-9]{1,9}\Z", maxLength=9),
    "WWW-Authenticate": header_schema("How to authenticate (RFC 6750).", examples=["Bearer"]),
    "Idempotent-Replayed": header_schema(
        "The reply is a replay of the first one for this `Idempotency-Key`.", enum=["true"]
    ),
    "RateLimit": header_schema(
        "Remaining quota, if a rate limit is configured (draft-ietf-httpapi-ratelimit-headers-10).",
        examples=['"default";r=599;t=60'],
    ),
    "X-Data-Age": header_schema(
        "Seconds by which the data may be behind; absent if they come from the primary.",
        pattern=r"^[0-9]{1,9}\Z",
        maxLength=9,
    ),
    "Content-Range": header_schema(
        "The returned byte range and the total size.", examples=["bytes 0-99/1234"]
    ),
}


def header_references(*names: str) -> Json:
    """Return references to reply headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def with_error_codes(schemas: Json) -> Json:
    """Add the schema of error codes, and refer to it."""
    codes = sorted({fault.code for fault in all_faults() if fault.status != ClientClosedRequest.status})
    reference = {"$ref": REF + "ErrorCode"}
    for name in ("ErrorBody", "Problem"):
        schemas[name]["properties"]["code"] = reference
    about = "Stable error code. A proxy in front of the service can add codes of its own."
    return {**schemas, "ErrorCode": {"type": "string", "description": about, "enum": codes}}


def response_name(faults: Sequence[type[Fault]]) -> str:
    """Return the component name for these errors."""
    return ".".join(sorted({fault.__name__ for fault in faults}))


def error_response(faults: Sequence[type[Fault]]) -> Json:
    """Return the OpenAPI response of one status with all its error codes."""
    codes = sorted({fault.code for fault in faults})
    header_names = sorted({name for fault in faults for name in fault.headers if name in HEADERS})
    header_names += ["ETag"] * (errors.PreconditionFailed in faults)
    header_names += ["Retry-After", "RateLimit"] * (errors.RateLimited in faults)
    return {
        "description": "; ".join(dict.fromkeys(f"`{fault.code}`: {fault.message}" for fault in faults)),
        "headers": {
            **header_references(*header_names),
            "X-Error-Code": {
                "description": "The error code.",
                "required": True,
                "schema": {"type": "string", "enum": codes},
            },
        },
        "content": {
            errors.JSON: {
                "schema": {"$ref": REF + "Error"},
                "examples": {fault.code: {"value": {"error": fault.example()}} for fault in faults},
            },
            errors.PROBLEM: {
                "schema": {"$ref": REF + "Problem"},
                "examples": {
                    fault.code: {"value": problem_fields(fault, fault.example())} for fault in faults
                },
            },
        },
    }
