"""HEAD works where GET does; OPTIONS lists the methods of a path."""

import pytest
from litestar.routes import HTTPRoute

from conftest import Client
from service.app import create_app
from service.settings import Settings
from tests.support.reply_assertions import assert_refused

VOLATILE = {"x-request-id", "date"}
PATHS = [
    *("/items", "/items/{id}", "/items/{id}/movements", "/items/x", "/orders", "/resources", "/nope"),
    *("/health/live", "/health/ready", "/docs", "/openapi.json"),
]


@pytest.mark.parametrize("path", PATHS)
async def test_head_has_the_headers_of_get_and_no_body(client: Client, path: str) -> None:
    item = (await client.post("/items", json={"sku": "BOLT", "name": "Bolt", "price": "1"})).json()
    path = path.replace("{id}", item["id"])
    head, got = await client.head(path), await client.get(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert int(head.headers["Content-Length"]) == len(got.content) > 0
    assert dict(head.headers).keys() == dict(got.headers).keys()
    for name in got.headers.keys() - VOLATILE:
        assert head.headers[name] == got.headers[name]


async def test_a_conditional_head_replies_like_get(client: Client) -> None:
    item = (await client.post("/items", json={"sku": "BOLT", "name": "Bolt", "price": "1"})).headers[
        "Location"
    ]
    reply = await client.head(item, headers={"If-None-Match": '"1"'})
    assert (reply.status_code, reply.headers["ETag"], reply.content) == (304, '"1"', b"")


async def test_options_lists_the_methods_of_every_path_without_a_key(
    client: Client, settings: Settings
) -> None:
    del client.headers["Authorization"]
    methods: dict[str, set[str]] = {}
    for route in create_app(settings).routes:
        assert isinstance(route, HTTPRoute)
        methods.setdefault(route.path_format, set()).update(map(str, route.methods))
    assert len(methods) > 10
    for path, known in methods.items():
        reply = await client.options(path.replace("{", "").replace("}", ""))
        assert (reply.status_code, reply.content) == (204, b"")
        expected = known | {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())
        assert reply.headers["Allow"] == ", ".join(sorted(expected))
        assert "X-Request-ID" in reply.headers


async def test_options_of_an_unknown_path_is_not_found(client: Client) -> None:
    assert_refused(await client.options("/nope"), 404, "NOT_FOUND")
