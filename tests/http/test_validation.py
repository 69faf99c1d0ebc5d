"""A 422 lists every wrong field, and no other."""

from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Client
from service.errors import ValidationFailed
from service.http.request import decode
from service.items.schemas import ItemCreate
from service.orders.schemas import OrderCreate
from tests.support.reply_assertions import assert_refused, wrong_fields

NOWHERE = "00000000-0000-7000-8000-000000000000"


def located(reply: httpx.Response) -> set[str]:
    details = assert_refused(reply, 422, "VALIDATION_FAILED")["details"]
    return {detail["source"] + detail["field"] for detail in details}


async def test_every_missing_field_is_listed(client: Client) -> None:
    assert wrong_fields(await client.post("/items", json={})) == {"/sku", "/name", "/price"}


async def test_every_wrong_and_every_unknown_field_is_listed(client: Client) -> None:
    body = {
        "sku": "no spaces",
        "name": "",
        "price": 9.99,
        "description": "x" * 4001,
        "currency": "XYZ",
        "quantity": "5",
        "attributes": [],
        "id": NOWHERE,
        "a/b~c": 1,
    }
    assert wrong_fields(await client.post("/items", json=body)) == {
        *("/sku", "/name", "/price", "/description", "/currency", "/quantity", "/attributes"),
        *("/id", "/a~1b~0c"),
    }


async def test_wrong_fields_of_nested_lines_are_listed_by_their_index(client: Client) -> None:
    lines = [
        {"sku": "BOLT", "quantity": 1},
        {"sku": "BOLT", "quantity": 0},
        {"item_id": "x", "quantity": 1_000_001, "price": "1"},
        {"item_id": NOWHERE, "sku": "BOLT", "quantity": 1},
        7,
    ]
    assert wrong_fields(await client.post("/orders", json={"lines": lines})) == {
        *("/customer_id", "/lines/1/quantity", "/lines/2/item_id", "/lines/2/quantity", "/lines/2/price"),
        *("/lines/3", "/lines/4"),
    }


@pytest.mark.parametrize("count", [0, 101])
async def test_an_order_has_1_to_100_lines(client: Client, count: int) -> None:
    order = {"customer_id": "c-1", "lines": [{"sku": "BOLT", "quantity": 1}] * count}
    assert wrong_fields(await client.post("/orders", json=order)) == {"/lines"}


async def test_a_rule_beyond_types_is_listed_with_the_others(client: Client) -> None:
    reply = await client.post(f"/items/{NOWHERE}/stock", json={"delta": 0, "reason": ""})
    assert wrong_fields(reply) == {"/delta", "/reason"}


async def test_every_wrong_query_parameter_is_listed(client: Client) -> None:
    query = {"limit": "0", "in_stock": "maybe", "q": "a\0b", "sku": "x" * 65}
    reply = await client.get("/items", params=query)
    assert wrong_fields(reply, "query") == {"/limit", "/in_stock", "/q", "/sku"}


async def test_invalid_path_and_header_fields_are_listed_with_an_invalid_body(
    client: Client,
) -> None:
    bad_key = {"Idempotency-Key": "k" * 256}
    reply = await client.post("/users/a b/actions", json={"action": 1}, headers=bad_key)
    assert located(reply) == {"body/action", "path/user_id", "header/Idempotency-Key"}
    reply = await client.post("/users/a b/actions", json={"action": "login"}, headers=bad_key)
    assert located(reply) == {"path/user_id", "header/Idempotency-Key"}
    assert located(await client.patch("/items/x", json={"name": ""})) == {"path/item_id", "body/name"}
    assert located(await client.get("/users/a b/actions?limit=0")) == {"path/user_id", "query/limit"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/reports/financial?from=x&to=2026-02-30&currency=z", {"/from", "/to", "/currency"}),
        ("/audit?limit=999&from=x&to=2026-02-30&entity=%00", {"/limit", "/from", "/to", "/entity"}),
        ("/orders?status=null&limit=1.0", {"/status", "/limit"}),
    ],
)
async def test_dates_and_times_in_the_query_are_listed_with_the_rest(
    client: Client, path: str, fields: set[str]
) -> None:
    assert wrong_fields(await client.get(path), "query") == fields


