"""Validate the path, the query and the headers of a request, and report all that is invalid.

Litestar stops at the first invalid parameter, ignores unknown ones, and accepts some values that are not
numbers or nulls.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any, get_args, get_origin
from uuid import UUID

import msgspec
from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from msgspec import Meta, Struct

from service.constraints import describe_error, find_in_type
from service.errors import Detail, ValidationFailed
from service.http.idempotency import HEADER, key_problem
from service.http.validation import DETAILS_MAX, pointer_step
from service.idempotency.replies import IdempotencyMismatch

AnyRequest = Request[Any, Any, Any]

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
SUGGESTIONS_MAX = 10
"""Unknown names that are compared with the known ones; each comparison takes about 0.1 ms."""
NAME_LENGTH_MAX = 64


class QueryType(Struct, frozen=True):
    """The type of a query parameter. One that is a list may be given up to `count_max` times."""

    element: Any
    is_list: bool = False
    count_max: int | None = None


async def validate_parameters(request: AnyRequest) -> None:
    """Reject a request with invalid parameters in path or query, before its handler is called.

    Litestar rejects invalid path parameters too, but then only the garbage collector frees its frames.
    """
    details = _path_errors(request)
    if request.scope["query_string"]:
        details += _query_errors(request)
    if details:
        raise ValidationFailed([*await _body_errors(request), *details])


def add_parameter_errors(request: AnyRequest, error: ValidationFailed) -> ValidationFailed:
    """Return the error with all other errors in path, query and headers."""
    details = {(detail.source, detail.field): detail for detail in error.details}
    for detail in (*_path_errors(request), *_query_errors(request), *_header_errors(request)):
        details.setdefault((detail.source, detail.field), detail)
    return ValidationFailed(list(details.values()))


async def _body_errors(request: AnyRequest) -> list[Detail]:
    if request.route_handler.parsed_data_field is not None:
        try:
            await request.json()
        except ValidationFailed as error:
            return list(error.details)
    return []


def _path_errors(request: AnyRequest) -> list[Detail]:
    details = []
    types = _path_types(request.scope["route_handler"])
    for name, text in request.scope["path_params"].items():
        try:
            msgspec.convert(text, types[name], strict=False)
        except msgspec.ValidationError as error:
            declared = request.route_handler.parsed_fn_signature.parameters[name]
            details.append(Detail(f"/{name}", describe_error(error, declared.raw, text=True), "path"))
    return details


@cache
def _path_types(handler: BaseRouteHandler) -> dict[str, Any]:
    """Return the types of a handler's parameters by name.

    A UUID is not annotated: for each check, msgspec computes the hash of an annotated type (1 µs).
    """
    types = handler.signature_model.__annotations__.items()
    return {name: UUID if UUID in get_args(type_) else type_ for name, type_ in types}


def _query_errors(request: AnyRequest) -> Iterable[Detail]:
    if request.scope["query_string"] and "scope" in request.route_handler.opt:
        return islice(_invalid_parameters(request), DETAILS_MAX)
    return ()


def _invalid_parameters(request: AnyRequest) -> Iterator[Detail]:
    types = _query_types(request.route_handler)
    parsers: Mapping[str, Callable[[str], object]] = request.route_handler.opt.get("parsers", {})
    suggestions = 0
    for name in dict.fromkeys(request.query_params):  # in their order, unlike `dict()`
        texts = request.query_params.getall(name)
        if name not in types:
            suggestions += 1
            known = list(types) if suggestions <= SUGGESTIONS_MAX else []
            problem: str | None = _unknown_name_problem(name, known)
        else:
            problem = _texts_problem(texts, types[name], parsers.get(name))
        if problem is not None:
            yield Detail(pointer_step(name), problem, "query")


def _unknown_name_problem(name: str, known: list[str]) -> str:
    similar = get_close_matches(name[:NAME_LENGTH_MAX], known, 1)
    return "is not a known parameter" + (f"; did you mean {similar[0]}?" if similar else "")


def _texts_problem(texts: list[str], type_: QueryType, parse: Callable[[str], object] | None) -> str | None:
    """Return what is wrong with a parameter that was given once or, if its type is a list, several times."""
    if type_.is_list and type_.count_max is not None and len(texts) > type_.count_max:
        return f"must be given at most {type_.count_max} times"
    if not type_.is_list and len(texts) > 1:
        return "must be given only once"
    problems = (_text_problem(text, type_.element, parse) for text in texts)
    return next((problem for problem in problems if problem is not None), None)


def _text_problem(text: str, type_: Any, parse: Callable[[str], object] | None) -> str | None:
    try:
        if get_origin(type_) is not None and get_args(type_)[0] is int and not WHOLE_NUMBER.fullmatch(text):
            return "must be a whole number"  # Litestar accepts 5.0 and 1e1
        msgspec.convert(text, type_, strict=False)
        if parse is not None:
            parse(text)
    except msgspec.ValidationError as error:
        return describe_error(error, type_, text=True)
    except ValueError as error:
        return str(error)
    return None


@cache
def _query_types(handler: BaseRouteHandler) -> dict[str, QueryType]:
    """Return the types of a handler's query parameters by name, without None: a query cannot carry it."""
    types: dict[str, Any] = handler.signature_model.__annotations__
    return {
        field.kwarg_definition.name or name: _query_type(
            next(part for part in _members(types[name]) if part is not None)
        )
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    }


def _query_type(type_: Any) -> QueryType:
    list_ = find_in_type(type_, lambda part: get_origin(part) is list)
    if list_ is None:
        return QueryType(type_)
    count = find_in_type(type_, lambda part: isinstance(part, Meta) and part.max_length is not None)
    return QueryType(get_args(list_)[0], is_list=True, count_max=count and count.max_length)


def _members(type_: Any) -> tuple[Any, ...]:
    return (type_,) if hasattr(type_, "__metadata__") else get_args(type_)


def _header_errors(request: AnyRequest) -> Iterator[Detail]:
    if IdempotencyMismatch in request.route_handler.opt.get("faults", []):
        problem = key_problem(request.headers.get(HEADER))
        if problem is not None:
            yield Detail(f"/{HEADER}", problem, "header")
