"""JSON in is strict and exact: nothing is coerced, no digit is lost, nothing unreadable is stored."""

import pytest

from conftest import Client
from service.settings import Settings
from tests.support.reply_assertions import JSON, MERGE_PATCH, assert_refused, wrong_fields

BOLT = b'{"sku": "BOLT", "name": "Bolt", "price": "9.99"%s}'

MALFORMED = {
    "truncated": b'{"sku": "BOLT"',
    "NaN": b'{"sku": NaN}',
    "Infinity": b'{"attributes": {"a": -Infinity}}',
    "invalid UTF-8": b'{"sku": "\xff"}',
    "a lone surrogate": b'{"name": "\\ud800"}',
    "a byte order mark inside": b'{"sku": \xef\xbb\xbf"BOLT"}',
    "nothing behind a byte order mark": b"\xef\xbb\xbf",
    "two documents": BOLT % b"" + BOLT % b"",
    "trailing garbage": BOLT % b"" + b"x",
    "garbage after a wrong field": b'{"sku": 1, "name": tru}',
    "single quotes": b"{'sku': 'BOLT'}",
    "a raw control character": b'{"name": "a\nb"}',
    "3000 arrays": b"[" * 3000 + b"]" * 3000,
    "3000 arrays in a wrong place": b'{"attributes": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    "3000 objects": b'{"attributes": ' * 3000 + b"1" + b"}" * 3000,
    "3000 arrays behind a NUL": b'{"\\u0000": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    "129 levels": BOLT % (b', "attributes": ' + b'{"a": ' * 128 + b"1" + b"}" * 128),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_json_is_rejected(client: Client, body: bytes) -> None:
    assert_refused(await client.post("/items", content=body, headers=JSON), 400, "MALFORMED_JSON")


@pytest.mark.parametrize("headers", [JSON, {}], ids=["declared", "undeclared"])
async def test_an_empty_body_is_reported_as_empty(client: Client, headers: dict[str, str]) -> None:
    error = assert_refused(await client.post("/items", headers=headers), 400, "MALFORMED_JSON")
    assert error["message"] == "The request body is empty"


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"1", b"true"])
async def test_json_other_than_an_object_is_invalid(client: Client, body: bytes) -> None:
    assert wrong_fields(await client.post("/items", content=body, headers=JSON)) == {""}


@pytest.mark.parametrize(
    "quantity",
    [b'"5"', b"5.0", b"5e0", b"true", b"null", b"-1", b"2147483648", b"9" * 30, b"9" * 5000, b"1e999999"],
)
async def test_only_an_integer_within_its_bounds_is_an_integer(client: Client, quantity: bytes) -> None:
    reply = await client.post("/items", content=BOLT % (b', "quantity": ' + quantity), headers=JSON)
    assert wrong_fields(reply) == {"/quantity"}


WRONG_PRICES = """9.99 9 0 true null [] {} "" "NaN" "Infinity" "1e3" "9.999" "-1" "-0" "+1"
  "00.5" "01" "1." ".5" "1,5" "0x1" "٣" "9.99\\n" "10000000000" "10000000000.00" """


@pytest.mark.parametrize("price", [*WRONG_PRICES.split(), '" 1"', '"1 "'])
async def test_money_is_an_exact_decimal_in_a_string(client: Client, price: str) -> None:
    body = f'{{"sku": "BOLT", "name": "Bolt", "price": {price}}}'
    assert wrong_fields(await client.post("/items", content=body.encode(), headers=JSON)) == {"/price"}


@pytest.mark.parametrize(
    ("sent", "stored"),
    [("0", "0.00"), ("9", "9.00"), ("0.5", "0.50"), ("9.99", "9.99"), ("9999999999.99", "9999999999.99")],
)
async def test_money_comes_back_to_the_cent(client: Client, sent: str, stored: str) -> None:
    reply = await client.post("/items", json={"sku": "BOLT", "name": "Bolt", "price": sent})
    assert reply.json()["price"] == stored


async def test_numbers_in_attributes_keep_every_digit(client: Client) -> None:
    attributes = (
        b'{"a":1.10,"b":12345678901234567.89,"c":1234567890123456789012345678901234567890,"d":[-1.50]}'
    )
    reply = await client.post("/items", content=BOLT % (b', "attributes": ' + attributes), headers=JSON)
    assert b'"attributes":' + attributes in reply.content
    assert b'"attributes":' + attributes in (await client.get(reply.headers["Location"])).content
    assert b'"attributes":' + attributes in (await client.get("/items")).content


@pytest.mark.parametrize(
    "number",
    [b"1e309", b"-1e131071", b"1e-400", b"1e999999", b"1e" + b"9" * 30, b"0." + b"9" * 5000, b"9" * 309],
)
@pytest.mark.parametrize("path", ["/items", "/resources/printer"])
async def test_a_number_outside_the_range_of_a_double_is_rejected(
    client: Client, path: str, number: bytes
) -> None:
    """`1e131071` is eight bytes; stored, it made every list it appeared in fail."""
    field = b"attributes" if path == "/items" else b"metadata"
    body = b'{"%s": {"a": [1, %s]}, "nonsense": 1}' % (field, number)
    reply = await client.request("POST" if path == "/items" else "PUT", path, content=body, headers=JSON)
    assert {f"/{field.decode()}/a/1", "/nonsense"} <= wrong_fields(reply)


async def test_the_largest_accepted_numbers_and_the_deepest_nesting_can_be_read(client: Client) -> None:
    attributes = b'{"a": 1e308, "b": 1e-308, "c": %s, "d": %s}' % (b"9" * 308, b"[" * 126 + b"]" * 126)
    created = await client.post("/items", content=BOLT % (b', "attributes": ' + attributes), headers=JSON)
    assert created.status_code == 201, created.text
    assert (await client.get("/items")).json()["data"] == [created.json()]


@pytest.mark.parametrize(("length", "status"), [(16_376, 201), (16_377, 422)])
async def test_attributes_may_have_16_kib(client: Client, length: int, status: int) -> None:
    attributes = {"a": "x" * length}  # with its 8 bytes of punctuation
    reply = await client.post(
        "/items", json={"sku": "A", "name": "A", "price": "1", "attributes": attributes}
    )
    assert reply.status_code == status
    if status == 422:
        assert wrong_fields(reply) == {"/attributes"}


async def test_attributes_are_measured_as_they_would_be_read(client: Client) -> None:
    """60 times `1e308` is 300 bytes here and 18 KB in every reply."""
    attributes = b', "attributes": {"a": [' + b", ".join([b"1e308"] * 60) + b"]}"
    assert wrong_fields(await client.post("/items", content=BOLT % attributes, headers=JSON)) == {
        "/attributes"
    }


async def test_a_merge_must_not_outgrow_16_kib_either(client: Client) -> None:
    new = {"sku": "A", "name": "A", "price": "1", "attributes": {"a": "x" * 10_000}}
    item = (await client.post("/items", json=new)).headers["Location"]
    reply = await client.patch(item, json={"attributes": {"b": "x" * 10_000}}, headers=MERGE_PATCH)
    assert wrong_fields(reply) == {"/attributes"}
    assert (await client.get(item)).json()["attributes"].keys() == {"a"}


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        (b', "description": "a\\u0000b"', "/description"),
        (b', "attributes": {"a": ["\\u0000"]}', "/attributes/a/0"),
        (b', "attributes": {"a": {"\\u0000": 1}}', "/attributes/a"),
    ],
)
async def test_nul_is_rejected_in_every_position(client: Client, fields: bytes, pointer: str) -> None:
    reply = await client.post("/items", content=BOLT % fields, headers=JSON)
    assert wrong_fields(reply) == {pointer}
    reply = await client.post("/items", content=BOLT % (fields + b', "quantity": "5"'), headers=JSON)
    assert wrong_fields(reply) == {pointer, "/quantity"}


