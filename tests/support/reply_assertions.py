"""Assertions that hold for every reply of the service."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx

JSON = {"Content-Type": "application/json"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}

LEAK = re.compile(r"(?i)traceback|asyncpg|sqlalchemy|postgres|litestar|select .* from|/src/|/tmp/|[.]py\b")
"""Text that no client may see."""


def assert_refused(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that the reply is this error, in the error contract, and return its fields."""
    assert (reply.status_code, reply.headers.get("X-Error-Code")) == (status, code), reply.text
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json().keys() == {"error"}
    error: dict[str, Any] = reply.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["path"] == reply.request.url.path
    assert error["request_id"] == reply.headers["X-Request-ID"]
    assert error.keys() <= {"code", "message", "path", "request_id", "details"}
    assert error.get("details") != []
    assert not LEAK.search(reply.text), reply.text
    return error


def error(reply: httpx.Response) -> tuple[int, str]:
    """Return the status and the code of an error."""
    return reply.status_code, reply.json()["error"]["code"]


def wrong_fields(reply: httpx.Response, source: str = "body") -> set[str]:
    """Return the JSON Pointers of a 422 whose details all have this source."""
    details = assert_refused(reply, 422, "VALIDATION_FAILED")["details"]
    assert all(detail["message"] and detail["source"] == source for detail in details), details
    fields = [detail["field"] for detail in details]
    assert len(fields) == len(set(fields))
    return set(fields)


async def pages(client: httpx.AsyncClient, path: str, **query: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield every page of a list, following `next_cursor`."""
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get(path, params={**query, **cursor})).raise_for_status().json()
        assert page.keys() == {"data", "next_cursor"}
        yield page["data"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


async def all_rows(client: httpx.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    return [row async for page in pages(client, path, **query) for row in page]
