"""Caching: a reply to an authenticated request is never cached."""

import pytest

from conftest import Client

NOWHERE = "00000000-0000-7000-8000-000000000000"

ITEM = {"sku": "BOLT", "name": "Bolt", "price": "1"}


@pytest.mark.parametrize(
    "path", ["/items", "/orders", f"/items/{NOWHERE}", "/items?limit=0", "/reports/financial", "/audit"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_no_reply_to_an_authenticated_request_is_stored(client: Client, method: str, path: str) -> None:
    reply = await client.request(method, path)
    assert reply.headers.get_list("Cache-Control") == ["no-store"]


async def test_no_reply_to_a_change_is_stored(client: Client) -> None:
    created = await client.post("/items", json=ITEM)
    again = await client.post("/items", json=ITEM)
    unchanged = await client.get(created.headers["Location"], headers={"If-None-Match": '"1"'})
    assert (created.status_code, again.status_code, unchanged.status_code) == (201, 409, 304)
    for reply in (created, again, unchanged):
        assert reply.headers.get_list("Cache-Control") == ["no-store"]


async def test_public_pages_have_rules_of_their_own(client: Client) -> None:
    assert "Cache-Control" not in (await client.get("/health/live")).headers
    asset = await client.get("/docs/assets/swagger-ui.css")
    assert asset.headers["Cache-Control"] == "public, max-age=86400"
