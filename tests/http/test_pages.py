"""Lists are walked with opaque cursors that hold while others insert."""

import base64
import hashlib
import string

import pytest

from conftest import Client
from service.http.pagination import PAGE_BYTES_MAX, _fit
from tests.support.reply_assertions import all_rows, assert_refused, pages


@pytest.fixture
async def skus(client: Client) -> list[str]:
    """Seven items, in the order of the list: newest first."""
    names = [f"SKU-{number}" for number in range(7)]
    for number, sku in enumerate(names):
        body = {"sku": sku, "name": "Bolt", "price": "1", "quantity": number % 2}
        assert (await client.post("/items", json=body)).status_code == 201
        assert (await client.put(f"/resources/{sku}", json={"status": "on"})).status_code == 201
    return names[::-1]


async def cursor_of(client: Client, path: str) -> str:
    cursor: str = (await client.get(path)).json()["next_cursor"]
    return cursor


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 200])
async def test_every_row_is_on_exactly_one_page(client: Client, skus: list[str], limit: int) -> None:
    listed = [page async for page in pages(client, "/items", limit=limit)]
    assert [item["sku"] for page in listed for item in page] == skus
    assert all(len(page) == limit for page in listed[:-1])
    assert 0 < len(listed[-1]) <= limit


async def test_resources_are_listed_by_their_ids(client: Client, skus: list[str]) -> None:
    assert [row["id"] for row in await all_rows(client, "/resources", limit=2)] == sorted(skus)


async def test_an_empty_list_is_one_empty_page(client: Client) -> None:
    assert (await client.get("/items")).json() == {"data": [], "next_cursor": None}


async def test_the_default_limit_is_fifty(client: Client) -> None:
    for number in range(51):
        await client.put(f"/resources/r{number:02}", json={"status": "on"})
    page = (await client.get("/resources")).json()
    assert len(page["data"]) == 50
    assert page["next_cursor"]


async def test_pages_are_stable_while_others_insert_and_delete(client: Client, skus: list[str]) -> None:
    seen = []
    async for page in pages(client, "/items", limit=2):
        seen += [item["sku"] for item in page]
        new = await client.post("/items", json={"sku": f"NEW-{len(seen)}", "name": "New", "price": "1"})
        assert new.status_code == 201
        await client.delete(f"/items/{page[-1]['id']}")  # the very row the cursor stands on
    assert seen == skus


async def test_a_filter_holds_on_every_page(client: Client, skus: list[str]) -> None:
    items = await all_rows(client, "/items", in_stock="true", limit=1)
    assert [item["sku"] for item in items] == ["SKU-5", "SKU-3", "SKU-1"]


@pytest.mark.parametrize("path", ["/items?limit=1", "/resources?limit=1"])
async def test_a_cursor_changed_in_any_character_is_rejected(
    client: Client, skus: list[str], path: str
) -> None:
    cursor = await cursor_of(client, path)
    alphabet = string.ascii_letters + string.digits + "-_=+/ "
    last = [cursor[:-1] + other for other in alphabet if other != cursor[-1]]
    others = [cursor[:at] + ("A" if old != "A" else "B") + cursor[at + 1 :] for at, old in enumerate(cursor)]
    for changed in [*last, *others, cursor[1:], cursor[:-1], cursor + "A", cursor * 20, ""]:
        assert_refused(await client.get(path, params={"limit": 1, "cursor": changed}), 400, "INVALID_CURSOR")


@pytest.mark.parametrize("cursor", ["\0", "é", "%", "null", "W10", "A" * 10_000])
async def test_garbage_is_rejected_as_a_cursor(client: Client, cursor: str) -> None:
    assert_refused(await client.get("/items", params={"cursor": cursor}), 400, "INVALID_CURSOR")


async def test_a_cursor_belongs_to_one_list_and_its_filters(client: Client, skus: list[str]) -> None:
    cursor = await cursor_of(client, "/items?limit=1&in_stock=true")
    for path in (
        "/items?",
        "/items?in_stock=false&",
        "/items?in_stock=true&q=Bolt&",
        "/orders?",
        "/resources?",
    ):
        assert_refused(await client.get(f"{path}cursor={cursor}"), 400, "INVALID_CURSOR")


async def test_the_limit_may_change_from_page_to_page(client: Client, skus: list[str]) -> None:
    cursor = await cursor_of(client, "/items?limit=2")
    rest = (await client.get("/items", params={"limit": 200, "cursor": cursor})).json()
    assert [item["sku"] for item in rest["data"]] == skus[2:]


async def test_a_forged_position_causes_no_server_error(client: Client) -> None:
    item = (await client.post("/items", json={"sku": "A", "name": "A", "price": "1"})).json()
    path = f"/items/{item['id']}/movements"
    digest = hashlib.blake2b(repr((path, [])).encode(), digest_size=32).digest()
    for content in (b"2147483648", b"-1", b'"x"', b"1.5"):
        check = hashlib.blake2b(content, key=digest, digest_size=4).digest()
        forged = base64.urlsafe_b64encode(check + content).rstrip(b"=").decode()
        assert_refused(await client.get(path, params={"cursor": forged}), 400, "INVALID_CURSOR")


async def test_a_page_of_large_rows_ends_early_and_no_row_is_lost(client: Client) -> None:
    note = "x" * 60_000
    for number in range(40):
        await client.put(f"/resources/r-{number:02}", json={"status": "new", "metadata": {"note": note}})
    sizes, names, query = [], [], {"limit": "200"}
    while True:
        reply = await client.get("/resources", params=query)
        sizes.append(len(reply.content))
        names += [row["id"] for row in reply.json()["data"]]
        if reply.json()["next_cursor"] is None:
            break
        query["cursor"] = reply.json()["next_cursor"]
    assert names == [f"r-{number:02}" for number in range(40)]
    assert max(sizes) <= PAGE_BYTES_MAX + 1000
    assert len(sizes) == 3


def test_a_row_larger_than_a_page_has_a_page_to_itself() -> None:
    large = "x" * PAGE_BYTES_MAX
    assert [len(_fit(rows)[0]) for rows in ([large], [large, "a"], ["a", large], [])] == [*(1, 1, 1, 0)]
