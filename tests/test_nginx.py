"""Tests of deploy/nginx.conf in front of a live server."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.raw_http import MAX_WAIT_SECONDS, LiveServer, assert_error_contract, serving
from tests.support.requirements import find_program, requires

PROGRAM = find_program("nginx")
CONFIGURATION = Path(__file__).parents[1] / "deploy" / "nginx.conf"
pytestmark = requires("nginx")


@pytest.fixture(scope="module")
def behind_nginx(
    server_url: str, depot_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("nginx")
    with (
        serving(server_url, depot_template, directory, DEPOT_TRUSTED_PROXIES="127.0.0.1") as served,
        nginx(served.server.url, directory) as url,
    ):
        proxied = LiveServer(served.server, served.key)
        proxied.address = ("127.0.0.1", urlsplit(url).port or 0)
        yield proxied


@contextmanager
def nginx(replica: str, directory: Path) -> Iterator[str]:
    """Run the configuration with this replica, and a port and files of its own."""
    port = free_port()
    text = re.sub(r"api-[12]:8000", urlsplit(replica).netloc, CONFIGURATION.read_text())
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{directory}/")
    text = text.replace("/dev/stdout", "/dev/null")
    configuration = directory / "nginx.conf"
    configuration.write_text(text)
    directory.chmod(0o777)
    with (directory / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROGRAM), "-g", "daemon off;", "-c", str(configuration), "-p", str(directory)], stderr=log
        )
    try:
        deadline = monotonic() + MAX_WAIT_SECONDS
        while not responds(f"http://127.0.0.1:{port}/health/live"):
            assert monotonic() < deadline, (directory / "nginx.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def responds(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


HEAD = b"Host: depot\r\nX-Request-ID: mine\r\n"
ERRORS = {
    "a malformed path": (b"GET /%zz HTTP/1.1\r\n", b"", 400, "BAD_REQUEST"),
    "two hosts": (b"GET / HTTP/1.1\r\n", b"Host: other\r\n", 400, "BAD_REQUEST"),
    "TRACE": (b"TRACE /items HTTP/1.1\r\n", b"", 405, "METHOD_NOT_ALLOWED"),
    "a large body": (b"POST /items HTTP/1.1\r\n", b"Content-Length: 9999999\r\n", 413, "TOO_LARGE"),
    "a long path": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n", b"", 414, "HEAD_TOO_LARGE"),
    "a long header": (b"GET / HTTP/1.1\r\n", b"X: " + b"a" * 40_000 + b"\r\n", 431, "HEAD_TOO_LARGE"),
    "a coding": (b"POST /items HTTP/1.1\r\n", b"Transfer-Encoding: gzip\r\n", 501, "NOT_IMPLEMENTED"),
}


@pytest.mark.parametrize(("line", "header", "status", "code"), ERRORS.values(), ids=ERRORS)
def test_errors_of_nginx_follow_the_error_contract(
    behind_nginx: LiveServer, line: bytes, header: bytes, status: int, code: str
) -> None:
    received, headers, body = behind_nginx.exchange(line + HEAD + header + b"\r\n")
    assert (received, assert_error_contract(received, headers, body)["code"]) == (status, code)
    assert ("allow" in headers) == (status == 405)


@pytest.mark.parametrize("path", ["/items", "/jobs/01890000-0000-7000-8000-000000000000/events"])
def test_the_client_address_is_forwarded_from_every_location(behind_nginx: LiveServer, path: str) -> None:
    forged = ("X-Forwarded-For: 6.6.6.6", "X-Request-ID: proxied")
    with socket.create_connection(behind_nginx.address, source_address=("127.0.0.2", 0)) as connection:
        connection.sendall(behind_nginx.request("GET", path, *forged))
        assert connection.recv(65_536)
    assert behind_nginx.logged(path=path, request_id="proxied")["client"] == "127.0.0.2"
