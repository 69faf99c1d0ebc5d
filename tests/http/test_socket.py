"""Tests of the HTTP contract over a real socket, for the server below ASGI."""

import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support.raw_http import MAX_WAIT_SECONDS, LiveServer, assert_error_contract, serving
from tests.support.reply_assertions import JSON, all_rows, assert_refused, wrong_fields

GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "words": b"hello there\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "a space in a header's name": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "two lengths": b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length that is no number": b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "a length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a host in place of a target": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a port that is no number": b"GET http://x:abc/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path beyond ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
}

BEYOND_ASCII = [
    *(
        "Accept: \xff application/problem+json",
        "Content-Type: application/json; charset=\xff",
        "If-Match: \xff",
    ),
    *("X-Request-ID: \xff", "Authorization: Bearer \xff", "traceparent: \xff"),
]


@pytest.fixture(scope="module")
def served(
    server_url: str, depot_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """One server for all of these tests; they use different data in it."""
    with serving(server_url, depot_template, tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
async def socketed(served: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with served.server.client(served.key) as client:
        yield client


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
async def test_malformed_requests_get_the_error_contract(served: LiveServer, sent: bytes) -> None:
    status, headers, body = served.exchange(sent)
    assert assert_error_contract(status, headers, body)["code"] == "BAD_REQUEST"
    assert (status, headers["connection"]) == (400, "close")


async def test_an_invalid_target_does_not_affect_the_request_before_it(served: LiveServer) -> None:
    sent = served.request("GET", "/items") + b"GET http://x:abc/ HTTP/1.1\r\nHost: x\r\n\r\n"
    statuses = [reply[:3] for reply in received_until_the_end(served, sent).split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"400"]


async def test_an_unknown_method_is_not_allowed(served: LiveServer) -> None:
    problem = ("Accept: application/problem+json", "X-Request-ID: mine")
    status, headers, body = served.exchange(served.request("BREW", "/items", *problem))
    assert (status, json.loads(body)["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert (headers["allow"], headers["x-request-id"]) == ("GET, HEAD, OPTIONS, POST", "mine")
    assert "connection" not in headers
    status, headers, body = served.exchange(served.request("get", "/nope"))
    assert (status, assert_error_contract(status, headers, body)["code"]) == (404, "NOT_FOUND")


async def test_of_two_such_methods_in_one_packet_the_second_ends_the_connection(served: LiveServer) -> None:
    replies = received_until_the_end(served, 2 * served.request("BREW", "/items")).split(b"HTTP/1.1 ")[1:]
    assert [reply[:3] for reply in replies] == [b"405", b"400"]


def received_until_the_end(served: LiveServer, sent: bytes) -> bytes:
    with socket.create_connection(served.address, timeout=MAX_WAIT_SECONDS) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


async def test_error_replies_follow_the_error_contract(socketed: httpx.AsyncClient) -> None:
    assert_refused(await socketed.get("/nope"), 404, "NOT_FOUND")
    wrong_method = await socketed.put("/items")
    assert_refused(wrong_method, 405, "METHOD_NOT_ALLOWED")
    assert wrong_method.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    plain = {"Content-Type": "text/plain"}
    assert_refused(await socketed.post("/items", content=b"{}", headers=plain), 415, "UNSUPPORTED_MEDIA_TYPE")
    assert_refused(await socketed.post("/items", content=b"{", headers=JSON), 400, "MALFORMED_JSON")
    assert wrong_fields(await socketed.post("/items", json={"sku": 1})) == {"/sku", "/name", "/price"}
    assert_refused(await socketed.get("/items", headers={"Authorization": ""}), 401, "UNAUTHENTICATED")
    problem = await socketed.get("/nope", headers={"Accept": "application/problem+json"})
    assert problem.headers["Content-Type"] == "application/problem+json"


async def test_a_body_that_is_too_large_is_rejected(served: LiveServer, socketed: httpx.AsyncClient) -> None:
    assert_refused(await socketed.post("/items", content=b" " * 1_048_577, headers=JSON), 413, "TOO_LARGE")
    announced = served.request("POST", "/items", "Content-Type: application/json", "Content-Length: 99999999")
    assert (
        assert_error_contract(*served.exchange(announced))["code"] == "TOO_LARGE"
    )  # although none of it was sent

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65_536

    assert_refused(await socketed.post("/items", content=chunks(), headers=JSON), 413, "TOO_LARGE")


@pytest.mark.parametrize("key", ["nonsense", ""])
async def test_no_body_is_read_without_a_valid_key(served: LiveServer, key: str) -> None:
    stranger = LiveServer(served.server, key)
    announced = stranger.request("POST", "/items", "Content-Type: application/json", "Content-Length: 1000")
    assert assert_error_contract(*stranger.exchange(announced))["code"] == "UNAUTHENTICATED"


async def test_head_and_options_work(served: LiveServer, socketed: httpx.AsyncClient) -> None:
    got = await socketed.get("/items")
    for path, found in (("/items", 200), ("/nope", 404), ("/health", 200)):  # on one connection
        head = await socketed.head(path)
        assert (head.status_code, head.content, head.headers.get("Connection")) == (found, b"", None)
    assert (await socketed.head("/items")).headers["Content-Length"] == str(len(got.content))
    status, headers, body = served.exchange(served.request("OPTIONS", "/items"))
    assert (status, headers["allow"], body) == (204, "GET, HEAD, OPTIONS, POST", b"")


async def test_versions_and_pages_work(socketed: httpx.AsyncClient) -> None:
    for number in range(5):
        created = await socketed.put(f"/resources/page-{number}", json={"status": "on"})
        assert created.status_code == 201
    stale = await socketed.patch("/resources/page-0", json={"status": "off"}, headers={"If-Match": '"7"'})
    assert_refused(stale, 412, "PRECONDITION_FAILED")
    assert stale.headers["ETag"] == '"1"'
    known = await socketed.get("/resources/page-0", headers={"If-None-Match": '"1"'})
    assert (known.status_code, known.content) == (304, b"")
    rows = await all_rows(socketed, "/resources", limit=2)
    assert [row["id"] for row in rows] == [f"page-{number}" for number in range(5)]


async def test_header_values_beyond_ascii_do_no_harm(served: LiveServer) -> None:
    for header in BEYOND_ASCII:
        sent = served.request("POST", "/items", header, "Content-Length: 2") + b"{}"
        status, headers, body = served.exchange(sent)
        assert status in {400, 401, 415, 422}, (header, body)
        assert headers["x-error-code"]


async def test_a_request_is_logged_with_its_trace_and_its_key(
    served: LiveServer, socketed: httpx.AsyncClient
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "X-Request-ID": "traced"}
    assert (await socketed.head("/items?limit=1", headers=headers)).status_code == 200
    event = served.logged(request_id="traced")
    assert event["trace_id"] == trace
    assert (event["method"], event["path"], event["route"], event["status"]) == (
        "HEAD",
        "/items",
        "/items",
        200,
    )
    assert event["key"] == served.key.split("_")[1]
    assert served.key not in served.server.log.read_text()


@pytest.mark.parametrize(
    "traceparent", ["", "garbage", "00-xyz-b7ad6b7169203331-01", "00-" + "A" * 32 + "-b7ad6b7169203331-01"]
)
async def test_a_bad_traceparent_is_ignored(
    served: LiveServer, socketed: httpx.AsyncClient, traceparent: str
) -> None:
    reply = await socketed.get("/openapi.json", headers={"traceparent": traceparent})
    assert reply.status_code == 200
    assert served.logged(request_id=reply.headers["X-Request-ID"])["trace_id"] is None


async def test_a_client_that_disconnects_early_is_logged_as_499(served: LiveServer) -> None:
    with socket.create_connection(served.address, timeout=MAX_WAIT_SECONDS) as connection:
        head = ("Content-Type: application/json", "Content-Length: 1000", "X-Request-ID: gone")
        connection.sendall(served.request("POST", "/items", *head) + b'{"sku": ')
    assert served.logged(request_id="gone")["status"] == 499
    assert served.server.events("unhandled_error") == []


async def test_many_requests_share_one_connection_whatever_the_replies(served: LiveServer) -> None:
    wanted = [("GET", "/health/live"), ("HEAD", "/items"), ("GET", "/nope"), ("OPTIONS", "/items")]
    requests = b"".join(served.request(method, path) for method, path in wanted)
    with socket.create_connection(served.address, timeout=MAX_WAIT_SECONDS) as connection:
        connection.sendall(requests * 10)
        received = b""
        while received.count(b"HTTP/1.1 ") < 40:
            received += (chunk := connection.recv(65536))
            assert chunk
    for status, count in {200: 20, 404: 10, 204: 10}.items():
        assert received.count(f"HTTP/1.1 {status}".encode()) == count
    assert b"next_cursor" not in received  # HEAD has no body, and the next reply begins where it should


def chunks(served: LiveServer, path: str, *pieces: bytes) -> bytes:
    head = served.request(
        "PUT", path, "Content-Type: application/json", "Transfer-Encoding: chunked", "X-Request-ID: one"
    )
    return head + b"".join(pieces)


LARGE = {
    "a long target": b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 66_000),
    "a long header": b"GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % (b"x" * 66_000),
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"X: 12345\r\n" * 12_000),
    "a header without an end": b"GET / HTTP/1.1\r\nHost: x\r\nX: %s" % (b"x" * 600_000),
}


@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE)
async def test_a_head_has_a_limit(served: LiveServer, sent: bytes) -> None:
    status, headers, body = served.exchange(sent)
    assert assert_error_contract(status, headers, body)["code"] == "HEAD_TOO_LARGE"
    assert (status, headers["connection"]) == (431, "close")


async def test_a_large_head_below_the_limit_is_served(served: LiveServer) -> None:
    assert served.exchange(served.request("GET", "/health/live", f"X: {'x' * 32_000}"))[0] == 200


@pytest.mark.parametrize("endless", [b"10;" + b"e" * 600_000, b"0\r\nX: " + b"t" * 600_000])
async def test_the_framing_of_a_body_has_a_limit(served: LiveServer, endless: bytes) -> None:
    status, headers, body = served.exchange(chunks(served, "/resources/framed", endless))
    assert assert_error_contract(status, headers, body)["code"] == "HEAD_TOO_LARGE"


async def test_trailers_are_not_treated_as_headers(served: LiveServer) -> None:
    body = b'10\r\n{"status": "on"}\r\n0\r\nIf-Match: "77"\r\nContent-Type: text/plain\r\n\r\n'
    assert served.exchange(chunks(served, "/resources/trailed", body))[0] == 201


def statuses(served: LiveServer, *pieces: bytes) -> list[int]:
    """Return the statuses of all replies until the server closes the connection."""
    with socket.create_connection(served.address, timeout=MAX_WAIT_SECONDS) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


async def test_malformed_http_is_answered_in_order(served: LiveServer) -> None:
    good = served.request("GET", "/items") + served.request("GET", "/nope")
    assert statuses(served, good + b"rubbish\r\n\r\n") == [200, 404, 400]
    assert statuses(served, good + chunks(served, "/resources/broken", b"rubbish\r\n")) == [200, 404, 400]


async def test_a_request_with_a_reply_gets_no_second_one(served: LiveServer) -> None:
    stranger = LiveServer(served.server, "nonsense")
    with socket.create_connection(served.address, timeout=MAX_WAIT_SECONDS) as connection:
        connection.sendall(chunks(stranger, "/resources/broken"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"rubbish\r\n")
        while rest := connection.recv(65536):
            assert b"HTTP/1.1 " not in rest


UPGRADES = {
    "h2c": (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQ",
    ),
    "websocket": ("Connection: keep-alive, upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "TLS": ("Upgrade: TLS/1.2, HTTP/2.0", "Connection: UPGRADE"),
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
async def test_an_upgrade_is_ignored_with_any_body(served: LiveServer, upgrade: tuple[str, ...]) -> None:
    typed, body = ("Content-Type: application/json", *upgrade), b'{"status": "on"}'
    sent = served.request("PUT", "/resources/upgraded", *typed, "Content-Length: 16") + body
    sent += served.request("PUT", "/resources/upgraded", *typed, "Transfer-Encoding: chunked")
    sent += b"10\r\n" + body + b"\r\n0\r\n\r\n"
    sent += served.request("GET", "/items", *upgrade)
    sent += served.request("GET", "/nope", "Connection: close")
    for size in (len(sent), 100):
        pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
        assert statuses(served, *pieces)[1:] == [200, 200, 404]


async def test_an_upgrade_does_not_keep_a_connection_open_that_is_to_be_closed(served: LiveServer) -> None:
    request = served.request("GET", "/items", "Connection: Upgrade, close", "Upgrade: h2c")
    assert statuses(served, request + served.request("GET", "/nope")) == [200]


async def test_a_client_that_disconnects_amid_pipelined_requests_causes_no_error(served: LiveServer) -> None:
    head = ("Content-Type: application/json", "Content-Length: 16", "X-Request-ID: left-amid")
    put = served.request("PUT", "/resources/left", *head) + b'{"status": "on"}'
    for _ in range(20):
        with socket.create_connection(served.address, timeout=MAX_WAIT_SECONDS) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(put * 3)
    assert served.logged(request_id="left-amid")
    assert served.server.events("unhandled_error") == []


async def test_no_request_caused_an_unhandled_error(served: LiveServer) -> None:
    assert served.server.events("unhandled_error") == []
    assert served.server.process.poll() is None
