"""Query parameters are strict: what is unknown, repeated or wrong is reported, never ignored."""

from time import perf_counter

import pytest

from conftest import Client
from tests.support.reply_assertions import assert_refused, wrong_fields

NOWHERE = "00000000-0000-7000-8000-000000000000"


def details(reply: object) -> dict[str, str]:
    error = assert_refused(reply, 422, "VALIDATION_FAILED")  # type: ignore[arg-type]
    return {detail["source"] + detail["field"]: detail["message"] for detail in error["details"]}


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("/items?skuu=NONE", "/skuu", "is not a known parameter; did you mean sku?"),
        ("/items?page=2", "/page", "is not a known parameter"),
        ("/items?q=A&q=", "/q", "must be given only once"),
        ("/items?" + "sku=A&" * 101, "/sku", "must be given at most 100 times"),
        ("/items?" + f"id={NOWHERE}&" * 101, "/id", "must be given at most 100 times"),
        (f"/items?id={NOWHERE}&id=7", "/id", "must be a UUID"),
        ("/items?sku=A&sku=" + "A" * 65, "/sku", "must have at most 64 characters"),
        ("/orders?customer=c-1", "/customer", "is not a known parameter; did you mean customer_id?"),
        ("/items?limit=1&limit=3", "/limit", "must be given only once"),
        ("/items?in_stock=maybe", "/in_stock", "must be true or false"),
        ("/items?limit=1e1", "/limit", "must be a whole number"),
        ("/orders?status=lost", "/status", "must be one of placed, fulfilled, cancelled"),
        ("/reports/financial?since=2026-01-01", "/since", "is not a known parameter"),
        (f"/items/{NOWHERE}?fields=name", "/fields", "is not a known parameter"),
        ("/items?a/b~c=1", "/a~1b~0c", "is not a known parameter"),
    ],
)
async def test_a_wrong_query_parameter_is_reported(
    client: Client, path: str, name: str, message: str
) -> None:
    reply = await client.get(path)
    assert wrong_fields(reply, "query") == {name}
    assert details(reply) == {f"query{name}": message}


async def test_wrong_parameters_are_reported_in_their_order(client: Client) -> None:
    names = ["g", "c", "a", "f", "b", "e", "d"]
    reply = await client.get("/items", params=dict.fromkeys(names, "1"))
    assert [detail["field"] for detail in reply.json()["error"]["details"]] == [f"/{name}" for name in names]


async def test_a_wrong_body_is_reported_beside_a_wrong_query(client: Client) -> None:
    reply = await client.post("/items?dry_run=1", json={"sku": "A", "name": "", "price": "1"})
    assert details(reply).keys() == {"query/dry_run", "body/name"}
    assert (await client.get("/items")).json()["data"] == []


async def test_a_change_with_an_unknown_parameter_does_nothing(client: Client) -> None:
    item = {"sku": "A", "name": "A", "price": "1"}
    assert wrong_fields(await client.post("/items?force=1", json=item), "query") == {"/force"}
    assert (await client.get("/items")).json()["data"] == []


@pytest.mark.parametrize("path", ["/health/live?probe=1", "/docs?theme=dark", "/openapi.json?v=2"])
async def test_public_pages_ignore_unknown_parameters(client: Client, path: str) -> None:
    """Balancers and browsers add parameters of their own."""
    assert (await client.get(path)).status_code == 200


async def test_thousands_of_unknown_parameters_are_reported_quickly(client: Client) -> None:
    query = "&".join(f"limi{number:x}" for number in range(4000))
    begun = perf_counter()
    reply = await client.get(f"/items?{query}")
    assert perf_counter() - begun < 1
    assert len(wrong_fields(reply, "query")) == 1000
