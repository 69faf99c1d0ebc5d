"""Turns whatever a handler raises into the error contract."""

from collections.abc import Callable
from typing import Any, cast

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from service import errors
from service.db import FaultsByConstraint, fault_from
from service.errors import Detail, Fault, ValidationFailed, render
from service.http.envelope import Exchange, with_head

log = structlog.get_logger()
AnyRequest = Request[Any, Any, Any]
Handler = Callable[[AnyRequest, Exception], Response[Any]]

BY_STATUS: dict[int, type[Fault]] = {
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
        exchange = Exchange.of(request.scope)
        fault = _fault(error, by_constraint)
        if fault.status >= 500:
            _report(error, fault, exchange)
        accept = request.headers.get("accept", "")
        rendered = render(fault, path=exchange.path, request_id=exchange.request_id, accept=accept)
        media_type = rendered.headers.pop("Content-Type")
        return Response(
            rendered.body, status_code=rendered.status, headers=rendered.headers, media_type=media_type
        )

    return {HTTPException: handle, Exception: handle}


def _fault(error: Exception, by_constraint: FaultsByConstraint) -> Fault:
    if isinstance(error, Fault):
        return error
    if isinstance(error, HTTPException):
        return _from_litestar(error)
    return fault_from(error, by_constraint) or errors.InternalError()


def _from_litestar(error: HTTPException) -> Fault:
    if isinstance(error, ValidationException):
        extra = cast("list[dict[str, str]]", error.extra or [])
        return ValidationFailed([_detail(message) for message in extra])
    if error.status_code == 405:
        allow = (error.headers or {}).get("allow", "")
        return errors.MethodNotAllowed(headers={"Allow": with_head(allow.split(", "))})
    return BY_STATUS.get(error.status_code, errors.InternalError)()


def _detail(message: dict[str, str]) -> Detail:
    pointer = "/" + message["key"].replace(".", "/") if "key" in message else ""
    return Detail(pointer, message["message"], str(getattr(message.get("source"), "value", "body")))


def _report(error: Exception, fault: Fault, exchange: Exchange) -> None:
    if isinstance(fault, errors.Unavailable):
        log.warning("unavailable", code=fault.code, cause=repr(error), request_id=exchange.request_id)
    else:
        log.error("crash", exc_info=error, request_id=exchange.request_id)
