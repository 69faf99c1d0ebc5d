"""Error codes, their status, and how an error is rendered."""

from collections import defaultdict
from collections.abc import Iterator

import service.app  # which knows all features, and so all faults  # noqa: F401
from service import errors
from service.errors import Detail, Fault, error_fields, render

CONTRACT = {
    400: "MALFORMED_JSON MALFORMED_MULTIPART NO_FIELDS INVALID_TYPE INVALID_CURSOR BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "INSUFFICIENT_STOCK QUANTITY_CHANGED ITEM_ARCHIVED DUPLICATE_SKU INVALID_STATE IN_USE "
    "IDEMPOTENCY_IN_PROGRESS LIMIT_REACHED",
    410: "CURSOR_EXPIRED",
    412: "PRECONDITION_FAILED",
    413: "TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    416: "RANGE_NOT_SATISFIABLE",
    422: "VALIDATION_FAILED UNKNOWN_ITEM UNKNOWN_JOB MIXED_CURRENCIES IDEMPOTENCY_MISMATCH",
    429: "RATE_LIMITED",
    431: "HEAD_TOO_LARGE",
    499: "CLIENT_CLOSED_REQUEST",
    500: "INTERNAL_ERROR",
    503: "OVERLOADED DATABASE_UNAVAILABLE STORAGE_UNAVAILABLE DRAINING",
    504: "TIMED_OUT",
}


def faults(family: type[Fault]) -> Iterator[type[Fault]]:
    for fault in family.__subclasses__():
        yield fault
        yield from faults(fault)


def test_every_code_has_its_status() -> None:
    codes = defaultdict(set)
    for fault in faults(Fault):
        if (
            fault.__module__.startswith("service.") and "code" in vars(fault)
        ) or fault is errors.InternalError:
            codes[fault.status].add(fault.code)
    assert codes == {status: set(known.split()) for status, known in CONTRACT.items()}


def test_temporary_errors_have_retry_after() -> None:
    for fault in faults(errors.Unavailable):
        assert fault.headers == {"Retry-After": "1"}


def test_a_401_has_www_authenticate() -> None:
    assert errors.Unauthenticated().headers == {"WWW-Authenticate": "Bearer"}


def test_headers_of_an_error_are_added_to_those_of_its_class() -> None:
    fault = errors.Unauthenticated(headers={"X-Mine": "1"})
    assert fault.headers == {"WWW-Authenticate": "Bearer", "X-Mine": "1"}
    assert errors.Unauthenticated.headers == {"WWW-Authenticate": "Bearer"}


def test_a_412_has_the_current_etag() -> None:
    assert errors.PreconditionFailed(3).headers == {"ETag": '"3"'}
    assert errors.PreconditionFailed(None).headers == {}


def test_the_contract_has_details_only_where_there_are_any() -> None:
    known = {"code": "NOT_FOUND", "message": "Not found", "path": "/a", "request_id": "r"}
    assert error_fields(errors.NotFound(), path="/a", request_id="r") == known
    wrong = [Detail("/name", "too long")]
    invalid = error_fields(errors.ValidationFailed(wrong), path="/a", request_id="r")
    assert (invalid["message"], invalid["details"]) == ("Request payload validation failed", wrong)


def test_an_error_is_rendered_in_the_preferred_format() -> None:
    plain = render(errors.NoFields(), path="/a", request_id="r", accept="application/json")
    assert (plain.status, plain.headers) == (
        400,
        {"Content-Type": "application/json", "X-Error-Code": "NO_FIELDS", "Vary": "Accept"},
    )
    assert plain.body.startswith(b'{"error":{"code":"NO_FIELDS","message":"No fields provided for update"')
    problem = render(errors.NoFields(), path="/a", request_id="r", accept="application/problem+json")
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.body == (
        b'{"type":"urn:depot:error:NO_FIELDS","title":"Bad Request","status":400,'
        b'"detail":"No fields provided for update","instance":"/a","code":"NO_FIELDS","request_id":"r"}'
    )
    either = render(
        errors.NoFields(), path="/a", request_id="r", accept="application/problem+json;q=0.5, */*"
    )
    assert either.headers["Content-Type"] == "application/json"
