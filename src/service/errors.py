"""API errors, and the function that renders them."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from http.client import responses
from typing import Any, ClassVar

import msgspec
from litestar.datastructures.headers import Accept

JSON = "application/json"
PROBLEM = "application/problem+json"

ACCEPT_LENGTH_MAX = 1024
"""Characters of an `Accept` header that are read; sorting one of 28 kB takes 80 ms."""
ZERO_WEIGHT = re.compile(r";\s*q=0(\.0*)?\s*(;|$)")


class Fault(Exception):
    """An error reply. Its message never contains SQL, a driver's message or a path of the host."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_ERROR"
    message: ClassVar[str] = "Internal server error"
    headers: Mapping[str, str] = {}
    example_details: ClassVar[Sequence[object]] = ()

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return example fields of the error contract, for the OpenAPI document."""
        fields = {"code": cls.code, "message": cls.message, "path": "/orders", "request_id": "order-17"}
        return {**fields, "details": list(cls.example_details)} if cls.example_details else fields

    def __init__(
        self,
        message: str | None = None,
        details: Sequence[object] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or self.message)
        self.details = details
        if headers is not None:
            self.headers = {**self.headers, **headers}


class InternalError(Fault):
    pass


def all_faults(family: type[Fault] = Fault) -> Iterator[type[Fault]]:
    """Yield all classes of errors that are defined so far, with a code of their own."""
    for fault in family.__subclasses__():
        if fault.__module__.startswith("service."):
            yield from [fault] * ("code" in vars(fault) or fault is InternalError)
            yield from all_faults(fault)


class BadRequest(Fault):
    status, code, message = 400, "BAD_REQUEST", "The request is malformed"


class MalformedJson(Fault):
    status, code, message = 400, "MALFORMED_JSON", "The request body is not valid JSON"


class NoFields(Fault):
    status, code, message = 400, "NO_FIELDS", "No fields provided for update"


class InvalidCursor(Fault):
    status, code, message = 400, "INVALID_CURSOR", "The cursor is not valid for this list and its filters"


class CursorExpired(Fault):
    status, code = 410, "CURSOR_EXPIRED"
    message = "The cursor is older than the retained events; start again without a cursor"


class Unauthenticated(Fault):
    status, code, message = 401, "UNAUTHENTICATED", "A valid API key is required"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class Forbidden(Fault):
    status, code, message = 403, "FORBIDDEN", "The API key lacks the required scope"


class NotFound(Fault):
    status, code, message = 404, "NOT_FOUND", "Not found"


class MethodNotAllowed(Fault):
    status, code, message = 405, "METHOD_NOT_ALLOWED", "This path does not support the method"


class InUse(Fault):
    status, code, message = 409, "IN_USE", "The item is referenced by an order and cannot be deleted"


class InvalidState(Fault):
    status, code = 409, "INVALID_STATE"
    message = "The resource's current state does not allow this"
    example_details = ({"status": "fulfilled"},)

    def __init__(self, message: str, status: str) -> None:
        """`status` is the resource's current status."""
        super().__init__(message, details=[{"status": status}])


class PreconditionFailed(Fault):
    status, code = 412, "PRECONDITION_FAILED"
    message = "The resource's current version does not meet the precondition (If-Match or If-None-Match)"

    def __init__(self, tag: int | str | None) -> None:
        """`tag` is the current version or content tag, or None if the resource does not exist."""
        super().__init__(headers={} if tag is None else {"ETag": f'"{tag}"'})


def check_tag(current: str, accepted: Collection[str]) -> None:
    """Raise `PreconditionFailed` unless the current tag is accepted."""
    if current not in accepted:
        raise PreconditionFailed(current)


class RequestTimeout(Fault):
    status, code, message = 408, "REQUEST_TIMEOUT", "The request took too long to arrive"
    headers: Mapping[str, str] = {"Connection": "close"}


class TooLarge(Fault):
    status, code, message = 413, "TOO_LARGE", "The request body is too large"


class UnsupportedMediaType(Fault):
    status, code, message = 415, "UNSUPPORTED_MEDIA_TYPE", "The request body's media type is not supported"


