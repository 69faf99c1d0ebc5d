"""Everything that is wrong with the parameters of a request, whatever was found first.

Litestar stops at a body that does not fit, and at a query whose types do not; and it takes some things for
numbers and nulls that are none.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from litestar import Request

from service.errors import Detail, ValidationFailed
from service.http.idempotency import HEADER, IdempotencyMismatch, key_problem
from service.http.validation import describe_error

AnyRequest = Request[Any, Any, Any]

NON_TEXT_FILTERS = ("status", "in_stock", "currency")
"""Filters that are no texts."""


def validate_query(request: AnyRequest) -> None:
    """For a handler that has a `limit`, filters that are no texts, or texts of its own to parse."""
    if details := list(_query(request)):
        raise ValidationFailed(details)


def add_parameter_errors(request: AnyRequest, found: ValidationFailed) -> ValidationFailed:
    """The refusal, and what else is wrong in path, query and headers."""
    details = {(detail.source, detail.field): detail for detail in found.details}
    for detail in (*_path(request), *_query(request), *_headers(request)):
        details.setdefault((detail.source, detail.field), detail)
    return ValidationFailed(list(details.values()))


def _path(request: AnyRequest) -> Iterator[Detail]:
    kinds = request.route_handler.signature_model.__annotations__
    for name, text in request.path_params.items():
        try:
            msgspec.convert(text, kinds[name], strict=False)
        except msgspec.ValidationError as error:
            yield Detail(f"/{name}", describe_error(error), "path")


def _query(request: AnyRequest) -> Iterator[Detail]:
    query = request.query_params
    for name in NON_TEXT_FILTERS:
        if query.get(name) == "null":  # for Litestar a parameter that was not sent
            yield Detail(f"/{name}", "must not be null", "query")
    if not query.get("limit", "1").isdecimal():  # Litestar takes 5.0 and 1e1 for integers
        yield Detail("/limit", "Expected `int`", "query")
    parsers: Mapping[str, Callable[[str], object]] = request.route_handler.opt.get("parsers", {})
    for name, parse in parsers.items():
        try:
            if name in query:
                parse(query[name])
        except ValueError as error:
            yield Detail(f"/{name}", str(error), "query")


def _headers(request: AnyRequest) -> Iterator[Detail]:
    if IdempotencyMismatch in request.route_handler.opt.get("faults", []):
        problem = key_problem(request.headers.get(HEADER))
        if problem is not None:
            yield Detail(f"/{HEADER}", problem, "header")
