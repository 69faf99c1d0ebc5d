"""Every 4xx and 5xx reply follows the error contract, whichever layer sends it."""

import pytest
from litestar import get
from litestar.testing import AsyncTestClient

from conftest import Client
from service.app import create_app
from service.settings import Settings
from tests.support.reply_assertions import JSON, LEAK, assert_refused

NOWHERE = "00000000-0000-7000-8000-000000000000"
PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nope",
        "/itemsx",
        "//items",
        "/..",
        "/%00",
        "/%FF",
        "/resources/a%2Fb",
        "/schema",
        "/docs/assets/x",
    ],
)
async def test_an_unknown_path_is_not_found(client: Client, path: str) -> None:
    assert assert_refused(await client.get(path), 404, "NOT_FOUND")["message"] == "Not found"


@pytest.mark.parametrize(
    "path", [f"/items/{NOWHERE}", f"/items/{NOWHERE}/movements", f"/orders/{NOWHERE}", "/resources/x"]
)
async def test_a_missing_resource_is_not_found(client: Client, path: str) -> None:
    assert_refused(await client.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("path", [f"/items/{NOWHERE}", "/resources/x"])
@pytest.mark.parametrize("precondition", [{}, {"If-Match": '"1"'}, {"If-Match": "*"}])
async def test_a_missing_resource_cannot_be_changed(
    client: Client, method: str, path: str, precondition: dict[str, str]
) -> None:
    body = {"json": {"name": "x"} if "items" in path else {"status": "x"}} if method == "PATCH" else {}
    assert_refused(await client.request(method, path, headers=precondition, **body), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/items", "GET, HEAD, OPTIONS, POST"),
        ("POST", f"/items/{NOWHERE}", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("GET", f"/items/{NOWHERE}/stock", "OPTIONS, POST"),
        ("HEAD", f"/items/{NOWHERE}/stock", "OPTIONS, POST"),
        ("POST", "/resources/x", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("DELETE", "/health/live", "GET, HEAD, OPTIONS"),
        ("TRACE", "/orders", "GET, HEAD, OPTIONS, POST"),
        ("BREW", "/orders", "GET, HEAD, OPTIONS, POST"),
    ],
)
async def test_a_405_lists_the_allowed_methods(client: Client, method: str, path: str, allow: str) -> None:
    reply = await client.request(method, path)
    assert (reply.status_code, reply.headers["Allow"]) == (405, allow)
    if method != "HEAD":
        assert_refused(reply, 405, "METHOD_NOT_ALLOWED")


@get("/crash", public=True, include_in_schema=False)
async def crash() -> None:
    raise RuntimeError("select * from secrets at /tmp/secret.py said asyncpg")


@pytest.mark.parametrize("accept", ["*/*", PROBLEM])
async def test_a_crash_does_not_reveal_its_cause(
    settings: Settings, accept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(settings)
    app.register(crash)
    async with AsyncTestClient(app) as client:
        reply = await client.get("/crash", headers={"Accept": accept})
    assert (reply.status_code, reply.headers["X-Error-Code"]) == (500, "INTERNAL_ERROR")
    assert "Internal server error" in reply.text
    assert not LEAK.search(reply.text)
    if accept != PROBLEM:
        assert_refused(reply, 500, "INTERNAL_ERROR")


async def test_a_client_that_prefers_rfc_9457_gets_problem_details(client: Client) -> None:
    reply = await client.post("/items", json={}, headers={"Accept": PROBLEM})
    assert (reply.status_code, reply.headers["Content-Type"]) == (422, PROBLEM)
    details = reply.json().pop("details")
    assert {detail["field"] for detail in details} == {"/sku", "/name", "/price"}
    assert reply.json() == {
        "type": "urn:depot:error:VALIDATION_FAILED",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "Request payload validation failed",
        "instance": "/items",
        "code": "VALIDATION_FAILED",
        "request_id": reply.headers["X-Request-ID"],
        "details": details,
    }


@pytest.mark.parametrize("path", ["/nope", "/items/x", "/orders?cursor=x"])
async def test_every_layer_can_send_problem_details(client: Client, path: str) -> None:
    reply = await client.get(path, headers={"Accept": PROBLEM})
    assert reply.headers["Content-Type"] == PROBLEM
    assert reply.json()["code"] == reply.headers["X-Error-Code"]


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/html",
        "application/json, application/problem+json",
        f"{PROBLEM};q=0.1, application/json",
        f"{PROBLEM};q=0",
        f"{PROBLEM};q=inf",
        "a/b," * 10_000 + PROBLEM,
    ],
)
async def test_other_clients_get_the_error_contract(client: Client, accept: str) -> None:
    assert_refused(await client.get("/nope", headers={"Accept": accept}), 404, "NOT_FOUND")


async def test_accept_may_come_in_several_lines(client: Client) -> None:
    lines = [("Accept", f"{JSON};q=0.5"), ("Accept", PROBLEM)]
    assert (await client.get("/nope", headers=lines)).headers["Content-Type"] == PROBLEM


@pytest.mark.parametrize("path", ["/health/live", "/nope", "/items?limit=0"])
@pytest.mark.parametrize("identity", ["a", "A-z_0.9", "x" * 128])
async def test_a_valid_request_id_of_the_client_is_used(client: Client, path: str, identity: str) -> None:
    reply = await client.get(path, headers={"X-Request-ID": identity})
    assert reply.headers.get_list("X-Request-ID") == [identity]


@pytest.mark.parametrize("identity", ["", "x" * 129, "a b", "a/b", "<script>", "a,b"])
async def test_a_bad_request_id_is_replaced(client: Client, identity: str) -> None:
    reply = await client.get("/nope", headers={"X-Request-ID": identity})
    assert reply.headers["X-Request-ID"] != identity
    assert len(reply.headers["X-Request-ID"]) == 32
    assert_refused(reply, 404, "NOT_FOUND")