class Detail(msgspec.Struct, frozen=True):
    """One invalid field: its JSON Pointer (RFC 6901), the problem, and the part of the request."""

    field: str
    message: str
    source: str = "body"


class ValidationFailed(Fault):
    status, code, message = 422, "VALIDATION_FAILED", "Request payload validation failed"
    details: Sequence[Detail]
    example_details = ({"field": "/lines/0/quantity", "message": "must be at least 1", "source": "body"},)

    def __init__(self, details: Sequence[Detail]) -> None:
        super().__init__(details=details)


class HeadTooLarge(Fault):
    status, code = 431, "HEAD_TOO_LARGE"
    message = "The request's target and headers are too large"
    headers: Mapping[str, str] = {"Connection": "close"}


class RateLimited(Fault):
    """Always raised with `Retry-After`."""

    status, code = 429, "RATE_LIMITED"
    message = "The rate limit of this API key is exceeded; wait for the time in Retry-After"


class ClientClosedRequest(Fault):
    """The client disconnected. The reply is never read; nginx's status 499 sets it apart in the log."""

    status, code, message = 499, "CLIENT_CLOSED_REQUEST", "The client closed the connection"


class Unavailable(Fault):
    """A temporary error (503); the client should retry."""

    status = 503
    headers: Mapping[str, str] = {"Retry-After": "1"}


class Overloaded(Unavailable):
    code, message = "OVERLOADED", "The service is overloaded; retry later"


class DatabaseUnavailable(Unavailable):
    code, message = "DATABASE_UNAVAILABLE", "The database is unavailable; retry later"


class TimedOut(Fault):
    """The deadline of an admitted request has passed; unlike after `OVERLOADED`, it may take effect."""

    status, code = 504, "TIMED_OUT"
    message = "The request timed out; it may still take effect"


class Draining(Unavailable):
    code, message = "DRAINING", "This process is shutting down"


def negotiate_media_type(accept: str, *offered: str) -> str:
    """Return the media type the client prefers (RFC 9110 §12.5.1).

    The first one offered is the default: `Accept` may be missing or malformed.
    """
    if accept in {"", "*/*", offered[0]}:
        return offered[0]
    ranges = accept[:ACCEPT_LENGTH_MAX].lower().split(",")
    try:
        wanted = Accept(",".join(part for part in ranges if not ZERO_WEIGHT.search(part)))
        return wanted.best_match(list(offered), default=offered[0])
    except (ValueError, OverflowError):  # a weight such as `q=inf`
        return offered[0]


class RenderedError(msgspec.Struct, frozen=True):
    """An error reply, rendered to bytes."""

    status: int
    headers: dict[str, str]
    body: bytes


def render(fault: Fault, *, path: str, request_id: str, accept: str = "") -> RenderedError:
    """Render an error in the error contract, or as RFC 9457 problem details if the client prefers that."""
    problem = negotiate_media_type(accept, JSON, PROBLEM) == PROBLEM
    contract = error_fields(fault, path=path, request_id=request_id)
    content = problem_fields(fault, contract) if problem else {"error": contract}
    headers = {
        **fault.headers,
        "Content-Type": PROBLEM if problem else JSON,
        "X-Error-Code": fault.code,
        "Vary": "Accept",
    }
    return RenderedError(fault.status, headers, msgspec.json.encode(content))


def error_fields(fault: Fault, *, path: str, request_id: str) -> dict[str, Any]:
    """Return the fields of the error contract."""
    known = {"code": fault.code, "message": str(fault), "path": path, "request_id": request_id}
    return {**known, "details": fault.details} if fault.details else known


def problem_fields(fault: Fault | type[Fault], contract: dict[str, Any]) -> dict[str, Any]:
    """Return the members of RFC 9457 problem details for the fields of the error contract."""
    rest = {name: value for name, value in contract.items() if name not in {"message", "path"}}
    return {
        "type": f"urn:depot:error:{fault.code}",
        "title": responses.get(fault.status, fault.code),
        "status": fault.status,
        "detail": contract["message"],
        "instance": contract["path"],
        **rest,
    }
