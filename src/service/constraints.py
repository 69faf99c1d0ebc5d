"""Constraints of schemas: rules beyond a type's bounds, and plain words for what a value violates."""

import re
from collections.abc import Callable, Container
from functools import cache, partial
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct
from msgspec.structs import fields

from service.values import Currency, size_problem

NO_NUL_PATTERN = r"^[^\x00]*\Z"
"""Text without a pattern of its own: anything but NUL, which PostgreSQL cannot store."""

Rule = Callable[[Any], str | None]

NOUNS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "an array",
    "object": "an object",
    "date": "a date such as 2026-11-23",
    "datetime": "a time such as 2026-11-23T12:00:00Z",
    "uuid": "a UUID",
}
RECEIVED = {**NOUNS, "int": "a number", "bool": "a boolean"}
UNITS = {"str": ("character", "characters"), "array": ("entry", "entries"), "object": ("field", "fields")}
COMPARISONS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
INVALID = {
    "UUID": "must be a UUID",
    "RFC3339 encoded date": "must be a date such as 2026-11-23",
    "RFC3339 encoded datetime": "must be an RFC 3339 time such as 2026-11-23T12:00:00Z",
}


class Body(Struct, forbid_unknown_fields=True):
    """A request body. Decoding it checks its bounds, and its rules: `Meta(extra={"rule": …})`."""

    def __post_init__(self) -> None:
        for name, rule in _field_rules(type(self)):
            value = getattr(self, name)
            if value is not None and value is not UNSET and (problem := rule(value)):
                raise ValueError(problem)
        if problem := self.fields_problem(_Provided(self)):
            raise ValueError(problem)

    @staticmethod
    def fields_problem(provided: Container[str]) -> str | None:  # noqa: ARG004  # for subclasses
        """Return what is wrong with a body of these fields, whatever their values."""
        return None


class _Provided(Container[str]):
    def __init__(self, body: Struct) -> None:
        self._body = body

    def __contains__(self, name: object) -> bool:
        return getattr(self._body, str(name)) is not UNSET


def describe_error(error: msgspec.ValidationError, type_: Any, *, text: bool = False) -> str:
    """Return in plain words what is wrong with a value of type `type_`, without its path.

    `text` says that the value was text in any case: a parameter, a setting or a cell.
    """
    message = re.sub(r" - at `[^`]*`$", "", str(error), count=1)
    if not message[:1].isupper():
        return message  # from a rule
    for pattern, words in WORDS:
        if match := pattern.fullmatch(message):
            return words(match, type_, text)
    return "is not valid"


def json_object(bytes_max: int) -> Meta:
    """Return the constraint of a free-form JSON object: its maximum size as it is read back."""
    return Meta(extra={"rule": partial(size_problem, bytes_max=bytes_max), "bytes_max": bytes_max})


def find_rule(type_: Any) -> Rule | None:
    rule: Rule | None = find_extra(type_, "rule")
    return rule


def find_extra(type_: Any, name: str) -> Any:
    """Return an entry of a type's `Meta(extra={…})`, or None."""
    meta = find_in_type(type_, lambda part: isinstance(part, Meta) and part.extra and name in part.extra)
    return meta and meta.extra[name]


def find_in_type(type_: Any, wanted: Callable[[Any], Any]) -> Any:
    """Return the first part of a type, inside Annotated and unions, that is `wanted`."""
    if wanted(type_):
        return type_
    if get_origin(type_) is list or not get_args(type_):
        return None
    candidates = (find_in_type(inner, wanted) for inner in get_args(type_))
    return next((part for part in candidates if part is not None), None)


@cache
def _field_rules(struct: type[Struct]) -> list[tuple[str, Rule]]:
    rules = ((field.name, find_rule(field.type)) for field in fields(struct))
    return [(name, rule) for name, rule in rules if rule is not None]


def _wrong_type(match: re.Match[str], _: Any, text: bool) -> str:
    expected, received = match[1].split(" | "), match[2]
    nouns = " or ".join(NOUNS.get(name, "a value") for name in expected)
    is_enough = (
        expected[1:] or expected == ["bool"] or (expected == ["int"] and received in {"float", "decimal"})
    )
    return f"must be {nouns}" if text or is_enough else f"must be {nouns}, not {RECEIVED[received]}"


def _wrong_length(match: re.Match[str], _type: Any, _text: bool) -> str:
    type_, comparison, count = match.groups()
    if (type_, comparison, count) == ("str", ">=", "1"):
        return "must not be empty"
    singular, plural = UNITS[type_]
    return f"must have {COMPARISONS[comparison]} {count} {singular if count == '1' else plural}"


def _wrong_size(match: re.Match[str], _type: Any, _text: bool) -> str:
    return f"must be {COMPARISONS[match[1]]} {match[2].removesuffix('.0')}"


def _wrong_form(_: re.Match[str], type_: Any, _text: bool) -> str:
    expected = find_extra(type_, "expected")
    return f"must be {expected}" if expected else "must not contain NUL characters"


def _wrong_choice(_: re.Match[str], type_: Any, _text: bool) -> str:
    choices = get_args(find_in_type(type_, lambda part: get_origin(part) is Literal))
    if choices == get_args(Currency):
        return "must be the ISO 4217 code of a currency with at most two decimals, such as USD"
    return f"must be one of {', '.join(choices)}" if choices else "is not valid"


def _out_of_range(_: re.Match[str], type_: Any, _text: bool) -> str:
    bounded = find_in_type(type_, lambda part: isinstance(part, Meta) and part.le is not None)
    return f"must be at most {bounded.le}" if bounded else "must be a smaller number"


Words = Callable[[re.Match[str], Any, bool], str]
WORDS: list[tuple[re.Pattern[str], Words]] = [
    (re.compile(r"Expected `([a-z |]+)`, got `([a-z]+)`"), _wrong_type),
    (re.compile(r"Expected `(str|array|object)` of length (>=|<=) ([0-9]+)"), _wrong_length),
    (re.compile(r"Expected `(?:int|float|decimal)` (>=|<=|>|<) (-?[0-9.]+)"), _wrong_size),
    (re.compile(r"Expected `str` matching regex .*", re.DOTALL), _wrong_form),
    (re.compile(r"Invalid enum value .*", re.DOTALL), _wrong_choice),
    (re.compile(r"(?:Integer value|Number) out of range"), _out_of_range),
    (re.compile(r"Invalid (.*)"), lambda match, *_: INVALID.get(match[1], "is not valid")),
    (re.compile(r"Object contains unknown field .*", re.DOTALL), lambda *_: "has an unknown field"),
    (re.compile(r"Object missing required field .*"), lambda *_: "lacks a required field"),
    (re.compile(r"Expected `datetime` with a timezone component"), lambda *_: "must have a UTC offset or Z"),
]