@pytest.mark.parametrize("limit", ["0", "201", "-1", "abc", "", "+5", "5_0", "99999999999999999999", "\0"])
async def test_a_limit_is_an_integer_from_1_to_200(client: Client, limit: str) -> None:
    assert wrong_fields(await client.get("/items", params={"limit": limit}), "query") == {"/limit"}


@pytest.mark.parametrize("identity", ["x", "9" * 40, "%00", "%FF", f"{{{NOWHERE}}}"])
async def test_an_id_other_than_a_uuid_is_an_invalid_path(client: Client, identity: str) -> None:
    assert wrong_fields(await client.get(f"/items/{identity}"), "path") == {"/item_id"}


@pytest.mark.parametrize("identity", ["x" * 65, "%00", "%FF", "a%0A", "a b"])
async def test_a_resource_id_outside_its_alphabet_is_an_invalid_path(client: Client, identity: str) -> None:
    assert wrong_fields(await client.get(f"/resources/{identity}"), "path") == {"/resource_id"}


# Documents of good, wrong, missing and unknown fields: what is listed is what was made wrong.

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64)
SKU = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
NO_TEXT: list[Any] = [None, 5, 5.5, True, [], {}, "", "a\0b"]
NO_COUNT: list[Any] = [None, "5", 5.0, True, [], -1, 2**31, 10**30]

ITEM = {
    "sku": (SKU, [*NO_TEXT, "a b", "é", "x" * 65, "A\n"]),
    "name": (TEXT, [*NO_TEXT, "x" * 201]),
    "price": (
        st.from_regex(r"[1-9][0-9]{0,9}([.][0-9]{1,2})?", fullmatch=True),
        [*NO_TEXT, 1, "NaN", "-1", "1e3"],
    ),
    "description": (st.none() | TEXT, [5, True, [], "\0", "x" * 4001]),
    "currency": (st.sampled_from(["EUR", "USD"]), [*NO_TEXT, "usd", "XYZ"]),
    "quantity": (st.integers(0, 2**31 - 1), NO_COUNT),
    "attributes": (
        st.none() | st.dictionaries(TEXT, st.integers(), max_size=3),
        [5, "x", [], {"a": "x" * 17_000}],
    ),
}
LINE = {
    "sku": (SKU, [*NO_TEXT[1:], "a b"]),
    "quantity": (st.integers(1, 1_000_000), [*NO_COUNT, 0, 1_000_001]),
}


@st.composite
def documents(
    draw: st.DrawFn, fields: dict[str, tuple[st.SearchStrategy[Any], list[Any]]], required: set[str]
) -> tuple[dict[str, Any], set[str]]:
    """A document, and the pointers of its wrong fields."""
    document, wrong = {}, set()
    for name, (good, bad) in fields.items():
        kind = draw(st.sampled_from(["good", "good", "good", "bad", "absent"]))
        if kind != "absent":
            document[name] = draw(good if kind == "good" else st.sampled_from(bad))
        if kind == "bad" or (kind == "absent" and name in required):
            wrong.add(f"/{name}")
    if draw(st.integers(0, 5)) == 0:
        document["colour"] = "red"
        wrong.add("/colour")
    return document, wrong


def listed(document: object, kind: type) -> list[str]:
    try:
        decode(msgspec.json.encode(document), kind)
    except ValidationFailed as fault:
        return sorted(detail.field for detail in fault.details)
    return []


@given(documents(ITEM, {"sku", "name", "price"}))
def test_exactly_the_wrong_fields_of_an_item_are_listed(drawn: tuple[dict[str, Any], set[str]]) -> None:
    document, wrong = drawn
    assert listed(document, ItemCreate) == sorted(wrong)


@given(st.lists(documents(LINE, {"quantity"}), min_size=1, max_size=5))
def test_exactly_the_wrong_fields_of_the_lines_are_listed(
    drawn: list[tuple[dict[str, Any], set[str]]],
) -> None:
    lines = [line for line, _ in drawn]
    wrong = [
        f"/lines/{index}{field}"
        for index, (line, fields) in enumerate(drawn)
        for field in [*fields, *([] if "sku" in line else [""])]  # neither item_id nor sku: the line is wrong
    ]
    assert listed({"customer_id": "c-1", "lines": lines}, OrderCreate) == sorted(wrong)
