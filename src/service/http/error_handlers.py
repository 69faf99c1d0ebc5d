"""Turns whatever a handler raises into the error contract."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import asyncpg
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service import errors
from service.database.orm import root_cause
from service.errors import JSON, Detail, Fault, ValidationFailed, render
from service.http.idempotency import Replay, StoredReply
from service.http.middleware import Exchange, allow_header
from service.http.parameters import add_parameter_errors

log = structlog.get_logger()
AnyRequest = Request[Any, Any, Any]
FaultsByConstraint: TypeAlias = Mapping[str, Callable[[], Fault]]
Handler: TypeAlias = Callable[[AnyRequest, Exception], Response[Any]]

FAULT_BY_STATUS: dict[int, type[Fault]] = {
    400: errors.BadRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
}


def exception_handlers(by_constraint: FaultsByConstraint) -> dict[int | type[Exception], Handler]:
    """For Litestar: both classes, or its own shape of a 500 comes through. They have to be sync."""

    def handle(request: AnyRequest, error: Exception) -> Response[Any]:
        if isinstance(error, Replay):
            return _replay_response(error.stored)
        exchange = Exchange.of(request.scope)
        fault = _to_fault(error, by_constraint)
        if isinstance(fault, ValidationFailed):
            fault = add_parameter_errors(request, fault)
        if fault.status >= 500:
            _log_error(error, fault, exchange)
        accept = request.headers.get("accept", "")
        rendered = render(fault, path=exchange.path, request_id=exchange.request_id, accept=accept)
        media_type = rendered.headers.pop("Content-Type")
        return Response(
            rendered.body, status_code=rendered.status, headers=rendered.headers, media_type=media_type
        )

    return {HTTPException: handle, Exception: handle}


def _replay_response(stored: StoredReply) -> Response[Any]:
    headers = {**stored.headers, "Idempotent-Replayed": "true"}
    return Response(stored.body, status_code=stored.status, headers=headers, media_type=JSON)


def _to_fault(error: Exception, by_constraint: FaultsByConstraint) -> Fault:
    if isinstance(error, Fault):
        return error
    if isinstance(error, HTTPException):
        return _from_litestar(error)
    return _from_database(error, by_constraint) or errors.InternalError()


def _from_litestar(error: HTTPException) -> Fault:
    if isinstance(error, ValidationException):
        extra = cast("list[dict[str, str]]", error.extra or [])
        return ValidationFailed([_detail(message) for message in extra])
    if error.status_code == 405:
        allow = (error.headers or {}).get("allow", "")
        return errors.MethodNotAllowed(headers={"Allow": allow_header(allow.split(", "))})
    return FAULT_BY_STATUS.get(error.status_code, errors.InternalError)()


def _detail(message: dict[str, str]) -> Detail:
    pointer = "/" + message["key"].replace(".", "/") if "key" in message else ""
    return Detail(pointer, message["message"], str(getattr(message.get("source"), "value", "body")))


def _from_database(error: BaseException, by_constraint: FaultsByConstraint) -> Fault | None:
    """Tell by SQLSTATE and constraint name what a database error means to a client. None: a bug of ours."""
    error = root_cause(error)
    if isinstance(error, PoolTimeoutError):
        return errors.Overloaded()
    if isinstance(error, asyncpg.PostgresError):
        return _fault_from_sqlstate(error, by_constraint)
    if isinstance(error, asyncpg.DataError):
        return None
    if isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return errors.DatabaseUnavailable()
    return None


def _fault_from_sqlstate(error: asyncpg.PostgresError, by_constraint: FaultsByConstraint) -> Fault | None:
    state = error.sqlstate or ""
    constraint = str(getattr(error, "constraint_name", None))
    if state.startswith("23") and constraint in by_constraint:
        return by_constraint[constraint]()
    if state.startswith(("08", "53", "57P")) or state in {
        "57014",
        "40001",
        "40P01",
        "55P03",
        "25006",
        "25P03",
    }:
        return errors.DatabaseUnavailable()
    if state in {"42P01", "42703", "42883"}:  # a table, column or function the next migration brings
        return errors.DatabaseUnavailable("The database schema is behind")
    return None


def _log_error(error: Exception, fault: Fault, exchange: Exchange) -> None:
    if isinstance(fault, errors.Unavailable):
        log.warning(
            "dependency_unavailable", code=fault.code, cause=repr(error), request_id=exchange.request_id
        )
    else:
        log.error("unhandled_error", exc_info=error, request_id=exchange.request_id)
