"""Messages about wrong values use plain words, no regular expression and no type name."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from msgspec import Struct
from msgspec.structs import fields

from conftest import Client
from service.app import create_app
from service.errors import MalformedJson, ValidationFailed
from service.http.openapi import operations
from service.http.request import decode
from service.job_kinds import build_registry
from service.settings import Settings, SettingsError, load_settings
from tests.support.reply_assertions import wrong_fields

NOWHERE = "00000000-0000-7000-8000-000000000000"
UNSPEAKABLE = re.compile(
    r"`|\\|\[\^|\(\?|[*+]\)|\{\d|regex|Expected|Invalid|msgspec|Traceback"
    r"|\b(str|int|float|bool|None|dict|list|tuple|datetime|Decimal|UnsetType|Literal)\b"
)
WRONG: list[Any] = [
    None,
    True,
    7,
    -1,
    1.5,
    10**30,
    "",
    " ",
    "\0",
    "ä b",
    "x" * 70_000,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
]
WRONG_TEXTS = ["", " ", "-1", "1.5", "9" * 30, "null", "ä b", "x" * 5000, "\0", "[", "2026-02-30", "://", "0"]


def handlers() -> list[tuple[str, HTTPRouteHandler]]:
    app = create_app(Settings(database_url="postgresql://unused"))
    return [(path, handler) for path, _, handler in operations(app)]


def bodies() -> Iterator[Any]:
    for _, handler in handlers():
        if handler.parsed_data_field is not None:
            yield handler.parsed_data_field.annotation
    for kind in build_registry(Settings(database_url="postgresql://unused", job_test_kinds=True)):
        yield kind.payload


def messages(document: object, type_: Any) -> Iterator[str]:
    try:
        decode(msgspec.json.encode(document), type_)
    except ValidationFailed as error:
        yield from (detail.message for detail in error.details)
    except MalformedJson as error:
        yield str(error)


def nested(struct: type[Struct], wrong: object) -> Iterator[object]:
    """Documents with a wrong value at each place of a Struct, lists of Structs included."""
    for field in fields(struct):
        yield {field.encode_name: wrong}
        yield {field.encode_name: [wrong, {"quantity": wrong, "sku": wrong, "item_id": wrong}]}


def test_no_error_message_contains_a_pattern_or_a_type() -> None:
    seen = {
        message
        for struct in bodies()
        for wrong in WRONG
        for document in [wrong, *nested(struct, wrong)]
        for message in messages(document, struct)
    }
    assert len(seen) > 30
    assert [message for message in seen if UNSPEAKABLE.search(message)] == []
    assert [message for message in seen if message[0].isupper() or message.endswith(".")] == []


async def test_no_parameter_is_answered_with_a_pattern_or_a_type(client: Client) -> None:
    seen = set()
    for path, handler in handlers():
        if "GET" not in handler.http_methods or "scope" not in handler.opt:
            continue
        declared = handler.parsed_fn_signature.parameters.items()
        names = [
            field.kwarg_definition.name or name
            for name, field in declared
            if isinstance(field.kwarg_definition, QueryParameter)
        ]
        for text in WRONG_TEXTS:
            wrong_id = quote(text, safe="") or "%20"
            url = re.sub(r"\{\w+\}", wrong_id if "events" not in path else NOWHERE, path)
            reply = await client.get(url, params=dict.fromkeys([*names, "unknown"], text))
            seen |= {detail["message"] for detail in reply.json()["error"].get("details", [])}
    assert len(seen) > 8
    assert [message for message in seen if UNSPEAKABLE.search(message)] == []


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: str(field.name))
def test_no_error_of_a_setting_contains_a_pattern_or_a_type(field: Any) -> None:
    prefix = "" if field.name in {"host", "port", "database_url"} else "DEPOT_"
    name = prefix + field.name.upper()
    for text in WRONG_TEXTS[1:]:
        try:
            load_settings({name: text})
        except SettingsError as error:
            assert not UNSPEAKABLE.search(str(error).replace(repr(text), "")), str(error)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sku", 5, "must be a string, not a number"),
        ("sku", "a b", 'must be 1 to 64 letters, digits, ".", "_" or "-"'),
        ("name", "", "must not be empty"),
        ("name", "x" * 201, "must have at most 200 characters"),
        ("description", 5, "must be a string or null"),
        ("currency", "XXX", "must be the ISO 4217 code of a currency with at most two decimals, such as USD"),
        ("quantity", "5", "must be a whole number, not a string"),
        ("quantity", 5.5, "must be a whole number"),
        ("quantity", -1, "must be at least 0"),
        ("quantity", 2**31, "must be at most 2147483647"),
        ("colour", 5, "is not a known field"),
    ],
)
async def test_a_wrong_field_is_explained_in_words(
    client: Client, field: str, value: object, message: str
) -> None:
    reply = await client.post("/items", json={"sku": "A", "name": "A", "price": "1", field: value})
    assert wrong_fields(reply) == {f"/{field}"}
    assert reply.json()["error"]["details"][0]["message"] == message


async def test_a_missing_field_is_required(client: Client) -> None:
    reply = await client.post("/items", json={"sku": "A", "name": "A"})
    assert reply.json()["error"]["details"] == [
        {"field": "/price", "message": "is required", "source": "body"}
    ]
