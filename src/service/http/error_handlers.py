"""Convert exceptions of handlers into the error contract.

Litestar picks the function of the nearest class (`EXCEPTION_HANDLERS` in `app.py`). All must be synchronous.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import asyncpg
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from service import errors
from service.database.orm import root_cause
from service.errors import JSON, Detail, Fault, ValidationFailed, render
from service.http.exchange import Exchange
from service.http.middleware import allow_header
from service.http.parameters import add_parameter_errors
from service.idempotency.replies import Replay

log = structlog.get_logger()
AnyRequest = Request[Any, Any, Any]
FaultsByConstraint: TypeAlias = Mapping[str, Callable[[], Fault]]
Handler: TypeAlias = Callable[[AnyRequest, Any], Response[Any]]

FAULT_BY_STATUS: dict[int, type[Fault]] = {
    400: errors.BadRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
}
TEMPORARY_CLASSES = ("08", "53", "57P")
"""Classes of SQLSTATEs: connection lost, out of resources, shutting down."""
TEMPORARY_STATES = {"57014", "40001", "40P01", "55P03", "25006", "25P03"}
"""Timeouts, conflicts between transactions, and a server that became a standby."""
OUTDATED_SCHEMA_STATES = {"42P01", "42703", "42883"}
"""A table, column or function is missing until a pending migration has run."""


def reply_with_fault(request: AnyRequest, fault: Fault, cause: Exception | None = None) -> Response[Any]:
    """Render an API error."""
    exchange = Exchange.of(request.scope)
    if isinstance(fault, ValidationFailed):
        fault = add_parameter_errors(request, fault)
    if fault.status >= 500:
        _log_error(cause or fault, fault, exchange.request_id)
    accept = request.headers.get("accept", "")
    rendered = render(fault, path=exchange.path, request_id=exchange.request_id, accept=accept)
    media_type = rendered.headers.pop("Content-Type")
    return Response(
        rendered.body, status_code=rendered.status, headers=rendered.headers, media_type=media_type
    )


def dropping_tracebacks(handler: Handler) -> Handler:
    """Return `handler`, which then also drops the tracebacks of the error and its causes.

    Their frames refer to the error, so only the garbage collector would free them, and with them all that
    the request used.
    """

    def handle(request: AnyRequest, error: BaseException | None) -> Response[Any]:
        try:
            return handler(request, error)
        finally:
            while error is not None:
                error.__traceback__, error = None, error.__cause__ or error.__context__

    return handle


def reply_with_replay(_: AnyRequest, replay: Replay) -> Response[Any]:
    """Repeat a stored reply byte for byte."""
    stored = replay.stored
    headers = {**stored.headers, "Idempotent-Replayed": "true"}
    return Response(stored.body, status_code=stored.status, headers=headers, media_type=JSON)


def reply_to_invalid_parameters(request: AnyRequest, _: ValidationException) -> Response[Any]:
    """Report all invalid parameters; Litestar's messages show types and regular expressions."""
    found = add_parameter_errors(request, ValidationFailed([]))
    return reply_with_fault(
        request, found if found.details else ValidationFailed([Detail("", "is not valid")])
    )


def reply_to_litestar_error(request: AnyRequest, error: HTTPException) -> Response[Any]:
    """Render Litestar's own errors, such as an unknown path or method."""
    fault = FAULT_BY_STATUS.get(error.status_code, errors.InternalError)()
    if error.status_code == 405:
        allow = (error.headers or {}).get("allow", "")
        fault = errors.MethodNotAllowed(headers={"Allow": allow_header(allow.split(", "))})
    return reply_with_fault(request, fault, error)


def reply_to_postgres_error(by_constraint: FaultsByConstraint) -> Handler:
    """Return the handler that maps a database error to an API error by SQLSTATE and constraint."""
    return lambda request, error: reply_with_fault(request, fault_of_sqlstate(error, by_constraint), error)


def fault_of_sqlstate(error: asyncpg.PostgresError, by_constraint: FaultsByConstraint) -> Fault:
    """Return the API error for a database error. An internal error means a bug in Depot."""
    state = error.sqlstate or ""
    constraint = str(getattr(error, "constraint_name", None))
    if state.startswith("23") and constraint in by_constraint:
        return by_constraint[constraint]()
    if state.startswith(TEMPORARY_CLASSES) or state in TEMPORARY_STATES:
        return errors.DatabaseUnavailable()
    if state in OUTDATED_SCHEMA_STATES:
        return errors.DatabaseUnavailable("The database schema is outdated; run `depot migrate`")
    return errors.InternalError()


def reply_to_wrapped_error(handlers: Mapping[int | type[Exception], Handler]) -> Handler:
    """Return the handler of the ORM's errors. It passes the driver's error inside to one of `handlers`."""

    def handle(request: AnyRequest, error: Exception) -> Response[Any]:
        cause = root_cause(error)
        handler = next((handlers[type_] for type_ in type(cause).__mro__ if type_ in handlers), reply_to_bug)
        return handler(request, cause)

    return handle


def reply_with(fault: type[Fault]) -> Handler:
    """Return a handler that always replies with this API error."""
    return lambda request, error: reply_with_fault(request, fault(), error)


reply_to_bug: Handler = reply_with(errors.InternalError)


def _log_error(error: Exception, fault: Fault, request_id: str) -> None:
    if isinstance(fault, errors.Unavailable):
        cause = repr(error.__cause__ or error)
        log.warning("dependency_unavailable", code=fault.code, cause=cause, request_id=request_id)
    else:
        log.error("unhandled_error", exc_info=error, request_id=request_id)