async def test_an_escaped_backslash_before_u0000_is_not_nul(client: Client) -> None:
    reply = await client.post("/items", content=BOLT % b', "description": "\\\\u0000"', headers=JSON)
    assert reply.json()["description"] == "\\u0000"


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/merge-patch+json",
        "application/jsonp",
    ],
)
async def test_a_body_of_another_type_is_rejected(client: Client, media_type: str) -> None:
    reply = await client.post("/items", content=BOLT % b"", headers={"Content-Type": media_type})
    assert_refused(reply, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert reply.headers["Accept"] == "application/json"


async def test_a_byte_order_mark_in_front_is_ignored(client: Client) -> None:
    """PowerShell 5 writes a byte order mark."""
    reply = await client.post("/items", content=b"\xef\xbb\xbf" + BOLT % b"", headers=JSON)
    assert (reply.status_code, reply.json()["sku"]) == (201, "BOLT")


async def test_the_last_of_two_equal_names_counts(client: Client) -> None:
    reply = await client.post("/items", content=BOLT % b', "price": "2"', headers=JSON)
    assert (reply.status_code, reply.json()["price"]) == (201, "2.00")


async def test_a_charset_other_than_utf_8_is_rejected(client: Client) -> None:
    headers = {"Content-Type": "application/json; charset=latin-1"}
    error = assert_refused(
        await client.post("/items", content=BOLT % b"", headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE"
    )
    assert error["message"] == "The charset of the request body must be UTF-8"


async def test_a_415_of_a_patch_lists_the_accepted_types(client: Client) -> None:
    item = (await client.post("/items", content=BOLT % b"", headers=JSON)).headers["Location"]
    headers = {"Content-Type": "application/json-patch+json"}
    reply = await client.patch(item, content=b"[]", headers=headers)
    assert_refused(reply, 415, "UNSUPPORTED_MEDIA_TYPE")
    known = "application/json, application/merge-patch+json"
    assert (reply.headers["Accept"], reply.headers["Accept-Patch"]) == (known, known)
    assert (await client.options(item)).headers["Accept-Patch"] == known
    assert "Accept-Patch" not in (await client.options("/items")).headers


async def test_a_body_without_a_type_is_rejected(client: Client) -> None:
    assert_refused(await client.post("/items", content=BOLT % b""), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=UTF-8",
        "application/json; charset=utf8",
        "Application/JSON",
        'application/json;charset="utf-8"',
    ],
)
async def test_json_may_say_that_it_is_utf_8(client: Client, media_type: str) -> None:
    reply = await client.post("/items", content=BOLT % b"", headers={"Content-Type": media_type})
    assert reply.status_code == 201


async def test_a_body_is_accepted_up_to_its_limit_and_not_a_byte_more(client: Client) -> None:
    whole = BOLT % b""
    padded = whole + b" " * (Settings().body_bytes_max - len(whole))
    assert (await client.post("/items", content=padded, headers=JSON)).status_code == 201
    assert_refused(await client.post("/items", content=padded + b" ", headers=JSON), 413, "TOO_LARGE")
