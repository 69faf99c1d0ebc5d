"""Requests leave nothing that only the garbage collector frees (decision 0020)."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.app import create_app
from service.http.exchange import Exchange
from service.settings import Settings
from service.testing.live_server import serving
from tests.support.app_helpers import eventually, running

NOWHERE = "00000000-0000-7000-8000-000000000000"
NEW = {"sku": "A", "name": "A", "price": "1"}
FORM = "multipart/form-data; boundary=x"
PART = b"""--x\r
Content-Disposition: form-data; name="file"; filename="x.png"\r
Content-Type: image/png\r
\r
"""
TOO_MANY = {"customer_id": "c-1", "lines": [{"sku": "A", "quantity": 1}]}


async def test_a_finished_request_is_freed_without_the_garbage_collector(
    settings: Settings, key: str
) -> None:
    async with running(settings, key) as client:
        item = (await client.post("/items", json=NEW)).headers["Location"]

        async def status(method: str, path: str, body: object = None, **headers: str) -> int:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            sent = {"content": body} if isinstance(body, bytes) else {"json": body}
            return (await client.request(method, path, headers=names, **sent)).status_code

        with uncollected():
            assert await status("GET", item) == 200
            assert await status("PATCH", item, {"name": "B"}) == 200
            assert await status("GET", f"/items/{NOWHERE}") == 404
            assert await status("GET", "/resources/none") == 404
            assert await status("PATCH", "/items/none", {"name": "C"}) == 422
            assert await status("GET", "/orders?from=x&limit=y") == 422
            assert await status("PATCH", item, {}) == 400
            assert await status("PATCH", item, {"name": "C"}, If_Match='"9"') == 412
            assert await status("POST", "/items", NEW) == 409
            assert await status("POST", "/orders", TOO_MANY) == 409
            assert await status("POST", "/webhooks", {"url": "http://127.0.0.1", "events": ["*"]}) == 422
            assert await status("POST", "/documents", PART, Content_Type=FORM) == 400
            assert await status("POST", "/documents", PART + b"no picture", Content_Type=FORM) == 400
            remaining = [each.path for each in gc.get_objects() if type(each) is Exchange]
        assert remaining == []


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from running until the block ends."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_an_idle_connection_holds_no_request(settings: Settings) -> None:
    with serving(create_app(settings), settings) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/health/live")).status_code == 200
            await eventually(requests_are_freed)


async def test_a_connection_holds_no_request_whose_body_came_after_the_reply(settings: Settings) -> None:
    with serving(create_app(settings), settings) as url:
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(b"POST /items HTTP/1.1\r\nHost: depot\r\nContent-Length: 2\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        writer.write(b"{}")
        await eventually(requests_are_freed)
        writer.close()


async def requests_are_freed() -> bool:
    return not any(isinstance(each, RequestResponseCycle) for each in gc.get_objects())
