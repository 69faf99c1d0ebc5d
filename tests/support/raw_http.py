"""A running server, its database, and a key."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from service.auth.store import create_key
from service.database.database import Database
from service.settings import Settings
from service.testing import database_url_for, execute
from tests.support.depot_process import DepotProcess, depot_serve

MAX_WAIT_SECONDS = 10.0


class LiveServer:
    """A running server, its database, and a key."""

    def __init__(self, server: DepotProcess, key: str, database_url: str = "") -> None:
        self.server = server
        self.key = key
        self.database_url = database_url
        address = urlsplit(server.url)
        self.address = (str(address.hostname), int(address.port or 0))

    def request(self, method: str, path: str, *headers: str) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: depot", f"Authorization: Bearer {self.key}", *headers]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def exchange(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send these bytes. Return the reply up to its length, or to the end of the connection."""
        with socket.create_connection(self.address, timeout=MAX_WAIT_SECONDS) as connection:
            connection.sendall(sent)
            received = b""
            while b"\r\n\r\n" not in received:
                received += (chunk := connection.recv(65536))
                assert chunk, received
            head, _, body = received.partition(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            while len(body) < int(headers.get("content-length", 0)) and (chunk := connection.recv(65536)):
                body += chunk
        return int(status.split()[1]), headers, body

    def logged(self, **wanted: object) -> dict[str, Any]:
        """Wait for the line of the access log with these values, and return it."""
        deadline = monotonic() + MAX_WAIT_SECONDS
        while monotonic() < deadline:
            for event in self.server.events("request"):
                if wanted.items() <= event.items():
                    return event
        raise AssertionError(f"not logged: {wanted}")


def assert_error_contract(status: int, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Assert the error contract of a reply read byte by byte."""
    error: dict[str, Any] = json.loads(body)["error"]
    assert headers["content-type"] == "application/json"
    assert headers["x-error-code"] == error["code"]
    assert headers["x-request-id"] == error["request_id"]
    assert error["message"]
    assert status >= 400
    return error


@contextmanager
def serving(server_url: str, template: str, home: Path, **environment: str) -> Iterator[LiveServer]:
    """Run one server for many tests, on its own database."""
    name = f"depot_test_{uuid4().hex[:12]}"
    execute(server_url, f"create database {name} template {template}")
    url = database_url_for(server_url, name)
    with depot_serve(url, home, **environment) as server:
        yield LiveServer(server, asyncio.run(_mint(url)), url)
    execute(server_url, f"drop database {name} with (force)")


async def _mint(url: str) -> str:
    opened = Database(Settings(database_url=url)).open()
    async with opened as database, database.orm_session() as session:
        return await create_key(session, name="test", scopes=["admin"])
