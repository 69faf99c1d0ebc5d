"""How the OpenAPI document describes what is not a 2xx: the error contract, and each fault by its code."""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from service import errors
from service.errors import Fault
from service.http.json_schema import REF, Json
from service.http.validation import DETAILS_MAX

Details = Annotated[list[dict[str, Any]], Meta(max_length=DETAILS_MAX)]


class ErrorBody(Struct):
    code: str
    """Stable, in capitals."""
    message: str
    """For people."""
    path: str
    request_id: str
    details: Details | UnsetType = UNSET
    """Where there is more to say: of a 422 every wrong field, with a JSON Pointer to it."""


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
    details: Details | UnsetType = UNSET


def header_schema(description: str, **schema: object) -> Json:
    return {"description": description, "schema": {"type": "string", **schema}}


HEADERS = {
    "X-Request-ID": {
        **header_schema("Yours, or a new one.", pattern=r"^[A-Za-z0-9._-]{1,128}\Z", maxLength=128),
        "required": True,
    },
    "ETag": header_schema(
        "The version: send it back as `If-Match`, or as `If-None-Match`.", examples=['"3"']
    ),
    "Location": header_schema("Where it is to be found.", format="uri-reference", maxLength=2048),
    "Retry-After": header_schema("Try again after so many seconds.", pattern=r"^[0-9]{1,9}\Z", maxLength=9),
    "WWW-Authenticate": header_schema("How to authenticate (RFC 6750).", examples=["Bearer"]),
    "Idempotent-Replayed": header_schema(
        "This is what the first request under this `Idempotency-Key` was answered.", enum=["true"]
    ),
    "RateLimit": header_schema(
        "What is left of the quota, where there is one (draft-ietf-httpapi-ratelimit-headers-10).",
        examples=['"default";r=599;t=60'],
    ),
    "Content-Range": header_schema("What part of the whole this is.", examples=["bytes 0-99/1234"]),
}


def header_references(*names: str) -> Json:
    """Headers of a reply, by reference."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def response_name(faults: Sequence[type[Fault]]) -> str:
    """The name of a refusal that is one of these faults."""
    return ".".join(sorted({fault.__name__ for fault in faults}))


def error_response(faults: Sequence[type[Fault]]) -> Json:
    """One status of an operation, for whatever reason it is given."""
    codes = sorted({fault.code for fault in faults})
    carried = sorted({name for fault in faults for name in fault.headers if name in HEADERS})
    carried += ["ETag"] * (errors.PreconditionFailed in faults)
    carried += ["Retry-After", "RateLimit"] * (errors.RateLimited in faults)
    return {
        "description": "; ".join(dict.fromkeys(f"`{fault.code}`: {fault.message}" for fault in faults)),
        "headers": {
            **header_references(*carried),
            "X-Error-Code": {
                "description": "The code once more.",
                "required": True,
                "schema": {"type": "string", "enum": codes},
            },
        },
        "content": {
            errors.JSON: {"schema": {"$ref": REF + "Error"}},
            errors.PROBLEM: {"schema": {"$ref": REF + "Problem"}},
        },
    }
