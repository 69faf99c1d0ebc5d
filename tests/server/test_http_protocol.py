"""Tests of timeouts and limits of connections."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from time import monotonic

import httpx
import psutil
import pytest

from service.http.admission import REJECTIONS_PER_TICK, TICK_SECONDS
from tests.support.app_helpers import Json, item, locked, wait_for_locks
from tests.support.depot_command import run_program
from tests.support.raw_http import MAX_WAIT_SECONDS, LiveServer, assert_error_contract, serving
from tests.support.reply_assertions import JSON, assert_refused

SHORT_LIMITS = {
    "DEPOT_READ_TIMEOUT_SECONDS": "0.5",
    "DEPOT_WRITE_TIMEOUT_SECONDS": "0.5",
    "DEPOT_REQUEST_TIMEOUT_SECONDS": "0.5",
    "DEPOT_KEEPALIVE_SECONDS": "1",
    "DEPOT_HEAD_BYTES_MAX": "4096",
    "DEPOT_CONNECTIONS_MAX": "40",
    "DEPOT_IN_FLIGHT_MAX": "2",
    "DEPOT_DRAIN_SECONDS": "0",
}
HALF_A_HEAD = b"GET /items HTTP/1.1\r\nHost: depot\r\nX-Request-ID: slow\r\nX-"


@pytest.fixture(scope="module")
def served(
    server_url: str, depot_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    with serving(
        server_url, depot_template, tmp_path_factory.mktemp("short-limits"), **SHORT_LIMITS
    ) as served:
        yield served


def received(connection: socket.socket, *, until: bytes) -> bytes:
    so_far = b""
    while until not in so_far:
        so_far += (chunk := connection.recv(65536))
        assert chunk, so_far
    return so_far


@contextmanager
def connected(served: LiveServer) -> Iterator[socket.socket]:
    with socket.create_connection(served.address, timeout=MAX_WAIT_SECONDS) as connection:
        yield connection


def test_an_incomplete_head_times_out(served: LiveServer) -> None:
    status, headers, body = served.exchange(HALF_A_HEAD)
    error = assert_error_contract(status, headers, body)
    assert (status, error["code"], headers["connection"]) == (408, "REQUEST_TIMEOUT", "close")


def test_a_head_that_arrives_byte_by_byte_times_out(served: LiveServer) -> None:
    with connected(served) as connection:
        connection.sendall(HALF_A_HEAD)
        connection.settimeout(0.05)
        for _ in range(200):
            with suppress(TimeoutError):
                assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
                return
            connection.sendall(b"a")
    raise AssertionError("the connection is still open")


def test_an_incomplete_second_head_times_out(served: LiveServer) -> None:
    with connected(served) as connection:
        connection.sendall(served.request("GET", "/health/live"))
        received(connection, until=b"alive")
        connection.sendall(HALF_A_HEAD)
        assert received(connection, until=b"}}").startswith(b"HTTP/1.1 408 ")


def test_an_incomplete_body_times_out(served: LiveServer) -> None:
    head = served.request("POST", "/items", "Content-Type: application/json", "Content-Length: 99")
    assert assert_error_contract(*served.exchange(head + b'{"sku": '))["code"] == "REQUEST_TIMEOUT"


def test_a_connection_without_a_request_is_closed(served: LiveServer) -> None:
    with connected(served) as connection:
        assert connection.recv(1) == b""


def test_complete_requests_keep_their_connection(served: LiveServer) -> None:
    with connected(served) as connection:
        for part in (HALF_A_HEAD, b"Rest: a\r\n\r\n", HALF_A_HEAD + b"Rest: a\r\n\r\n"):
            connection.sendall(part)
        connection.sendall(HALF_A_HEAD.replace(b"/items", b"/nope") + b"Rest: a\r\n\r\n")
        replies = received(connection, until=b'"path":"/nope"')
    assert replies.count(b"HTTP/1.1 401 ") == 2


def test_an_idle_connection_is_closed_and_one_in_use_is_not(served: LiveServer) -> None:
    def exchange(connection: socket.socket) -> None:
        connection.sendall(served.request("GET", "/health/live"))
        assert received(connection, until=b"live").startswith(b"HTTP/1.1 200 ")

    with connected(served) as idle, connected(served) as in_use:
        exchange(idle)
        idle.settimeout(0.1)
        for _ in range(100):
            exchange(in_use)
            with suppress(TimeoutError):
                assert idle.recv(65536) == b""
                return exchange(in_use)
    raise AssertionError("the connection is still open")


def test_a_client_that_does_not_read_its_reply_is_disconnected(served: LiveServer) -> None:
    with httpx.Client(
        base_url=served.server.url, headers={"Authorization": f"Bearer {served.key}"}
    ) as client:
        for number in range(40):
            attributes = {"padding": "x" * 16_000}
            created = client.post(
                "/items", json={"sku": f"P-{number}", "name": "A", "price": "1", "attributes": attributes}
            )
            assert created.status_code == 201
    with connected(served) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(served.request("GET", "/items?limit=200") * 20)
        process = psutil.Process(served.server.process.pid)
        for _ in range(200):
            if not any(c.raddr and c.raddr.port == connection.getsockname()[1] for c in connections(process)):
                return
            connection.settimeout(0.05)
            served.exchange(served.request("GET", "/health/live"))
    raise AssertionError("the connection is still open")


def connections(process: psutil.Process) -> list[psutil._ntuples.pconn]:
    return [c for c in process.net_connections("tcp") if c.status == "ESTABLISHED"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /items HTTP/1.1\r\nHost: depot\r\nX-A: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: depot\r\n\r\n",
        b"GET /items HTTP/1.1\r\nHost: depot\r\n" + b"X-A: a\r\n" * 1500 + b"\r\n",
        b"GET /items HTTP/1.1\r\nHost: depot\r\nX-A: " + b"a" * 500_000,
    ],
    ids=["a header", "a path", "many headers", "without an end"],
)
def test_a_head_that_is_too_large_is_rejected(served: LiveServer, head: bytes) -> None:
    status, headers, body = served.exchange(head)
    error = assert_error_contract(status, headers, body)
    assert (status, error["code"], headers["connection"]) == (431, "HEAD_TOO_LARGE", "close")


def test_a_rejection_before_the_application_names_no_other_request(served: LiveServer) -> None:
    with connected(served) as connection:
        connection.sendall(b"GET /nope HTTP/1.1\r\nHost: depot\r\nX-Request-ID: mine\r\n\r\n")
        received(connection, until=b'"request_id":"mine"}}')
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        reply = received(connection, until=b"}}")
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert b"mine" not in reply
        assert b"/nope" not in reply


def test_whitespace_behind_a_header_value_is_removed(served: LiveServer) -> None:
    status, headers, _ = served.exchange(served.request("GET", "/items", "X-Request-ID: mine \t"))
    assert (status, headers["x-request-id"]) == (200, "mine")
    key = f"Authorization:  Bearer   {served.key}  \r\n"
    status, _, _ = served.exchange(f"GET /items HTTP/1.1\r\nHost: depot\r\n{key}\r\n".encode())
    assert status == 200


def test_the_number_of_open_connections_is_limited(served: LiveServer) -> None:
    form = ("Content-Type: multipart/form-data; boundary=b", "Content-Length: 99", "Expect: 100-continue")
    with ExitStack() as stack:
        for _ in range(40):
            upload = stack.enter_context(connected(served))
            upload.sendall(served.request("POST", "/documents", *form))
            received(upload, until=b"100 Continue")
        reply = received(stack.enter_context(connected(served)), until=b"}}")
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "OVERLOADED"


def test_idle_connections_make_room_for_new_ones(served: LiveServer) -> None:
    used, unfinished = served.request("GET", "/health/live"), HALF_A_HEAD
    with ExitStack() as stack:
        for sent in (b"", unfinished, used) * 20:
            connection = stack.enter_context(connected(served))
            connection.sendall(sent)
            if sent == used:
                received(connection, until=b"alive")
        assert served.exchange(used)[0] == 200


def test_silent_connections_do_not_keep_health_checks_out(served: LiveServer) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connected(served))
        assert served.exchange(served.request("GET", "/health/live"))[0] == 200
    served.server.wait_for("connections_full", 1)


LIMITED = """
import resource
from service.server.connections import fit_connections
from service.settings import Settings
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(fit_connections(Settings()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "open_files"),
    [
        (256, 300, 150, 300),
        (512, 1024, 548, 1024),
        (1024, 10_000, 8192, 10_000),
        (1024, 20_000, 8192, 10_716),
    ],
)
def test_connections_fit_into_the_limit_of_open_files(
    soft: int, hard: int, connections: int, open_files: int
) -> None:
    program = LIMITED.format(soft=soft, hard=hard)
    lines = run_program(program).stdout.splitlines()
    assert lines[-1] == f"{connections} {open_files}"
    assert len(lines) == 1 + (connections < 8192)  # a warning


