"""`depot listen`: the events of a service, one line each, on this machine."""

import asyncio
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.app_helpers import item
from tests.support.depot_command import NEW_INTERPRETER, Process, run_depot, start_depot
from tests.support.depot_process import DepotProcess, depot_serve

ALLOWED = {"DEPOT_WEBHOOK_ALLOW_PRIVATE": "1", "DEPOT_DRAIN_SECONDS": "0"}
LINE = r"[0-9:.]+  (\S+) +([0-9a-f-]{36})  signature (\S+) +([0-9.]+) ms"


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[DepotProcess]:
    with depot_serve(database_url, tmp_path / "home", **ALLOWED) as server:
        yield server


@contextmanager
def listening(home: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    """`depot listen` in a process of its own, once it listens."""
    process = start_depot(
        ["listen", *arguments],
        env={**os.environ, "DEPOT_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout
        first = process.stdout.readline()
        assert "Ctrl-C" in first, (first, process.stderr and process.stderr.read())
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_events_are_printed_and_the_webhook_is_deleted_at_the_end(
    server: DepotProcess, key: str, tmp_path: Path, end: signal.Signals
) -> None:
    async with server.client(key) as client:
        with listening(tmp_path, "--url", server.url, "--key", key) as process:
            (webhook,) = (await client.get("/webhooks")).json()["data"]
            assert webhook["url"].startswith("http://127.0.0.1:")
            assert webhook["events"] == ["*"]
            bolt = await item(client, 1)
            await client.patch(f"/items/{bolt['id']}", json={"name": "M8"})
            assert process.stdout
            assert "item.created" in process.stdout.readline()
            line = re.fullmatch(LINE, process.stdout.readline().strip())
            assert line
            assert (line[1], line[3]) == ("item.updated", "ok")
            told = (await client.get(f"/webhooks/{webhook['id']}/deliveries")).json()["data"]
            assert line[2] == told[0]["event_id"]
            process.send_signal(end)
            assert process.wait(timeout=10) == 0
            assert process.stderr
            assert process.stderr.read() == ""
        assert (await client.get("/webhooks")).json()["data"] == []


async def test_the_key_may_be_in_the_home_and_events_may_be_chosen(
    server: DepotProcess, key: str, tmp_path: Path
) -> None:
    (tmp_path / "api-key").write_text(f"{key}\n")
    async with server.client(key) as client:
        chosen = ["--event", "item.updated", "--event", "user.action"]
        with listening(tmp_path, "--url", server.url, *chosen, **NEW_INTERPRETER):
            (webhook,) = (await client.get("/webhooks")).json()["data"]
    assert webhook["events"] == ["item.updated", "user.action"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--url", "http://127.0.0.1:1", "--key", "k"],
            ["cannot reach the API at http://127.0.0.1:1: Connection refused\n"],
        ),
        (["--url", "{url}", "--key", "k"], ["API key"]),
        (["--url", "{url}", "--key", "{key}", "--event", "order.eaten"], ["/events/0"]),
        (["--url", "{url}"], ["api-key", "--key"]),
    ],
)
async def test_an_error_is_one_clear_line(
    server: DepotProcess, key: str, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    ended = await listen(tmp_path, *(argument.format(url=server.url, key=key) for argument in arguments))
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    for word in words:
        assert word in ended.stderr


async def test_a_service_that_allows_no_private_targets_says_so(
    database_url: str, key: str, tmp_path: Path
) -> None:
    with depot_serve(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="0") as server:
        ended = await listen(tmp_path, "--url", server.url, "--key", key)
        async with server.client(key) as client:
            assert (await client.get("/webhooks")).json()["data"] == []
    assert ended.returncode == 1
    assert "private" in ended.stderr


async def test_a_service_that_is_not_depot_is_named(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{other.server_port}"
        ended = await listen(tmp_path, "--url", url, "--key", "k")
        other.shutdown()
    said = f"depot: {url}/webhooks does not answer as Depot does (status 501); check --url\n"
    assert (ended.returncode, ended.stderr) == (1, said)


async def listen(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `depot listen` until it ends."""
    environment = {**os.environ, "DEPOT_HOME": str(home)}
    return await asyncio.to_thread(run_depot, ["listen", *arguments], env=environment, timeout=20)