SERVER = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024))
from service.app import create_app
from service.server.processes import Server
from service.settings import Settings
settings = Settings(database_url="postgresql://127.0.0.1/depot")
print(Server(create_app(settings), settings).config.http.keywords["connection_limit"].maximum)
"""


def test_a_server_opens_no_more_connections_than_fit() -> None:
    assert run_program(SERVER).stdout.splitlines()[-1] == "548"


@asynccontextmanager
async def full(
    served: LiveServer, client: httpx.AsyncClient
) -> AsyncIterator[tuple[Json, list[asyncio.Task[httpx.Response]]]]:
    """Fill the concurrency limit with requests that wait for the lock of an item, and yield them."""
    bolt = await item(client)
    async with locked(served.database_url, bolt) as lock:
        waiting = [
            asyncio.create_task(client.patch(f"/items/{bolt['id']}", json={"name": name})) for name in "AB"
        ]
        await wait_for_locks(lock, 2)
        yield bolt, waiting


async def test_excess_requests_are_rejected_on_a_connection_that_stays_open(
    served: LiveServer, server_url: str
) -> None:
    async with served.server.client(served.key) as client:
        async with full(served, client) as (bolt, waiting):
            with connected(served) as connection:
                for request, found in (
                    (served.request("GET", "/items?limit=1", "X-Request-ID: a"), b'"request_id":"a"'),
                    (served.request("POST", "/items", "Content-Length: 2") + b"{}", b'"path":"/items"'),
                    (served.request("HEAD", "/items"), b"X-Error-Code: OVERLOADED"),
                    (served.request("GET", "/health/live"), b'{"status":"alive"}'),
                ):
                    connection.sendall(request)
                    reply = await asyncio.to_thread(received, connection, until=found)
                    assert reply.startswith(b"HTTP/1.1 503 ") or b"alive" in reply
            for reply in await asyncio.gather(*waiting):
                error = assert_refused(reply, 504, "TIMED_OUT")  # the deadline passes before the lock is free
                assert "may still take effect" in error["message"]
        names = {"A", "B"}
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            while (await client.get(f"/items/{bolt['id']}")).json().get("name") not in names:
                pass
        assert (await client.post("/items", content=b"{}", headers=JSON)).status_code == 422


async def test_a_client_that_ignores_retry_after_is_throttled(served: LiveServer) -> None:
    async with served.server.client(served.key) as client, full(served, client) as (_, waiting):
        with connected(served) as connection:
            rejections = await asyncio.to_thread(repeat, connection, served.request("GET", "/items"), 0.3)
        await asyncio.gather(*waiting)
    assert 0 < rejections <= (REJECTIONS_PER_TICK + 1) * (0.3 / TICK_SECONDS + 2)


async def test_every_request_frees_its_slot(served: LiveServer) -> None:
    upgrade = served.request("GET", "/items", "Upgrade: websocket", "Connection: Upgrade")
    for request in (
        upgrade,
        served.request("OPTIONS", "/items"),
        served.request("GET", "/items"),
        served.request("GET", "/items") * 5,
        served.request("POST", "/items", "Content-Length: 50") + b"{",
        served.request("GET", "/health/live"),
    ):
        for _ in range(3):
            with connected(served) as connection:
                connection.sendall(request)  # and disconnect
    async with served.server.client(served.key) as client, asyncio.timeout(MAX_WAIT_SECONDS):
        while (await client.get("/items")).status_code != 200:
            pass


def repeat(connection: socket.socket, request: bytes, seconds: float) -> int:
    """Repeat a request as fast as it is answered; return the number of replies."""
    started_at, replies = monotonic(), 0
    while monotonic() - started_at < seconds:
        connection.sendall(request)
        received(connection, until=b"}}")
        replies += 1
    return replies


def test_no_request_caused_an_unhandled_error(served: LiveServer) -> None:
    assert [event["exception"] for event in served.server.events("unhandled_error")] == []
    assert served.server.process.poll() is None
